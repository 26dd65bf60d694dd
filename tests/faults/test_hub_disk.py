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
    """The code of the error that a step raises, or ""."""
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


@pytest.mark.parametrize("free_kib", [0, 40, 200, 1100, 1300, 2300], ids=lambda kib: f"{kib} KiB left")
def test_g02_on_a_full_disk_each_step_fails_whole_and_works_once_there_is_room(
    on_a_disk: Federation, free_kib: int
) -> None:
    fed = on_a_disk
    paths: list[Path] = []

    def seal_updates() -> None:
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
            seal_updates()
        filler = fill(fed.folder.parent, free_kib)
        code = failure(step)
        filler.unlink()
        assert code in ("", "E_STORAGE")
        assert list(fed.hub.home.rglob("*.part")) == []
        log_table.verify(fed.hub.database)
        if code:
            step()
    assert fed.hub.newest_round()["state"] == State.MERGED
    assert set(fed.update_states().values()) == {"merged"}


def fill(disk: Path, free_kib: int) -> Path:
    filler = disk / "pictures"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    filler.write_bytes(bytes(max(free - free_kib * 1024, 0)))
    return filler


def test_g02_a_full_disk_at_the_hub_is_no_refusal_of_an_update(on_a_disk: Federation, tmp_path: Path) -> None:
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


def test_g03_a_read_only_disk_is_an_error_until_it_is_writable_again(on_a_disk: Federation) -> None:
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


def test_g03_a_failed_flush_gives_no_receipt(three: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    task = three.open()
    path = three.clinics[0].give(task, three.drawn_update(task, three.clinics[0]))
    flush, failures = os.fsync, iter(range(100))
    for successes in range(20):  # the disk fails at each flush in turn
        calls = iter(range(successes))

        def fails(descriptor: int, calls: Iterator[int] = calls) -> None:
            if next(calls, None) is None and Path(f"/proc/self/fd/{descriptor}").resolve().is_file():
                raise OSError(errno.EIO, "input/output error")
            flush(descriptor)

        monkeypatch.setattr(os, "fsync", fails)
        code = failure(lambda: receive.receive(three.hub, path))
        monkeypatch.undo()
        if not code:
            break
        next(failures)
        assert code == "E_STORAGE"
        assert three.update_states() == {}
        assert list(three.hub.home.glob(".*.part")) == []
    assert next(failures) >= 2
    assert three.update_states() == {"site-001/1": "received"}


def test_g03_too_many_open_files_are_no_refusal_of_an_update(three: Federation, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    task = three.open()
    stick = tmp_path / "stick"
    (stick / exchange.TO_COORDINATOR).mkdir(parents=True)
    three.clinics[0].give(task, three.drawn_update(task, three.clinics[0])).rename(
        stick / exchange.TO_COORDINATOR / "update"
    )
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(stick, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, limits[1]))  # one more: enough to list files, not to copy
    try:
        code = failure(lambda: exchange.exchange(three.hub, stick))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert code == "E_STORAGE"
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


def test_g05_a_damaged_page_is_detected(three: Federation) -> None:
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


def test_g05_readers_do_not_block_writers(three: Federation, tmp_path: Path) -> None:
    """Backups and the dashboard only read."""
    task = three.open()
    other = sqlite3.connect(three.hub.home / database.DATABASE, isolation_level=None)
    other.execute("BEGIN")
    (before,) = other.execute("SELECT count(*) FROM log").fetchone()
    assert receive.receive(three.hub, three.clinics[0].give(task, three.drawn_update(task, three.clinics[0]))).new
    recovery.backup(three.hub, tmp_path / "backup.tar")
    assert other.execute("SELECT count(*) FROM log").fetchone() == (before,)
    other.close()


def test_g05_a_file_that_is_not_a_database_is_a_damaged_hub(three: Federation) -> None:
    three.hub.database.close()
    (three.hub.home / database.DATABASE).write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(HubDamagedError):
        Hub(three.hub.home)


def test_g05_a_missing_parcel_file_is_detected(three: Federation) -> None:
    three.hub.database.parcel_path(three.hub.newest_parcel("roster")["hash"]).unlink()
    with pytest.raises(HubDamagedError, match="is gone"):
        three.hub.database.reconcile()


def test_g05_a_hub_without_its_journal_is_in_an_earlier_state_and_sites_detect_it(
    three: Federation, tmp_path: Path
) -> None:
    """The last commits are in the journal; a hub that lost it looks intact, and only its sites notice."""
    charter = three.hub.charter
    task = three.open()
    copy = Path(shutil.copytree(three.hub.home, tmp_path / "lost"))
    (copy / "hub.db-wal").unlink()
    (copy / "hub.db-shm").unlink(missing_ok=True)
    three.send_updates(task, without=("site-003",))
    behind = Hub(copy, clock=three.clock)
    behind.database.check_integrity()
    assert log_table.verify(behind.database).length < task.log.length
    assert behind.newest_round()["round"] == 0
    again = opening.open_next(behind, three.coordinator_keys)
    state = TrustedState(charter).with_roster(*behind.read_json(behind.newest_parcel("roster")["hash"]))
    state = state.with_task(*three.hub.read_json(task.hash))
    with pytest.raises(EquivocationError):
        state.with_task(*behind.read_json(again.hash))
    behind.database.close()


def test_g08_a_full_stick_is_filled_once_there_is_room(three: Federation, tiny_disk: Disk) -> None:
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


def test_g08_leftovers_of_an_interrupted_copy_are_removed_from_the_stick(three: Federation, tmp_path: Path) -> None:
    three.open()
    hash_ = three.hub.newest_parcel("task")["hash"]
    part = tmp_path / exchange.FROM_COORDINATOR / f".{hash_}.fhx.0123456789ab.part"
    foreign = tmp_path / exchange.FROM_COORDINATOR / f".{'0' * 64}.fhx.0123456789ab.part"
    part.parent.mkdir()
    part.write_bytes(b"half")
    foreign.write_bytes(b"somebody else's")
    exchange.exchange(three.hub, tmp_path)
    assert not part.exists()
    assert foreign.exists()
