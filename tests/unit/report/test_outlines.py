"""Dice, IoU, pixel accuracy and the Hausdorff distance of cases, against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from fedhelp_edge.report import outlines, seeds
from fedhelp_edge.report.scale import SCALES

Mask = NDArray[np.uint8]


def drawn(seed: int, *sides: int, classes: int = 2) -> Mask:
    """Boxes of some classes, which may be missing or overlap."""
    draw, mask = np.random.default_rng(seed), np.zeros(sides, np.uint8)
    for label in range(1, classes + 1):
        if draw.random() < 0.8:
            start = [int(draw.integers(0, side - 2)) for side in sides]
            size = [int(draw.integers(1, max(2, side // 2))) for side in sides]
            mask[tuple(slice(at, at + length) for at, length in zip(start, size, strict=True))] = label
    return mask


def distance_by_force(one: NDArray[np.bool_], other: NDArray[np.bool_], spacing: tuple[float, ...]) -> float:
    """All distances from outline to outline."""
    if not (one.any() or other.any()):
        return math.nan
    if not (one.any() and other.any()):
        return math.sqrt(sum((side * step) ** 2 for side, step in zip(one.shape, spacing, strict=True)))
    outlines_ = [np.argwhere(side & ~ndimage.binary_erosion(side)) * np.array(spacing) for side in (one, other)]
    far = np.sqrt(((outlines_[0][:, None] - outlines_[1][None]) ** 2).sum(-1))
    return max(float(np.percentile(far.min(1), 95)), float(np.percentile(far.min(0), 95)))


@given(st.integers(0, 10**6), st.sampled_from([(13, 17), (6, 9, 8)]))
def test_the_figures_of_a_case_are_those_of_its_pixels(seed: int, sides: tuple[int, ...]) -> None:
    mask, answer = drawn(seed, *sides), drawn(seed + 1, *sides)
    spacing = (2.0, 1.0, 0.5)[: len(sides)]
    rows, shown = outlines.tally([answer], [mask], 3, spacing)
    of_case = outlines.by_case(rows)
    assert of_case["accuracy"][0, 0] == pytest.approx((mask == answer).mean())
    assert shown[0] == sum(1 << label - 1 for label in (1, 2) if (mask == label).any())
    for label in (1, 2):
        one, other = mask == label, answer == label
        both, either = (one & other).sum(), (one | other).sum()
        expected = (2 * both / (one.sum() + other.sum()), both / either) if either else (math.nan, math.nan)
        found = of_case["dice"][0, label - 1], of_case["iou"][0, label - 1]
        assert found == pytest.approx(expected, nan_ok=True)
        distance = distance_by_force(one, other, spacing)
        assert of_case["hd95"][0, label - 1] == pytest.approx(distance, nan_ok=True)


def test_a_perfect_answer_is_1_everywhere_and_no_pixel_away() -> None:
    masks = [drawn(seed, 12, 12) for seed in range(5)]
    scores = SCALES["segmentation"].scores([outlines.tally(masks, masks, 3)])
    assert scores == {"dice": 1.0, "iou": 1.0, "accuracy": 1.0, "hd95": 0.0}


def test_a_class_that_only_one_side_has_is_wholly_wrong_and_one_that_neither_has_tells_nothing() -> None:
    empty, full = np.zeros((3, 4), np.uint8), np.ones((3, 4), np.uint8)
    rows, _ = outlines.tally([full, empty], [empty, empty], 3)
    of_case = outlines.by_case(rows)
    assert of_case["dice"][0, 0] == 0
    assert of_case["hd95"][0, 0] == 5.0
    assert np.isnan(of_case["dice"][1]).all()
    assert SCALES["segmentation"].scores([outlines.tally([empty], [empty], 3)])["dice"] is None
    assert dict(outlines.named(rows, ["a", "b"]))["b"] == {"dice": None, "iou": None, "hd95": None}


def test_figures_are_means_over_cases_then_over_classes() -> None:
    answers, masks = ([drawn(seed + shift, 10, 10) for seed in range(20)] for shift in (0, 50))
    rows, _ = outlines.tally(answers, masks, 3)
    dice = outlines.by_case(rows)["dice"]
    assert SCALES["segmentation"].scores([(rows, np.zeros(20, int))])["dice"] == pytest.approx(
        np.nanmean(dice, 0).mean()
    )
    halves = [(rows[:7], np.zeros(7, int)), (rows[7:], np.zeros(13, int))]
    assert SCALES["segmentation"].scores(halves) == SCALES["segmentation"].scores([(rows, np.zeros(20, int))])


def test_a_weighted_case_counts_as_often_as_it_is_drawn() -> None:
    rows, _ = outlines.tally([drawn(s, 9, 9) for s in range(4)], [drawn(s + 9, 9, 9) for s in range(4)], 3)
    twice = outlines.figures(rows, np.array([[2.0, 0, 1, 1]]))
    repeated = outlines.figures(rows[[0, 0, 2, 3]], np.ones((1, 4)))
    for name, values in twice.items():
        np.testing.assert_allclose(values, repeated[name])


def test_patience_goes_by_dice() -> None:
    empty, full = np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)
    half = full.copy()
    half[:2] = 0
    rows, _ = outlines.tally([full, half, empty], [full, full, empty], 2)
    assert SCALES["segmentation"].right([(rows, np.zeros(3, int))]) == (3000, 1000 + 667 + 1000)


def test_intervals_are_over_cases_and_a_distance_may_differ_by_more_than_1() -> None:
    masks = [drawn(seed, 24, 24, classes=1) for seed in range(40)]
    masks = [mask for mask in masks if mask.any()]
    moved = [np.roll(mask, 6, 0) for mask in masks]
    scale, groups = SCALES["segmentation"], [np.arange(len(masks))]
    right, wrong = (scale.draw([outlines.tally(answers, masks, 2)], groups) for answers in (masks, moved))
    assert right.units == len(masks)
    dice, distance = (seeds.paired([right], [wrong], name) for name in ("dice", "hd95"))
    assert dice.low is not None and distance.low is not None and distance.high is not None
    assert dice.low > 0 and distance.low < -2
    assert distance.low < distance.value < distance.high  # type: ignore[operator]
    assert scale.draw([outlines.tally([], [], 2)], [np.zeros(0, int)]).problem == "no images"
