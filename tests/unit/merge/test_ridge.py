"""Sums over images, the heads that follow from them, and sums that no images have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedhelp_edge import plan as plans
from fedhelp_edge.errors import BadPlanError, SumsError
from fedhelp_edge.merge import ridge
from fedhelp_edge.merge.ridge import COUNTS, FEATURES, GRAM, GRID, Reduction, Spectrum, Sums
from fedhelp_edge.methods import registry
from fedhelp_edge.plan import Plan
from fedhelp_edge.update import Array
from tests.unit.methods import small

CLASSES, WIDTH = 3, 6
Updates = dict[str, dict[str, Array]]
Doubles = NDArray[np.float64]


def plan(width: int = WIDTH, **tables: Mapping[str, Any]) -> Plan:
    return small.feature_plan("ridge", classes=CLASSES, width=width, **{"ridge": {"dimensions": 0}, **tables})


def images(count: int, width: int = WIDTH, seed: int = 0) -> tuple[Doubles, NDArray[np.int64]]:
    """Features on the grid, in its steps, that tell something of the labels; and the labels."""
    stream = np.random.Generator(np.random.Philox(seed))
    labels = stream.integers(0, CLASSES, count)
    features = stream.standard_normal((CLASSES, width))[labels] + stream.standard_normal((count, width)) + 2
    return np.rint(features / GRID), labels


def updates_of(features: Doubles, labels: NDArray[np.int64], site: NDArray[np.int64]) -> Updates:
    return {
        f"site-{number + 1:03}": ridge.sums_of(features[site == number], labels[site == number], CLASSES)
        for number in np.unique(site)
    }


def merged(updates: Mapping[str, Mapping[str, Array]], of: Plan | None = None) -> dict[str, Array]:
    of = of or plan()
    examples = {site: max(1, int(update[COUNTS].sum())) for site, update in updates.items()}
    return registry.merge(of, 1, ridge.start(of), updates, examples)


def same(first: Mapping[str, Array], second: Mapping[str, Array]) -> bool:
    return all(first[name].tobytes() == second[name].tobytes() for name in (GRAM, FEATURES, COUNTS))


def solved(features: Doubles, labels: NDArray[np.int64], strength: float) -> Doubles:
    """Ridge regression of the one-hot labels on all images together, as any textbook has it; the bias comes last."""
    x = np.hstack([features * GRID, np.ones((len(features), 1))])
    mean_variance = x[:, :-1].var(0).mean()
    penalty = np.diag([*[strength * mean_variance * len(x)] * (x.shape[1] - 1), 0.0])
    return np.asarray(np.linalg.solve(x.T @ x + penalty, x.T @ np.eye(CLASSES)[labels]).T)


def head(sums: Mapping[str, Array], strength: float) -> Doubles:
    weights, biases = Spectrum.of(Sums.of(sums)).head(strength)
    return np.hstack([weights, biases[:, None]])


# --- merging ---------------------------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(st.integers(2, 7), st.integers(0, 10**6), st.sampled_from([1e-4, 0.01, 1.0]))
def test_however_images_are_spread_over_sites_the_head_is_that_of_all_together(
    sites: int, seed: int, strength: float
) -> None:
    features, labels = images(60, seed=seed)
    site = np.random.Generator(np.random.Philox(seed)).integers(0, sites, 60)
    sums = merged(updates_of(features, labels, site))
    assert same(sums, ridge.sums_of(features, labels, CLASSES))
    assert np.abs(head(sums, strength) - solved(features, labels, strength)).max() < 1e-9


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(5)), st.integers(0, 10**6))
def test_no_order_of_sites_and_no_order_of_images_changes_a_bit(order: Sequence[int], seed: int) -> None:
    features, labels = images(50, seed=seed)
    site = np.arange(50) % 5
    shuffled = np.random.Generator(np.random.Philox(seed)).permutation(50)
    first = merged(updates_of(features, labels, site))
    renamed = merged(updates_of(features[shuffled], labels[shuffled], np.array(order)[site[shuffled]]))
    assert same(first, renamed)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_no_size_of_batches_changes_a_bit(batch: int) -> None:
    features, labels = images(64, width=150)
    total = ridge.sums_of(features, labels, CLASSES)
    parts = [ridge.sums_of(features[i : i + batch], labels[i : i + batch], CLASSES) for i in range(0, 64, batch)]
    assert same(total, {name: np.sum([part[name] for part in parts], axis=0) for name in total})


def test_a_site_that_is_subtracted_was_never_there() -> None:
    features, labels = images(90)
    updates = updates_of(features, labels, np.arange(90) % 3)
    everybody = merged(updates)
    left = updates.pop("site-002")
    assert same(merged(updates), {name: everybody[name] - left[name] for name in everybody})


def test_a_site_without_images_changes_nothing() -> None:
    features, labels = images(40)
    updates = updates_of(features, labels, np.arange(40) % 2)
    assert same(merged({**updates, "site-009": ridge.start(plan())}), merged(updates))


def test_features_of_a_scale_of_their_own_count_no_more_than_five_medians() -> None:
    features, labels = images(200)
    updates = updates_of(features, labels, np.arange(200) % 4)
    honest = merged(updates)
    large = ridge.sums_of(np.rint(features[::4] * 20), labels[::4], CLASSES)
    limited, unlimited = (
        merged({**updates, "site-001": large}, plan(merge={"clip": clip})) for clip in ("auto", "none")
    )
    traces = [np.trace(Sums.of(sums).gram) for sums in (honest, limited, unlimited)]
    assert traces[1] < (3 + 5**2) / 4 * traces[0] * 1.1
    assert traces[2] > 90 * traces[0]


def test_honest_sites_of_very_different_sizes_are_not_limited() -> None:
    features, labels = images(400)
    site = np.searchsorted([200, 390, 396], np.arange(400), side="right")
    assert same(merged(updates_of(features, labels, site)), ridge.sums_of(features, labels, CLASSES))


# --- the head --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("strength", [0.01, 0.5])
def test_what_a_left_out_group_gets_is_what_a_head_without_it_gives(strength: float) -> None:
    features, labels = images(30)
    groups = [np.arange(i, 30, 11) for i in range(11)]
    spectrum = Spectrum.of(Sums.of(ridge.sums_of(features, labels, CLASSES)))
    scores = spectrum.left_out(strength, spectrum.rotated(features * GRID), np.eye(CLASSES)[labels], groups)
    x = np.hstack([features * GRID, np.ones((30, 1))])
    penalty = np.diag([*[strength * spectrum.values.mean() * 30] * WIDTH, 0.0])
    for members in groups:
        others = np.setdiff1d(np.arange(30), members)
        layer = np.linalg.solve(x[others].T @ x[others] + penalty, x[others].T @ np.eye(CLASSES)[labels[others]])
        assert np.abs(x[members] @ layer - scores[members]).max() < 1e-9


def test_generalised_cross_validation_from_sums_is_that_of_the_images() -> None:
    features, labels = images(40)
    spectrum, strength = Spectrum.of(Sums.of(ridge.sums_of(features, labels, CLASSES))), 0.2
    x = np.hstack([features * GRID, np.ones((40, 1))])
    penalty = np.diag([*[strength * spectrum.values.mean() * 40] * WIDTH, 0.0])
    hat, one_hot = x @ np.linalg.solve(x.T @ x + penalty, x.T), np.eye(CLASSES)[labels]
    expected = np.square(one_hot - hat @ one_hot).sum() / 40 / (1 - np.trace(hat) / 40) ** 2
    assert spectrum.cross_validated(strength) == pytest.approx(expected, rel=1e-9)


def test_noise_asks_for_a_stronger_penalty_than_features_that_tell_the_class() -> None:
    features, labels = images(300)
    noise = np.random.Generator(np.random.Philox(4)).permutation(labels)
    strengths = [
        Spectrum.of(Sums.of(ridge.sums_of(features, each, CLASSES))).best_strength() for each in (labels, noise)
    ]
    assert strengths[0] < strengths[1]


@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_logits_are_those_of_penalised_discriminant_analysis(balance: float) -> None:
    features, labels = images(200)
    spectrum, strength = Spectrum.of(Sums.of(ridge.sums_of(features, labels, CLASSES))), 0.3
    (weights, biases), (matrix, offsets) = spectrum.head(strength), spectrum.discriminant(strength, balance)
    x, counts = features * GRID, np.bincount(labels)
    means = np.stack([x[labels == each].mean(0) for each in range(CLASSES)])
    within = (x - means[labels]).T @ (x - means[labels]) / len(x)
    penalised = np.linalg.inv(within + strength * spectrum.values.mean() * np.eye(WIDTH))
    from_mean = means - x.mean(0)
    expected = (x - x.mean(0)) @ penalised @ from_mean.T - (from_mean @ penalised * from_mean).sum(1) / 2
    expected += np.log(counts / len(x) if balance == 0 else np.full(CLASSES, 1 / CLASSES))
    assert np.abs((x @ weights.T + biases) @ matrix.T + offsets - expected).max() < 1e-9


def test_a_class_that_no_site_has_gets_no_probability() -> None:
    features, labels = images(100)
    labels[labels == 1] = 0
    spectrum = Spectrum.of(Sums.of(ridge.sums_of(features, labels, CLASSES)))
    (weights, biases), (matrix, offsets) = spectrum.head(0.1), spectrum.discriminant(0.1, 0.0)
    logits = (features * GRID @ weights.T + biases) @ matrix.T + offsets
    assert (logits[:, [0, 2]].max(1) - logits[:, 1]).min() > 20


# --- fewer dimensions ------------------------------------------------------------------------------------------------
def test_a_head_on_random_dimensions_is_a_head_on_all_features() -> None:
    reduction = Reduction.of(plan(width=40, ridge={"dimensions": 7}))
    stream = np.random.Generator(np.random.Philox(1))
    features, weights = stream.standard_normal((20, 40)) + 1, stream.standard_normal((CLASSES, 7))
    reduced = reduction(features) * GRID
    assert reduced.shape == (20, 7)
    assert np.abs(reduced @ weights.T - features @ reduction.unfold(weights).T).max() < 0.01


def test_random_dimensions_follow_from_the_plans_seed() -> None:
    first, again = (Reduction.of(plan(width=40, ridge={"dimensions": 7})) for _ in range(2))
    other = Reduction.of(replace(plan(width=40, ridge={"dimensions": 7}), seed=8))
    assert first.signs is not None
    assert other.signs is not None
    assert np.array_equal(first.signs, again.signs)
    assert not np.array_equal(first.signs, other.signs)


def test_no_more_dimensions_than_features_are_drawn() -> None:
    features, _ = images(5)
    for asked in (0, WIDTH, WIDTH + 1):
        reduction = Reduction.of(plan(ridge={"dimensions": asked}))
        assert np.array_equal(reduction(features * GRID), features)


def test_features_that_are_huge_count_as_the_largest_so_that_sums_fit_into_their_format() -> None:
    reduction = Reduction.of(plan())
    reduced = reduction(np.full((1, WIDTH), 6e4))
    assert reduced.max() == ridge.LARGEST
    assert ridge._MOST_IMAGES * ridge.LARGEST**2 < 2**63


# --- hostile sums ----------------------------------------------------------------------------------------------------
def test_sums_of_real_images_pass_also_of_one_and_of_copies() -> None:
    features, labels = images(20)
    for chosen in (slice(1), slice(20), [3] * 9, slice(0)):
        sums = ridge.sums_of(features[chosen], labels[chosen], CLASSES)
        ridge.verify(sums, {"examples": max(1, len(labels[chosen]))})


@pytest.mark.parametrize(
    ("name", "change", "cause"),
    [
        (GRAM, lambda gram: -gram, "no images have"),
        (GRAM, lambda gram: gram // 2, "no images have"),
        (GRAM, lambda gram: gram * 10**9, "larger than"),
        (GRAM, lambda gram: gram * 0 + np.iinfo(np.int64).min, "larger than"),
        (FEATURES, lambda features: features * 3, "no images have"),
        (FEATURES, lambda features: features * 10**9, "larger than"),
        (COUNTS, lambda counts: -counts, "images"),
        (COUNTS, lambda counts: counts * 2, "claims 20"),
        (COUNTS, lambda counts: counts * 0 + 2**62, "claims 20"),
        (COUNTS, lambda counts: counts * 0, "larger than"),
    ],
)
def test_sums_that_no_images_have_are_refused(name: str, change: Any, cause: str) -> None:
    features, labels = images(20)
    sums = ridge.sums_of(features, labels, CLASSES)
    with pytest.raises(SumsError, match=cause):
        ridge.verify({**sums, name: change(sums[name])}, {"examples": 20})


# --- plans -----------------------------------------------------------------------------------------------------------
def test_a_plan_without_an_encoder_is_refused() -> None:
    text = 'method = "ridge"\nclasses = ["a", "b"]'
    with pytest.raises(BadPlanError, match="ridge works on the features of an encoder"):
        plans.read(text, registry.METHODS)


@pytest.mark.parametrize(
    ("width", "tables", "cause"),
    [
        (4000, {}, "2048 or fewer"),
        (40, {"merge": {"weight": "uniform"}}, "each image weighs alike"),
    ],
)
def test_what_ridge_cannot_do_is_a_mistake_of_the_plan(width: int, tables: Mapping[str, Any], cause: str) -> None:
    with pytest.raises(BadPlanError, match=cause):
        plan(width, **tables)
