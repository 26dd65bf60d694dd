"""Sums that a person should see before their model is published, and sums of honest rounds that nobody needs to."""

from __future__ import annotations

import numpy as np
import pytest

from fedhelp_edge.merge import sum_outliers
from fedhelp_edge.merge.sum_outliers import SummedRound
from fedhelp_edge.update import Array

COUNTS = {"updates": 6, "examples": 600, "val": 400, "correct": 360}
COURSE = np.ones(64, np.float32)


def summed(step: Array = COURSE, statistics: float = 1.0, /, **counts: int) -> SummedRound:
    base = {"conv.weight": np.full(64, 0.5, np.float32), "bn.running_mean": np.zeros(4, np.float32)}
    model = {"conv.weight": base["conv.weight"] + step, "bn.running_mean": np.full(4, statistics, np.float32)}
    return SummedRound(base, model, {**COUNTS, **counts})


def reasons(now: SummedRound, rounds_before: int = 3, **how: bool) -> str:
    return "; ".join(sum_outliers.unusual(now, [summed() for _ in range(rounds_before)], **how))


def turned(cosine: float) -> Array:
    """A step as long as those before, with this cosine to their direction."""
    across = np.resize(np.array([1, -1], np.float32), 64)
    return (cosine * COURSE + np.sqrt(1 - cosine**2) * across).astype(np.float32)


@pytest.mark.parametrize(
    "now",
    [
        summed(),
        summed(1.99 * COURSE),
        summed(0.001 * COURSE),
        summed(0 * COURSE),
        summed(COURSE, 3.9),
        summed(turned(-0.49)),
        summed(examples=1200),
        summed(updates=12, examples=2300),  # twice as many sites
        summed(correct=322),
        summed(correct=400),
        summed(val=20, correct=14),  # of so few, chance
        summed(val=0, correct=0),
    ],
)
def test_a_sum_like_those_before_is_not_unusual(now: SummedRound) -> None:
    assert reasons(now) == ""


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (summed(2.1 * COURSE), "moves the weights 2.1 times as far"),
        (summed(COURSE, 4.2), "moves the statistics 4.2 times as far"),
        (summed(turned(-0.52)), "direction has cosine -0.52"),
        (summed(examples=1300), "together claim 1300 images, and the rounds before let expect 600 at most"),
        (summed(updates=12, examples=2500), "expect 1200 at most"),
        (summed(updates=3, examples=1300), "expect 600 at most"),
        (summed(correct=310), "right in 310 of 400 validation images (0.78), and those of the rounds before in 0.90"),
        (summed(val=60, correct=36), "right in 36 of 60"),
    ],
)
def test_a_sum_unlike_those_before_is_unusual_and_says_why(now: SummedRound, reason: str) -> None:
    found = reasons(now)
    assert reason in found
    assert "; " not in found  # nothing else is


def test_all_reasons_are_told() -> None:
    assert len(sum_outliers.unusual(summed(-3 * COURSE, 9, examples=9000, correct=0), [summed()] * 3)) == 5


def test_of_two_rounds_before_only_the_images_are_compared() -> None:
    strange = summed(-3 * COURSE, 9, correct=0)
    assert reasons(strange, 2) == reasons(strange, 0) == ""
    assert "together claim" in reasons(summed(examples=9000), 1)
    assert reasons(summed(examples=9000), 0) == ""


def test_where_all_sites_weigh_alike_their_claims_do_not_count() -> None:
    assert reasons(summed(examples=9000), weighs_examples=False) == ""


def test_sums_without_weights_are_compared_by_nothing_else() -> None:
    nothing = SummedRound({}, {}, COUNTS)
    assert sum_outliers.unusual(nothing, [nothing] * 3) == []


def test_rounds_that_moved_nothing_are_no_measure() -> None:
    assert sum_outliers.unusual(summed(), [summed(0 * COURSE, 0)] * 3) == []
