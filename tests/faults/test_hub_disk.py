"""Faults G02, G03, G05 and G08 of the catalogue: disks and databases that fail under a hub, and full sticks."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedhelp_edge import errors
from fedhelp_edge.errors import BusyError, EquivocationError, FedhelpError, HubDamagedError
from fedhelp_edge.trust.state import TrustedState
from server_ref.admin import exchange, recovery, session
from server_ref.hub import database
from server_ref.hub.hub import Hub
from server_ref.hub.states import State
from server_ref.hub.tables import log_table
from server_ref.intake import receive
from server_ref.rounds import close, opening
from server_ref.web import process
from tests.federation import Federation

Disk = Callable[[int], Path]


def failure(step: Callable[[], object]) -> str:
    """The code of what went wrong, or ""."""
    try:
        step()
    except OSError as fault:
        return errors.from_os(fault).code
    except FedhelpError as fault:
        return fault.code
    return ""


@pytest.fixture
def on_a_disk(made: Federation, tiny_disk: Disk) -> Iterator[Federation]:
    fed = made.copy_to(tiny_disk(20_000) / "federation")
    yield fed
    fed.hub.database.close()


@pytest.mark.parametrize("left", [0, 40, 200, 1100, 1300, 2300], ids=lambda kib: f"{kib} KiB left")
def test_g02_on_a_full_disk_each_step_fails_as_one_and_goes_on_once_there_is_room(
    on_a_disk: Federation, left: int
) -> None:
    fed = on_a_disk
    paths: list[Path] = []

    def give() -> None:
        task = fed.hub.tasks()[1]
        for clinic in fed.clinics[len(paths) :]:
            paths.append(clinic.give(task, fed.drawn_update(task, clinic)))

    steps: list[Callable[[], object]] = [
        fed.open,
        lambda: [receive.receive(fed.hub, path) for path in paths],
        fed.judge,
        lambda: close.aggregate(fed.hub, fed.coordinator_keys),
    ]
    for number, step in enumerate(steps):
        if number == 1:
            give()
        filler = fill(fed.folder.parent, left)
        found = failure(step)
        filler.unlink()
        assert found in ("", "E_STORAGE")
        assert list(fed.hub.home.rglob("*.part")) == []
        log_table.verify(fed.hub.database)
        if found:
            step()
    assert fed.hub.newest_round()["state"] == State.MERGED
    assert set(fed.update_states().values()) == {"merged"}


def fill(disk: Path, left: int) -> Path:
    filler = disk / "pictures"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    filler.write_bytes(bytes(max(free - left * 1024, 0)))
    return filler


def test_g02_a_full_hub_refuses_no_sender(on_a_disk: Federation, tmp_path: Path) -> None:
    fed = on_a_disk
    task = fed.open()
    stick = tmp_path / "stick"
    (stick / exchange.TO_COORDINATOR).mkdir(parents=True)
    shutil.copy(fed.clinics[0].give(task, fed.drawn_update(task, fed.clinics[0])), stick / exchange.TO_COORDINATOR)
    filler = fill(fed.folder.parent, 100)
    with pytest.raises(OSError) as caught:
        exchange.exchange(fed.hub, stick)
    assert type(errors.from_os(caught.value)) is errors.NoSpaceError
    filler.unlink()
    assert [answer.state for answer in exchange.exchange(fed.hub, stick).taken] == [State.RECEIVED]


def test_g03_a_disk_that_became_read_only_is_an_error_until_it_is_mended(on_a_disk: Federation) -> None:
    fed = on_a_disk
    task = fed.open()
    path = fed.clinics[0].give(task, fed.drawn_update(task, fed.clinics[0]))
    fed.hub.database.close()
    disk = str(fed.folder.parent)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        assert failure(fed.reopen) in ("E_PERMISSION", "E_STORAGE")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert receive.receive(fed.reopen(), path).new


def test_g03_a_flush_that_fails_is_no_receipt(three: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    task = three.open()
    path = three.clinics[0].give(task, three.drawn_update(task, three.clinics[0]))
    flush, left = os.fsync, iter(range(100))
    for good in range(20):  # the disk fails at each flush in turn
        calls = iter(range(good))

        def fails(descriptor: int, calls: Iterator[int] = calls) -> None:
            if next(calls, None) is None and Path(f"/proc/self/fd/{descriptor}").resolve().is_file():
                raise OSError(errno.EIO, "input/output error")
            flush(descriptor)

        monkeypatch.setattr(os, "fsync", fails)
        code = failure(lambda: receive.receive(three.hub, path))
        monkeypatch.undo()
        if not code:
            break
        next(left)
        assert code == "E_STORAGE"
        assert three.update_states() == {}
        assert list(three.hub.home.glob(".*.part")) == []
    assert next(left) >= 2
    assert three.update_states() == {"site-001/1": "received"}


def test_g03_a_process_with_too_many_open_files_refuses_nobody(three: Federation, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    task = three.open()
    stick = tmp_path / "stick"
    (stick / exchange.TO_COORDINATOR).mkdir(parents=True)
    three.clinics[0].give(task, three.drawn_update(task, three.clinics[0])).rename(
        stick / exchange.TO_COORDINATOR / "share"
    )
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(stick, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, limits[1]))  # one more: enough to look, not to copy
    try:
        found = failure(lambda: exchange.exchange(three.hub, stick))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found == "E_STORAGE"
    assert [answer.state for answer in exchange.exchange(three.hub, stick).taken] == [State.RECEIVED]


def test_g05_a_locked_database_is_busy_until_it_is_released(three: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    task = three.open()
    path = three.clinics[0].give(task, three.drawn_update(task, three.clinics[0]))
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.05)
    three.reopen()
    other = sqlite3.connect(three.hub.home / database.DATABASE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BusyError):
        receive.receive(three.hub, path)
    assert list(three.hub.home.glob(".*.part")) == []
    other.execute("ROLLBACK")
    other.close()
    assert receive.receive(three.hub, path).new


def test_g05_a_damaged_page_is_found(three: Federation) -> None:
    three.hub.database.close()
    path = three.hub.home / database.DATABASE
    data = bytearray(path.read_bytes())
    data[4096 : len(data) - 4096] = bytes(len(data) - 8192)
    path.write_bytes(data)
    with pytest.raises(HubDamagedError):
        Hub(three.hub.home).database.check_integrity()
    with pytest.raises(HubDamagedError), session.unlocked_hub(three.hub.home, None):
        pass
    with pytest.raises(HubDamagedError):
        process.serve(three.hub.home, "127.0.0.1", 0, None, None, lambda *_: pytest.fail("it serves"))


def test_g05_whoever_only_reads_holds_up_nobody_who_writes(three: Federation, tmp_path: Path) -> None:
    """As a backup does, or a look at the dashboard."""
    task = three.open()
    other = sqlite3.connect(three.hub.home / database.DATABASE, isolation_level=None)
    other.execute("BEGIN")
    (before,) = other.execute("SELECT count(*) FROM log").fetchone()
    assert receive.receive(three.hub, three.clinics[0].give(task, three.drawn_update(task, three.clinics[0]))).new
    recovery.backup(three.hub, tmp_path / "backup.tar")
    assert other.execute("SELECT count(*) FROM log").fetchone() == (before,)
    other.close()


def test_g05_a_file_that_is_no_database_is_a_damaged_hub(three: Federation) -> None:
    three.hub.database.close()
    (three.hub.home / database.DATABASE).write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(HubDamagedError):
        Hub(three.hub.home)


def test_g05_a_parcel_that_is_gone_from_the_disk_is_found(three: Federation) -> None:
    three.hub.database.parcel_path(three.hub.newest_parcel("roster")["hash"]).unlink()
    with pytest.raises(HubDamagedError, match="is gone"):
        three.hub.database.reconcile()


def test_g05_a_hub_without_its_unmerged_journal_stands_where_it_stood_before_and_sites_see_it(
    three: Federation, tmp_path: Path
) -> None:
    """What was committed last is in the journal; a hub that lost it looks whole, and only its sites know better."""
    charter = three.hub.charter
    task = three.open()
    lost = Path(shutil.copytree(three.hub.home, tmp_path / "lost"))
    (lost / "hub.db-wal").unlink()
    (lost / "hub.db-shm").unlink(missing_ok=True)
    three.send_updates(task, without=("site-003",))
    behind = Hub(lost, clock=three.clock)
    behind.database.check_integrity()
    assert log_table.verify(behind.database).length < task.log.length
    assert behind.newest_round()["round"] == 0
    again = opening.open_next(behind, three.coordinator_keys)
    known = TrustedState(charter).with_roster(*behind.read_json(behind.newest_parcel("roster")["hash"]))
    known = known.with_task(*three.hub.read_json(task.hash))
    with pytest.raises(EquivocationError):
        known.with_task(*behind.read_json(again.hash))
    behind.database.close()


def test_g08_a_stick_that_is_full_is_filled_once_there_is_room(three: Federation, tiny_disk: Disk) -> None:
    three.open()
    stick = tiny_disk(1_500)
    (stick / "pictures").write_bytes(bytes(1_000_000))
    with pytest.raises(OSError) as caught:
        exchange.exchange(three.hub, stick)
    assert type(errors.from_os(caught.value)) is errors.NoSpaceError
    assert list(stick.rglob("*.part")) == []
    (stick / "pictures").unlink()
    left = exchange.exchange(three.hub, stick).left
    assert len(list((stick / exchange.FROM_COORDINATOR).glob("*.fhx"))) == left


def test_g08_what_a_copy_that_was_cut_off_left_on_the_stick_goes(three: Federation, tmp_path: Path) -> None:
    three.open()
    hash_ = three.hub.newest_parcel("task")["hash"]
    part = tmp_path / exchange.FROM_COORDINATOR / f".{hash_}.fhx.0123456789ab.part"
    others = tmp_path / exchange.FROM_COORDINATOR / f".{'0' * 64}.fhx.0123456789ab.part"
    part.parent.mkdir()
    part.write_bytes(b"half")
    others.write_bytes(b"somebody else's")
    exchange.exchange(three.hub, tmp_path)
    assert not part.exists()
    assert others.exists()
