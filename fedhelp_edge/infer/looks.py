"""What an image looks like, in a few dozen numbers of its pixels: what a small net does not see, it cannot miss.

A net that learned to tell two classes apart keeps what tells them apart and drops the rest, so that its features of
another modality may lie among those of its own. These numbers know nothing of the classes. docs/spec/bundle.md, 5
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST = 12  # pixels a side, below which an image has no looks
_MOST = 64  # pixels a side; larger images are brought to that by the means of blocks
_GRID = 7  # fields a side of a layout
_STEP = 1 / 255
_QUANTILES = (0.02, 0.25, 0.5, 0.75, 0.98)


def texture(pixels: NDArray[np.uint8]) -> Floats:
    """Contrast and colour of the channels, edges at three scales, quantiles of the brightness: N x 18, of colour 28."""
    x = _small(pixels)
    grey = x.mean(3)
    numbers = [x.std((1, 2)), *_colour(x, grey), *_edges(grey)]
    return np.concatenate([*numbers, np.quantile(grey.reshape(len(x), -1), _QUANTILES, 1).T], 1)


def layout(pixels: NDArray[np.uint8]) -> Floats:
    """Where it is bright and where dark, in 7 x 7 fields, whatever its brightness and contrast: N x 49."""
    fields = _blocks(_small(pixels).mean(3), _GRID).reshape(len(pixels), -1)
    fields -= fields.mean(1, keepdims=True)
    return np.asarray(fields / (fields.std(1, keepdims=True) + 0.05))


KINDS: Mapping[str, Callable[[NDArray[np.uint8]], Floats]] = {"texture": texture, "layout": layout}
SIZES = {"texture": {1: 18, 3: 28}, "layout": {1: 49, 3: 49}}  # how many numbers, by channels


def _colour(x: Floats, grey: Floats) -> list[Floats]:
    """How far red and blue lie from green: mean, spread, size, and whether it goes with the brightness."""
    numbers = []
    for channel in (0, 2) if x.shape[3] == 3 else ():
        gap = x[..., channel] - x[..., 1]
        away, bright = (values - values.mean((1, 2), keepdims=True) for values in (gap, grey))
        both = np.sqrt((away**2).mean((1, 2)) * (bright**2).mean((1, 2))) + 1e-3
        sizes = np.log(_STEP + np.stack([gap.std((1, 2)), np.abs(gap).mean((1, 2))], 1))
        numbers += [gap.mean((1, 2))[:, None], sizes, ((away * bright).mean((1, 2)) / both)[:, None]]
    return numbers


def _edges(grey: Floats) -> list[Floats]:
    """At this size, half and a quarter of it: mean steps across and down, how rough and how sharp those across are."""
    numbers = []
    for _ in range(3):
        across, down = np.abs(np.diff(grey, axis=2)), np.abs(np.diff(grey, axis=1))
        rough, sharp = np.abs(np.diff(across, axis=2)).mean((1, 2)), np.sqrt((across**2).mean((1, 2)))
        numbers.append(np.log(_STEP + np.stack([across.mean((1, 2)), down.mean((1, 2)), rough, sharp], 1)))
        grey = _blocks(grey, grey.shape[1] // 2)
    return numbers


def _small(pixels: NDArray[np.uint8]) -> Floats:
    """From 0 to 1, at most 64 pixels a side."""
    return np.asarray(_blocks(pixels, min(pixels.shape[1], _MOST)) / 255)


def _blocks(x: NDArray[np.generic], side: int) -> Floats:
    """Means of side x side blocks of N x S x S (x C), which are as equal as whole pixels allow."""
    edges = np.linspace(0, x.shape[1], side + 1).astype(np.int64)
    sums = np.add.reduceat(np.add.reduceat(x, edges[:-1], 1, dtype=np.float64), edges[:-1], 2)
    counts = np.multiply.outer(np.diff(edges), np.diff(edges)).reshape(side, side, *[1] * (x.ndim - 3))
    return np.asarray(sums / counts)
