"""Which sites take part in a round, where not all do: a draw that the plan's seed and the round decide."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from fedhelp_edge.errors import UsageError


def check(participation: float) -> None:
    """Refuses a part of the sites that is none."""
    if not 0 < participation <= 1:
        raise UsageError(f"participation is above 0 and at most 1, not {participation:g}")


def draw(sites: Sequence[str], participation: float, fewest: int, seed: int, round_: int) -> frozenset[str]:
    """The sites of a round: this part of all, rounded, and never fewer than the method needs."""
    count = min(len(sites), max(fewest, round(participation * len(sites))))
    key = np.frombuffer(hashlib.sha256(f"{seed}/{round_}/participation".encode()).digest()[:16], np.uint64)
    order = np.random.Generator(np.random.Philox(key=key)).permutation(len(sites))
    return frozenset(sites[index] for index in order[:count])
