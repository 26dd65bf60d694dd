"""Rules that make one model out of every site's. Sites come in the order of their ids, so the bits do not depend on who
was first; a share is read tensor by tensor when its turn comes, and `shares[site]` may open a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.merge import norm_limit
from fedhelp_edge.merge.norm_limit import Arrays
from fedhelp_edge.plan import MergeSettings
from fedhelp_edge.update import Array

SiteUpdates = Mapping[str, Arrays]

_BLOCK = 1 << 20  # numbers that a rule over all sites looks at together


def merge(
    base: Arrays,
    updates: SiteUpdates,
    examples: Mapping[str, int],
    settings: MergeSettings,
    norms: Mapping[str, norm_limit.UpdateNorm] | None = None,
) -> dict[str, Array]:
    """What the round makes of its shares. `pulls` where they are known already."""
    sites = sorted(updates)
    if settings.clip == "auto":
        if norms is None:
            norms = {site: norm_limit.update_norm(base, updates[site]) for site in sites}
        updates = _ClippedUpdates(base, updates, norm_limit.scale_factors({site: norms[site] for site in sites}))
    if settings.rule == "mean":
        return mean(updates, site_weights({site: examples[site] for site in sites}, settings))
    if settings.rule == "median":
        return median(updates)
    return trimmed_mean(updates, settings.trim)


def weights_by_examples(settings: MergeSettings) -> bool:
    """Whether a site's number of images decides how much its share weighs."""
    return settings.rule == "mean" and settings.weight != "uniform"


def site_weights(examples: Mapping[str, int], settings: MergeSettings) -> dict[str, float]:
    """Each site's part of the mean, in the order of their ids; nothing where the rule weighs nobody."""
    sites = sorted(examples)
    if not sites or settings.rule != "mean":
        return {}
    return dict(zip(sites, weights([examples[site] for site in sites], settings.weight, settings.cap), strict=True))


def weights(examples: Sequence[int], kind: str = "examples", cap: float = 1.0) -> list[float]:
    """Each site's part, summing to 1: by examples or all alike, none above `cap` where the others can make it up."""
    fractions = np.array(examples if kind != "uniform" else [1] * len(examples), np.float64)
    fractions /= fractions.sum()
    cap = max(cap, 1 / len(fractions))
    for _ in fractions:  # what is cut from the largest goes to the others, which may then be too large in turn
        over, under = fractions > cap, fractions < cap
        below_cap = fractions[under].sum()
        if not over.any() or not below_cap:
            break
        fractions[under] *= 1 + (fractions[over] - cap).sum() / below_cap
        fractions[over] = cap
    return [float(fraction) for fraction in fractions]


def mean(updates: SiteUpdates, weights: Mapping[str, float]) -> dict[str, Array]:
    """The weighted mean, summed in float64; one share is read at a time, into one row of all its numbers."""
    first, *others = sorted(updates)
    row, shapes = _flattened(updates[first])
    total, views = row * weights[first], _unflattened(row, shapes)
    for site in others:
        arrays = updates[site]
        for name, view in views.items():
            view[...] = arrays[name]
        row *= weights[site]
        total += row
    return {name: summed.astype(np.float32) for name, summed in _unflattened(total, shapes).items()}


def median(updates: SiteUpdates) -> dict[str, Array]:
    """Number by number the median of all sites."""
    return _elementwise(updates, lambda numbers: np.median(numbers, axis=0))


def trimmed_mean(updates: SiteUpdates, trim: float) -> dict[str, Array]:
    """Number by number the mean without the lowest and the highest `trim` of the sites."""
    cut = int(trim * len(updates))
    return _elementwise(
        updates, lambda numbers: np.sort(numbers, axis=0)[cut : len(numbers) - cut].mean(axis=0, dtype="f8")
    )


def _elementwise(updates: SiteUpdates, rule: Callable[[Array], Array]) -> dict[str, Array]:
    """A rule that sees all sites at once: one tensor of every site is in memory at a time."""
    sites = sorted(updates)
    merged: dict[str, Array] = {}
    for name in updates[sites[0]]:
        stack = np.stack([updates[site][name] for site in sites])
        rows = stack.reshape(len(sites), -1)
        width = max(_BLOCK // len(sites), 1)
        blocks = [rule(rows[:, start : start + width]) for start in range(0, rows.shape[1], width)]
        merged[name] = np.concatenate(blocks).reshape(stack.shape[1:]).astype(np.float32)
    return merged


def _flattened(arrays: Arrays) -> tuple[NDArray[np.float64], dict[str, tuple[int, ...]]]:
    """All numbers of a share one after another, and the shapes that they had."""
    doubles = {name: arrays[name].astype(np.float64) for name in arrays}
    return np.concatenate([array.ravel() for array in doubles.values()]), {n: a.shape for n, a in doubles.items()}


def _unflattened(row: NDArray[np.float64], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float64]]:
    """The same numbers in their shapes again."""
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    return {n: values.reshape(shapes[n]) for n, values in zip(shapes, np.split(row, ends[:-1]), strict=True)}


class _ClippedUpdates(Mapping[str, Arrays]):
    """The shares, those that pull too far brought closer to the base."""

    def __init__(self, base: Arrays, updates: SiteUpdates, factors: Mapping[str, norm_limit.UpdateNorm]) -> None:
        self.base, self.shares, self.factors = base, updates, factors

    def __getitem__(self, site: str) -> Arrays:
        update = self.shares[site]
        return norm_limit.ClippedUpdate(self.base, update, self.factors[site]) if site in self.factors else update

    def __iter__(self) -> Iterator[str]:
        return iter(self.shares)

    def __len__(self) -> int:
        return len(self.shares)
