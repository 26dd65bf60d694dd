"""Images that are almost the same: saved again, resized, a little brighter.

A 64-bit difference hash finds candidates, the pixels confirm them: by hash alone, small or dark images are all alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedhelp_edge.data import groups

DISTANCE = 2  # bits
DIFFERENCE = 4.0  # mean difference of two pixels out of 255, brightness apart
_BANDS = (22, 21, 21)  # two hashes that differ in two bits agree in one of three bands
_CROWD = 128  # hashes compared with each other at a time, where many agree in a band
_SHARED = 16  # of them again among the next ones, so that copies hang together over many crowds
_THUMB = 16  # side of the grey thumbnails that are compared before the pixels
_MEAN = (1 / 3, 1 / 3, 1 / 3, 0)


class Rows(Protocol):
    """Images that are taken one by one."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> NDArray[np.uint8]: ...


def first_alike(pixels: Rows) -> list[int]:
    """For each image the place of the first one that it is almost the same as, itself where there is none.

    What is almost the same as a third image belongs together too, so that a burst of pictures is one group.
    """
    hashes, thumbs = np.zeros(len(pixels), np.uint64), np.zeros((len(pixels), _THUMB**2), np.int16)
    for i in range(len(pixels)):
        hashes[i], thumbs[i] = _look(pixels[i])
    found = groups.Union(len(pixels))
    for early, late in _candidates(hashes, thumbs):
        if found.first(early) != found.first(late) and _same(pixels[early], pixels[late]):
            found.unite(early, late)
    return [found.first(i) for i in range(len(pixels))]


def _look(image: NDArray[np.uint8]) -> tuple[int, NDArray[np.int16]]:
    """Where brightness falls from left to right, on a grid of 8 x 8; and a thumbnail without its brightness."""
    grey = Image.fromarray(image[:, :, 0]) if image.shape[2] == 1 else Image.fromarray(image).convert("L", _MEAN)
    steps = np.asarray(grey.resize((9, 8), Image.Resampling.BILINEAR), np.int16)
    thumb = np.asarray(grey.resize((_THUMB, _THUMB), Image.Resampling.BOX), np.int16).ravel()
    bits = int.from_bytes(np.packbits(steps[:, 1:] < steps[:, :-1]).tobytes(), "big")
    return bits, thumb - round(float(thumb.mean()))


def _same(one: NDArray[np.uint8], two: NDArray[np.uint8]) -> bool:
    difference = one.astype(np.float32) - two
    return float(np.abs(difference - difference.mean(axis=(0, 1))).mean()) <= DIFFERENCE


def _candidates(hashes: NDArray[np.uint64], thumbs: NDArray[np.int16]) -> Iterator[tuple[int, int]]:
    """Pairs whose hashes and thumbnails are close, earlier first. Only hashes that agree in a band are compared."""
    shift = 0
    for width in _BANDS:
        band = (hashes >> np.uint64(shift)) & np.uint64((1 << width) - 1)
        shift += width
        crowds: dict[int, list[int]] = defaultdict(list)
        for i in np.lexsort((hashes, band)):
            crowds[int(band[i])].append(int(i))
        for crowd in crowds.values():
            for start in range(0, max(len(crowd) - _SHARED, 1), _CROWD - _SHARED):
                yield from _close(hashes, thumbs, np.sort(crowd[start : start + _CROWD]))


def _close(
    hashes: NDArray[np.uint64], thumbs: NDArray[np.int16], crowd: NDArray[np.int64]
) -> Iterator[tuple[int, int]]:
    """Pairs in a crowd. A thumbnail's cells are means, which differ by no more than the pixels do, but for rounding."""
    if len(crowd) < 2:
        return
    bits = np.unpackbits((hashes[crowd][:, None] ^ hashes[crowd]).view(np.uint8).reshape(len(crowd), -1, 8), axis=2)
    early, late = np.nonzero(np.triu(bits.sum(axis=2) <= DISTANCE, 1))
    apart = np.abs(thumbs[crowd[early]] - thumbs[crowd[late]]).mean(axis=1)
    near = apart <= DIFFERENCE + 2
    yield from zip(crowd[early[near]].tolist(), crowd[late[near]].tolist(), strict=True)
