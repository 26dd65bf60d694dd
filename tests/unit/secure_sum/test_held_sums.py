"""A sum that is unlike those before waits for a person, who releases or refuses it. Each decision is in the log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge.errors import NotNowError, SetAnsweredError, SumRangeError
from fedhelp_edge.trust.task import Task
from server_ref.admin import monitoring, status, unattended
from server_ref.hub.tables import log_table
from server_ref.intake import receive
from server_ref.rounds import close, opening, review
from server_ref.web import dashboard
from tests import command
from tests.faults import kills
from tests.site_and_hub import Completed, fails_with, succeeds
from tests.unit.secure_sum.federation import SecureFederation


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureFederation]:
    """Three rounds were merged. In the fourth, updates are five times as long, and the helper has answered."""
    federation = SecureFederation(tmp_path_factory.mktemp("held") / "federation", rounds=6)
    with pytest.MonkeyPatch.context() as patch:
        kills.open_in_this_process(patch)
        for _ in range(3):
            federation.ask()
            assert federation.finish()["published"]
        task = federation.open()
        send_long_updates(federation, task)
        federation.aggregate()
        federation.exchange()
        federation.answer()
        federation.exchange()
    yield federation
    federation.hub.database.close()


def send_long_updates(fed: SecureFederation, task: Task) -> None:
    for clinic in fed.clinics:
        receive.receive(fed.hub, fed.give(task, clinic, fed.drawn_update(task, clinic, 0.05)))


@pytest.fixture
def fed(held: SecureFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SecureFederation]:
    kills.open_in_this_process(monkeypatch)
    with held.temporary_copy(tmp_path / "federation") as federation:
        yield federation


def coordinator(fed: SecureFederation, *words: str) -> Completed:
    home = {"FEDHELP_HOME": str(fed.hub.home)}
    return command.run_in_process(*words, home=fed.folder, program=command.COORDINATOR, env=home)


def decisions(fed: SecureFederation) -> list[str]:
    types = [line["type"] for line, _ in log_table.lines(fed.hub.database)]
    return [type_ for type_ in types if type_.endswith(" sum")]


def test_an_unusual_sum_is_held_and_every_command_says_why_and_what_to_do(fed: SecureFederation) -> None:
    outcome = fed.aggregate()
    assert (outcome["published"], outcome["waiting"]) == (False, "review")
    assert outcome["held"]["code"] == "E_SUM_UNUSUAL"
    assert "it moves the weights 5.0 times as far as the rounds before" in outcome["held"]["cause"]
    assert fed.aggregate() == outcome  # once more changes nothing
    assert decisions(fed) == ["hold sum"]
    assert fed.hub.newest_round()["model"] == ""
    with pytest.raises(NotNowError, match="sum of round 4 waits for a decision"):
        opening.open_next(fed.hub, fed.coordinator_keys)
    for words in ("status", "review", "aggregate"):
        done = succeeds(coordinator(fed, words))
        assert "E_SUM_UNUSUAL" in done.stdout
        assert "review" in done.stderr
    assert command.json_output(coordinator(fed, "review", "--json"))["sum"]["round"] == 4


def test_a_released_sum_becomes_the_model(fed: SecureFederation) -> None:
    fed.aggregate()
    succeeds(coordinator(fed, "review", "sum", "--release"))
    outcome = fed.aggregate()
    assert outcome["published"]
    assert outcome["held"] is None
    assert decisions(fed) == ["hold sum", "release sum"]
    fed.open()


def test_a_refused_sum_leaves_the_model_as_it_was_and_the_next_round_opens(fed: SecureFederation) -> None:
    base = fed.hub.newest_round()["base"]
    fed.aggregate()
    done = succeeds(coordinator(fed, "review", "sum", "--refuse"))
    assert "'fedhelp-coordinator open'" in done.stderr
    assert decisions(fed) == ["hold sum", "refuse sum"]
    task = fed.open()
    assert (task.round, task.base) == (5, base)
    fed.ask(task)
    assert fed.finish()["published"]


def test_after_a_refusal_only_sets_that_the_helper_allows_are_named(fed: SecureFederation) -> None:
    fed.aggregate()
    review.decide(fed.hub, fed.coordinator_keys, "sum", release=False)
    task = fed.open()
    fed.send_updates(task, without=("site-004",))
    with pytest.raises(SetAnsweredError, match="show site-004 alone") as caught:
        fed.aggregate(now=True)
    assert "site-001, site-002, site-003, site-004" in caught.value.remedy
    assert not fed.hub.named_set()  # the round is open, and the fourth site can still send
    receive.receive(fed.hub, fed.give(task, fed.clinics[3]))
    fed.aggregate()
    fed.exchange()
    assert fed.finish()["published"]


def test_a_set_that_is_not_allowed_at_the_deadline_fails_the_round(fed: SecureFederation) -> None:
    fed.aggregate()
    review.decide(fed.hub, fed.coordinator_keys, "sum", release=False)
    fed.send_updates(fed.open(), without=("site-004",))
    fed.clock.advance(days=8)
    with pytest.raises(SetAnsweredError):
        fed.aggregate()
    assert fed.hub.newest_round()["state"] == "failed"
    fed.open()


def test_a_sum_that_the_helper_never_answers_can_be_given_up(fed: SecureFederation) -> None:
    fed.aggregate()
    review.decide(fed.hub, fed.coordinator_keys, "sum", release=False)
    fed.ask()
    fails_with(coordinator(fed, "review", "sum", "--release"), "E_STATE", "review")
    succeeds(coordinator(fed, "review", "sum", "--refuse"))
    assert fed.open().round == 6


def test_without_a_sum_there_is_nothing_to_decide(fed: SecureFederation) -> None:
    fed.aggregate()
    review.decide(fed.hub, fed.coordinator_keys, "sum", release=False)
    for choice in ("--release", "--refuse"):
        fails_with(coordinator(fed, "review", "sum", choice), "E_STATE", "review")


def test_the_unattended_coordinator_tells_once_and_waits_for_a_person(fed: SecureFederation) -> None:
    def step() -> str:
        return "\n".join(unattended.step(fed.hub, fed.coordinator_keys, fed.stick)[1])

    assert "E_SUM_UNUSUAL" in step()
    assert step() == ""
    review.decide(fed.hub, fed.coordinator_keys, "sum", release=True)
    assert {"round 4: 4 updates merged", "round 5 is open"} <= set(step().splitlines())


def test_the_dashboard_shows_a_held_sum_and_what_was_decided(fed: SecureFederation) -> None:
    fed.aggregate()
    page = dashboard._render(fed.hub, "")
    assert "the sum of round 4 is unusual, and waits for a person. E_SUM_UNUSUAL: it moves the weights" in page
    assert "<code>fedhelp-coordinator review</code>" in page
    review.decide(fed.hub, fed.coordinator_keys, "sum", release=False)
    assert "the sum of round 4 was refused, and the model stays" in dashboard._render(fed.hub, "")


def test_the_figures_of_the_hub_tell_that_a_sum_is_held(fed: SecureFederation) -> None:
    def held_sums() -> float:
        (metric,) = (each for each in monitoring.hub_metrics(fed.hub.home) if each.name == "fedhelp_hub_held_sums")
        return metric.value

    assert held_sums() == 0
    fed.aggregate()
    assert held_sums() == 1


def test_a_front_cannot_release_a_sum(fed: SecureFederation) -> None:
    fed.aggregate()
    fed.hub.database.db.execute("""UPDATE rounds SET report = '{"released": true}' WHERE state = 'summing'""")
    fed.reopen()
    with pytest.raises(Exception, match="rows that only the coordinator's commands write"):
        close.aggregate(fed.hub, fed.coordinator_keys)


def test_a_fall_of_the_sites_accuracy_is_told_in_the_round_after(fed: SecureFederation) -> None:
    fed.aggregate()
    review.decide(fed.hub, fed.coordinator_keys, "sum", release=True)
    fed.aggregate()
    task = fed.open()
    for clinic in fed.clinics:
        counts = {**fed.counts(clinic), "val": 100, "correct": 2}
        words = fed.format.quantise(fed.base(task), fed.drawn_update(task, clinic), counts)
        receive.receive(fed.hub, fed.give(task, clinic, words=words))
    fed.aggregate()
    fed.exchange()
    held = fed.finish()["held"]
    assert "right in 8 of 400 validation images (0.02), and those of the rounds before in 0.25" in held["cause"]
    assert status.held_sum(fed.hub) == {"round": 5, **held}


def test_a_sum_that_no_sites_within_the_clip_have_fails_the_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One site that does not clip can be told by the length of the mean, if it is longer than any one may be."""
    kills.open_in_this_process(monkeypatch)
    fed = SecureFederation(tmp_path / "federation", privacy="clip = 0.5")
    task = fed.open()
    fed.send_updates(task, without=("site-001",))
    liar = fed.clinics[0]
    honest = fed.format.quantise(fed.base(task), fed.drawn_update(task, liar), fed.counts(liar)).view(np.int64)
    scaled = np.concatenate([1000 * honest[:-3], honest[-3:]]).view(np.uint64)
    receive.receive(fed.hub, fed.give(task, liar, words=scaled))
    fed.aggregate()
    fed.exchange()
    with pytest.raises(SumRangeError, match=r"longer than clip = 0.5"):
        fed.finish()
    fed.ask()
    assert fed.finish()["published"]
    fed.hub.database.close()
