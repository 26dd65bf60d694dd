"""How far one share may pull: what it changes is shortened where it is much longer than the round's median.

Weights and running statistics are measured apart: honest statistics move far in the first rounds, and a pull on the
weights could hide behind them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fedhelp_edge.update import Array

TIMES = 5.0  # the median length; honest sites of very unlike sizes stay below it (docs/decisions/merging.md)
FEWEST = 3  # of two shares neither is the odd one

Arrays = Mapping[str, Array]
Pull = Mapping[str, float]  # of "weights" and of "statistics": a length, or a factor


def part(name: str) -> str:
    return "statistics" if ".running_" in f".{name}" else "weights"


def pull(base: Arrays, share: Arrays) -> dict[str, float]:
    """The Euclidean lengths of what a share changes."""
    squares: dict[str, list[float]] = {"weights": [], "statistics": []}
    for name in share:
        change = share[name].astype(np.float64) - base[name]
        squares[part(name)].append(float(np.square(change).sum()))
    return {what: math.sqrt(math.fsum(found)) for what, found in squares.items()}


def factors(pulls: Mapping[str, Pull]) -> dict[str, dict[str, float]]:
    """By how much to shorten each share that pulls too far."""
    if len(pulls) < FEWEST:
        return {}
    limits = {
        what: TIMES * float(np.median([own[what] for own in pulls.values()])) for what in ("weights", "statistics")
    }
    return {
        site: {what: min(1.0, limits[what] / own[what]) if own[what] else 1.0 for what in limits}
        for site, own in pulls.items()
        if any(own[what] > limit for what, limit in limits.items())
    }


@dataclass(frozen=True)
class Closer(Mapping[str, Array]):
    """A share brought closer to the base, tensor by tensor as it is read."""

    base: Arrays
    share: Arrays
    factors: Pull

    def __getitem__(self, name: str) -> Array:
        base, factor = self.base[name].astype(np.float64), self.factors[part(name)]
        return self.share[name] if factor == 1 else (base + factor * (self.share[name] - base)).astype(np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self.share)

    def __len__(self) -> int:
        return len(self.share)
