"""Augment training batches at random against overfitting."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def augment(
    batch: NDArray[np.uint8],
    draw: np.random.Generator,
    rank_slice: slice = slice(None),
    whole_batch: int | None = None,
    *,
    mirror: bool = True,
) -> NDArray[np.uint8]:
    """Mirror each image left to right with probability 1/2 and shift it by up to 1/8 of its side, edges reflected.

    All slices of a volume move alike.

    If `batch` is the slice `rank_slice` of a batch of `whole_batch` images, it gets the random draws of that part. So
    processes that train together augment as one process does.
    """
    if batch.ndim == 5:  # slices become rows of records, which move as one
        slices = np.ascontiguousarray(np.moveaxis(batch, 1, 3))
        moved_slices = augment(slices.reshape(*slices.shape[:3], -1), draw, rank_slice, whole_batch, mirror=mirror)
        return np.ascontiguousarray(np.moveaxis(moved_slices.reshape(slices.shape), 3, 1))
    count, height, width, channels = batch.shape
    shape = (count if whole_batch is None else whole_batch,)
    flip = draw.integers(0, 2, size=shape)[rank_slice]
    down = draw.integers(-(height // 8), height // 8 + 1, size=shape)[rank_slice]
    right = draw.integers(-(width // 8), width // 8 + 1, size=shape)[rank_slice]
    rows = _reflect(np.arange(height) + down[:, None], height)
    columns = _reflect(np.arange(width) + right[:, None], width)
    if mirror:
        columns = np.where(flip[:, None] == 1, columns[:, ::-1], columns)
    position = (np.arange(count)[:, None] * height + rows)[:, :, None] * width + columns[:, None, :]
    pixels = np.ascontiguousarray(batch).view(f"V{channels}").reshape(-1)
    moved: NDArray[np.uint8] = pixels.take(position).view(np.uint8).reshape(batch.shape)
    return moved


def _reflect(position: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Reflect positions outside 0 to size - 1 at the edges, without repeating the edge."""
    return np.asarray((size - 1) - np.abs((size - 1) - np.abs(position)))
