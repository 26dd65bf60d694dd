"""Faults G09, G10, G12, G14, G16 and G17 of the catalogue: simultaneous writers, changed logs, clocks, versions,
secrets, and updates that exhaust memory or time."""

from __future__ import annotations

import multiprocessing
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge import lock
from fedhelp_edge import plan as plans
from fedhelp_edge.errors import BusyError, HubNewerError, LogBrokenError, NotNowError
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.trust.log import line_hash
from server_ref.admin import session
from server_ref.hub import create, database
from server_ref.hub import hub as hubs
from server_ref.hub.database import DATABASE, HubDatabase
from server_ref.hub.hub import Hub
from server_ref.hub.tables import log_table
from server_ref.intake import judge, receive, sandbox
from server_ref.rounds import opening
from server_ref.web import process
from tests import command
from tests.federation import PLAN, Clock, Federation


# --- G09 -----------------------------------------------------------------------------------------------------------
def hold(path: Path, taken: object, done: object) -> None:
    with lock.exclusive(path):
        taken.set()  # type: ignore[attr-defined]
        done.wait(60)  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_g09_a_second_writer_is_refused_until_the_first_has_ended(tmp_path: Path, how: str) -> None:
    path = tmp_path / "writer.lock"
    start = multiprocessing.get_context("spawn")
    taken, done = start.Event(), start.Event()
    other = start.Process(target=hold, args=(path, taken, done))
    other.start()
    assert taken.wait(60)
    with pytest.raises(BusyError), lock.exclusive(path, wait=0.1):
        pass
    other.kill() if how == "is killed" else done.set()
    with lock.exclusive(path, wait=60):
        pass
    other.join()


def test_g09_two_simultaneous_processes_cannot_both_open_the_round(three: Federation) -> None:
    first, second = three.hub, Hub(three.hub.home, clock=three.clock)
    task = opening.open_next(first, three.coordinator_keys)
    key = judge.round_key(first, three.coordinator_keys, task.round)
    with pytest.raises(NotNowError):
        opening.open_next(second, three.coordinator_keys)
    second.database.close()
    assert judge.round_key(first, three.coordinator_keys, task.round) == key


# --- G10 -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def logged(three: Federation) -> Federation:
    three.send_updates(three.open())
    return three


def change_database(fed: Federation, query: str, *values: object) -> None:
    with sqlite3.connect(fed.hub.home / DATABASE) as db:
        db.execute(query, values)
    db.close()


@pytest.mark.parametrize(
    ("column", "value"),
    [("time", "2020-01-01T00:00:00Z"), ("type", "refused"), ("subject", "site-009"), ("detail", '{"name":"other"}')],
)
def test_g10_an_edited_line_is_named(logged: Federation, column: str, value: str) -> None:
    change_database(logged, f"UPDATE log SET {column} = ? WHERE seq = 5", value)
    with pytest.raises(LogBrokenError, match="line 5 was changed"):
        log_table.verify(logged.hub.database)


def test_g10_a_line_with_an_adjusted_hash_breaks_the_next(logged: Federation) -> None:
    lines = list(log_table.lines(logged.hub.database))
    line = {**lines[4][0], "subject": "site-009"}
    fitting = line_hash(lines[3][1], line)
    change_database(logged, "UPDATE log SET subject = 'site-009', hash = ? WHERE seq = 5", fitting)
    with pytest.raises(LogBrokenError, match="line 6"):
        log_table.verify(logged.hub.database)


def test_g10_a_deleted_line_is_named(logged: Federation) -> None:
    change_database(logged, "DELETE FROM log WHERE seq = 5")
    with pytest.raises(LogBrokenError, match="line 5 is missing"):
        log_table.verify(logged.hub.database)


def cut_off(fed: Federation) -> None:
    change_database(fed, "DELETE FROM log WHERE seq > ?", log_table.head(fed.hub.database).length - 2)


def rewritten(fed: Federation) -> None:
    """Rewrites all lines from one on, so that the chain is valid."""
    head = ""
    for line, _ in list(log_table.lines(fed.hub.database)):
        changed = {**line, "subject": "site-009"} if line["seq"] == 5 else line
        head = line_hash(head, changed)
        change_database(
            fed, "UPDATE log SET subject = ?, hash = ? WHERE seq = ?", changed["subject"], head, line["seq"]
        )


@pytest.mark.parametrize("change", [cut_off, rewritten])
def test_g10_a_rewritten_log_does_not_match_the_published_one(
    logged: Federation, change: Callable[[Federation], None]
) -> None:
    change(logged)
    log_table.verify(logged.hub.database)
    with pytest.raises(LogBrokenError, match="not as it was published"):
        logged.hub.check()


@pytest.mark.parametrize("change", [cut_off, rewritten])
def test_g10_commands_refuse_a_hub_whose_log_was_changed(
    logged: Federation, change: Callable[[Federation], None]
) -> None:
    before = logged.hub.check()
    change(logged)
    length = log_table.head(logged.hub.database).length
    with pytest.raises(LogBrokenError), session.unlocked_hub(logged.hub.home, None):
        pass
    with pytest.raises(LogBrokenError):
        process.serve(logged.hub.home, "127.0.0.1", 0, None, None, lambda *_: pytest.fail("it serves"))
    assert log_table.head(logged.hub.database).length == length <= before.length


# --- G12 -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("days", [-1, 1])
def test_g12_a_clock_that_jumps_by_a_day_neither_closes_nor_reopens_a_round(three: Federation, days: int) -> None:
    task = three.open()
    three.send_updates(task, without=("site-003",))
    three.clock.advance(days=days)
    with pytest.raises(Exception, match="missing: site-003"):
        three.aggregate()
    three.clock.advance(days=-days)
    receive.receive(three.hub, three.clinics[2].give(task, three.drawn_update(task, three.clinics[2])))
    assert len(three.aggregate()["accepted"]) == 3
    with pytest.raises(NotNowError):
        three.aggregate()


def test_g12_a_passed_deadline_stays_passed_when_the_clock_is_set_back(three: Federation) -> None:
    task = three.open()
    three.send_updates(task, without=("site-003",))
    three.clock.advance(days=8)
    outcome = three.aggregate()
    assert outcome["accepted"] == ["site-001", "site-002"]
    three.clock.advance(days=-9)
    assert three.hub.now >= task.closes
    later = three.open()
    assert later.opens >= task.closes
    assert later.closes - later.opens == timedelta(days=7)
    times = [row["time"] for row in three.hub.database.rows("SELECT time FROM log ORDER BY seq")]
    assert times == sorted(times)


# --- G14 -----------------------------------------------------------------------------------------------------------
def test_g14_a_hub_of_a_newer_version_is_not_changed(three: Federation) -> None:
    three.hub.database.db.execute("PRAGMA user_version = 99")
    three.hub.database.close()
    before = (three.hub.home / DATABASE).read_bytes()
    with pytest.raises(HubNewerError):
        Hub(three.hub.home)
    assert (three.hub.home / DATABASE).read_bytes() == before


def test_g14_a_hub_of_an_older_version_is_migrated_once(three: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    three.send_updates(three.open())
    monkeypatch.setattr(
        database, "_MIGRATIONS", (*database._MIGRATIONS, "CREATE TABLE later (what TEXT NOT NULL) STRICT;")
    )
    for _ in range(2):
        three.reopen()
        assert three.hub.database.rows("SELECT * FROM later") == []
    assert three.aggregate()["accepted"] == ["site-001", "site-002", "site-003"]


def test_g14_a_failed_migration_leaves_the_hub_as_it_was(three: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    version = three.hub.database.row("PRAGMA user_version")
    with monkeypatch.context() as patch:
        broken = (*database._MIGRATIONS, "CREATE TABLE later (what TEXT) STRICT; SELECT * FROM nowhere;")
        patch.setattr(database, "_MIGRATIONS", broken)
        with pytest.raises(Exception, match="nowhere"):
            HubDatabase(three.hub.home)
    three.reopen()
    assert tuple(three.hub.database.row("PRAGMA user_version") or ()) == tuple(version or ())
    assert three.hub.database.rows("SELECT * FROM sqlite_master WHERE name = 'later'") == []


# --- G16 -----------------------------------------------------------------------------------------------------------
PASSPHRASE = "amber-violin-sketch-lemon-harbour"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Federation]:
    """A federation whose coordinator has a passphrase, after a round in which one update was suspicious."""
    fed = Federation.__new__(Federation)
    fed.folder, fed.plan = tmp_path, plans.read(PLAN, METHODS)
    fed.clock = Clock()
    fed.hub = create.new_hub(tmp_path / "hub", fed.plan, PASSPHRASE, clock=fed.clock)
    fed.coordinator_keys, fed.clinics = fed.hub.coordinator_keys(lambda: PASSPHRASE), []
    for _ in range(3):
        fed.join()
    yield fed
    fed.hub.database.close()


def test_g16_no_secret_or_weight_appears_in_output_log_or_database(guarded: Federation, tmp_path: Path) -> None:
    fed = guarded
    task = fed.open()
    key = judge.round_key(fed.hub, fed.coordinator_keys, 1)
    arrays = [fed.drawn_update(task, clinic) for clinic in fed.clinics]
    arrays[2]["linear.bias"][:] = np.float32(np.nan)
    for clinic, drawn in zip(fed.clinics, arrays, strict=True):
        receive.receive(fed.hub, clinic.give(task, drawn))
    fed.hub.database.close()
    (tmp_path / "passphrase").write_text(PASSPHRASE)
    (tmp_path / "passphrase").chmod(0o600)
    options = ("--home", fed.hub.home, "--passphrase-file", tmp_path / "passphrase")
    printed = b""
    for arguments in (("aggregate", "--now", "--json"), ("aggregate", "--debug")):
        done = command.run(*arguments, *options, home=tmp_path, program=command.COORDINATOR)
        printed += (done.stdout + done.stderr).encode()
    assert b"E_NONFINITE" in printed
    assert b"Traceback" in printed
    fed.reopen()
    lines = "\n".join(f"{line}" for line, _ in log_table.lines(fed.hub.database)).encode()
    rows = b"".join(path.read_bytes() for path in fed.hub.home.glob("hub.db*"))
    root = hubs.keys.load(fed.hub.home / hubs.ROOT, lambda: PASSPHRASE)
    secrets = [PASSPHRASE.encode(), key.encode()]
    for key_pair in (fed.coordinator_keys, root, fed.hub.front_keys(), *(clinic.keys for clinic in fed.clinics)):
        seed = key_pair.sign.private_bytes_raw()
        secrets += [key_pair.identity.encode(), seed, seed.hex().encode()]
    numbers = [array["conv1.weight"].tobytes()[:32] for array in arrays]
    numbers += [repr(float(array["conv1.weight"].flat[0])).encode()[:9] for array in arrays]
    for text in (printed, lines, rows):
        assert not [secret for secret in (*secrets, *numbers) if secret in text]


# --- G17 -----------------------------------------------------------------------------------------------------------
HUNGRY = """#!{python}
import sys
from server_ref.intake import sandbox
honest = sandbox.open_update
def open_update(job):
    if job.hash == "{hash}":
        {does}
    return honest(job)
sandbox.open_update = open_update
sandbox._confine()
sandbox.serve()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits memory")
@pytest.mark.parametrize(
    "does", ["bytearray(2 << 30)", "import time; time.sleep(600)", "import os; os._exit(1)"],
    ids=["memory", "time", "death"],
)  # fmt: skip
def test_g17_an_update_that_takes_too_much_memory_or_time_is_quarantined_and_the_round_continues(
    three: Federation, does: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task = three.open()
    evil = three.clinics[1].give(task, three.drawn_update(task, three.clinics[1]))
    receive.receive(three.hub, evil)
    three.send_updates(task, without=("site-002",))
    program = tmp_path / "python"
    program.write_text(HUNGRY.format(python=sys.executable, hash=evil.stem, does=does))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)

    class Hasty(sandbox.Sandbox):
        def open(self, job: sandbox.Job) -> sandbox.OpenedUpdate:
            if "sleep" in does:
                patch.setattr(sandbox, "TIME_LIMIT", 0.2 if job.hash == evil.stem else 120)
            return super().open(job)

    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(program))
        patch.setattr(sandbox, "Sandbox", Hasty)
        three.judge()
    assert three.update_states() == {"site-001/1": "accepted", "site-002/1": "quarantined", "site-003/1": "accepted"}
    outcome = three.aggregate(now=True)
    assert [odd["code"] for odd in outcome["quarantined"]] == ["E_RESOURCE"]
    assert outcome["accepted"] == ["site-001", "site-003"]


def test_g17_a_sandbox_that_does_not_start_is_no_refusal_of_an_update(
    three: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    three.send_updates(three.open())
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/bin/false")
        with pytest.raises(Exception, match="does not start"):
            three.judge()
    assert set(three.update_states().values()) == {"received"}
    assert len(three.aggregate()["accepted"]) == 3
