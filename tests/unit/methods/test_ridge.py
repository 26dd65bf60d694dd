"""Ridge at a site: the sums that it sends, the common head, and the head of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedhelp_edge import update
from fedhelp_edge.data.images import ImageSet
from fedhelp_edge.errors import RevealingSumsError
from fedhelp_edge.merge import ridge as merger
from fedhelp_edge.merge.closing import LastMerge
from fedhelp_edge.merge.ridge import COUNTS, FEATURES, GRID, Reduction, Spectrum, Sums
from fedhelp_edge.methods import registry
from fedhelp_edge.methods.base import Compute, LearnerContext, SiteFacts
from fedhelp_edge.methods.ridge import Ridge, layer_of
from fedhelp_edge.nets.net import arrays_of
from fedhelp_edge.plan import Plan
from fedhelp_edge.train import loop
from fedhelp_edge.update import Array
from tests.unit.methods import small

CLASSES, WIDTH = 3, 6


@dataclass(frozen=True)
class Features(ImageSet):
    """Images of a site as an encoder's features."""

    pixels: NDArray[np.float16]  # N x 1 view x width
    labels: NDArray[np.int64]
    names: tuple[str, ...] = ("x.png",) * 1000
    groups: tuple[str, ...] = ()

    def only(self, index: Any) -> Features:
        return Features(self.pixels[index], self.labels[index])


def images(count: int, seed: int = 0, spread: float = 1.0, turned: bool = False) -> Features:
    """Features around a mean for each class; `turned`: as at a site where each class looks like the next one."""
    stream = np.random.Generator(np.random.Philox(seed))
    labels = np.arange(count) % CLASSES
    means = 2 * np.eye(CLASSES, WIDTH)[(labels + turned) % CLASSES]
    return Features((means + spread * stream.standard_normal((count, WIDTH)))[:, None].astype(np.float16), labels)


def plan(**settings: Any) -> Plan:
    return small.feature_plan("ridge", classes=CLASSES, width=WIDTH, ridge={"dimensions": 0, **settings})


def learner(of: Plan, train: Features, site: str = "site-001", merged: Any = None, **facts: Any) -> Ridge:
    examples = tuple(int(count) for count in np.bincount(train.labels, minlength=CLASSES))
    made = Ridge(LearnerContext(of, SiteFacts(site, "small", examples, train.groups)))
    made.receive(merged or merger.start(of), 1, **facts)
    return made


def trained(of: Plan, train: Features, **facts: Any) -> Ridge:
    made = learner(of, train, **facts)
    loop.train(made, {"private": train}, 1)
    return made


def merged_of(of: Plan, *learners: Ridge) -> dict[str, Array]:
    updates = {f"site-{number:03}": each.give() for number, each in enumerate(learners, 1)}
    return registry.merge(of, 1, merger.start(of), updates, dict.fromkeys(updates, 100))


def second_round(of: Plan, first: Ridge, train: Features, merged: Mapping[str, Array], own: bool = True) -> Ridge:
    first.receive(merged, 2, LastMerge(2, own))
    loop.train(first, {"private": train}, 2)
    return first


def accuracy(made: Ridge, net: Any, test: Features) -> float:
    return float((loop.probabilities(made, net, test.pixels).argmax(1) == test.labels).mean())


# --- what a site sends -----------------------------------------------------------------------------------------------
def test_a_site_sends_the_sums_of_its_training_images() -> None:
    train = images(40)
    sent = trained(plan(), train).give()
    assert update.schema_of(sent).header_bytes == registry.METHODS["ridge"].up(plan()).header_bytes
    steps = np.rint(train.pixels[:, 0].astype(np.float64) / GRID)
    assert small.same(sent, merger.sums_of(steps, train.labels, CLASSES))


@pytest.mark.parametrize("batch", [3, 40])
def test_the_size_of_batches_changes_no_bit_of_the_sums(batch: int) -> None:
    train = images(40)
    by_four = trained(plan(), train).give()
    other = small.feature_plan("ridge", CLASSES, WIDTH, ridge={"dimensions": 0}, training={"batch": batch})
    assert small.same(by_four, trained(other, train).give())


def test_a_class_of_few_images_is_not_sent_and_helps_the_sites_own_head() -> None:
    many = images(60)
    train = many.only(np.flatnonzero((many.labels != 2) | (np.arange(60) < 12)))  # four of class 2
    made = trained(plan(), train)
    sent = made.give()
    assert sent[COUNTS].tolist() == [20, 20, 0]
    assert not sent[FEATURES][2].any()
    known = train.only(np.flatnonzero(train.labels != 2))
    assert small.same(sent, trained(plan(), known).give())
    test = images(300, seed=9, spread=0.3)
    assert accuracy(made, made.solo, test.only(np.flatnonzero(test.labels == 2))) > 0.5


def test_sums_over_fewer_images_than_dimensions_are_refused_before_any_work() -> None:
    with pytest.raises(RevealingSumsError, match="site-001 would send sums over 5 images, for 6 dimensions") as refused:
        learner(plan(least_images=1), images(5))
    assert "fewer [ridge] dimensions" in refused.value.remedy
    learner(plan(least_images=1, dimensions=5), images(5))
    learner(plan(least_images=1), images(6))


def test_a_site_that_may_send_no_class_sends_the_sums_of_no_image_and_takes_part() -> None:
    far = trained(plan(), images(60))
    few = images(6, seed=3)
    made = trained(plan(), few, site="site-002")
    assert small.same(made.give(), merger.start(plan()))
    second_round(plan(), made, few, merged_of(plan(), far, made))
    assert accuracy(made, made.model, images(300, seed=8)) > 0.7


@pytest.mark.parametrize("change", ["one image more", "one image fewer", "one label corrected"])
def test_the_difference_of_two_rounds_shows_no_image(change: str) -> None:
    train = images(60)
    made = trained(plan(), train)
    before = made.give()
    labels = train.labels.copy()
    labels[7] = (labels[7] + 1) % CLASSES
    changed = {
        "one image more": images(61), "one image fewer": train.only(np.arange(59)),
        "one label corrected": Features(train.pixels, labels),
    }[change]  # fmt: skip
    state, after = made.state(), learner(plan(), changed)
    after.load(state, 2)
    second_round(plan(), after, changed, merged_of(plan(), made))
    assert small.same(before, after.give())
    own = Sums.of(after.sent.arrays()).plus(Sums.of(after.unsent.arrays()), 1.0)
    assert own.counts.sum() == len(changed)


def test_no_two_sums_of_a_site_differ_by_few_images_however_many_rounds_lie_between() -> None:
    """Many images come, and most of them go again: the second change is large, and the sums of round 1 are near."""
    first, often = images(60), small.feature_plan("ridge", CLASSES, WIDTH, 3, ridge={"dimensions": 0})
    site, merged, sent = None, None, []
    for round_, train in enumerate((first, images(120), images(62)), 1):
        before, site = site, learner(often, train)
        if before:
            site.load(before.state(), round_)
        site.receive(merged or merger.start(often), round_, LastMerge(1, round_ > 1))
        loop.train(site, {"private": train}, round_)
        merged = site.give()
        sent.append(int(merged[COUNTS].sum()))
    assert sent == [60, 120, 120]


def test_sums_of_a_round_that_was_cancelled_are_not_subtracted_from_a_merge_before_it() -> None:
    train, far = images(30), trained(plan(), images(60, seed=5))
    site = trained(plan(), train)
    merged = merged_of(plan(), site, far)
    more = images(90)
    after = learner(plan(), more)
    after.load(site.state(), 2)
    second_round(plan(), after, more, merged)
    assert after.give()[COUNTS].sum() == 90
    after.receive(merged, 3, LastMerge(2, own=True, latest=False))
    assert small.same(after.elsewhere.arrays(), far.give())


def test_many_new_images_are_sent_in_a_later_round() -> None:
    first = trained(plan(), images(30))
    more = images(60)
    after = learner(plan(), more)
    after.load(first.state(), 2)
    second_round(plan(), after, more, merged_of(plan(), first))
    assert after.give()[COUNTS].sum() == 60


# --- heads -----------------------------------------------------------------------------------------------------------
def test_the_common_head_is_that_of_all_sites_images_together() -> None:
    of, everything = plan(strength=0.05, logits="scores"), images(90)
    parts = [everything.only(np.arange(start, 90, 3)) for start in range(3)]
    sites = [trained(of, part, site=f"site-{number:03}") for number, part in enumerate(parts, 1)]
    pooled = trained(of, everything)
    merged = merged_of(of, *sites)
    assert small.same(merged, pooled.give())
    pooled.receive(merged, 2)
    steps = np.rint(everything.pixels[:, 0].astype(np.float64) / GRID)
    weights, biases = Spectrum.of(Sums.of(merger.sums_of(steps, everything.labels, CLASSES))).head(0.05)
    net = arrays_of(pooled.net)
    assert np.allclose(net["linear.weight"], float(pooled.choice.scale) * weights, rtol=1e-6)
    assert np.allclose(net["linear.bias"], float(pooled.choice.scale) * biases, rtol=1e-6)


@pytest.mark.parametrize("logits", ["discriminant", "scores"])
def test_a_site_classifies_with_the_common_head_as_the_round_begins(logits: str) -> None:
    of = plan(logits=logits)
    sites = [trained(of, images(60, seed=seed), site=f"site-{seed:03}") for seed in (1, 2, 3)]
    late = learner(of, images(6, seed=7))
    assert accuracy(late, late.net, images(300, seed=9)) < 0.6
    late.receive(merged_of(of, *sites), 2, LastMerge(3, False))
    assert accuracy(late, late.net, images(300, seed=9)) > 0.8


def test_before_any_merge_the_own_head_is_that_of_its_images_alone() -> None:
    made = trained(plan(), images(60))
    assert small.same(arrays_of(made.personal), arrays_of(made.solo))
    assert made.choice.others_weight == 0
    assert accuracy(made, made.model, images(300, seed=9)) > 0.8


@pytest.mark.parametrize(("turned", "lowest", "highest"), [(False, 0.1, 1.0), (True, 0.0, 0.01)])
def test_the_others_images_count_as_much_as_a_sites_own_images_say(turned: bool, lowest: float, highest: float) -> None:
    far, near = trained(plan(), images(600, seed=5, turned=turned)), images(24, seed=1, spread=1.5)
    made = trained(plan(least_images=1), near, site="site-002")
    second_round(plan(least_images=1), made, near, merged_of(plan(), far, made))
    assert lowest <= float(made.choice.others_weight) <= highest
    test = images(600, seed=9, spread=1.5)
    assert accuracy(made, made.personal, test) >= accuracy(made, made.solo, test)
    assert (accuracy(made, made.net, test) < 0.4) == turned


def test_what_a_site_sent_is_subtracted_from_the_merged_sums_and_only_if_it_is_in_them() -> None:
    far, near = trained(plan(), images(60, seed=5)), images(30, seed=1)
    for own in (True, False):
        made = trained(plan(), near, site="site-002")
        merged = merged_of(plan(), far, made) if own else merged_of(plan(), far)
        second_round(plan(), made, near, merged, own)
        assert small.same(made.elsewhere.arrays(), far.give())


def test_images_of_one_patient_are_left_out_together() -> None:
    """Four nearly equal pictures of each patient: alone each would be known from its likenesses."""
    single = images(24, spread=3.0)
    noise = np.random.Generator(np.random.Philox(1)).standard_normal((96, 1, WIDTH)) * 0.01
    pixels = (np.repeat(single.pixels, 4, axis=0) + noise).astype(np.float16)
    names = tuple(np.repeat([f"patient {number}" for number in range(24)], 4))
    many = Features(pixels, np.repeat(single.labels, 4))
    grouped = Features(many.pixels, many.labels, groups=names)
    by_image, by_patient = (
        loop.train(learner(plan(), each), {"private": each}, 1).means()["head"]["left out"] for each in (many, grouped)
    )
    assert by_patient > 1.1 * by_image


def test_the_scale_of_logits_makes_probabilities_of_scores() -> None:
    for spread in (0.5, 3.0):
        train, test = images(240, spread=spread), images(900, seed=9, spread=spread)
        made = trained(plan(), train)
        probabilities = loop.probabilities(made, made.model, test.pixels)
        confidence, right = probabilities.max(1), probabilities.argmax(1) == test.labels
        assert abs(confidence.mean() - right.mean()) < 0.06


def test_a_site_with_one_class_gets_a_head_without_a_warning() -> None:
    train = images(60)
    one = train.only(np.flatnonzero(train.labels == 0))
    made = trained(plan(), one)
    assert accuracy(made, made.model, one) == 1.0


@pytest.mark.parametrize("count", [1, 2, 40])
def test_a_site_of_one_patient_takes_the_others_word_for_it(count: int) -> None:
    far, near = trained(plan(), images(60)), images(count, seed=4)
    only = Features(near.pixels, near.labels, groups=("patient",) * count)
    made = trained(plan(least_images=1000), only, site="site-002")
    second_round(plan(least_images=1000), made, only, merged_of(plan(), far, made))
    assert float(made.choice.others_weight) > 0
    assert accuracy(made, made.model, images(300, seed=8)) > 0.7


def test_a_resumed_round_has_the_same_bits(tmp_path: Path) -> None:
    train = images(40)
    undisturbed = trained(plan(), train)
    for cut_after in range(1, 11):

        def stop(done: int, total: int, rate: float, after: int = cut_after) -> None:
            if done == after:
                raise InterruptedError

        folder = tmp_path / str(cut_after)
        with pytest.raises(InterruptedError):
            loop.train(learner(plan(), train), {"private": train}, 1, checkpoints=folder, every=0, progress=stop)
        resumed = learner(plan(), train)
        loop.train(resumed, {"private": train}, 1, checkpoints=folder)
        assert small.same(resumed.state(), undisturbed.state())


def test_everything_that_is_kept_is_on_the_chosen_device() -> None:
    made = Ridge(LearnerContext(plan(), SiteFacts("site-001", "small", (9, 9, 9)), None, Compute("meta")))
    tensors = [tensor for module in made.kept().values() for tensor in module.state_dict().values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_random_dimensions_give_a_head_on_all_features() -> None:
    of = small.feature_plan("ridge", CLASSES, WIDTH, ridge={"dimensions": 4})
    made, test = trained(of, images(60)), images(300, seed=9)
    weights = arrays_of(made.personal)["linear.weight"]
    assert weights.shape == (CLASSES, WIDTH)
    assert np.linalg.matrix_rank(weights - weights.mean(0)) <= 2
    reduction = Reduction.of(of)
    own = Sums.of(made.sent.arrays())
    layer = layer_of(Spectrum.of(own), float(made.choice.strength), of.tables["ridge"])
    reduced = reduction(test.pixels[:, 0].astype(np.float64)) * GRID
    logits = float(made.choice.scale) * (reduced @ layer[0].T + layer[1])
    with torch.no_grad():
        ours = made.personal(torch.from_numpy(test.pixels[:, 0].astype(np.float32))).numpy()
    assert np.abs(ours - logits).max() < 0.02
