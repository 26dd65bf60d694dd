"""Images that are almost the same: saved again, resized, a little brighter.

A 64-bit difference hash finds candidates, the pixels confirm them: by hash alone, small or dark images are all alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedhelp_edge.data.images import Pixels

DISTANCE = 2  # bits
DIFFERENCE = 4.0  # mean difference of two pixels out of 255, brightness apart
_BANDS = (22, 21, 21)  # two hashes that differ in two bits agree in one of three bands
_CROWD = 256  # hashes compared with each other at a time, where many agree in a band


def pairs(pixels: Pixels | NDArray[np.uint8], parts: Sequence[str]) -> list[tuple[int, int]]:
    """For each image that is almost the same as an earlier one, that one; one of another part first."""
    hashes = np.asarray([_hash(pixels[i]) for i in range(len(pixels))], np.uint64)
    found: dict[int, int] = {}
    for early, late in _candidates(hashes):
        known = found.get(late)
        better = known is None or (parts[known] == parts[late] != parts[early])
        if better and _same(pixels[early], pixels[late]):
            found[late] = early
    return sorted((early, late) for late, early in found.items())


def _hash(image: NDArray[np.uint8]) -> int:
    """Where brightness falls from left to right, on a grid of 8 x 8."""
    grey = np.asarray(Image.fromarray(_grey(image)).resize((9, 8), Image.Resampling.BILINEAR), np.int16)
    return int.from_bytes(np.packbits(grey[:, 1:] < grey[:, :-1]).tobytes(), "big")


def _grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image[:, :, 0] if image.shape[2] == 1 else image.mean(axis=2).astype(np.uint8)


def _same(one: NDArray[np.uint8], two: NDArray[np.uint8]) -> bool:
    difference = one.astype(np.float32) - two
    return float(np.abs(difference - difference.mean(axis=(0, 1))).mean()) <= DIFFERENCE


def _candidates(hashes: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Pairs whose hashes are close, earlier first. Only hashes that agree in a band are compared."""
    shift = 0
    seen: set[tuple[int, int]] = set()
    for width in _BANDS:
        band = (hashes >> np.uint64(shift)) & np.uint64((1 << width) - 1)
        shift += width
        crowds: dict[int, list[int]] = defaultdict(list)
        for i in np.lexsort((hashes, band)):
            crowds[int(band[i])].append(int(i))
        for crowd in crowds.values():
            for start in range(0, len(crowd), _CROWD):
                yield from _close(hashes, np.sort(crowd[start : start + _CROWD]), seen)


def _close(
    hashes: NDArray[np.uint64], crowd: NDArray[np.int64], seen: set[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    if len(crowd) < 2:
        return
    bits = np.unpackbits((hashes[crowd][:, None] ^ hashes[crowd]).view(np.uint8).reshape(len(crowd), -1, 8), axis=2)
    for early, late in np.argwhere(np.triu(bits.sum(axis=2) <= DISTANCE, 1)):
        pair = int(crowd[early]), int(crowd[late])
        if pair not in seen:
            seen.add(pair)
            yield pair
