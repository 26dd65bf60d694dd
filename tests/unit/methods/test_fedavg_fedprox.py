from __future__ import annotations

import numpy as np
import pytest
import torch

from fedhelp_edge.merge import rules
from fedhelp_edge.methods.base import Batch, Learner, Phase
from fedhelp_edge.methods.fedprox import FedProx
from fedhelp_edge.nets.net import arrays_of, load_arrays
from tests.unit.methods import small

TRAIN = Phase("train")


def prox(mu: float, **training: object) -> Learner:
    return small.learner(small.plan("fedprox", fedprox={"mu": mu}, training={"schedule": "constant", **training}))


def gradients(learner: Learner, batch: Batch) -> list[torch.Tensor]:
    """The gradients of a step for the net's parameters, without the step itself."""
    learner.optimisers.clear()
    learner.net.zero_grad(set_to_none=True)
    learner.step(TRAIN, {"private": batch})
    return [parameter.grad for parameter in learner.net.parameters() if parameter.grad is not None]


def moved(learner: Learner) -> float:
    """The distance that the net moves in some steps."""
    before = arrays_of(learner.net)
    for seed in range(12):
        learner.step(TRAIN, {"private": small.batch(seed=seed)})
    after = arrays_of(learner.net)
    return sum(float(((after[name] - before[name]) ** 2).sum()) for name in after if "running" not in name) ** 0.5


def test_the_mean_of_equal_models_is_that_model() -> None:
    arrays = small.learner(small.plan()).give()
    merged = rules.mean(dict.fromkeys("abc", arrays), dict(zip("abc", rules.weights([5, 1, 1]), strict=True)))
    assert all(np.allclose(merged[name], arrays[name], rtol=1e-6, atol=0) for name in arrays)
    assert list(merged) == list(arrays)


def test_a_federation_of_one_site_equals_local_training() -> None:
    learner, baseline = small.learner(small.plan()), small.learner(small.plan())
    for round_ in (1, 2):
        for each in (learner, baseline):
            each.step(TRAIN, {"private": small.batch(seed=round_)})
        learner.receive(rules.mean({"a": learner.give()}, {"a": 1.0}), round_ + 1)
        baseline.begin(round_ + 1)
    assert small.same(learner.state(), baseline.state())


def test_one_step_at_each_site_with_all_its_images_is_one_step_with_all_images_together() -> None:
    plan = small.plan(nets={"norm": "group"}, training={"optimiser": "sgd", "lr": 0.1})
    batch = small.batch(8)
    updates, counts = {}, {"one": 2, "three": 6}
    for site, part in (("one", slice(0, 2)), ("three", slice(2, 8))):
        learner = small.learner(plan, site=site)
        learner.step(TRAIN, {"private": Batch(batch.images[part], batch.labels[part], batch.index[part])})
        updates[site] = learner.give()
    parts = dict(zip(counts, rules.weights(list(counts.values())), strict=True))
    merged = rules.mean(updates, parts)
    together = small.learner(plan)
    first = together.give()
    together.step(TRAIN, {"private": batch})
    after = together.give()
    assert parts == {"one": 0.25, "three": 0.75}
    assert all(np.allclose(merged[name], after[name], rtol=0, atol=1e-6) for name in merged)
    assert max(np.abs(after[name] - first[name]).max() for name in after) > 1e-3


@pytest.mark.parametrize("tier", ["small", "large"])
def test_with_mu_zero_fedprox_is_fedavg_to_the_bit(tier: str) -> None:
    prox = small.learner(small.plan("fedprox", fedprox={"mu": 0}), tier)
    plain = small.learner(small.plan("fedavg"), tier)
    for round_ in (1, 2):
        for seed in range(3):
            batches = {"private": small.batch(seed=seed)}
            assert prox.step(TRAIN, batches) == plain.step(TRAIN, batches)
        prox.receive(prox.give(), round_ + 1)
        plain.receive(plain.give(), round_ + 1)
    assert small.same(prox.give(), plain.give())


def test_the_proximal_term_is_zero_in_the_first_step_of_a_round() -> None:
    pulled, plain = gradients(prox(5.0), small.batch()), gradients(prox(0.0), small.batch())
    assert all(torch.equal(first, second) for first, second in zip(pulled, plain, strict=True))


def test_the_proximal_gradient_is_mu_times_the_change_of_the_net() -> None:
    mu, learner, plain = 0.5, prox(0.5, lr=0.1), prox(0.0, lr=0.1)
    start = [parameter.detach().clone() for parameter in learner.net.parameters()]
    learner.step(TRAIN, {"private": small.batch()})
    load_arrays(plain.net, arrays_of(learner.net))
    distances = [parameter.detach() - before for parameter, before in zip(learner.net.parameters(), start, strict=True)]
    with_pull, without = gradients(learner, small.batch(seed=1)), gradients(plain, small.batch(seed=1))
    for pulled, free, distance in zip(with_pull, without, distances, strict=True):
        assert torch.allclose(pulled - free, mu * distance, rtol=1e-3, atol=1e-4)
    assert max(distance.abs().max() for distance in distances) > 0.01


def test_the_proximal_term_is_half_of_mu_times_the_squared_distance() -> None:
    learner = prox(0.5, lr=0.1)
    start = [parameter.detach().clone() for parameter in learner.net.parameters()]
    learner.step(TRAIN, {"private": small.batch()})
    pairs = zip(learner.net.parameters(), start, strict=True)
    expected = 0.25 * sum(float(((parameter.detach() - before) ** 2).sum()) for parameter, before in pairs)
    assert learner.step(TRAIN, {"private": small.batch()})["pull"] == pytest.approx(expected, rel=1e-4)


def test_a_huge_mu_nearly_freezes_the_net() -> None:
    assert moved(prox(1000.0, optimiser="sgd")) < 0.2 * moved(prox(0.0, optimiser="sgd"))


def test_each_round_uses_the_distance_to_its_own_model() -> None:
    learner = prox(5.0)
    learner.step(TRAIN, {"private": small.batch()})
    learner.receive({name: array + 1 for name, array in learner.give().items()}, 2)
    assert learner.step(TRAIN, {"private": small.batch()})["pull"] == 0


def test_an_interrupted_round_still_uses_the_distance_to_its_start() -> None:
    learner, resumed = prox(5.0), prox(5.0)
    learner.step(TRAIN, {"private": small.batch()})
    resumed.load(learner.state(), 1)
    assert resumed.step(TRAIN, {"private": small.batch()})["pull"] > 0


def test_only_the_net_with_the_proximal_term_learns() -> None:
    learner = small.learner(small.plan("fedprox", fedprox={"mu": 5.0}))
    assert isinstance(learner, FedProx)
    learner.step(TRAIN, {"private": small.batch()})
    assert not [parameter for parameter in learner.common.parameters() if parameter.grad is not None]
