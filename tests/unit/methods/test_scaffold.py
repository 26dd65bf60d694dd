"""SCAFFOLD: two sites that pull apart reach the joint optimum, which FedAvg misses; and what is kept and travels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedhelp_edge.merge import norm_limit
from fedhelp_edge.methods import registry, schemas
from fedhelp_edge.methods.base import Learner, Phase
from fedhelp_edge.nets.net import arrays_of
from fedhelp_edge.update import Array
from tests.unit.methods import small
from tests.unit.methods.point import CURVE, GOAL, START, batches, learner

TRAIN = Phase("train")
CURVES, GOALS = (1.0, 0.2), (np.array([3.0, 1.0]), np.array([-1.0, 2.0]))
OPTIMUM = sum(c * g for c, g in zip(CURVES, GOALS, strict=True)) / sum(CURVES)  # of the two losses' mean


def apart(monkeypatch: pytest.MonkeyPatch, method: str) -> list[Learner]:
    """Two sites whose losses have other curves and goals."""
    sites = [learner(monkeypatch, method, 0.05, site=f"site-{n}") for n in (1, 2)]
    for site, curve, goal in zip(sites, CURVES, GOALS, strict=True):
        target = torch.tensor(goal)
        site.loss = lambda logits, labels, c=curve, g=target: c / 2 * ((logits - g) ** 2).sum(1).mean()
    return sites


def federate(sites: list[Learner], rounds: int, steps: int = 10) -> dict[str, Array]:
    """Rounds of the sites and a mean in which they weigh alike; returns the last model."""
    plan = sites[0].plan
    merged: dict[str, Array] = registry.METHODS[plan.method].start(plan)
    for round_ in range(1, rounds + 1):
        updates = {}
        for site in sites:
            site.receive(merged, round_)
            for _ in range(steps):
                site.step(TRAIN, batches("private"))
            updates[site.site.id] = site.give()
        merged = registry.merge(plan, round_, merged, updates, dict.fromkeys(updates, 1))
    return merged


def test_sites_that_pull_apart_reach_the_joint_optimum_where_fedavg_drifts(monkeypatch: pytest.MonkeyPatch) -> None:
    with_controls = federate(apart(monkeypatch, "scaffold"), 60)["w"]
    without = federate(apart(monkeypatch, "fedavg"), 60)["w"]
    assert np.allclose(with_controls, OPTIMUM, atol=1e-4)
    assert np.abs(without - OPTIMUM).max() > 0.2


def test_at_the_optimum_the_corrections_are_all_of_a_sites_gradient_and_their_sum_is_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sites = apart(monkeypatch, "scaffold")
    merged = federate(sites, 60)
    own = [arrays_of(site.own.net)["w"] for site in sites]  # type: ignore[attr-defined]
    gradients = [c * (OPTIMUM - g) for c, g in zip(CURVES, GOALS, strict=True)]
    assert np.allclose(own, gradients, atol=1e-3)
    assert np.allclose(merged["control.w"], np.mean([arrays_of(s.next.net)["w"] for s in sites], 0), atol=1e-6)  # type: ignore[attr-defined]
    assert np.allclose(merged["control.w"], 0, atol=1e-3)


def test_the_control_variate_is_the_mean_of_the_rounds_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those before the correction, at each place on the way. With plain steps, option II of the paper."""
    site = learner(monkeypatch, "scaffold", 0.1)
    gradients = []
    for _ in range(3):
        gradients.append(CURVE * (arrays_of(site.net)["w"] - GOAL))
        site.step(TRAIN, batches("private"))
    assert np.allclose(site.give()["control.w"], np.mean(gradients, 0), atol=1e-12)


def test_a_step_is_corrected_by_the_common_variate_less_the_sites_own(monkeypatch: pytest.MonkeyPatch) -> None:
    site, lr = learner(monkeypatch, "scaffold", 0.1), 0.1
    site.step(TRAIN, batches("private"))
    own, common = CURVE * (START - GOAL), np.array([0.5, -0.25])
    site.receive({"w": START, "control.w": common}, 2)
    site.step(TRAIN, batches("private"))
    assert np.allclose(arrays_of(site.net)["w"], START - lr * (CURVE * (START - GOAL) + common - own), atol=1e-12)
    assert np.allclose(site.give()["control.w"], own, atol=1e-12)


def test_a_site_that_never_trained_is_not_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    site = learner(monkeypatch, "scaffold", 0.1)
    site.receive({"w": START, "control.w": np.array([5.0, 5.0])}, 7)
    site.step(TRAIN, batches("private"))
    assert np.allclose(arrays_of(site.net)["w"], START - 0.1 * CURVE * (START - GOAL), atol=1e-12)


def test_a_round_that_is_begun_again_keeps_the_sites_variate(monkeypatch: pytest.MonkeyPatch) -> None:
    site = learner(monkeypatch, "scaffold", 0.1)
    site.step(TRAIN, batches("private"))
    for _ in range(2):
        site.receive({"w": START}, 2)
    assert np.allclose(arrays_of(site.own.net)["w"], CURVE * (START - GOAL))  # type: ignore[attr-defined]


def test_norm_layers_that_stay_at_a_site_are_not_corrected() -> None:
    site = small.learner(small.plan("scaffold", wire={"norm": "local"}))
    site.step(TRAIN, {"private": small.batch()})
    given = site.give()
    assert not any("bn" in name for name in given)
    site.receive(given, 2)
    own = arrays_of(site.own.net)  # type: ignore[attr-defined]
    assert all(not own[name].any() for name in own if "bn" in name and "running_var" not in name)
    assert own["conv1.weight"].any()


@pytest.mark.parametrize("norm", ["shared", "local"])
def test_beside_the_net_the_variate_of_each_parameter_travels(norm: str) -> None:
    plan = small.plan("scaffold", wire={"norm": norm})
    net, up = schemas.travelling_net(plan), registry.METHODS["scaffold"].up(plan)
    parameters = [tensor for tensor in net.tensors if tensor.role != "stat"]
    assert [t.name for t in up.tensors] == [*(t.name for t in net.tensors), *(f"control.{t.name}" for t in parameters)]


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_variate_is_limited_apart_from_the_weights_and_their_statistics(norm: str) -> None:
    """Three sites, one of which claims gradients a thousand times as large: its weights count as they are.

    All move running statistics far, as in first rounds.
    """
    plan = small.plan("scaffold", nets={"norm": norm}, merge={"weight": "uniform"})
    base = registry.METHODS["scaffold"].start(plan)
    sizes = {"a": 1, "b": 1, "c": 1000}
    updates = {
        site: {
            n: a + np.float32(size if n.startswith("control.") else 5000 if ".running" in n else 1)
            for n, a in base.items()
        }
        for site, size in sizes.items()
    }
    merged = registry.merge(plan, 1, base, updates, dict.fromkeys(sizes, 1))
    limited = (1 + 1 + norm_limit.LIMIT_FACTOR) / 3
    assert np.allclose(merged["control.linear.bias"], limited, rtol=1e-5)
    assert np.allclose(merged["linear.bias"], base["linear.bias"] + 1)
