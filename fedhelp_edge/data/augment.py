"""Augment training batches at random against overfitting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_KNOTS = 5  # of the grid by which an image is bent, along each side
_MIDDLE = np.float32(128)


@dataclass(frozen=True)
class Augmentation:
    """What augmentation does beyond shifts."""

    mirror: bool = True
    elastic: float = 0.0  # part of a side by which an image is bent at most
    intensity: float = 0.0  # part by which contrast and brightness vary at most


PLAIN = Augmentation()


def augment(
    batch: NDArray[np.uint8],
    draw: np.random.Generator,
    rank_slice: slice = slice(None),
    whole_batch: int | None = None,
    augmentation: Augmentation = PLAIN,
) -> NDArray[np.uint8]:
    """Mirror each image left to right with probability 1/2 and shift it by up to 1/8 of its side, edges reflected.

    It may be bent too. All slices of a volume move alike. Intensity is for `vary`: a record may hold more than pixels.

    If `batch` is the slice `rank_slice` of a batch of `whole_batch` images, it gets the random draws of that part. So
    processes that train together augment as one process does.
    """
    if batch.ndim == 5:  # slices become rows of records, which move as one
        slices = np.ascontiguousarray(np.moveaxis(batch, 1, 3))
        moved_slices = augment(slices.reshape(*slices.shape[:3], -1), draw, rank_slice, whole_batch, augmentation)
        return np.ascontiguousarray(np.moveaxis(moved_slices.reshape(slices.shape), 3, 1))
    count, height, width, channels = batch.shape
    shape = (count if whole_batch is None else whole_batch,)
    flip = draw.integers(0, 2, size=shape)[rank_slice]
    down = draw.integers(-(height // 8), height // 8 + 1, size=shape)[rank_slice]
    right = draw.integers(-(width // 8), width // 8 + 1, size=shape)[rank_slice]
    rows = _reflect(np.arange(height) + down[:, None], height)
    columns = _reflect(np.arange(width) + right[:, None], width)
    if augmentation.mirror:
        columns = np.where(flip[:, None] == 1, columns[:, ::-1], columns)
    rows, columns = rows[:, :, None], columns[:, None, :]
    if augmentation.elastic:
        bends = draw.uniform(-augmentation.elastic, augmentation.elastic, (*shape, 2, _KNOTS, _KNOTS))[rank_slice]
        by = [_between(bends[:, axis], height, width) for axis in range(2)]
        rows = _reflect(rows + np.rint(by[0] * height).astype(np.int64), height)
        columns = _reflect(columns + np.rint(by[1] * width).astype(np.int64), width)
    position = (np.arange(count)[:, None, None] * height + rows) * width + columns
    pixels = np.ascontiguousarray(batch).view(f"V{channels}").reshape(-1)
    moved: NDArray[np.uint8] = pixels.take(position).view(np.uint8).reshape(batch.shape)
    return moved


def vary(
    images: NDArray[np.uint8], draw: np.random.Generator, rank_slice: slice, whole_batch: int, intensity: float
) -> NDArray[np.uint8]:
    """Vary contrast and brightness of each image by up to this part of theirs."""
    gain, shift = draw.uniform(-intensity, intensity, (2, whole_batch))[:, rank_slice].astype(np.float32)
    sides = (-1, *(1,) * (images.ndim - 1))
    varied = (images - _MIDDLE) * (1 + gain.reshape(sides)) + _MIDDLE * (1 + shift.reshape(sides))
    return np.asarray(np.rint(varied).clip(0, 255).astype(np.uint8))


def _between(knots: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Numbers at the knots of a grid (N x knots x knots), linearly in between for each pixel."""
    weights = [
        np.maximum(0, 1 - np.abs(np.linspace(0, _KNOTS - 1, side)[:, None] - np.arange(_KNOTS)))
        for side in (height, width)
    ]
    return np.asarray(weights[0] @ knots @ weights[1].T)


def _reflect(position: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Reflect positions outside 0 to size - 1 at the edges, without repeating the edge."""
    return np.asarray((size - 1) - np.abs((size - 1) - np.abs(position)))
