"""Faults that an unattended coordinator meets over weeks: unreachable carriers, locks, clocks, readable files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedhelp_edge import lock, passphrase, unattended
from fedhelp_edge.errors import BusyError, ClockJumpError, FedhelpError, HubDamagedError, KeysModeError, LogBrokenError
from server_ref.admin import session
from server_ref.admin import unattended as admin_unattended
from server_ref.hub.tables import log_table
from server_ref.intake import receive
from server_ref.rounds import lifecycle
from tests.federation import Federation

posix = pytest.mark.skipif(os.name == "nt", reason="Windows' file modes do not say who can read")


def attempts(*errors: FedhelpError | OSError | None) -> Callable[[], bool]:
    """A step that raises these errors in turn and is done when none is left."""
    remaining = list(errors)

    def step() -> bool:
        if remaining and (error := remaining.pop(0)):
            raise error
        return not remaining

    return step


def test_transient_errors_are_retried_ever_later_and_printed_once() -> None:
    lines: list[str] = []
    waits: list[float] = []
    errors = [OSError(5, "gone", "stick")] * 12
    unattended.run_repeatedly(attempts(*errors, None, BusyError("held"), None), 30, lines.append, waits.append)
    assert [line.split(":")[0] for line in lines] == [
        "waiting",
        "the command continues",
        "waiting",
        "the command continues",
    ]
    assert "E_STORAGE" in lines[0]
    assert "E_BUSY" in lines[2]
    assert waits[0] <= 30 < waits[2]
    assert 450 <= max(waits) <= 600


@pytest.mark.parametrize(
    "error", [HubDamagedError("x"), LogBrokenError("x"), ClockJumpError("x")], ids=lambda error: error.code
)
def test_permanent_errors_end_the_run(error: FedhelpError) -> None:
    with pytest.raises(type(error)):
        unattended.run_repeatedly(attempts(error), 1, print, lambda _: None)


def test_rounds_close_while_the_carrier_is_unreachable(three: Federation, tmp_path: Path) -> None:
    three.send_updates(three.open())
    (tmp_path / "file").write_bytes(b"")
    news: list[str] = []
    with pytest.raises((FedhelpError, OSError)) as raised:
        admin_unattended.step(three.hub, three.coordinator_keys, tmp_path / "file" / "stick", news)
    assert unattended.transient_error(raised.value)
    assert three.hub.newest_round()["round"] == 2
    assert "round 1: 3 updates merged" in news


@posix
def test_run_waits_for_a_locked_hub_and_ends_by_sigterm(three: Federation, tmp_path: Path) -> None:
    three.send_updates(three.open())
    env = {**os.environ, "FEDHELP_HOME": str(three.hub.home), "PYTHONPATH": str(Path(__file__).parents[2])}
    hurry = "from fedhelp_edge import lock; lock.WAIT = 0.1; from server_ref.cli import main; main()"
    with lock.exclusive(three.hub.home / session.WRITER_LOCK):
        process = subprocess.Popen(
            [sys.executable, "-c", hurry, "run", "--every", "0.1"], env=env, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr
        assert "waiting: E_BUSY" in process.stderr.readline()
    lines = []
    while not lines or "round 2 is open" not in lines[-1]:
        lines.append(process.stderr.readline())
        assert lines[-1], lines
    assert sum("the command continues" in line for line in [*lines, process.stderr.readline()]) == 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    process.stderr.close()
    assert three.reopen().newest_round()["round"] == 2


@posix
@pytest.mark.parametrize(
    ("mode", "works"), [(0o600, True), (0o400, True), (0o644, False), (0o640, False), (0o602, False)]
)
def test_a_passphrase_file_that_others_can_read_is_refused(tmp_path: Path, mode: int, works: bool) -> None:
    path = tmp_path / "passphrase"
    path.write_text("four quiet words here\n")
    path.chmod(mode)
    if works or (mode == 0o640 and os.geteuid() == 0):  # root's files may have a group, as systemd lends credentials
        assert passphrase.provider(path)() == "four quiet words here"
    else:
        with pytest.raises(KeysModeError) as raised:
            passphrase.provider(path)()
        assert raised.value.remedy == "chmod 600 passphrase"


@pytest.mark.parametrize("days", [25_000, 98, -25_000])
def test_g12_a_clock_that_jumps_far_writes_nothing(three: Federation, days: int) -> None:
    task = three.open()
    three.send_updates(task, without=("site-003",))
    three.judge()
    length = log_table.head(three.hub.database).length
    three.clock.advance(days=days)
    late = three.clinics[2].give(task, three.drawn_update(task, three.clinics[2]))
    with pytest.raises(ClockJumpError):
        receive.receive(three.hub, late)
    with pytest.raises(ClockJumpError):
        three.aggregate(now=True)
    assert log_table.head(three.hub.database).length == length
    assert lifecycle.open_round(three.hub)["closes"]
    three.clock.advance(days=-days)
    receive.receive(three.hub, late)
    assert len(three.aggregate()["accepted"]) == 3


def test_g12_a_long_pause_is_accepted_by_a_log_line(three: Federation) -> None:
    three.clock.advance(days=400)
    with pytest.raises(ClockJumpError):
        three.open()
    three.hub.accept_clock()
    assert three.open().round == 1
    three.hub.check()


def test_g12_a_log_line_dated_far_ahead_does_not_move_deadlines_forever(three: Federation) -> None:
    log_table.add(three.hub.database, "2096-01-01T00:00:00Z", "renew", "roster", {})
    with pytest.raises(ClockJumpError):
        three.open()
    three.hub.accept_clock()
    task = three.open()
    assert task.opens == three.clock()
    three.send_updates(task)
    assert three.aggregate()["published"]
    three.hub.check()
