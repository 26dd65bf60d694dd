"""Differences between methods over several seeds: an interval, and tests, with what each of them generalises to.

Seeds and images are both samples. The interval and `p` are about other seeds and other images of the same sites;
`p_seeds` is about other seeds on these very images. docs/decisions/intervals.md has the measured coverage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.report import metrics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(256)
TOO_FEW = "too few seeds"  # for an interval
_SAME = 1e-12  # no figures are nearer to each other but by rounding
_MANY = 10_000.0  # degrees of freedom, above which t is normal


@dataclass(frozen=True)
class Draws:
    """The figures of one run: of the images as they are (first), then of each draw of them."""

    figures: Mapping[str, Floats]  # by name
    units: int  # that were drawn: images, or groups of them
    problem: str = ""  # why these answers cannot be judged
    limits: Mapping[str, float] = field(default_factory=dict)  # that no difference of a figure exceeds; else 1


@dataclass(frozen=True)
class Comparison:
    """A difference between two methods, the mean over seeds; `reason` says why something is missing."""

    value: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None  # of no difference, for other seeds and other images
    p_seeds: float | None = None  # of no difference, for other seeds on these images
    reason: str | None = None


def draw(answers: Floats, labels: Ints, sites: Ints, groups: Ints) -> Draws:
    """The figures of one run's answers for the images of all sites. The same images give the same draws."""
    if not len(labels):
        return Draws({}, 0, "no images")
    if not np.isfinite(answers).all():
        return Draws({}, 0, "the model's answers contain NaN or infinite values")
    image_weights, units = weights(sites, groups)
    return Draws(metrics.weighted_figures(answers, labels, image_weights), units)


def weights(sites: Ints, groups: Ints) -> tuple[Floats, int]:
    """How often each image counts: in the images as they are, then in each draw; and the units that are drawn.

    A table judges many nets on the same images, so the last weights are remembered; they are read-only.
    """
    return _weights(np.asarray(sites, np.int64).tobytes(), np.asarray(groups, np.int64).tobytes())


@lru_cache(maxsize=2)  # those of all sites, and those of small sites: each may take 100 MB
def _weights(sites_as_bytes: bytes, groups_as_bytes: bytes) -> tuple[Floats, int]:
    sites, groups = (np.frombuffer(each, np.int64) for each in (sites_as_bytes, groups_as_bytes))
    units = len(np.unique(np.stack([sites, groups]), axis=1).T)
    drawn = np.ones((1, len(sites)))
    if units >= metrics.MIN_IMAGES:
        drawn = np.vstack([drawn, draw_weights(sites, groups)])
    drawn.flags.writeable = False
    return drawn, units


def paired(first: Sequence[Draws], second: Sequence[Draws], name: str) -> Comparison:
    """How far a figure of the first method is above the second's: of each, a run a seed, on the same images."""
    if problem := next((run.problem for run in (*first, *second) if run.problem), ""):
        return Comparison(None, reason=problem)
    differences = np.array([a.figures[name] - b.figures[name] for a, b in zip(first, second, strict=True)])
    return compare(differences, first[0].units, first[0].limits.get(name, 1.0))


def paired_with_shared(
    pairs: Sequence[tuple[Draws, Draws]], left_out: Sequence[Sequence[tuple[Draws, Draws]]], name: str
) -> Comparison:
    """The same where a run is on the second side of several seeds: then these are not independent.

    `left_out`: the pairs that remain without each seed in turn. How far the mean moves tells what the seed adds.
    """
    if problem := next((run.problem for pair in pairs for run in pair if run.problem), ""):
        return Comparison(None, reason=problem)
    whole, *others = (np.mean([a.figures[name] - b.figures[name] for a, b in some], 0) for some in (pairs, *left_out))
    first = pairs[0][0]
    return compare(added_by_each(whole, np.array(others)), first.units, first.limits.get(name, 1.0))


def added_by_each(whole: Floats, left_out: Floats) -> Floats:
    """What each of n seeds adds to a mean, from the means without each: a jackknife's values around the whole mean.

    Where seeds share nothing these are the seeds' own values.
    """
    return np.asarray(whole + (len(left_out) - 1) * (left_out.mean(0) - left_out))


def draw_weights(sites: Ints, groups: Ints) -> Floats:
    """How often each image counts in each draw (draws x images): as many groups of each site as the site has."""
    generator = np.random.Generator(np.random.Philox(key=0))
    weights = np.zeros((metrics.DRAWS, len(sites)))
    for site in np.unique(sites):
        members = np.flatnonzero(sites == site)
        names, group_of = np.unique(groups[members], return_inverse=True)
        counts = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), metrics.DRAWS)
        weights[:, members] = counts[:, group_of]
    return weights


def compare(differences: Floats, units: int, limit: float = 1.0) -> Comparison:
    """The comparison of differences (seeds x (1 + draws)): the first column has those on the images as they are.

    No difference exceeds the limit. An interval that would hold all that are possible is none.

    The variance of Student's interval is that over draws of images, and what seeds add: their variance, less its part
    that comes from the images. The degrees of freedom are Satterthwaite's. With one seed it is about images alone.
    """
    values, draws = differences[:, 0], differences[:, 1:]
    seeds, value = len(values), float(values.mean())
    if math.isnan(value):
        return Comparison(None, reason="all images are of one class")
    p_seeds = _p_of_seeds(values)
    if not draws.size:
        return Comparison(value, p_seeds=p_seeds, reason=f"no interval: fewer than {metrics.MIN_IMAGES} images")
    images_variance = float(np.nanvar(draws.mean(0)))
    over_seeds, seeds_variance, freedom = 0.0, 0.0, float(units - 1)
    if seeds > 1:
        residual = max(0.0, float(np.nanvar(draws, axis=1).mean()) - images_variance) * seeds / (seeds - 1)
        over_seeds = float(values.var(ddof=1))
        seeds_variance = max(0.0, over_seeds - residual) / seeds
    variance = images_variance + seeds_variance
    if variance < _SAME**2:
        if abs(value) > _SAME:
            return Comparison(value, p_seeds=p_seeds, reason="no interval: every draw agrees")
        return Comparison(0.0, 0.0, 0.0, 1.0, p_seeds)
    if seeds_variance:
        freedom = variance**2 / ((over_seeds / seeds) ** 2 / (seeds - 1) + images_variance**2 / (units - 1))
    error = math.sqrt(variance)
    half = student_quantile(freedom) * error
    p = student_tail(value / error, freedom)
    if half - abs(value) >= limit:  # it would leave no possible difference out
        return Comparison(value, p=p, p_seeds=p_seeds, reason=TOO_FEW if seeds_variance else "too few images")
    return Comparison(value, max(-limit, value - half), min(limit, value + half), p, p_seeds)


def _p_of_seeds(values: Floats) -> float | None:
    """The paired t-test over seeds; None for one seed, or where all seeds differ by exactly the same."""
    if len(values) < 2:
        return None
    if np.ptp(values) < _SAME:
        return None if abs(values[0]) > _SAME else 1.0
    deviation = float(values.std(ddof=1))
    return student_tail(float(values.mean()) * math.sqrt(len(values)) / deviation, len(values) - 1)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction for that many comparisons: the chance of any false alarm among them stays below the level."""
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[index] = largest
    return adjusted


def student_tail(t: float, freedom: float) -> float:
    """The chance that a Student variable is further from 0 than t, on either side."""
    freedom = min(freedom, _MANY)
    start = math.atan2(abs(t), math.sqrt(freedom))  # with t = sqrt(freedom) tan(angle) the density is a power of cos
    half = (math.pi / 2 - start) / 2
    # near 0 the power is narrow: nodes go where it is not yet 0
    half = min(half, 20 / math.sqrt(freedom))
    angles = start + half * (_NODES + 1)
    integral = half * float(_NODE_WEIGHTS @ np.cos(angles) ** (freedom - 1))
    whole = math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2)) * math.sqrt(math.pi) / 2
    return min(1.0, integral / whole)


@lru_cache(1000)
def student_quantile(freedom: float, level: float = 0.05) -> float:
    """The number that a Student variable is further from 0 than with this chance."""
    low, high = 0.0, 1e3
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_tail(middle, freedom) > level else (low, middle)
    return low
