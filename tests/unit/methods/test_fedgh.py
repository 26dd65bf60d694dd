"""FedGH: class means that sites send, and the header that the coordinator trains on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from fedhelp_edge.errors import BadPlanError
from fedhelp_edge.merge import header
from fedhelp_edge.merge.header import BIAS, COUNTS, MEANS, WEIGHT
from fedhelp_edge.methods import registry
from fedhelp_edge.methods.base import Learner
from fedhelp_edge.methods.fedgh import ClassMeans
from fedhelp_edge.nets.net import arrays_of, input_tensor
from fedhelp_edge.train import loop
from fedhelp_edge.update import Array
from tests.unit.methods import small

Updates = dict[str, dict[str, Array]]


def learner(tier: str = "small", **settings: Any) -> Learner:
    return small.learner(small.plan("fedgh", fedgh={"least_images": 1, **settings}), tier)


def trained(learner: Learner, round_: int = 1, count: int = 10) -> dict[str, Array]:
    loop.train(learner, {"private": small.images(count, seed=1)}, round_)
    return learner.give()


def drawn_updates(sites: int = 3, scale: float = 1.0) -> Updates:
    """Class means that a header can tell apart."""
    stream = np.random.Generator(np.random.Philox(7))
    centres = stream.standard_normal((4, 64))
    return {
        f"site-{site:03}": {
            MEANS: (scale * (centres + 0.3 * stream.standard_normal((4, 64)))).astype(np.float32),
            COUNTS: np.full(4, 10 * site, np.int32),
        }
        for site in range(1, sites + 1)
    }


def merged(updates: Mapping[str, Mapping[str, Array]], base: dict[str, Array] | None = None, **settings: Any) -> Any:
    plan = small.plan("fedgh", fedgh=settings)
    base = registry.METHODS["fedgh"].start(plan) if base is None else base
    return registry.merge(plan, 1, base, updates, dict.fromkeys(updates, 10))


def rows_of(updates: Updates) -> tuple[Any, Any]:
    rows = np.concatenate([update[MEANS] for update in updates.values()]).astype(np.float64)
    return rows, np.tile(np.arange(4), len(updates))


# --- at a site -------------------------------------------------------------------------------------------------------
def test_every_image_weighs_alike_in_its_classs_mean_whatever_batch_it_was_in() -> None:
    features = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 0, 1, 1])
    means = ClassMeans(3, 2, least=1)
    for part in (slice(0, 1), slice(1, 6), slice(6, 9)):
        means.add(features[part], labels[part])
    for label in (0, 1):
        expected = features[labels == label].double().mean(0).float()
        assert torch.allclose(means.rows[label], expected, rtol=1e-6)
    assert means.counts.tolist() == [6, 3, 0]


def test_a_class_of_few_images_or_none_is_not_sent() -> None:
    means = ClassMeans(3, 2, least=5)
    means.add(torch.ones(4, 2), torch.zeros(4, dtype=torch.int64))
    means.add(torch.ones(5, 2), torch.ones(5, dtype=torch.int64))
    assert means.counts.tolist() == [0, 5, 0]
    assert means.rows.tolist() == [[0, 0], [1, 1], [0, 0]]


def test_by_default_a_class_of_fewer_than_five_images_is_not_sent() -> None:
    update = trained(small.learner(small.plan("fedgh")), count=18)  # of the classes 5, 5, 4 and 4
    assert update[COUNTS].tolist() == [5, 5, 0, 0]
    assert not update[MEANS][2:].any()
    assert update[MEANS][:2].any(1).all()


def test_the_means_are_those_of_the_trained_net_on_images_as_they_are() -> None:
    site = learner("large")
    update, images = trained(site), small.images(10, seed=1)
    site.net.eval()
    with torch.no_grad():
        features = site.net.features(input_tensor(np.array(images.pixels), site.plan.image))
    for label in range(4):
        expected = features[torch.from_numpy(images.labels == label)].mean(0)
        assert np.allclose(update[MEANS][label], expected.numpy(), rtol=1e-5, atol=1e-6)


def test_no_image_of_the_round_before_is_in_a_mean() -> None:
    twice, once = learner(), learner()
    trained(twice)
    twice.receive(small.merged(twice), 2)
    once.load(twice.state(), 2)
    assert small.same(trained(twice, 2), trained(once, 2))
    assert twice.give()[COUNTS].sum() == 10


def test_as_a_round_begins_the_header_is_replaced_and_nothing_else() -> None:
    site = learner("large")
    trained(site)
    before, common = arrays_of(site.net), small.merged(site)
    site.receive(common, 2)
    assert small.differing(before, arrays_of(site.net)) == {"linear.weight", "linear.bias"}
    assert np.array_equal(arrays_of(site.net)["linear.weight"], common[WEIGHT])
    trained(site, 2)
    assert not np.array_equal(arrays_of(site.model)["linear.weight"], common[WEIGHT])  # the site trains it further


def test_small_sites_begin_with_one_net_and_large_ones_with_its_header_alone() -> None:
    start = registry.METHODS["fedgh"].start(small.plan("fedgh"))
    first, other, large = (learner(tier) for tier in ("small", "small", "large"))
    assert small.same(arrays_of(first.net), arrays_of(other.net))
    assert np.array_equal(arrays_of(first.net)["conv1.weight"], start["conv1.weight"])
    assert np.array_equal(arrays_of(large.net)["linear.weight"], start[WEIGHT])
    assert not np.array_equal(arrays_of(large.net)["conv1.weight"], start["conv1.weight"])


def test_what_travels_are_class_means_and_a_header() -> None:
    method, plan = registry.METHODS["fedgh"], small.plan("fedgh", classes=8)
    assert method.up(plan).lines() == ["means.rows F32 8x64 table", "means.counts I32 8 table"]
    assert method.down(plan).lines() == ["head.weight F32 8x64", "head.bias F32 8"]


# --- the coordinator's header ----------------------------------------------------------------------------------------
def test_the_headers_weights_change_and_its_loss_on_the_class_means_falls() -> None:
    """The official code steps another optimiser: its header keeps the random values that it begins with."""
    updates = drawn_updates()
    base = registry.METHODS["fedgh"].start(small.plan("fedgh"))
    trained_header = merged(updates)
    assert (trained_header[WEIGHT] != base[WEIGHT]).all()
    assert (trained_header[BIAS] != base[BIAS]).all()
    before, after = (
        header.loss({name: layer[name].astype(np.float64) for name in (WEIGHT, BIAS)}, *rows_of(updates))
        for layer in (base, trained_header)
    )
    assert after < before / 2


def test_the_gradient_is_that_of_the_loss() -> None:
    stream = np.random.Generator(np.random.Philox(3))
    layer = {WEIGHT: stream.standard_normal((3, 5)), BIAS: stream.standard_normal(3)}
    rows, labels = stream.standard_normal((7, 5)), np.array([0, 1, 2, 0, 0, 2, 2])
    gradients = header.gradients(layer, rows, labels)
    for name, values in layer.items():
        for place in np.ndindex(values.shape):
            sides = []
            for side in (1e-6, -1e-6):
                moved = {**layer, name: values.copy()}
                moved[name][place] += side
                sides.append(header.loss(moved, rows, labels))
            assert gradients[name][place] == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=1e-8)


def test_the_steps_are_those_of_momentum_and_weight_decay() -> None:
    updates, settings = drawn_updates(), {"steps": 7, "lr": 0.1, "momentum": 0.8, "weight_decay": 0.05}
    base = registry.METHODS["fedgh"].start(small.plan("fedgh"))
    layer = torch.nn.Linear(64, 4).double()
    layer.load_state_dict({"weight": torch.tensor(base[WEIGHT]), "bias": torch.tensor(base[BIAS])})
    optimiser = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.8, weight_decay=0.05)
    rows, labels = map(torch.from_numpy, rows_of(updates))
    for _ in range(settings["steps"]):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(layer(rows), labels).backward()
        optimiser.step()
    result = merged(updates, **settings)
    assert np.allclose(result[WEIGHT], layer.weight.detach().numpy(), atol=1e-7)
    assert np.allclose(result[BIAS], layer.bias.detach().numpy(), atol=1e-7)


def test_the_header_of_the_round_before_is_not_changed_in_place() -> None:
    """PFLlib's header is the first client's own."""
    base = registry.METHODS["fedgh"].start(small.plan("fedgh"))
    before, updates = {name: array.copy() for name, array in base.items()}, drawn_updates()
    sent = {site: {name: array.copy() for name, array in update.items()} for site, update in updates.items()}
    result = merged(updates, base)
    assert small.same(base, before)
    assert all(small.same(updates[site], sent[site]) for site in sent)
    assert not any(np.shares_memory(result[name], base[name]) for name in result)


def test_a_class_that_a_site_did_not_send_does_not_count_whatever_its_row_holds() -> None:
    updates = drawn_updates()
    updates["site-002"][COUNTS][1] = 0
    first = merged(updates)
    updates["site-002"][MEANS][1] = 1e4
    assert small.same(merged(updates), first)
    updates["site-002"][COUNTS][1] = -3  # nothing that a site may claim
    assert small.same(merged(updates), first)
    updates["site-002"][COUNTS][1] = 3
    assert not small.same(merged(updates), first)


def test_each_class_mean_weighs_alike_and_sites_in_any_order_give_the_same_bits() -> None:
    updates = drawn_updates()
    first = merged(updates)
    for update in updates.values():
        update[COUNTS] *= 100
    assert small.same(merged(dict(reversed(updates.items()))), first)


def test_a_round_without_any_class_mean_leaves_the_header_as_it_is() -> None:
    updates = drawn_updates()
    for update in updates.values():
        update[COUNTS][:] = 0
    base = registry.METHODS["fedgh"].start(small.plan("fedgh"))
    assert small.same(merged(updates, base), {name: base[name] for name in (WEIGHT, BIAS)})


@pytest.mark.parametrize("factor", [1e3, 1e4])
def test_a_site_whose_means_are_far_too_long_does_not_outweigh_the_others(factor: float) -> None:
    updates, honest = drawn_updates(5, scale=1 / 5), drawn_updates(5, scale=1 / 5)
    updates["site-003"][MEANS] *= -np.float32(factor)
    rows, labels = rows_of({site: update for site, update in honest.items() if site != "site-003"})
    result = merged(updates, steps=300)
    logits = rows @ result[WEIGHT].T + result[BIAS]
    assert (logits.argmax(1) == labels).all()
    assert np.abs(result[WEIGHT]).max() < 10


# --- the plan --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("nets", [{"large": "resnet10"}, {"large": "resnet20", "own": {"site-002": "resnet10"}}])
def test_nets_with_unequal_numbers_of_features_are_refused_with_those_that_fit(nets: dict[str, Any]) -> None:
    key = "own" if "own" in nets else "large"
    fitting = "resnet8, resnet20, resnet32, resnet56, resnet110"
    text = rf"\[nets\] {key}: resnet10 has 512 features, resnet8 64; .* one of {fitting}"
    with pytest.raises(BadPlanError, match=text):
        small.plan("fedgh", nets=nets)
    assert small.plan("fedavg", nets={"large": "resnet10"})
    assert small.plan("fedgh", nets={"small": "resnet10", "large": "resnet12"})
