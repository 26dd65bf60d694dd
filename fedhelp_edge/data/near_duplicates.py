"""Find near-duplicates: images saved again, resized, a little brighter.

A 64-bit difference hash finds candidates and the pixels confirm them: small or dark images have alike hashes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedhelp_edge.data import groups

MAX_HASH_DISTANCE = 2  # bits
MAX_DIFFERENCE = 4.0  # mean difference of two pixels (of 255) after removing the mean brightness
_BANDS = (22, 21, 21)  # bits; two hashes that differ in two bits agree in one of three bands
_BUCKET_SIZE = 128  # hashes compared with each other at a time
_BUCKET_OVERLAP = 16  # hashes shared by neighbouring buckets, so that copies connect across buckets
_THUMBNAIL_SIDE = 16  # side of the grey thumbnails that are compared before the pixels
_GREY_WEIGHTS = (1 / 3, 1 / 3, 1 / 3, 0)


class ImageSequence(Protocol):
    """Images that are read one by one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]: ...


def first_alike(pixels: ImageSequence) -> list[int]:
    """Return, for each image, the index of the first image of its group of near-duplicates.

    Groups are transitive: a burst of pictures is one group.
    """
    hashes, thumbnails = np.zeros(len(pixels), np.uint64), np.zeros((len(pixels), _THUMBNAIL_SIDE**2), np.int16)
    for i in range(len(pixels)):
        hashes[i], thumbnails[i] = _fingerprint(pixels[i])
    sets = groups.DisjointSets(len(pixels))
    for early, late in _candidates(hashes, thumbnails):
        if sets.first(early) != sets.first(late) and _is_near_duplicate(pixels[early], pixels[late]):
            sets.unite(early, late)
    return [sets.first(i) for i in range(len(pixels))]


def _fingerprint(image: NDArray[np.uint8]) -> tuple[int, NDArray[np.int16]]:
    """The difference hash (where brightness falls from left to right, on 8 x 8 fields); a thumbnail minus its mean."""
    grey = (
        Image.fromarray(image[:, :, 0]) if image.shape[2] == 1 else Image.fromarray(image).convert("L", _GREY_WEIGHTS)
    )
    grid = np.asarray(grey.resize((9, 8), Image.Resampling.BILINEAR), np.int16)
    thumbnail = np.asarray(grey.resize((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.BOX), np.int16).ravel()
    bits = int.from_bytes(np.packbits(grid[:, 1:] < grid[:, :-1]).tobytes(), "big")
    return bits, thumbnail - round(float(thumbnail.mean()))


def _is_near_duplicate(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> bool:
    difference = first.astype(np.float32) - second
    return float(np.abs(difference - difference.mean(axis=(0, 1))).mean()) <= MAX_DIFFERENCE


def _candidates(hashes: NDArray[np.uint64], thumbnails: NDArray[np.int16]) -> Iterator[tuple[int, int]]:
    """Yield pairs with close hashes and thumbnails, the earlier first. Only hashes that share a band are compared."""
    shift = 0
    for width in _BANDS:
        band = (hashes >> np.uint64(shift)) & np.uint64((1 << width) - 1)
        shift += width
        buckets: dict[int, list[int]] = defaultdict(list)
        for i in np.lexsort((hashes, band)):
            buckets[int(band[i])].append(int(i))
        for bucket in buckets.values():
            for start in range(0, max(len(bucket) - _BUCKET_OVERLAP, 1), _BUCKET_SIZE - _BUCKET_OVERLAP):
                yield from _close_pairs(hashes, thumbnails, np.sort(bucket[start : start + _BUCKET_SIZE]))


def _close_pairs(
    hashes: NDArray[np.uint64], thumbnails: NDArray[np.int16], bucket: NDArray[np.int64]
) -> Iterator[tuple[int, int]]:
    """Yield close pairs of a bucket. Thumbnail cells are means: but for rounding they differ less than the pixels."""
    if len(bucket) < 2:
        return
    bits = np.unpackbits((hashes[bucket][:, None] ^ hashes[bucket]).view(np.uint8).reshape(len(bucket), -1, 8), axis=2)
    first, second = np.nonzero(np.triu(bits.sum(axis=2) <= MAX_HASH_DISTANCE, 1))
    differences = np.abs(thumbnails[bucket[first]] - thumbnails[bucket[second]]).mean(axis=1)
    is_near = differences <= MAX_DIFFERENCE + 2
    yield from zip(bucket[first[is_near]].tolist(), bucket[second[is_near]].tolist(), strict=True)
