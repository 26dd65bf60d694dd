"""Faults G06, G08 and G19 of the catalogue: a stick whose two folders somebody has prepared."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedhelp_edge import files
from fedhelp_edge.errors import CarrierHomeError, FileKindError
from fedhelp_edge.exchange.folder import CHARTER_PROOFS, FROM_COORDINATOR, TO_COORDINATOR, FolderCarrier
from fedhelp_edge.site import connection, inbox, membership, outbox, status
from server_ref.admin import exchange
from server_ref.rounds import lifecycle
from tests import command
from tests.clinic import Clinic
from tests.faults.conftest import without_root as without_root
from tests.federation import PLAN, Federation, nobody
from tests.site_and_hub import SiteAndHub, succeeds

posix = pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")


def contents(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("hub.db")
    }


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    path = tmp_path / "stick"
    path.mkdir()
    return path


@pytest.fixture
def outdated(three: Federation) -> Path:
    """A parcel that no site needs any more: the hub would remove it from a stick."""
    first = three.open()
    lifecycle.cancel_round(three.hub, lifecycle.open_round(three.hub))
    three.open()
    return three.hub.database.parcel_path(first.hash)


# --- G19: at the hub -----------------------------------------------------------------------------------------------
@posix
def test_g19_a_folder_that_links_into_the_hub_is_refused_and_the_hub_stays_unchanged(
    three: Federation, stick: Path, outdated: Path
) -> None:
    before = contents(three.hub.home)
    (stick / FROM_COORDINATOR).symlink_to(outdated.parent)
    with pytest.raises(FileKindError, match="from-coordinator"):
        exchange.deliver(three.hub, stick / FROM_COORDINATOR)
    with pytest.raises(FileKindError, match="from-coordinator"):
        exchange.exchange(three.hub, stick)
    assert contents(three.hub.home) == before
    three.hub.database.reconcile()


@posix
def test_g19_a_command_refuses_such_a_stick_before_it_reads_anything(
    three: Federation, stick: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in (TO_COORDINATOR, FROM_COORDINATOR):
        (stick / name).symlink_to(elsewhere)
        with pytest.raises(FileKindError, match=name):
            exchange.check_carrier(three.hub, stick)
        (stick / name).unlink()
    assert list(elsewhere.iterdir()) == []


@posix
def test_g19_updates_are_not_read_through_a_link(three: Federation, stick: Path) -> None:
    task = three.open()
    update_path = three.clinics[0].give(task, three.drawn_update(task, three.clinics[0]))
    (stick / TO_COORDINATOR).symlink_to(update_path.parent)
    with pytest.raises(FileKindError):
        exchange.exchange(three.hub, stick)
    assert three.update_states() == {}


@posix
@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_g19_links_within_a_folder_are_replaced_and_their_targets_stay(
    three: Federation, stick: Path, outdated: Path, tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"not yours")
    (stick / FROM_COORDINATOR).mkdir()
    task = f"{three.hub.newest_parcel('task')['hash']}.fhx"
    for name in (task, CHARTER_PROOFS, outdated.name):
        link(stick / FROM_COORDINATOR / name, precious)
    exchange.exchange(three.hub, stick)
    assert precious.read_bytes() == b"not yours"
    assert (stick / FROM_COORDINATOR / task).read_bytes() == three.hub.database.parcel_path(task[:-4]).read_bytes()
    assert not (stick / FROM_COORDINATOR / outdated.name).exists()
    assert not any(path.is_symlink() or path.stat().st_nlink > 1 for path in (stick / FROM_COORDINATOR).iterdir())


@posix
def test_g19_a_folder_that_becomes_a_link_meanwhile_is_not_followed(
    three: Federation, stick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    three.open()
    flush = os.fsync

    def swap(descriptor: int) -> None:
        if not (stick / FROM_COORDINATOR).is_symlink():
            (stick / FROM_COORDINATOR).rename(stick / "aside")
            (stick / FROM_COORDINATOR).symlink_to(elsewhere)
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", swap)
    exchange.deliver(three.hub, stick / FROM_COORDINATOR)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("location", [".", "parcels", "parcels/00", ".."])
def test_g19_a_carrier_folder_inside_or_around_the_hub_is_refused(three: Federation, location: str) -> None:
    with pytest.raises(CarrierHomeError):
        exchange.check_carrier(three.hub, three.hub.home / location)
    assert not list(three.hub.home.rglob(FROM_COORDINATOR))


@posix
def test_g19_a_carrier_folder_that_links_into_the_hub_is_refused(three: Federation, tmp_path: Path) -> None:
    (tmp_path / "cloud").symlink_to(three.hub.home)
    with pytest.raises(CarrierHomeError):
        exchange.check_carrier(three.hub, tmp_path / "cloud" / "parcels")


@posix
def test_g19_the_path_to_a_carrier_folder_may_be_a_link(three: Federation, stick: Path, tmp_path: Path) -> None:
    (tmp_path / "shortcut").symlink_to(stick)
    exchange.check_carrier(three.hub, tmp_path / "shortcut")
    assert exchange.exchange(three.hub, tmp_path / "shortcut").left == len(
        list((stick / FROM_COORDINATOR).glob("*.fhx"))
    )


# --- G19: at a site ------------------------------------------------------------------------------------------------
@posix
def test_g19_a_site_neither_writes_nor_reads_through_a_link(clinic: Clinic, tmp_path: Path) -> None:
    clinic.join()
    clinic.carry_stick()
    (clinic.stick / FROM_COORDINATOR).rename(tmp_path / "elsewhere")
    (clinic.stick / FROM_COORDINATOR).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileKindError, match=FROM_COORDINATOR):
        clinic.download()
    shutil.rmtree(clinic.stick / TO_COORDINATOR)
    (clinic.stick / TO_COORDINATOR).symlink_to(clinic.home)
    before = contents(clinic.home)
    with pytest.raises(FileKindError, match=TO_COORDINATOR):
        FolderCarrier(clinic.stick).put(next((clinic.home / "request").iterdir()))
    assert contents(clinic.home) == before


@posix
def test_g19_an_update_replaces_a_link_of_its_name(clinic: Clinic, tmp_path: Path) -> None:
    clinic.join()
    (sent,) = (clinic.stick / TO_COORDINATOR).iterdir()
    content = sent.read_bytes()
    (tmp_path / "precious").write_bytes(b"not yours")
    sent.unlink()
    sent.symlink_to(tmp_path / "precious")
    clinic.upload()
    assert (tmp_path / "precious").read_bytes() == b"not yours"
    assert not sent.is_symlink()
    assert sent.read_bytes() == content


@pytest.mark.parametrize("location", [".", "request", ".."])
def test_g19_a_carrier_folder_inside_or_around_a_site_is_refused_and_not_stored(clinic: Clinic, location: str) -> None:
    with pytest.raises(CarrierHomeError):
        membership.resolve_invite(clinic.home, str(clinic.invite), via=clinic.home / location)
    clinic.join()
    with pytest.raises(CarrierHomeError):
        connection.carriers(clinic.home, nobody, via=clinic.home / location)
    assert "via" not in (clinic.home / "joined.json").read_text()


def test_g19_windows_junctions_count_as_links_and_cloud_files_do_not() -> None:
    def leads(tag: int) -> bool:
        return files.is_link(SimpleNamespace(st_mode=stat.S_IFDIR, st_reparse_tag=tag))  # type: ignore[arg-type]

    junction, symlink, onedrive, none = 0xA0000003, 0xA000000C, 0x9000001A, 0
    assert [leads(tag) for tag in (junction, symlink, onedrive, none)] == [True, True, False, False]


# --- G08: damage with the right name -------------------------------------------------------------------------------
def test_g08_an_update_damaged_on_the_stick_is_written_again(clinic: Clinic) -> None:
    clinic.join_and_fetch_task()
    clinic.train()
    outbox.seal_current(clinic.home, nobody)
    (sent,) = clinic.upload()
    path = clinic.stick / TO_COORDINATOR / f"{sent}.fhx"
    content = path.read_bytes()
    for damaged in (
        content[:-1] + bytes([content[-1] ^ 1]),
        bytes(len(content)),
        content[:100],
        b"",
        content + b"more",
    ):
        path.write_bytes(damaged)
        clinic.upload()
        assert path.read_bytes() == content
    clinic.collect()
    assert clinic.federation.update_states() == {"site-004/1": "accepted"}


def test_g08_damaged_parcels_of_the_hub_are_written_again(three: Federation, stick: Path) -> None:
    three.open()
    exchange.exchange(three.hub, stick)
    before = contents(stick)
    for number, name in enumerate(sorted(before)):
        content = (stick / name).read_bytes()
        (stick / name).write_bytes(
            [content[:-1], bytes(len(content)), b"", content[:-1] + bytes([content[-1] ^ 1])][number % 4]
        )
    exchange.exchange(three.hub, stick)
    assert contents(stick) == before


# --- G06: files in the way -----------------------------------------------------------------------------------------
def test_g06_a_folder_in_place_of_a_parcel_is_named_and_the_others_are_delivered(
    three: Federation, stick: Path
) -> None:
    task = f"{three.open().hash}.fhx"
    (stick / FROM_COORDINATOR / task).mkdir(parents=True)
    (stick / FROM_COORDINATOR / task / "holiday.jpg").write_bytes(b"somebody's")
    result = exchange.exchange(three.hub, stick)
    assert [(refusal["file"], refusal["code"]) for refusal in result.refused] == [(task, "E_FILE_KIND")]
    assert len(list((stick / FROM_COORDINATOR).glob("*.fhx"))) == result.left
    assert (stick / FROM_COORDINATOR / task / "holiday.jpg").exists()


@posix
def test_g06_an_unreadable_file_with_an_undecodable_name_blocks_nothing(
    tmp_path: Path, without_root: tuple[str, ...]
) -> None:
    people = SiteAndHub(tmp_path, PLAN, locked=False)
    succeeds(people.hub("init", "--plan", "plan.toml"))
    succeeds(people.hub("exchange", people.stick))
    odd = Path(os.fsdecode(os.fsencode(people.stick / TO_COORDINATOR) + b"/\xff\xfe"))
    try:
        odd.write_bytes(b"secret")
    except OSError:
        pytest.skip("this disk takes no such names")
    odd.chmod(0)
    done = command.run(
        "exchange", str(people.stick), "--json", home=people.folder, program=command.COORDINATOR,
        before=without_root, env={"FEDHELP_HOME": str(people.folder / "hub")},
    )  # fmt: skip
    refused = command.json_output(succeeds(done))["refused"]
    assert [(refusal["file"], refusal["code"]) for refusal in refused] == [(r"\udcff\udcfe", "E_PERMISSION")]


def test_g06_other_files_on_the_stick_are_named_at_the_site(clinic: Clinic) -> None:
    clinic.join()
    clinic.carry_stick()
    (clinic.stick / FROM_COORDINATOR / "folder.fhx").mkdir()
    (clinic.stick / FROM_COORDINATOR / "notes.txt").write_bytes(b"buy bread")
    downloaded: inbox.DownloadResult = clinic.download()
    assert {refusal["file"]: refusal["code"] for refusal in downloaded.refused} == {
        "folder.fhx": "E_FILE_KIND",
        "notes.txt": "E_MAGIC",
    }
    assert clinic.state == status.WAITING
