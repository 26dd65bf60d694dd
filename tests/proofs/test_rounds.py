"""Ten disturbed rounds end with the same bits as ten undisturbed ones.

The coordinator, its front and the sites' uploads are killed repeatedly. Files are lost, duplicated, reordered, a round
late, or sent again.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fedhelp_edge.exchange.folder import TO_COORDINATOR
from server_ref.admin import unattended
from server_ref.intake import receive
from tests.faults import kills
from tests.federation import Federation
from tests.http_front import FrontProcess, serving

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")

ROUNDS = 10


# --- the rounds ----------------------------------------------------------------------------------------------------
def rounds(fed: Federation, late: dict[int, int]) -> Iterator[list[Path]]:
    """The updates to receive in each round; a late one arrives in the next, in place of that site's own."""
    held_back: list[Path] = []
    for number in range(1, ROUNDS + 1):
        task, due, held_back = fed.hub.tasks()[number], held_back, []
        for index, clinic in enumerate(fed.clinics):
            if index != late.get(number - 1):
                update = clinic.give(task, fed.drawn_update(task, clinic))
                (held_back if index == late.get(number) else due).append(update)
        yield due


def quiet(fed: Federation, late: dict[int, int]) -> None:
    for number, due in enumerate(rounds(fed, late), 1):
        for update in due:
            receive.receive(fed.hub, update)
        if number in late:
            fed.clock.advance(days=8)
        unattended.step(fed.hub, fed.coordinator_keys, None)


class Storm:
    def __init__(self, fed: Federation, random_: random.Random, deaths: int) -> None:
        self.fed, self._draw, self._deaths = fed, random_, deaths
        self.stick, self.sent, self.met = fed.folder / "stick", list[Path](), Counter[str]()
        self._copies, self._fronts = itertools.count(), ExitStack()
        self._front: FrontProcess
        self._serve()
        (self.stick / TO_COORDINATOR).mkdir(parents=True)

    def rage(self, late: dict[int, int]) -> None:
        with self._fronts:
            for number, due in enumerate(rounds(self.fed, late), 1):
                self.sent += due
                while (missing := [update for update in due if not self._is_here(update)]) or number in late:
                    if not missing:
                        self.fed.clock.advance(days=8)
                        break
                    self._happens(number, missing)
                while not self._is_open(number + 1):
                    self._look(number)

    def _happens(self, number: int, missing: list[Path]) -> None:
        what = self._draw.choices([self._upload, self._lose, self._double, self._look], [5, 1, 1, 4])[0]
        what(number) if what == self._look else what(self._draw.choice(missing))

    def _upload(self, update: Path) -> None:
        dies = self._draw.randint(1, 6) if self.met["uploads killed"] < self._deaths // 4 else 0
        if self._draw.random() < 0.5:
            code = kills.run(kills.copy, self.stick, update, dies_before=dies)
        else:
            url = f"http://127.0.0.1:{self._front.port}"
            code = kills.run(
                kills.send, self.fed.folder / "net", url, self.fed.hub.federation, update, dies_before=dies
            )
        self._died("uploads", code)

    def _lose(self, update: Path) -> None:
        path = self.stick / TO_COORDINATOR / update.name
        self.met["files lost"] += path.exists()
        path.unlink(missing_ok=True)

    def _double(self, _: Path) -> None:
        shutil.copy(self._draw.choice(self.sent), self.stick / TO_COORDINATOR / f"copy {next(self._copies)}")
        self.met["files doubled"] += 1

    def _look(self, number: int) -> None:
        if self.met["front killed"] < self._deaths // 20 * number // ROUNDS:
            self._front.end(signal.SIGKILL)
            self.met["front killed"] += 1
            self._serve()
        most = 40 if number < ROUNDS else 8  # in the last round no run ends before enough were killed
        dies = (
            self._draw.randint(1, most) if self.met["coordinator killed"] < 0.7 * self._deaths * number / ROUNDS else 0
        )
        self._died(
            "coordinator",
            kills.run(kills.unattended_step, self.fed.hub.home, self.stick, self.fed.clock.time, dies_before=dies),
        )

    def _died(self, process: str, code: int) -> None:
        assert code in (0, kills.KILLED)
        self.met[f"{process} killed"] += code != 0

    def _serve(self) -> None:
        self._front = self._fronts.enter_context(serving(self.fed.hub.home))

    def _is_here(self, update: Path) -> bool:
        return bool(self.fed.hub.database.row("SELECT 1 FROM parcels WHERE hash = ?", update.stem))

    def _is_open(self, number: int) -> bool:
        return bool(self.fed.hub.database.row("SELECT 1 FROM rounds WHERE round = ?", number))


def models(fed: Federation) -> list[str]:
    query = "SELECT model FROM rounds WHERE state = 'merged' AND round BETWEEN 1 AND ? ORDER BY round"
    return [row["model"] for row in fed.hub.database.rows(query, ROUNDS)]


@pytest.mark.proof
def test_ten_disturbed_rounds_give_the_bits_of_ten_undisturbed_ones(
    made: Federation, tmp_path: Path, effort: Callable[[int, int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    kills.open_in_this_process(monkeypatch)
    random_ = random.Random(4)
    late: dict[int, int] = {}
    for number in range(1, ROUNDS):
        if random_.random() < 0.4:
            late[number] = random_.choice([index for index in range(3) if index != late.get(number - 1)])
    undisturbed, disturbed = made.copy_to(tmp_path / "calm"), made.copy_to(tmp_path / "stormy")
    undisturbed.open()
    disturbed.open()
    quiet(undisturbed, late)
    storm = Storm(disturbed, random_, effort(20, 200))
    storm.rage(late)

    assert len(models(disturbed)) == ROUNDS
    assert models(disturbed) == models(undisturbed)
    database = disturbed.hub.database
    counted = database.rows("SELECT hash, site, counts FROM shares WHERE state = 'merged'")
    assert sorted(row["hash"] for row in counted) == sorted(update.stem for update in storm.sent)
    assert len({(row["site"], row["counts"]) for row in counted}) == len(counted)
    for name in ("received", "accepted"):
        named = [row["subject"] for row in database.rows("SELECT subject FROM log WHERE type = ?", name)]
        assert max(Counter(named).values()) == 1
    disturbed.hub.check()
    met = {"files late": len(late), **storm.met}
    assert sum(count for name, count in met.items() if "killed" in name) >= effort(20, 200)
    assert all(met[name] for name in ("coordinator killed", "uploads killed", "front killed", "files lost"))
    print(f"\n{ROUNDS} rounds, {len(counted)} updates; {', '.join(f'{count} {name}' for name, count in met.items())}")
    print(f"0 rounds lost, 0 updates counted twice; the last model is {models(disturbed)[-1][:16]} in both")
    for fed in (undisturbed, disturbed):
        fed.hub.database.close()
