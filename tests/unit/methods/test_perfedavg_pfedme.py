"""Per-FedAvg and pFedMe: their steps on a quadratic, in double precision, and what a site diagnoses with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedhelp_edge.errors import BadPlanError
from fedhelp_edge.merge import rules
from fedhelp_edge.methods import registry
from fedhelp_edge.methods.base import Phase
from fedhelp_edge.nets.net import arrays_of
from fedhelp_edge.train import loop
from fedhelp_edge.train.visit import visit
from tests.unit.methods import small
from tests.unit.methods.point import CURVE, GOAL, START, batches, learner

META, ADAPT = Phase("meta", ("private", "private:second")), Phase("adapt")


def weights(net: torch.nn.Module) -> np.ndarray:
    return arrays_of(net)["w"]


# --- Per-FedAvg ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("order", "power"), [("fo", 1), ("hf", 2)])
def test_a_meta_step_is_that_of_the_formula(monkeypatch: pytest.MonkeyPatch, order: str, power: int) -> None:
    """First order: w - b c (1 - a c)(w - goal); with the Hessian one more factor 1 - a c."""
    a, b = 0.3, 0.1
    site = learner(monkeypatch, "perfedavg", b, inner=a, order=order)
    site.step(META, batches("private", "private:second"))
    expected = START - b * CURVE * (1 - a * CURVE) ** power * (START - GOAL)
    assert np.allclose(weights(site.net), expected, atol=1e-9)


@pytest.mark.parametrize("order", ["fo", "hf"])
def test_hessian_free_is_the_gradient_of_the_loss_after_the_inner_step(
    monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """On a quartic, whose curve changes: finite differences of F(w) = f_B(w - a grad f_A(w)). First order is not it."""
    a, b = 0.05, 0.1
    site = learner(monkeypatch, "perfedavg", b, inner=a, order=order)
    goal = torch.tensor(GOAL)
    site.loss = lambda logits, batch: ((logits - goal * (1 + batch.labels.double().mean())) ** 4).sum(1).mean() / 40
    drawn = batches(*META.draw)
    shift = 1 + drawn["private"].labels.double().mean().item()

    def after_inner_step(w: np.ndarray) -> float:
        moved = w - a * (w - GOAL * shift) ** 3 / 10
        return float(((moved - GOAL * shift) ** 4).sum() / 40)

    site.step(META, drawn)
    h = 1e-5
    gradient = [(after_inner_step(START + h * e) - after_inner_step(START - h * e)) / (2 * h) for e in np.eye(2)]
    error = np.abs((START - weights(site.net)) / b - gradient).max() / np.abs(gradient).max()
    assert bool(error < 1e-4) is (order == "hf")
    assert error < 0.5


def test_the_inner_step_goes_by_the_first_batch_and_the_outer_one_by_the_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The goal of a batch is its label, 1 in the first and 0 in the second."""
    a, b = 0.3, 0.1
    site = learner(monkeypatch, "perfedavg", b, inner=a)
    site.loss = lambda logits, batch: CURVE / 2 * ((logits - batch.labels[:, None]) ** 2).sum(1).mean()
    drawn = batches("private", "private:second")
    labels = {"private": torch.ones(4), "private:second": torch.zeros(4)}
    site.step(META, {name: replace(batch, labels=labels[name]) for name, batch in drawn.items()})
    inner = START - a * CURVE * (START - 1)
    assert np.allclose(weights(site.net), START - b * CURVE * inner, atol=1e-12)


def test_at_the_goal_a_meta_step_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the gradient is zero, its product with the Hessian has no direction to be measured along."""
    site = learner(monkeypatch, "perfedavg", 0.1, inner=0.3, order="hf")
    site.receive({"w": GOAL}, 1)
    site.step(META, batches("private", "private:second"))
    assert np.array_equal(weights(site.net), GOAL)


def test_without_an_inner_step_per_fedavg_is_fedavg_on_the_second_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    site = learner(monkeypatch, "perfedavg", 0.1, inner=0.0)
    site.step(META, batches("private", "private:second"))
    assert np.allclose(weights(site.net), START - 0.1 * CURVE * (START - GOAL))


def test_the_net_that_a_site_diagnoses_with_is_one_step_from_the_common_one_which_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = learner(monkeypatch, "perfedavg", 0.1, inner=0.3)
    site.step(ADAPT, batches("private"))
    assert np.array_equal(weights(site.net), START)
    assert np.allclose(weights(site.model), START - 0.3 * CURVE * (START - GOAL))


def test_adapting_leaves_no_trace_in_the_common_net() -> None:
    site = small.learner(small.plan("perfedavg"))
    before = arrays_of(site.net)
    site.step(ADAPT, {"private": small.batch()})
    assert small.same(arrays_of(site.net), before)
    assert not small.same(arrays_of(site.model), before)


def test_a_net_is_adapted_to_training_images_of_one_batch_only() -> None:
    site = small.learner(small.plan("perfedavg"))
    count = sum(site.site.examples)
    for round_ in (1, 2):
        *_, adapt = site.phases(round_, False)
        assert adapt.only is not None
        assert len(adapt.only) == site.plan.training.batch == len(set(adapt.only.tolist()) & set(range(count)))
    assert site.phases(1, False)[-1].only.tolist() != site.phases(2, False)[-1].only.tolist()


@pytest.mark.parametrize("order", ["fo", "hf"])
def test_the_running_statistics_are_those_of_the_common_net(order: str) -> None:
    """The nets that a step tries on its way, and those that it adapts, leave none."""
    site, plain = small.learner(small.plan("perfedavg", perfedavg={"order": order})), small.learner(small.plan())
    drawn = small.batches(META, site.plan)
    site.step(META, drawn), plain.step(Phase("train"), drawn)
    statistics = {name for name in arrays_of(site.net) if "running_" in name}
    assert statistics and not statistics & small.differing(arrays_of(site.net), arrays_of(plain.net))


@pytest.mark.parametrize("method", ["perfedavg", "pfedme"])
def test_validation_images_change_nothing_at_a_site(method: str) -> None:
    states = []
    for seed in (5, 6):
        site = small.learner(small.plan(method))
        merged = registry.METHODS[method].start(site.plan)
        visit(site, {"private": small.images(10)}, small.images(4, seed=seed), merged, 1)
        states.append(site.state())
    assert small.same(*states)


def test_a_round_is_the_plans_epochs_and_one_step_of_adaptation() -> None:
    site = small.learner(small.plan("perfedavg", training={"epochs": 2}))
    report = loop.train(site, {"private": small.images(10)}, 1)
    assert {name: parts["loss"][1] for name, parts in report.losses.items()} == {"meta": 2 * 3, "adapt": 1}


def test_the_two_batches_of_a_step_are_drawn_apart() -> None:
    shown = []
    site = small.learner(small.plan("perfedavg", training={"batch": 4, "epochs": 1}))
    step = site.step

    def watched(phase: Phase, drawn: dict) -> dict:
        shown.append([drawn[name].index.tolist() for name in drawn])
        return step(phase, drawn)

    site.step = watched
    loop.train(site, {"private": small.images(12)}, 1)
    pairs = [indices for indices in shown if len(indices) == 2]
    assert len(pairs) == 3
    assert any(first != second for first, second in pairs)


# --- pFedMe --------------------------------------------------------------------------------------------------------
def test_with_many_steps_the_own_net_is_where_goal_and_leash_balance(monkeypatch: pytest.MonkeyPatch) -> None:
    site = learner(monkeypatch, "pfedme", 0.5, inner=0.05, strength=3.0, steps=100, rate=0.0)
    for _ in range(8):
        site.step(Phase("train"), batches("private"))
    assert np.allclose(weights(site.model), (CURVE * GOAL + 3 * START) / (CURVE + 3), atol=1e-6)
    assert np.array_equal(weights(site.net), START)


def test_the_own_net_takes_plain_steps_down_loss_leash_and_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    rate, strength, decay = 0.05, 3.0, 0.1
    site = learner(
        monkeypatch, "pfedme", 0.5, training={"weight_decay": decay}, inner=rate, strength=strength, steps=4, rate=0.0
    )
    site.step(Phase("train"), batches("private"))
    expected = START
    for _ in range(4):
        expected = expected - rate * (CURVE * (expected - GOAL) + strength * (expected - START) + decay * expected)
    assert np.allclose(weights(site.model), expected, atol=1e-12)


def test_the_running_statistics_of_the_common_net_are_those_of_the_own_one() -> None:
    site = small.learner(small.plan("pfedme"))
    before = arrays_of(site.net)
    site.step(Phase("train"), {"private": small.batch()})
    statistics = {name for name in before if "running_" in name}
    assert statistics <= small.differing(before, arrays_of(site.net))
    assert not statistics & small.differing(arrays_of(site.model), arrays_of(site.net))


def test_the_common_net_moves_along_the_leash(monkeypatch: pytest.MonkeyPatch) -> None:
    site = learner(monkeypatch, "pfedme", 0.5, inner=0.05, strength=3.0, steps=7, rate=0.02)
    site.step(Phase("train"), batches("private"))
    assert np.allclose(weights(site.net), START - 0.02 * 3 * (START - weights(site.model)), atol=1e-9)


def test_without_a_leash_the_common_net_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    site = learner(monkeypatch, "pfedme", 0.5, inner=0.05, strength=0.0, steps=2, rate=0.5)
    site.step(Phase("train"), batches("private"))
    assert np.array_equal(weights(site.net), START)
    assert not np.array_equal(weights(site.model), START)


def test_the_own_net_starts_each_round_from_the_common_one() -> None:
    site = small.learner(small.plan("pfedme"))
    site.step(Phase("train"), {"private": small.batch()})
    merged = {name: array * np.float32(0.5) for name, array in site.give().items()}
    site.receive(merged, 2)
    assert small.same(arrays_of(site.model), merged)


@pytest.mark.parametrize(("step", "expected"), [(1.0, 6.0), (0.25, 3.0)])
def test_the_model_moves_to_the_aggregate_by_the_plans_step(step: float, expected: float) -> None:
    plan = small.plan("pfedme", merge={"step": step})
    base, updates = {"linear.bias": np.full(2, 2, np.float32)}, {"a": {"linear.bias": np.full(2, 6, np.float32)}}
    merged = registry.merge(plan, 1, base, updates, {"a": 1})
    assert merged["linear.bias"].tolist() == [expected] * 2
    assert merged["linear.bias"].dtype == np.float32


def test_a_plan_whose_model_would_never_move_is_refused() -> None:
    with pytest.raises(BadPlanError, match=r"\[merge\] step"):
        small.plan("pfedme", merge={"step": 0})


@pytest.mark.parametrize("rate", ["inner", "rate"])
def test_a_plan_whose_nets_would_swing_ever_further_apart_is_refused(rate: str) -> None:
    assert small.plan("pfedme", pfedme={"strength": 10, rate: 0.2})
    with pytest.raises(BadPlanError, match=rate):
        small.plan("pfedme", pfedme={"strength": 10, rate: 0.21})


def test_the_rate_of_the_own_nets_steps_falls_by_the_plans_schedule() -> None:
    for schedule, part in (("cosine", 0.5), ("constant", 1)):
        site = small.learner(small.plan("pfedme", training={"schedule": schedule}, pfedme={"inner": 0.04}))
        site.begin(3)
        assert site.optimisers["own"].param_groups[0]["lr"] == pytest.approx(0.04 * part)


def test_by_default_the_model_is_the_aggregate_to_the_bit() -> None:
    plan = small.plan("pfedme", merge={"cap": 1.0})
    base = {"linear.bias": np.zeros(3, np.float32)}
    updates = {
        "a": {"linear.bias": np.array([0.1, 0.2, 0.3], np.float32)},
        "b": {"linear.bias": np.array([1, 2, 3], np.float32) / 7},
    }
    examples = {"a": 3, "b": 4}
    settings = replace(plan.merge, cap=1.0)
    expected = rules.merge(base, updates, examples, settings)
    assert small.same(registry.merge(plan, 1, base, updates, examples), expected)
