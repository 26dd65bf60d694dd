"""A limit to the norm of each update's change: against an update that is scaled up to outweigh all others.

The limit is a multiple of the round's median. Weights, running statistics and control variates have one each. Honest
statistics move far in the first rounds, and a large change of the others could hide behind them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fedhelp_edge.update import Array, Role, RoleOf, role_by_name

LIMIT_FACTOR = (
    5.0  # times the median norm; honest sites of very different sizes stay below it (docs/decisions/merging.md)
)
MIN_UPDATES = 3  # of two updates neither is the outlier

Arrays = Mapping[str, Array]
UpdateNorm = Mapping[str, float]  # by kind of tensor: a norm, or a factor

_KIND_OF_ROLE: Mapping[Role, str] = {
    "weight": "weights", "norm": "weights", "stat": "statistics", "control": "control variates",
}  # fmt: skip


def update_norm(base: Arrays, update: Arrays, role_of: RoleOf = role_by_name) -> dict[str, float]:
    """The Euclidean norm of an update's change from the base, by kind of tensor.

    Tensors of other roles have no norm, and neither have those that the base lacks. Few methods have control variates.
    """
    squares: dict[str, list[float]] = {"weights": [], "statistics": []}
    for name in update:
        if (kind := _KIND_OF_ROLE.get(role_of(name))) and name in base:
            change = update[name].astype(np.float64) - base[name]
            squares.setdefault(kind, []).append(float(np.square(change).sum()))
    return {kind: math.sqrt(math.fsum(values)) for kind, values in squares.items()}


def scale_factors(norms: Mapping[str, UpdateNorm]) -> dict[str, dict[str, float]]:
    """The factors that bring each update above the limit down to it, by site and kind of tensor."""
    if len(norms) < MIN_UPDATES:
        return {}
    kinds = next(iter(norms.values()))  # all updates have the same tensors
    limits = {kind: LIMIT_FACTOR * float(np.median([norm[kind] for norm in norms.values()])) for kind in kinds}
    return {
        site: {kind: min(1.0, limits[kind] / norm[kind]) if norm[kind] else 1.0 for kind in limits}
        for site, norm in norms.items()
        if any(norm[kind] > limit for kind, limit in limits.items())
    }


@dataclass(frozen=True)
class ClippedUpdate(Mapping[str, Array]):
    """An update scaled down towards the base, tensor by tensor as it is read."""

    base: Arrays
    update: Arrays
    factors: UpdateNorm
    role_of: RoleOf = role_by_name

    def __getitem__(self, name: str) -> Array:
        factor = self.factors.get(_KIND_OF_ROLE.get(self.role_of(name), ""), 1.0)
        if factor == 1 or name not in self.base:
            return self.update[name]
        base = self.base[name].astype(np.float64)
        return (base + factor * (self.update[name] - base)).astype(np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self.update)

    def __len__(self) -> int:
        return len(self.update)
