"""Rules that make one model out of every site's. Sites come in the order of their ids, so the bits do not depend on who
was first; a share is read tensor by tensor when its turn comes, and `shares[site]` may open a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.merge import norm_limit
from fedhelp_edge.merge.norm_limit import Arrays
from fedhelp_edge.plan import Merge
from fedhelp_edge.update import Array

Shares = Mapping[str, Arrays]

_COLUMNS = 1 << 20  # numbers that a rule over all sites looks at together


def merge(
    base: Arrays,
    shares: Shares,
    examples: Mapping[str, int],
    how: Merge,
    pulls: Mapping[str, norm_limit.Pull] | None = None,
) -> dict[str, Array]:
    """What the round makes of its shares. `pulls` where they are known already."""
    sites = sorted(shares)
    if how.clip == "auto":
        if pulls is None:
            pulls = {site: norm_limit.pull(base, shares[site]) for site in sites}
        shares = _Clipped(base, shares, norm_limit.factors({site: pulls[site] for site in sites}))
    if how.rule == "mean":
        return mean(shares, parts({site: examples[site] for site in sites}, how))
    if how.rule == "median":
        return median(shares)
    return trimmed(shares, how.trim)


def weighs(how: Merge) -> bool:
    """Whether a site's number of images decides how much its share weighs."""
    return how.rule == "mean" and how.weight != "uniform"


def parts(examples: Mapping[str, int], how: Merge) -> dict[str, float]:
    """Each site's part of the mean, in the order of their ids; nothing where the rule weighs nobody."""
    sites = sorted(examples)
    if not sites or how.rule != "mean":
        return {}
    return dict(zip(sites, weights([examples[site] for site in sites], how.weight, how.cap), strict=True))


def weights(examples: Sequence[int], kind: str = "examples", cap: float = 1.0) -> list[float]:
    """Each site's part, summing to 1: by examples or all alike, none above `cap` where the others can make it up."""
    parts = np.array(examples if kind != "uniform" else [1] * len(examples), np.float64)
    parts /= parts.sum()
    cap = max(cap, 1 / len(parts))
    for _ in parts:  # what is cut from the largest goes to the others, which may then be too large in turn
        over, under = parts > cap, parts < cap
        room = parts[under].sum()
        if not over.any() or not room:
            break
        parts[under] *= 1 + (parts[over] - cap).sum() / room
        parts[over] = cap
    return [float(part) for part in parts]


def mean(shares: Shares, parts: Mapping[str, float]) -> dict[str, Array]:
    """The weighted mean, summed in float64; one share is read at a time, into one row of all its numbers."""
    first, *others = sorted(shares)
    row, shapes = _row(shares[first])
    total, places = row * parts[first], _named(row, shapes)
    for site in others:
        arrays = shares[site]
        for name, place in places.items():
            place[...] = arrays[name]
        row *= parts[site]
        total += row
    return {name: summed.astype(np.float32) for name, summed in _named(total, shapes).items()}


def median(shares: Shares) -> dict[str, Array]:
    """Number by number the median of all sites."""
    return _across(shares, lambda numbers: np.median(numbers, axis=0))


def trimmed(shares: Shares, trim: float) -> dict[str, Array]:
    """Number by number the mean without the lowest and the highest `trim` of the sites."""
    cut = int(trim * len(shares))
    return _across(shares, lambda numbers: np.sort(numbers, axis=0)[cut : len(numbers) - cut].mean(axis=0, dtype="f8"))


def _across(shares: Shares, rule: Callable[[Array], Array]) -> dict[str, Array]:
    """A rule that sees all sites at once: one tensor of every site is in memory at a time."""
    sites = sorted(shares)
    merged: dict[str, Array] = {}
    for name in shares[sites[0]]:
        stack = np.stack([shares[site][name] for site in sites])
        rows = stack.reshape(len(sites), -1)
        width = max(_COLUMNS // len(sites), 1)
        blocks = [rule(rows[:, at : at + width]) for at in range(0, rows.shape[1], width)]
        merged[name] = np.concatenate(blocks).reshape(stack.shape[1:]).astype(np.float32)
    return merged


def _row(arrays: Arrays) -> tuple[NDArray[np.float64], dict[str, tuple[int, ...]]]:
    """All numbers of a share one after another, and the shapes that they had."""
    doubles = {name: arrays[name].astype(np.float64) for name in arrays}
    return np.concatenate([array.ravel() for array in doubles.values()]), {n: a.shape for n, a in doubles.items()}


def _named(row: NDArray[np.float64], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float64]]:
    """The same numbers in their shapes again."""
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    return {n: part.reshape(shapes[n]) for n, part in zip(shapes, np.split(row, ends[:-1]), strict=True)}


class _Clipped(Mapping[str, Arrays]):
    """The shares, those that pull too far brought closer to the base."""

    def __init__(self, base: Arrays, shares: Shares, factors: Mapping[str, norm_limit.Pull]) -> None:
        self.base, self.shares, self.factors = base, shares, factors

    def __getitem__(self, site: str) -> Arrays:
        share = self.shares[site]
        return norm_limit.Closer(self.base, share, self.factors[site]) if site in self.factors else share

    def __iter__(self) -> Iterator[str]:
        return iter(self.shares)

    def __len__(self) -> int:
        return len(self.shares)
