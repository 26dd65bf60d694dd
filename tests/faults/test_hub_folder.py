"""Faults G06 and G07 of the catalogue: unexpected files in a folder that others can write to."""

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
def update_path(three: Federation) -> Path:
    task = three.open()
    return three.clinics[0].give(task, three.drawn_update(task, three.clinics[0]))


def exchange_with(fed: Federation, folder: Path) -> exchange.ExchangeResult:
    return exchange.exchange(fed.hub, folder.parent)


def refusals(fed: Federation) -> list[str]:
    """The refusals that each exchange's log line counts."""
    lines = fed.hub.database.rows("SELECT detail FROM log WHERE type = 'refused' ORDER BY seq")
    return [json.loads(line["detail"])["codes"] for line in lines]


@pytest.mark.skipif(os.name == "nt", reason="POSIX has these")
def test_g06_links_pipes_sockets_and_folders_are_never_read_and_reported_once(
    three: Federation, folder: Path, update_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "link").symlink_to(update_path)
    (folder / "hard").hardlink_to(update_path)
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    monkeypatch.chdir(folder)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        result = exchange_with(three, folder)
    assert result.taken == []
    assert {refusal["file"]: refusal["code"] for refusal in result.refused} == dict.fromkeys(
        ("link", "hard", "pipe", "folder", "socket"), "E_FILE_KIND"
    )
    assert refusals(three) == ["5 E_FILE_KIND"]
    exchange_with(three, folder)
    assert refusals(three) == ["5 E_FILE_KIND"]
    assert three.update_states() == {}


NAMES = ["-rf", "two\nlines", "\u202eexe.fhx", "\x1b[2J", "$(reboot)", "..fhx", " ", "*", "a" * 255]


def test_g06_a_files_content_counts_and_not_its_name(three: Federation, folder: Path) -> None:
    task = three.open()
    for clinic, name in zip(three.clinics, NAMES, strict=False):
        clinic.give(task, three.drawn_update(task, clinic)).rename(folder / name)
    result = exchange_with(three, folder)
    assert len(result.taken) == 3
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES[:3])


def test_g06_file_names_are_escaped_on_screen_and_absent_from_the_log(three: Federation, folder: Path) -> None:
    for name in NAMES:
        (folder / name).write_bytes(b"PK\x03\x04 no parcel")
    result = exchange_with(three, folder)
    assert {refusal["code"] for refusal in result.refused} == {"E_MAGIC"}
    assert len(result.refused) == len(NAMES) - 1  # hidden files are ignored
    assert all(refusal["file"].isprintable() and "\u202e" not in refusal["file"] for refusal in result.refused)
    lines = three.hub.database.rows("SELECT subject, detail FROM log WHERE type = 'refused'")
    assert all("fhx" not in row["subject"] + row["detail"] for row in lines)


def test_g06_a_file_with_an_undecodable_name_is_refused_like_any_other(three: Federation, folder: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe")).write_bytes(b"no parcel")
    except OSError:
        pytest.skip("this disk takes no such names")
    assert [refusal["code"] for refusal in exchange_with(three, folder).refused] == ["E_MAGIC"]


@pytest.mark.proof
def test_g06_thousands_of_empty_files_do_not_hide_an_update(
    three: Federation, folder: Path, update_path: Path, effort: Callable[[int, int], int]
) -> None:
    count = effort(1_000, 10_000)
    for number in range(count):
        (folder / f"{number:05}").write_bytes(b"")
    update_path.rename(folder / "99999")
    result = exchange_with(three, folder)
    assert [answer.state for answer in result.taken] == [State.RECEIVED]
    assert len(result.waiting) == count  # an empty file may be the start of a copy
    assert refusals(three) == []


@pytest.mark.proof
def test_g06_thousands_of_files_of_another_kind_are_logged_in_one_line_once(
    three: Federation, folder: Path, effort: Callable[[int, int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = effort(1_000, 10_000)
    monkeypatch.setattr(exchange, "_MAX_REFUSALS", count)
    for number in range(count):
        (folder / f"{number:05}").write_bytes(b"no parcel, but long enough to be judged as one")
    for _ in range(2):
        assert len(exchange_with(three, folder).refused) == count
        assert refusals(three) == [f"{count} E_MAGIC"]
    (folder / "x").write_bytes(b"no parcel either, which came later")
    exchange_with(three, folder)
    assert refusals(three) == [f"{count} E_MAGIC", "1 E_MAGIC"]
    assert len(three.hub.database.rows("SELECT 1 FROM refusals")) == count
    log_table.verify(three.hub.database)


def test_c20_copies_of_a_genuine_file_with_other_bytes_are_not_written_to_the_disk(
    three: Federation, folder: Path, update_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = update_path.read_bytes()
    for number in range(5):
        (folder / str(number)).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (folder / "9").write_bytes(data)
    copied: list[Path] = []
    copy = receive._copy_up_to
    monkeypatch.setattr(
        receive, "_copy_up_to", lambda file, part, limit: (copied.append(part), copy(file, part, limit))
    )
    result = exchange_with(three, folder)
    assert (len(result.taken), result.waiting, len(copied)) == (1, ["0", "1", "2", "3", "4"], 1)


def test_g07_a_partly_copied_file_waits_and_is_received_when_complete(
    three: Federation, folder: Path, update_path: Path
) -> None:
    data = update_path.read_bytes()
    for size in (0, 10, 500, len(data) // 2, len(data) - 1):
        (folder / "update").write_bytes(data[:size])
        result = exchange_with(three, folder)
        assert (result.taken, result.waiting, result.refused) == ([], ["update"], [])
        assert list(three.hub.home.glob(".*.part")) == []
    (folder / "update").write_bytes(data)
    assert len(exchange_with(three, folder).taken) == 1
    assert refusals(three) == []


def test_g07_a_file_of_full_length_with_missing_content_waits(
    three: Federation, folder: Path, update_path: Path
) -> None:
    data = update_path.read_bytes()
    (folder / "update").write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    assert exchange_with(three, folder).waiting == ["update"]
    (folder / "update").write_bytes(data)
    assert len(exchange_with(three, folder).taken) == 1


def test_g07_a_conflict_copy_is_the_same_update(three: Federation, folder: Path, update_path: Path) -> None:
    for name in (
        "update.fhx",
        "update.sync-conflict-20260301-080000-ABCDEFG.fhx",
        "update (1).fhx",
        "Copy of update.fhx",
    ):
        shutil.copy(update_path, folder / name)
    result = exchange_with(three, folder)
    assert [answer.new for answer in result.taken].count(True) == 1
    assert len({answer.receipt for answer in result.taken}) == 1
    assert three.update_states() == {"site-001/1": "received"}


def test_a_file_that_disappears_while_the_folder_is_read_is_skipped(
    three: Federation, folder: Path, update_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update_path.rename(folder / "b")
    (folder / "a").write_bytes(b"gone")
    scan = os.scandir

    def scan_and_remove(path: Path) -> object:
        entries = scan(path)
        if (folder / "a").exists():
            listed = list(entries)
            (folder / "a").unlink()
            entries.close()
            return _Listed(listed)
        return entries

    monkeypatch.setattr(os, "scandir", scan_and_remove)
    assert len(exchange_with(three, folder).taken) == 1


class _Listed(list):  # type: ignore[type-arg]
    def __enter__(self) -> _Listed:
        return self

    def __exit__(self, *_: object) -> None: ...
