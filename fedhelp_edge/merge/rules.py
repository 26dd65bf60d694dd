"""Rules that make one array out of every site's, tensor by tensor. Sites come in the order of their ids, so the bits do
not depend on who was first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fedhelp_edge.share import Array


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


def mean(shares: Mapping[str, Mapping[str, Array]], parts: Mapping[str, float]) -> dict[str, Array]:
    """The weighted mean, summed in float64; one tensor of one site is in memory at a time."""
    sites = sorted(shares)
    merged: dict[str, Array] = {}
    for name in shares[sites[0]]:
        total = np.zeros(shares[sites[0]][name].shape, np.float64)
        for site in sites:
            total += parts[site] * shares[site][name].astype(np.float64)
        merged[name] = total.astype(np.float32)
    return merged
