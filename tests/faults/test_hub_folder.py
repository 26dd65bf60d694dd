"""Faults G06 and G07 of the catalogue: what lies about in a folder that others can write to."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from server_ref.admin import exchange
from server_ref.hub.states import State
from server_ref.hub.tables import log_table
from server_ref.intake import receive
from tests.federation import Federation


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "cloud" / exchange.TO_COORDINATOR
    path.mkdir(parents=True)
    return path


@pytest.fixture
def share(three: Federation) -> Path:
    task = three.open()
    return three.clinics[0].give(task, three.drawn_update(task, three.clinics[0]))


def visit(fed: Federation, folder: Path) -> exchange.ExchangeResult:
    return exchange.exchange(fed.hub, folder.parent)


def refusals(fed: Federation) -> list[str]:
    """What each visit's line of the log counts."""
    lines = fed.hub.database.rows("SELECT detail FROM log WHERE type = 'refused' ORDER BY seq")
    return [json.loads(line["detail"])["codes"] for line in lines]


@pytest.mark.skipif(os.name == "nt", reason="POSIX has these")
def test_g06_links_pipes_sockets_and_folders_are_never_read_and_said_once(
    three: Federation, folder: Path, share: Path
) -> None:
    (folder / "link").symlink_to(share)
    (folder / "hard").hardlink_to(share)
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    os.chdir(folder)  # the name of a socket may not be long
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        found = visit(three, folder)
    assert found.taken == []
    assert {odd["file"]: odd["code"] for odd in found.refused} == dict.fromkeys(
        ("link", "hard", "pipe", "folder", "socket"), "E_FILE_KIND"
    )
    assert refusals(three) == ["5 E_FILE_KIND"]
    visit(three, folder)
    assert refusals(three) == ["5 E_FILE_KIND"]
    assert three.update_states() == {}


NAMES = ["-rf", "two\nlines", "\u202eexe.fhx", "\x1b[2J", "$(reboot)", "..fhx", " ", "*", "a" * 255]


def test_g06_whatever_a_file_is_called_its_content_decides(three: Federation, folder: Path) -> None:
    task = three.open()
    for clinic, name in zip(three.clinics, NAMES, strict=False):
        clinic.give(task, three.drawn_update(task, clinic)).rename(folder / name)
    found = visit(three, folder)
    assert len(found.taken) == 3
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES[:3])


def test_g06_no_name_reaches_a_screen_or_the_log_as_it_is(three: Federation, folder: Path) -> None:
    for name in NAMES:
        (folder / name).write_bytes(b"PK\x03\x04 no parcel")
    found = visit(three, folder)
    assert {odd["code"] for odd in found.refused} == {"E_MAGIC"}
    assert len(found.refused) == len(NAMES) - 1  # a name with a dot in front is somebody's own
    assert all(odd["file"].isprintable() and "\u202e" not in odd["file"] for odd in found.refused)
    lines = three.hub.database.rows("SELECT subject, detail FROM log WHERE type = 'refused'")
    assert all("fhx" not in row["subject"] + row["detail"] for row in lines)


def test_g06_a_name_in_no_known_alphabet_is_refused_like_any_other(three: Federation, folder: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe")).write_bytes(b"no parcel")
    except OSError:
        pytest.skip("this disk takes no such names")
    assert [odd["code"] for odd in visit(three, folder).refused] == ["E_MAGIC"]


@pytest.mark.proof
def test_g06_thousands_of_files_that_are_none_do_not_hide_the_one_that_is(
    three: Federation, folder: Path, share: Path, effort: Callable[[int, int], int]
) -> None:
    many = effort(1_000, 10_000)
    for number in range(many):
        (folder / f"{number:05}").write_bytes(b"")
    share.rename(folder / "99999")
    found = visit(three, folder)
    assert [answer.state for answer in found.taken] == [State.RECEIVED]
    assert len(found.waiting) == many  # an empty file may be one that is only beginning to be copied
    assert refusals(three) == []


@pytest.mark.proof
def test_g06_thousands_of_files_of_another_kind_are_one_line_once(
    three: Federation, folder: Path, effort: Callable[[int, int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    many = effort(1_000, 10_000)
    monkeypatch.setattr(exchange, "_MAX_REFUSALS", many)
    for number in range(many):
        (folder / f"{number:05}").write_bytes(b"no parcel, but long enough to be judged as one")
    for _ in range(2):
        assert len(visit(three, folder).refused) == many
        assert refusals(three) == [f"{many} E_MAGIC"]
    (folder / "x").write_bytes(b"no parcel either, which came later")
    visit(three, folder)
    assert refusals(three) == [f"{many} E_MAGIC", "1 E_MAGIC"]
    assert len(three.hub.database.rows("SELECT 1 FROM refusals")) == many
    log_table.verify(three.hub.database)


def test_c20_copies_of_a_genuine_file_with_other_bytes_are_not_written_to_the_disk(
    three: Federation, folder: Path, share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = share.read_bytes()
    for number in range(5):
        (folder / str(number)).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (folder / "9").write_bytes(data)
    copied: list[Path] = []
    copy = receive._copy_up_to
    monkeypatch.setattr(
        receive, "_copy_up_to", lambda file, part, limit: (copied.append(part), copy(file, part, limit))
    )
    found = visit(three, folder)
    assert (len(found.taken), found.waiting, len(copied)) == (1, ["0", "1", "2", "3", "4"], 1)


def test_g07_a_file_that_is_still_being_copied_waits_and_is_taken_when_it_is_whole(
    three: Federation, folder: Path, share: Path
) -> None:
    data = share.read_bytes()
    for size in (0, 10, 500, len(data) // 2, len(data) - 1):
        (folder / "share").write_bytes(data[:size])
        found = visit(three, folder)
        assert (found.taken, found.waiting, found.refused) == ([], ["share"], [])
        assert list(three.hub.home.glob(".*.part")) == []
    (folder / "share").write_bytes(data)
    assert len(visit(three, folder).taken) == 1
    assert refusals(three) == []


def test_g07_a_file_of_full_length_that_is_not_filled_yet_waits(three: Federation, folder: Path, share: Path) -> None:
    data = share.read_bytes()
    (folder / "share").write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    assert visit(three, folder).waiting == ["share"]
    (folder / "share").write_bytes(data)
    assert len(visit(three, folder).taken) == 1


def test_g07_a_conflict_copy_is_the_same_update(three: Federation, folder: Path, share: Path) -> None:
    for name in ("share.fhx", "share.sync-conflict-20260301-080000-ABCDEFG.fhx", "share (1).fhx", "Copy of share.fhx"):
        shutil.copy(share, folder / name)
    found = visit(three, folder)
    assert [answer.new for answer in found.taken].count(True) == 1
    assert len({answer.receipt for answer in found.taken}) == 1
    assert three.update_states() == {"site-001/1": "received"}


def test_a_file_that_disappears_while_the_folder_is_read_is_skipped(
    three: Federation, folder: Path, share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share.rename(folder / "b")
    (folder / "a").write_bytes(b"gone")
    scan = os.scandir

    def taken_away(path: Path) -> object:
        entries = scan(path)
        if (folder / "a").exists():
            listed = list(entries)
            (folder / "a").unlink()
            entries.close()
            return _Listed(listed)
        return entries

    monkeypatch.setattr(os, "scandir", taken_away)
    assert len(visit(three, folder).taken) == 1


class _Listed(list):  # type: ignore[type-arg]
    def __enter__(self) -> _Listed:
        return self

    def __exit__(self, *_: object) -> None: ...
