"""Any sequence of actions by coordinator and sites: a hub's state equals that of a small model of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fedhelp_edge.errors import DuplicateRoundError, NotNowError, QuorumError, RoundClosedError
from fedhelp_edge.methods import registry
from fedhelp_edge.methods.registry import METHODS, Public
from fedhelp_edge.plan import Plan
from fedhelp_edge.trust.task import Task
from fedhelp_edge.update import Array, Schema
from server_ref.hub import models
from server_ref.intake import receive
from tests.faults import kills
from tests.federation import Federation

SITES, QUORUM, STALE = 3, 2, 1  # as in the plan of all tests
a_few = st.sets(st.integers(0, SITES - 1))


def tiny_schema(plan: Plan, public: Public | None = None) -> Schema:
    return Schema.parse(["numbers F32 4"])


def tiny_start(plan: Plan) -> dict[str, Array]:
    return {"numbers": np.arange(4, dtype=np.float32)}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with pytest.MonkeyPatch.context() as patch:
        fedavg_of_four_numbers = replace(METHODS["fedavg"], up=tiny_schema, down=tiny_schema, start=tiny_start)
        patch.setitem(registry._BUILT_IN, "fedavg", fedavg_of_four_numbers)  # type: ignore[index]
        kills.open_in_this_process(patch)
        federation = Federation(tmp_path_factory.mktemp("tiny") / "made")
        yield federation
        federation.hub.database.close()


@dataclass
class SentUpdate:
    path: Path
    site: int
    round: int
    change: Array
    state: str = "received"


@dataclass
class Round:
    task: Task
    base: Array
    closes: datetime
    state: str = "open"
    model: Array | None = None


class Course(RuleBasedStateMachine):
    """The hub and a model of its expected state."""

    made: Federation

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.fed = self.made.copy_to(self.folder / "federation")
        self.rounds: dict[int, Round] = {}
        self.updates: list[SentUpdate] = []
        self.changes = count(64)

    def teardown(self) -> None:
        self.fed.hub.database.close()
        shutil.rmtree(self.folder)

    # --- actions ------------------------------------------------------------------------------------------------
    @property
    def open(self) -> bool:
        return bool(self.rounds) and self.rounds[len(self.rounds)].state == "open"

    @initialize()
    def begins(self) -> None:
        self.opens()

    @precondition(lambda self: not self.open and len(self.rounds) < 12)
    @rule()
    def opens(self) -> None:
        with pytest.raises(NotNowError):
            self.fed.aggregate()
        last = self.rounds.get(len(self.rounds))
        base = last.model if last else np.arange(4, dtype=np.float32)
        assert base is not None
        task = self.fed.open()
        self.rounds[task.round] = Round(task, base, task.closes)
        with pytest.raises(NotNowError):
            self.fed.open()

    @precondition(lambda self: self.rounds)
    @rule(sites=a_few, ago=st.integers(0, STALE + 1))
    def send(self, sites: set[int], ago: int) -> None:
        last = len(self.rounds)
        number = max(last - ago, 1)
        round_ = self.rounds[number]
        late = number < last - STALE or (number == last - STALE and not self.open)
        for site in sites:
            change = next(self.changes) / 64 * np.arange(1, 5)
            path = self.fed.clinics[site].give(round_.task, {"numbers": (round_.base + change).astype(np.float32)})
            again = any(
                (update.site, update.round) == (site, number) and update.state != "refused" for update in self.updates
            )
            with pytest.raises(RoundClosedError if late else DuplicateRoundError) if late or again else nullcontext():
                assert receive.receive(self.fed.hub, path).new
                self.updates.append(SentUpdate(path, site, number, change))

    @precondition(lambda self: self.updates)
    @rule(data=st.data())
    def sends_again(self, data: st.DataObject) -> None:
        update = data.draw(st.sampled_from(self.updates))
        answer = receive.receive(self.fed.hub, update.path)
        assert (answer.state, answer.new) == (update.state, False)

    @rule(restarted=st.booleans())
    def judges(self, restarted: bool) -> None:
        """Judges in a running program, or in one that was restarted."""
        if restarted:
            self.fed.reopen().database.reconcile()
        self.fed.judge()
        self._judged()

    @precondition(lambda self: len(self.rounds) < 12)
    @rule(late=a_few, sites=a_few, days=st.sampled_from([0, 0, 3, 8]), now=st.booleans())
    def goes_on(self, late: set[int], sites: set[int], days: int, now: bool) -> None:
        """Plays a round, or a part of it."""
        if not self.open:
            self.opens()
        self.send(late, STALE)
        self.send(sites, 0)
        self.fed.clock.advance(days=days)
        self._judged()
        last = self.rounds[len(self.rounds)]
        accepted = [update for update in self.updates if update.state == "accepted"]
        over = self.fed.clock() >= last.closes
        enough = len(accepted) >= QUORUM and (len(accepted) == SITES or over or now)
        with nullcontext() if enough else pytest.raises(QuorumError):
            self.fed.aggregate(now=now)
        if enough:
            last.state, last.model = "merged", last.base + np.mean([update.change for update in accepted], axis=0)
        elif over:
            last.state, last.model = "failed", last.base
        for update in accepted:
            update.state = {"merged": "merged", "failed": "received", "open": "accepted"}[last.state]

    # --- expected state ----------------------------------------------------------------------------------------
    def _judged(self) -> None:
        """The model's judgement: updates are judged while a round is open, and the newest of each site counts."""
        number = len(self.rounds)
        for update in sorted(self.updates, key=lambda update: (update.site, update.round)):
            if self.open and update.state == "received":
                others = [other for other in self.updates if other.site == update.site and other.state == "accepted"]
                late = update.round < number - STALE or any(other.round > update.round for other in others)
                update.state = "refused" if late else "accepted"
                for other in () if late else others:
                    other.state = "superseded"

    @invariant()
    def the_hub_knows_the_same(self) -> None:
        database = self.fed.hub.database
        states = {row["hash"]: row["state"] for row in database.rows("SELECT hash, state FROM shares")}
        assert states == {update.path.stem: update.state for update in self.updates}
        rows = {row["round"]: row for row in database.rows("SELECT * FROM rounds WHERE round > 0")}
        assert {number: row["state"] for number, row in rows.items()} == {
            n: round_.state for n, round_ in self.rounds.items()
        }
        for number, round_ in self.rounds.items():
            if round_.model is not None:
                model = models.load(self.fed.hub, rows[number]["model"])["numbers"]
                np.testing.assert_allclose(model, round_.model, rtol=1e-5)
                round_.model = model  # to the bit, for the rounds that start from it
        self.fed.hub.check()


@pytest.mark.proof
def test_after_any_sequence_of_actions_a_hub_has_the_expected_state(
    tiny: Federation, effort: Callable[[int, int], int]
) -> None:
    class Machine(Course):
        made = tiny

    quick = settings(
        max_examples=effort(15, 300), stateful_step_count=effort(30, 60), deadline=None, derandomize=True,
        database=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow],
    )  # fmt: skip
    run_state_machine_as_test(Machine, settings=quick)  # type: ignore[no-untyped-call]
