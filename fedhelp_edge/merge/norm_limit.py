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

LIMIT_FACTOR = 5.0  # the median length; honest sites of very unlike sizes stay below it (docs/decisions/merging.md)
MIN_UPDATES = 3  # of two shares neither is the odd one

Arrays = Mapping[str, Array]
UpdateNorm = Mapping[str, float]  # of "weights" and of "statistics": a length, or a factor


def tensor_kind(name: str) -> str:
    return "statistics" if ".running_" in f".{name}" else "weights"


def update_norm(base: Arrays, update: Arrays) -> dict[str, float]:
    """The Euclidean lengths of what a share changes."""
    squares: dict[str, list[float]] = {"weights": [], "statistics": []}
    for name in update:
        change = update[name].astype(np.float64) - base[name]
        squares[tensor_kind(name)].append(float(np.square(change).sum()))
    return {kind: math.sqrt(math.fsum(values)) for kind, values in squares.items()}


def scale_factors(norms: Mapping[str, UpdateNorm]) -> dict[str, dict[str, float]]:
    """By how much to shorten each share that pulls too far."""
    if len(norms) < MIN_UPDATES:
        return {}
    limits = {
        kind: LIMIT_FACTOR * float(np.median([norm[kind] for norm in norms.values()]))
        for kind in ("weights", "statistics")
    }
    return {
        site: {kind: min(1.0, limits[kind] / norm[kind]) if norm[kind] else 1.0 for kind in limits}
        for site, norm in norms.items()
        if any(norm[kind] > limit for kind, limit in limits.items())
    }


@dataclass(frozen=True)
class ClippedUpdate(Mapping[str, Array]):
    """A share brought closer to the base, tensor by tensor as it is read."""

    base: Arrays
    share: Arrays
    factors: UpdateNorm

    def __getitem__(self, name: str) -> Array:
        base, factor = self.base[name].astype(np.float64), self.factors[tensor_kind(name)]
        return self.share[name] if factor == 1 else (base + factor * (self.share[name] - base)).astype(np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self.share)

    def __len__(self) -> int:
        return len(self.share)
