"""Describe the appearance of an image by a few dozen numbers of its pixels, to detect images of another kind.

A net drops what does not separate its classes, so its embeddings of another modality may lie among those of its own.
These numbers know nothing of the classes. See docs/spec/bundle.md, 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

MIN_SIDE = 12  # pixels; smaller images have no appearance
_MAX_SIDE = 32  # pixels; larger images are reduced by block means
_GRID = 7  # fields on a side of a layout
_STEP = 1 / 255
_QUANTILES = (0.02, 0.25, 0.5, 0.75, 0.98)


def texture(pixels: NDArray[np.uint8]) -> Floats:
    """Contrast and colour of the channels, edges at three scales, quantiles of the brightness: N x 18, of colour 28."""
    channels = _downscale(pixels)
    grey = channels.mean(0)
    numbers = [*map(_spread, channels), *_colour(channels, grey), *_edges(grey)]
    return np.stack([*numbers, *_quantiles(grey.reshape(len(grey), -1))], 1)


def layout(pixels: NDArray[np.uint8]) -> Floats:
    """Brightness in 7 x 7 fields, normalised for mean and contrast: N x 49."""
    fields = _block_means(_downscale(pixels).mean(0), _GRID).reshape(len(pixels), -1)
    fields = fields - fields.mean(1, keepdims=True)
    return np.asarray(fields / (fields.std(1, keepdims=True) + 0.05))


KINDS: Mapping[str, Callable[[NDArray[np.uint8]], Floats]] = {"texture": texture, "layout": layout}
SIZES = {"texture": {1: 18, 3: 28}, "layout": {1: 49, 3: 49}}  # length of each description, by channels


def _quantiles(values: Floats) -> Iterator[Floats]:
    """Each row's quantiles, equal to those of `np.quantile`, which imports numpy.ma: 7 ms of a first answer."""
    ordered = np.sort(values, axis=1).astype(np.float64)
    for quantile in _QUANTILES:
        below, part = divmod(quantile * (values.shape[1] - 1), 1)
        low, high = ordered[:, int(below)], ordered[:, int(below) + 1]
        yield low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part)


def _colour(channels: Floats, grey: Floats) -> Iterator[Floats]:
    """Difference of red and blue from green: mean, spread, size, and correlation with brightness."""
    bright = grey - _mean(grey)[:, None, None]
    for channel in (channels[0], channels[2]) if len(channels) == 3 else ():
        gap = channel - channels[1]
        mean, spread = _mean(gap), _spread(gap)
        yield mean
        yield np.log(_STEP + spread)
        yield np.log(_STEP + _mean(np.abs(gap)))
        yield _mean((gap - mean[:, None, None]) * bright) / (spread * _spread(grey) + 1e-3)


def _edges(grey: Floats) -> Iterator[Floats]:
    """At this size, half and a quarter: mean steps across and down, roughness and sharpness of those across."""
    for _ in range(3):
        across, down = np.abs(np.diff(grey, axis=2)), np.abs(np.diff(grey, axis=1))
        rough, sharp = _mean(np.abs(np.diff(across, axis=2))), np.sqrt(_mean(across**2))
        yield from (np.log(_STEP + numbers) for numbers in (_mean(across), _mean(down), rough, sharp))
        grey = _block_means(grey, grey.shape[1] // 2)


def _mean(x: Floats) -> Floats:
    return np.asarray(x.reshape(len(x), -1).mean(1))


def _spread(x: Floats) -> Floats:
    return np.asarray(x.reshape(len(x), -1).std(1))


def _downscale(pixels: NDArray[np.uint8]) -> Floats:
    """Channels x N x side x side, from 0 to 1, at most 32 pixels a side."""
    side = min(pixels.shape[1], _MAX_SIDE)
    channels = [
        _block_means(np.ascontiguousarray(pixels[..., channel], np.float32), side) for channel in range(pixels.shape[3])
    ]
    return np.asarray(np.stack(channels) / np.float32(255))


def _block_means(x: Floats, side: int) -> Floats:
    """Means of side x side blocks of N x S x S, as equal as whole pixels allow."""
    count, size = x.shape[:2]
    if size % side == 0:
        width = size // side
        return np.asarray(x.reshape(count, side, width, side, width).mean((2, 4))) if width > 1 else x
    edges = np.linspace(0, size, side + 1).astype(np.int64)
    sums = np.add.reduceat(np.add.reduceat(x, edges[:-1], 1), edges[:-1], 2)
    return np.asarray(sums / np.multiply.outer(np.diff(edges), np.diff(edges)))
