"""pFedBayes: the distance of distributions, its two steps on a quadratic in double precision, and what travels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedhelp_edge.methods import registry, schemas
from fedhelp_edge.methods.base import Phase
from fedhelp_edge.methods.pfedbayes import Gaussian, PFedBayes, kl_divergence
from fedhelp_edge.nets.net import arrays_of
from fedhelp_edge.train import loop
from tests.unit.methods import small
from tests.unit.methods.point import CURVE, GOAL, START, batches, learner

TRAIN = Phase("train")
IMAGES = 3  # at the site of `learner`


def point(monkeypatch: pytest.MonkeyPatch, lr: float = 0.1, **settings: float) -> PFedBayes:
    site = learner(monkeypatch, "pfedbayes", lr, **settings)
    assert isinstance(site, PFedBayes)
    return site


def gaussian(mean: list[float], deviation: list[float]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.tensor(mean, dtype=torch.float64), torch.tensor(deviation, dtype=torch.float64))]


def softplus(rho: float) -> float:
    return math.log(1 + math.exp(rho))


def test_the_distance_is_the_mean_of_the_logarithms_difference() -> None:
    """By its definition: the integral of p log(p / q), on a fine grid."""
    x = np.linspace(-12, 12, 20001)
    densities = [
        np.exp(-((x - m) ** 2) / (2 * s**2)) / (s * math.sqrt(2 * math.pi)) for m, s in ((0.5, 0.7), (-0.3, 1.1))
    ]
    integral = (densities[0] * np.log(densities[0] / densities[1])).sum() * (x[1] - x[0])
    assert float(kl_divergence(gaussian([0.5], [0.7]), gaussian([-0.3], [1.1]))) == pytest.approx(integral, rel=1e-9)


def test_equal_distributions_have_no_distance_and_others_have_one() -> None:
    first, second = gaussian([0.5, -1], [0.7, 0.1]), gaussian([0.5, -1], [0.7, 0.11])
    assert float(kl_divergence(first, first)) == 0
    assert float(kl_divergence(first, second)) > 0 < float(kl_divergence(second, first))


def test_drawn_weights_have_the_mean_and_the_standard_deviation_of_the_distribution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The logarithm of 1 + exp(rho), and no part of it."""
    own = point(monkeypatch, rho=0.3).own
    drawn = np.array([own.draw("any")["w"].tolist() for _ in range(4000)])
    assert np.allclose(drawn.mean(0), START, atol=0.06)
    assert np.allclose(drawn.std(0), softplus(0.3), rtol=0.05)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.06


def test_each_step_draws_other_weights_and_the_same_ones_again_from_the_same_state() -> None:
    first, second = (small.learner(small.plan("pfedbayes")) for _ in range(2))
    first.step(TRAIN, {"private": small.batch()})
    second.load(first.state(), 1)
    drawn = [site.own.draw("any")["linear.bias"] for site in (first, second)]  # type: ignore[attr-defined]
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], first.own.draw("any")["linear.bias"])  # type: ignore[attr-defined]


def test_q_goes_down_the_loss_of_drawn_weights_and_the_distance_by_the_number_of_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lr, zeta, rho = 0.01, 2.0, -1.0
    site = point(monkeypatch, lr, zeta=zeta, rho=rho)
    with torch.no_grad():
        site.own.mean.w += 0.5  # away from the common one
    twin = Gaussian(site.own.mean, site.own.rho)
    drawn = twin.draw(site.plan.seed, site.site.id, "weights")["w"].detach().numpy()
    noise, deviation = (drawn - START - 0.5) / softplus(rho), softplus(rho)
    site.step(TRAIN, batches("private"))
    slope, spread = CURVE * (drawn - GOAL), 1 / (1 + math.exp(-rho))  # d deviation / d rho
    mean = START + 0.5 - lr * (slope + zeta / IMAGES * 0.5 / deviation**2)
    assert np.allclose(arrays_of(site.own.mean)["w"], mean, atol=1e-12)
    assert np.allclose(arrays_of(site.own.rho)["w"], rho - lr * slope * noise * spread, atol=1e-12)  # equal deviations


def test_the_common_distribution_goes_towards_q_which_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    lr, zeta, rho = 0.01, 2.0, -1.0
    site, without = (point(monkeypatch, lr, zeta=z, rho=rho) for z in (zeta, 0.0))
    for each in (site, without):
        each.step(TRAIN, batches("private"))
    q, deviation = arrays_of(site.own.mean)["w"], softplus(rho)
    assert np.array_equal(q, arrays_of(without.own.mean)["w"])  # from the common distribution the distance has no slope
    expected = START + lr * zeta / IMAGES * (q - START) / deviation**2
    assert np.allclose(arrays_of(site.net)["w"], expected, atol=1e-12)
    assert np.array_equal(arrays_of(without.net)["w"], START)


def test_no_weight_decays(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = [learner(monkeypatch, "pfedbayes", 0.1, training={"weight_decay": decay}) for decay in (0.0, 0.5)]
    for site in sites:
        site.step(TRAIN, batches("private"))
    assert small.same(*(site.state() for site in sites))


def test_q_is_the_sites_own_from_its_first_round_on_whichever_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    site = point(monkeypatch)
    site.receive({"w": START + 1, "rho.w": np.full(2, -2.0)}, 5)  # no round was trained before
    assert np.array_equal(arrays_of(site.model)["w"], START + 1)
    assert np.array_equal(arrays_of(site.own.rho)["w"], [-2, -2])
    site.step(TRAIN, batches("private"))
    q = arrays_of(site.model)["w"]
    site.receive({"w": START}, 6)
    assert np.array_equal(arrays_of(site.net)["w"], START)
    assert np.array_equal(arrays_of(site.model)["w"], q)


def test_norm_layers_are_common_and_learn_with_q() -> None:
    site = small.learner(small.plan("pfedbayes"))
    site.step(TRAIN, {"private": small.batch()})
    norms = {name for name in arrays_of(site.net) if "bn" in name}
    assert norms and not norms & small.differing(arrays_of(site.net), arrays_of(site.model))
    merged = {name: array + np.float32(0.25) for name, array in site.give().items()}
    site.receive(merged, 2)
    assert all(np.array_equal(arrays_of(site.model)[name], merged[name]) for name in norms)
    assert "conv1.weight" in small.differing(arrays_of(site.net), arrays_of(site.model))


def test_the_running_statistics_are_those_of_the_net_that_diagnoses() -> None:
    site, plain = small.learner(small.plan("pfedbayes")), small.learner(small.plan())
    for each in (site, plain):
        each.step(TRAIN, {"private": small.batch()})
    statistics = {name for name in arrays_of(site.model) if "running_" in name}
    assert statistics and not statistics & small.differing(arrays_of(site.model), arrays_of(plain.net))


@pytest.mark.parametrize("norm", ["shared", "local"])
def test_what_travels_is_a_mean_and_a_rho_of_each_weight(norm: str) -> None:
    plan = small.plan("pfedbayes", wire={"norm": norm}, pfedbayes={"rho": -3})
    net, up = schemas.travelling_net(plan), registry.METHODS["pfedbayes"].up(plan)
    weights = [tensor for tensor in net.tensors if tensor.role == "weight"]
    assert [t.name for t in up.tensors] == [*(t.name for t in net.tensors), *(f"rho.{t.name}" for t in weights)]
    assert sum(t.size for t in up.tensors) == sum(t.size for t in net.tensors) + sum(t.size for t in weights)
    given = small.learner(plan).give()
    assert {array.mean() for name, array in given.items() if name.startswith("rho.")} == {-3}  # rho, and no deviation


def test_means_and_rhos_are_averaged() -> None:
    plan = small.plan("pfedbayes", merge={"weight": "uniform"})
    base = registry.METHODS["pfedbayes"].start(plan)
    updates = {
        site: {name: array + np.float32(by) for name, array in base.items()} for site, by in (("a", 1), ("b", 2))
    }
    merged = registry.merge(plan, 1, base, updates, {"a": 1, "b": 1})
    assert all(np.allclose(merged[name], base[name] + 1.5, atol=1e-6) for name in base)


def test_a_round_takes_one_step_of_q_for_each_batch() -> None:
    site = small.learner(small.plan("pfedbayes", training={"epochs": 2}))
    loop.train(site, {"private": small.images(10)}, 1)
    assert int(site.own.draws) == 2 * 3  # type: ignore[attr-defined]
