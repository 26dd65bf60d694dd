from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhelp_edge.merge import rules
from fedhelp_edge.plan import MergeSettings
from fedhelp_edge.update import Array

examples = st.lists(st.integers(1, 10**6), min_size=1, max_size=60)


def make_updates(sites: int, seed: int = 0) -> dict[str, dict[str, Array]]:
    generator = np.random.default_rng(seed)
    return {
        f"site-{index:03}": {
            "b.weight": generator.standard_normal((3, 4)).astype(np.float32),
            "a.bias": (generator.standard_normal(5) * 1e3).astype(np.float32),
        }
        for index in range(1, sites + 1)
    }


def test_weights_are_by_examples() -> None:
    assert rules.weights([1, 3]) == [0.25, 0.75]


def test_weights_may_be_uniform() -> None:
    assert rules.weights([1, 3, 1000, 2], "uniform") == [0.25] * 4


def test_a_single_site_has_the_whole_weight() -> None:
    assert rules.weights([17]) == [1.0]


@given(examples, st.floats(0.01, 1), st.sampled_from(["examples", "uniform"]))
def test_weights_sum_to_one_and_none_is_negative(counts: list[int], cap: float, kind: str) -> None:
    parts = rules.weights(counts, kind, cap)
    assert sum(parts) == pytest.approx(1, abs=1e-9)
    assert min(parts) > 0


@given(examples, st.floats(0.01, 1))
def test_no_weight_is_above_the_cap_if_all_can_be_below(counts: list[int], cap: float) -> None:
    assert max(rules.weights(counts, cap=cap)) <= max(cap, 1 / len(counts)) * (1 + 1e-9)


@given(examples, st.floats(0.01, 1))
def test_more_examples_never_give_a_smaller_weight(counts: list[int], cap: float) -> None:
    pairs = sorted(zip(counts, rules.weights(counts, cap=cap), strict=True))
    assert all(first[1] <= second[1] * (1 + 1e-9) for first, second in itertools.pairwise(pairs))


@given(examples)
def test_a_cap_that_nobody_reaches_changes_nothing(counts: list[int]) -> None:
    assert rules.weights(counts, cap=1.0) == [float(part) for part in np.array(counts) / np.sum(counts)]


def test_capped_weight_goes_to_the_others_in_proportion() -> None:
    assert rules.weights([80, 15, 5], cap=0.6) == pytest.approx([0.6, 0.3, 0.1])


def test_capped_weight_may_bring_another_site_to_the_cap() -> None:
    assert rules.weights([90, 9, 1], cap=0.5) == pytest.approx([0.5, 0.45, 0.05])
    assert rules.weights([90, 9, 1], cap=0.4) == pytest.approx([0.4, 0.4, 0.2])


def test_a_cap_below_an_equal_part_makes_all_weights_equal() -> None:
    assert rules.weights([90, 9, 1], cap=0.01) == pytest.approx([1 / 3] * 3)


def test_a_site_without_examples_gets_no_capped_weight() -> None:
    assert rules.weights([10, 0], cap=0.5) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("how", "weighs", "parts"),
    [
        (MergeSettings(), True, {"a": 0.25, "b": 0.75}),
        (MergeSettings(weight="uniform"), False, {"a": 0.5, "b": 0.5}),
        (MergeSettings(rule="median"), False, {}),
        (MergeSettings(rule="trimmed", weight="uniform"), False, {}),
    ],
    ids=lambda how: f"{how.rule} {how.weight}" if isinstance(how, MergeSettings) else "",
)
def test_numbers_of_images_count_only_in_a_mean_by_examples(
    how: MergeSettings, weighs: bool, parts: dict[str, float]
) -> None:
    assert rules.weights_by_examples(how) is weighs
    assert rules.site_weights({"b": 3, "a": 1}, replace(how, cap=1.0)) == parts


def test_a_round_without_updates_has_no_weights() -> None:
    assert rules.site_weights({}, MergeSettings()) == {}


def test_the_mean_is_weighted() -> None:
    updates = {"a": {"x": np.array([1, 0], np.float32)}, "b": {"x": np.array([5, 4], np.float32)}}
    assert rules.mean(updates, {"a": 0.25, "b": 0.75})["x"].tolist() == [4, 3]


def test_the_mean_has_the_same_bits_in_any_order_of_sites() -> None:
    numbers = {"a": 2.0**60, "b": 1.0, "c": -(2.0**60), "d": 3.0}  # whose sum depends on the order
    updates = {site: {"x": np.array([number], np.float32)} for site, number in numbers.items()}
    merged = [
        rules.mean({site: updates[site] for site in order}, dict.fromkeys(order, 0.25))
        for order in itertools.permutations(updates)
    ]
    assert {float(result["x"][0]) for result in merged} == {0.75}


def test_the_mean_is_summed_in_double_precision() -> None:
    parts = dict.fromkeys(make_updates(1000), 1 / 1000)
    updates = {site: {"x": np.array([1.1], np.float32)} for site in parts}
    assert rules.mean(updates, parts)["x"][0] == np.float32(1.1)


def test_the_mean_keeps_names_order_shapes_and_single_precision() -> None:
    updates = make_updates(2)
    merged = rules.mean(updates, dict.fromkeys(updates, 0.5))
    assert list(merged) == ["b.weight", "a.bias"]
    assert {name: (array.shape, array.dtype) for name, array in merged.items()} == {
        "b.weight": ((3, 4), np.dtype(np.float32)),
        "a.bias": ((5,), np.dtype(np.float32)),
    }


def test_updates_in_half_precision_are_merged_in_single() -> None:
    updates = {site: {"x": np.array([1, 2], np.float16)} for site in "ab"}
    assert rules.mean(updates, {"a": 0.5, "b": 0.5})["x"].dtype == np.float32


def test_merging_changes_no_update() -> None:
    updates, before = make_updates(3), make_updates(3)
    rules.mean(updates, dict.fromkeys(updates, 1 / 3))
    assert all(np.array_equal(updates[s][n], before[s][n]) for s in updates for n in updates[s])
