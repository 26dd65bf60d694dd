"""A volume's probabilities, block by block: in memory are those of the slices that are not finished yet.

Blocks overlap. Where they do, each counts the more, the nearer its middle a pixel lies: so no seam shows. Blocks begin
at multiples of the net's coarsest grid. So a net whose windows end within its block gives the numbers that it would
give for the whole volume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data import volume
from fedhelp_edge.plan import HALVINGS

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # a block (sides x channels) -> outputs x sides


def blended(
    run: Run, pixels: NDArray[np.uint8], block: tuple[int, ...], outputs: int
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield the probabilities (outputs x slices x rows x columns) of finished slices, and which they are."""
    sides = pixels.shape[:3]
    weights = _weights(block)
    sums = np.zeros((outputs + 1, block[0], *sides[1:]), np.float32)  # the last one is of the weights
    first = 0
    places = volume.blocks("", sides, block, 2**HALVINGS)
    for start, group in groupby(places, key=lambda place: place.start[0]):
        if start > first:
            yield slice(first, start), _means(sums[:, : start - first])
            sums = np.concatenate([sums[:, start - first :], np.zeros_like(sums[:, : start - first])], 1)
            first = start
        for place in group:
            probabilities, covered = run(volume.cut(pixels, place, block)), place.covered(block)
            rows, columns = place.inside(block)[1:]
            for output in range(outputs):
                sums[output, covered[0], rows, columns] += probabilities[output][covered] * weights[covered]
            sums[outputs, covered[0], rows, columns] += weights[covered]
    yield slice(first, sides[0]), _means(sums[:, : sides[0] - first])


def _means(sums: NDArray[np.float32]) -> NDArray[np.float32]:
    means: NDArray[np.float32] = sums[:-1] / sums[-1]
    return means


def _weights(block: tuple[int, ...]) -> NDArray[np.float32]:
    """How much each pixel of a block counts: from 1 at a side's middle down to little at its ends."""
    ramps = [np.minimum(np.arange(1, side + 1), np.arange(side, 0, -1)) / (side / 2) for side in block]
    weights: NDArray[Any] = reduce(np.multiply.outer, ramps)
    return weights.astype(np.float32)
