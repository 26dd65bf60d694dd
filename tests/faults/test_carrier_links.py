"""Faults G06, G08 and G19 of the catalogue: what somebody who prepares a stick can make of its two folders."""

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
from tests.faults.conftest import humble as humble
from tests.federation import PLAN, Federation, nobody
from tests.site_and_hub import SiteAndHub, succeeds

posix = pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")


def contents(folder: Path) -> dict[str, str]:
    """Every file below, and what is in it."""
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
    """A parcel that no site needs any more: the hub would take it off a stick."""
    first = three.open()
    lifecycle.cancel_round(three.hub, lifecycle.open_round(three.hub))
    three.open()
    return three.hub.database.parcel_path(first.hash)


# --- G19: at the hub -----------------------------------------------------------------------------------------------
@posix
def test_g19_a_folder_that_links_into_the_hub_is_refused_and_the_hub_stays_whole(
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
def test_g19_a_command_refuses_such_a_stick_before_it_takes_anything_in(
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
    share = three.clinics[0].give(task, three.drawn_update(task, three.clinics[0]))
    (stick / TO_COORDINATOR).symlink_to(share.parent)
    with pytest.raises(FileKindError):
        exchange.exchange(three.hub, stick)
    assert three.update_states() == {}


@posix
@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_g19_links_within_a_folder_are_replaced_and_what_they_led_to_stays(
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
def test_g19_a_folder_that_becomes_a_link_while_it_is_filled_leads_nobody_away(
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


@pytest.mark.parametrize("place", [".", "parcels", "parcels/00", ".."])
def test_g19_a_carrier_in_or_around_the_hub_is_refused(three: Federation, place: str) -> None:
    with pytest.raises(CarrierHomeError):
        exchange.check_carrier(three.hub, three.hub.home / place)
    assert not list(three.hub.home.rglob(FROM_COORDINATOR))


@posix
def test_g19_a_carrier_that_is_the_hub_by_another_name_is_refused(three: Federation, tmp_path: Path) -> None:
    (tmp_path / "cloud").symlink_to(three.hub.home)
    with pytest.raises(CarrierHomeError):
        exchange.check_carrier(three.hub, tmp_path / "cloud" / "parcels")


@posix
def test_g19_a_carrier_may_be_reached_by_a_link_of_ones_own(three: Federation, stick: Path, tmp_path: Path) -> None:
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
def test_g19_an_update_takes_the_place_of_a_link_of_its_name(clinic: Clinic, tmp_path: Path) -> None:
    clinic.join()
    (sent,) = (clinic.stick / TO_COORDINATOR).iterdir()
    whole = sent.read_bytes()
    (tmp_path / "precious").write_bytes(b"not yours")
    sent.unlink()
    sent.symlink_to(tmp_path / "precious")
    clinic.upload()
    assert (tmp_path / "precious").read_bytes() == b"not yours"
    assert not sent.is_symlink()
    assert sent.read_bytes() == whole


@pytest.mark.parametrize("place", [".", "request", ".."])
def test_g19_a_carrier_in_or_around_a_site_is_refused_and_not_remembered(clinic: Clinic, place: str) -> None:
    with pytest.raises(CarrierHomeError):
        membership.resolve_invite(clinic.home, str(clinic.invite), via=clinic.home / place)
    clinic.join()
    with pytest.raises(CarrierHomeError):
        connection.carriers(clinic.home, nobody, via=clinic.home / place)
    assert "via" not in (clinic.home / "joined.json").read_text()


def test_g19_windows_junctions_lead_elsewhere_and_files_in_the_cloud_do_not() -> None:
    def leads(tag: int) -> bool:
        return files.is_link(SimpleNamespace(st_mode=stat.S_IFDIR, st_reparse_tag=tag))  # type: ignore[arg-type]

    junction, symlink, onedrive, none = 0xA0000003, 0xA000000C, 0x9000001A, 0
    assert [leads(tag) for tag in (junction, symlink, onedrive, none)] == [True, True, False, False]


# --- G08: damage with the right name -------------------------------------------------------------------------------
def test_g08_an_update_that_was_damaged_on_the_stick_is_sent_again(clinic: Clinic) -> None:
    clinic.join_and_fetch_task()
    clinic.train()
    outbox.seal_current(clinic.home, nobody)
    (sent,) = clinic.upload()
    path = clinic.stick / TO_COORDINATOR / f"{sent}.fhx"
    whole = path.read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), bytes(len(whole)), whole[:100], b"", whole + b"more"):
        path.write_bytes(damaged)
        clinic.upload()
        assert path.read_bytes() == whole
    clinic.collect()
    assert clinic.federation.update_states() == {"site-004/1": "accepted"}


def test_g08_what_was_damaged_among_what_a_hub_left_is_left_again(three: Federation, stick: Path) -> None:
    three.open()
    exchange.exchange(three.hub, stick)
    before = contents(stick)
    for number, name in enumerate(sorted(before)):
        whole = (stick / name).read_bytes()
        (stick / name).write_bytes(
            [whole[:-1], bytes(len(whole)), b"", whole[:-1] + bytes([whole[-1] ^ 1])][number % 4]
        )
    exchange.exchange(three.hub, stick)
    assert contents(stick) == before


# --- G06: what stands in the way -----------------------------------------------------------------------------------
def test_g06_a_folder_in_the_place_of_a_parcel_is_named_and_the_others_are_left(three: Federation, stick: Path) -> None:
    task = f"{three.open().hash}.fhx"
    (stick / FROM_COORDINATOR / task).mkdir(parents=True)
    (stick / FROM_COORDINATOR / task / "holiday.jpg").write_bytes(b"somebody's")
    found = exchange.exchange(three.hub, stick)
    assert [(one["file"], one["code"]) for one in found.refused] == [(task, "E_FILE_KIND")]
    assert len(list((stick / FROM_COORDINATOR).glob("*.fhx"))) == found.left
    assert (stick / FROM_COORDINATOR / task / "holiday.jpg").exists()


@posix
def test_g06_a_file_that_may_not_be_read_with_a_name_that_is_no_text_stops_nothing(
    tmp_path: Path, humble: tuple[str, ...]
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
        before=humble, env={"FEDHELP_HOME": str(people.folder / "hub")},
    )  # fmt: skip
    refused = command.json_output(succeeds(done))["refused"]
    assert [(one["file"], one["code"]) for one in refused] == [(r"\udcff\udcfe", "E_PERMISSION")]


def test_g06_what_lies_among_the_news_of_a_site_is_named_there(clinic: Clinic) -> None:
    clinic.join()
    clinic.carry_stick()
    (clinic.stick / FROM_COORDINATOR / "folder.fhx").mkdir()
    (clinic.stick / FROM_COORDINATOR / "notes.txt").write_bytes(b"buy bread")
    taken: inbox.DownloadResult = clinic.download()
    assert {one["file"]: one["code"] for one in taken.refused} == {"folder.fhx": "E_FILE_KIND", "notes.txt": "E_MAGIC"}
    assert clinic.state == status.WAITING
