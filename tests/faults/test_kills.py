"""Faults G01 and G04: the coordinator is killed, or its power cut, before each durable step.

Exhaustive for a small round: three updates received, judged and merged, and the next round opened.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from server_ref.hub.hub import Hub
from server_ref.hub.states import State
from server_ref.hub.tables import log_table
from server_ref.intake import judge
from tests.faults import kills
from tests.federation import Federation

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL and folder flushes are POSIX")

STEPS = ("receive", "judge", "aggregate", "open")


@dataclass
class Round:
    """The hub before each step of one round, and its state after each undisturbed step."""

    fed: Federation
    updates: list[Path]
    before: dict[str, Path]
    after: dict[str, dict[str, Any]]

    def run_step(self, home: Path, step: str, **kill: Any) -> int:
        updates = self.updates if step == "receive" else ()
        return kills.run(kills.coordinator_step, home, step, self.fed.clock.time, updates, **kill)


@pytest.fixture(scope="module")
def played(made: Federation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Round]:
    fed = made.copy_to(tmp_path_factory.mktemp("round") / "federation")
    task = fed.open()
    updates = [clinic.give(task, fed.drawn_update(task, clinic)) for clinic in fed.clinics]
    fed.hub.database.close()
    played_round = Round(fed, updates, {}, {})
    home = fed.hub.home
    for step in STEPS:
        played_round.before[step] = home
        home = Path(shutil.copytree(home, fed.folder / f"after {step}"))
        assert played_round.run_step(home, step) == 0
        played_round.after[step] = hub_state(home)
    yield played_round


def hub_state(home: Path) -> dict[str, Any]:
    """The state of a hub without random keys, salts and nonces: equal for hubs that did the same."""
    hub = Hub(home)
    database = hub.database
    database.check_integrity()
    log_table.verify(database)
    make_old(home)
    database.reconcile()
    state = {
        "shares": [
            {**dict(row), "facts": without_tag(row["facts"])}
            for row in database.rows("SELECT * FROM shares ORDER BY hash")
        ],
        "rounds": [
            (row["round"], row["state"], row["base"], row["model"]) for row in database.rows("SELECT * FROM rounds")
        ],
        "log": [row["type"] for row in database.rows("SELECT type FROM log ORDER BY seq")],
        "parcels": sorted(row["kind"] for row in database.rows("SELECT kind FROM parcels")),
        "parcel files": len(list((home / "parcels").glob("*/*"))),
        "keys": sorted(path.name for path in (home / "round-keys").iterdir()),
        "opened": {path.name: path.read_bytes() for path in (home / "shares").iterdir()},
        "models": {path.name: path.read_bytes() for path in (home / "models").iterdir()},
        "temporary": [path.name for path in home.rglob("*.part")],
    }
    for name in state["keys"]:
        assert judge.round_key(hub, hub.coordinator_keys(lambda: ""), int(Path(name).stem)).startswith(
            "AGE-SECRET-KEY-"
        )
    database.close()
    return state


def without_tag(facts: str | None) -> dict[str, Any]:
    """The facts of an update but for its tag, whose nonce is random."""
    return {name: value for name, value in json.loads(facts or "{}").items() if name != "tag"}


def make_old(home: Path) -> None:
    """Makes leftovers old enough that no process can still use them."""
    for path in home.rglob("*"):
        os.utime(path, (0, 0))


@pytest.mark.proof
@pytest.mark.parametrize("step", STEPS)
def test_g01_a_killed_step_that_is_repeated_ends_as_if_undisturbed(
    played: Round, step: str, tmp_path: Path, effort: Callable[[int, int], int]
) -> None:
    _kill_at_each_point(played, step, tmp_path, range(1, 1000, effort(8, 1)), power_cut=False)


@pytest.mark.proof
@pytest.mark.parametrize("step", STEPS)
def test_g04_a_step_cut_by_a_power_failure_and_repeated_ends_as_if_undisturbed(
    played: Round, step: str, tmp_path: Path, effort: Callable[[int, int], int]
) -> None:
    stride = effort(8, 1)
    _kill_at_each_point(played, step, tmp_path, range(stride, 1000, stride), power_cut=True)


def _kill_at_each_point(played: Round, step: str, folder: Path, kill_points: range, *, power_cut: bool) -> None:
    deaths = 0
    for before in kill_points:
        home = Path(shutil.copytree(played.before[step], folder / f"{before}"))
        code = played.run_step(home, step, dies_before=before, power_cut=power_cut)
        if code == 0:
            break
        assert code == kills.KILLED
        deaths += 1
        assert played.run_step(home, step) == 0, before
        assert hub_state(home) == played.after[step], before
        shutil.rmtree(home)
    print(f"{step}: killed at {deaths} places")
    assert deaths


def test_the_undisturbed_round_is_complete(played: Round) -> None:
    assert [row[:2] for row in played.after["aggregate"]["rounds"]] == [(0, "merged"), (1, State.MERGED)]
    assert len(played.after["open"]["keys"]) == 2
    assert all(after["temporary"] == [] for after in played.after.values())
