"""Faults G01 and G04: the coordinator is killed, or its power cut, before each thing that it makes durable.

Exhaustive over a small round: three updates received, judged and merged, and the next round opened.
"""

from __future__ import annotations

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
    """The hub before each step of one round, and what undisturbed steps make of it."""

    fed: Federation
    shares: list[Path]
    before: dict[str, Path]
    after: dict[str, dict[str, Any]]

    def take(self, home: Path, step: str, **fate: Any) -> int:
        shares = self.shares if step == "receive" else ()
        return kills.run(kills.take, home, step, self.fed.clock.time, shares, **fate)


@pytest.fixture(scope="module")
def played(made: Federation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Round]:
    fed = made.copy_to(tmp_path_factory.mktemp("round") / "federation")
    order = fed.open()
    shares = [clinic.give(order, fed.drawn_update(order, clinic)) for clinic in fed.clinics]
    fed.hub.database.close()
    found = Round(fed, shares, {}, {})
    home = fed.hub.home
    for step in STEPS:
        found.before[step] = home
        home = Path(shutil.copytree(home, fed.folder / f"after {step}"))
        assert found.take(home, step) == 0
        found.after[step] = seen(home)
    yield found


def seen(home: Path) -> dict[str, Any]:
    """All that does not differ between two hubs that did the same: draws of keys, salts and nonces aside."""
    hub = Hub(home)
    store = hub.database
    store.check_integrity()
    log_table.verify(store)
    age(home)
    store.reconcile()
    found = {
        "shares": [tuple(row) for row in store.rows("SELECT * FROM shares ORDER BY hash")],
        "rounds": [
            (row["round"], row["state"], row["base"], row["model"]) for row in store.rows("SELECT * FROM rounds")
        ],
        "log": [row["type"] for row in store.rows("SELECT type FROM log ORDER BY seq")],
        "parcels": sorted(row["kind"] for row in store.rows("SELECT kind FROM parcels")),
        "parcel files": len(list((home / "parcels").glob("*/*"))),
        "keys": sorted(path.name for path in (home / "round-keys").iterdir()),
        "opened": {path.name: path.read_bytes() for path in (home / "shares").iterdir()},
        "models": {path.name: path.read_bytes() for path in (home / "models").iterdir()},
        "temporary": [path.name for path in home.rglob("*.part")],
    }
    for name in found["keys"]:
        assert judge.round_key(hub, hub.coordinator_keys(lambda: ""), int(Path(name).stem)).startswith(
            "AGE-SECRET-KEY-"
        )
    store.close()
    return found


def age(home: Path) -> None:
    """Let leftovers be old enough that nobody can be at work on them."""
    for path in home.rglob("*"):
        os.utime(path, (0, 0))


@pytest.mark.proof
@pytest.mark.parametrize("step", STEPS)
def test_g01_a_step_that_was_killed_gives_what_it_would_have_given_when_it_is_taken_again(
    played: Round, step: str, tmp_path: Path, effort: Callable[[int, int], int]
) -> None:
    _dies_everywhere(played, step, tmp_path, range(1, 1000, effort(8, 1)), power_cut=False)


@pytest.mark.proof
@pytest.mark.parametrize("step", STEPS)
def test_g04_a_step_whose_power_was_cut_gives_what_it_would_have_given_when_it_is_taken_again(
    played: Round, step: str, tmp_path: Path, effort: Callable[[int, int], int]
) -> None:
    stride = effort(8, 1)
    _dies_everywhere(played, step, tmp_path, range(stride, 1000, stride), power_cut=True)


def _dies_everywhere(played: Round, step: str, folder: Path, places: range, *, power_cut: bool) -> None:
    deaths = 0
    for before in places:
        home = Path(shutil.copytree(played.before[step], folder / f"{before}"))
        code = played.take(home, step, dies_before=before, power_cut=power_cut)
        if code == 0:
            break
        assert code == kills.KILLED
        deaths += 1
        assert played.take(home, step) == 0, before
        assert seen(home) == played.after[step], before
        shutil.rmtree(home)
    print(f"{step}: killed at {deaths} places")
    assert deaths


def test_the_undisturbed_round_is_complete(played: Round) -> None:
    assert [row[:2] for row in played.after["aggregate"]["rounds"]] == [(0, "merged"), (1, State.MERGED)]
    assert len(played.after["open"]["keys"]) == 2
    assert all(after["temporary"] == [] for after in played.after.values())
