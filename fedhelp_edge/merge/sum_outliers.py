"""Unusual sums. In a secure sum nobody can compare the updates of a round; its sum can be compared with rounds before.

A person decides about an unusual sum before its model is published. One site is hidden among the others here as well.
The thresholds find what moves the whole model far (docs/decisions/secure-sum.md has figures).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fedhelp_edge.merge.norm_limit import Arrays, update_norm
from fedhelp_edge.merge.outliers import direction
from fedhelp_edge.safe_text import counted
from fedhelp_edge.update import RoleOf, role_by_name

ROUNDS_BEFORE = 3  # that a sum is compared with; with fewer, only its number of images is judged
# times the median step of the rounds before
STEP_FACTORS = {"weights": 2.0, "statistics": 4.0, "control variates": 4.0}
OPPOSED_COSINE = -0.5  # to the sum of the directions of the rounds before
EXAMPLES_FACTOR = 2.0  # times the most images that the sites of a round before claimed together
ACCURACY_FALL = 0.1  # below the median of the rounds before
FALL_SIGMAS = 3.0  # standard errors of that difference


class SummedRound(NamedTuple):
    """A round whose updates are known as their sum alone."""

    base: Arrays
    model: Arrays  # that follows from the sum
    counts: Mapping[str, int]  # `updates`, and of all sites together `examples`, `val`, and `correct` by the base


def unusual(
    now: SummedRound, before: Iterable[SummedRound], role_of: RoleOf = role_by_name, *, weighs_examples: bool = True
) -> list[str]:
    """Why a person should look at a sum: its step, its images, or the sites' figures of the model that it began with.

    `before` are the last merged rounds, at most `ROUNDS_BEFORE`. One of them is in memory at a time.
    """
    norms: list[dict[str, float]] = []
    counts: list[Mapping[str, int]] = []
    course = np.zeros(1)
    for earlier in before:
        norms.append(update_norm(earlier.base, earlier.model, role_of))
        counts.append(earlier.counts)
        if norms[-1]["weights"]:
            course = course + direction(earlier.base, earlier.model, norms[-1]["weights"], role_of)
    reasons = list(_claim(now.counts, counts)) if weighs_examples else []
    if len(norms) < ROUNDS_BEFORE:
        return reasons
    norm = update_norm(now.base, now.model, role_of)
    for kind in norm:
        median = float(np.median([earlier_norm[kind] for earlier_norm in norms]))
        if median and norm[kind] > STEP_FACTORS[kind] * median:
            reasons.append(f"it moves the {kind} {norm[kind] / median:.1f} times as far as the rounds before")
    length = float(np.linalg.norm(course))
    if norm["weights"] and length:
        cosine = float(direction(now.base, now.model, norm["weights"], role_of) @ course) / length
        if cosine < OPPOSED_COSINE:
            reasons.append(f"its direction has cosine {cosine:.2f} with that of the rounds before")
    return [*reasons, *_fall(now.counts, counts)]


def _claim(counts: Mapping[str, int], before: Sequence[Mapping[str, int]]) -> Iterator[str]:
    """More images than the sites of the rounds before claimed, where each site is taken to have as many."""
    if not before:
        return
    most = max(each["examples"] * max(1.0, counts["updates"] / each["updates"]) for each in before)
    if counts["examples"] > EXAMPLES_FACTOR * most:
        claimed = counted(counts["examples"], "image")
        yield f"the sites together claim {claimed}, and the rounds before let expect {most:.0f} at most"


def _fall(counts: Mapping[str, int], before: Sequence[Mapping[str, int]]) -> Iterator[str]:
    """The merge before this one did harm."""
    if (usual := fallen_from(counts, before)) is not None:
        right = f"{counts['correct']} of {counts['val']} validation images ({counts['correct'] / counts['val']:.2f})"
        yield f"the model before it is right in {right}, and those of the rounds before in {usual:.2f}"


def fallen_from(counts: Mapping[str, int], before: Sequence[Mapping[str, int]]) -> float | None:
    """The usual part of right validation images, if a model has fewer than chance explains; None: it has not."""
    rates = [each["correct"] / each["val"] for each in before if each["val"]]
    if not rates or not counts["val"]:
        return None
    usual, rate = float(np.median(rates)), counts["correct"] / counts["val"]
    error = math.sqrt(2 * max(usual * (1 - usual), 1 / counts["val"]) / counts["val"])
    return usual if usual - rate > max(ACCURACY_FALL, FALL_SIGMAS * error) else None
