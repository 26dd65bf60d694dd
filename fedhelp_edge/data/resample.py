"""Bring images and volumes to other sizes, as Pillow does: linear, with a wider window where pixels become fewer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def weights(old: int, new: int) -> NDArray[np.float32]:
    """How much each of the old places counts at each of the new ones (new x old), along one side."""
    step = old / new
    centres = (np.arange(new)[:, None] + 0.5) * step - 0.5
    parts = np.clip(1 - np.abs(np.arange(old) - centres) / max(1.0, step), 0, None)
    return np.asarray(parts / parts.sum(1, keepdims=True), np.float32)


def nearest(old: int, new: int) -> NDArray[np.int64]:
    """The old place that is nearest to each new one, along one side."""
    return np.asarray((np.arange(new) + 0.5) * old / new, np.int64)


def resize_maps(maps: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """Maps of numbers (... x rows x columns) at another size."""
    down, across = (weights(old, new) for old, new in zip(maps.shape[-2:], size, strict=True))
    return np.asarray(down @ maps.astype(np.float32) @ across.T)


def to_sides(volume: NDArray[np.uint8], sides: tuple[int, ...]) -> NDArray[np.uint8]:
    """A volume (slices x rows x columns) with other sides, slice by slice."""
    if volume.shape == sides:
        return volume
    through, down, across = (weights(old, new) for old, new in zip(volume.shape, sides, strict=True))
    resized = np.empty(sides, np.uint8)
    for index, row in enumerate(through):
        used = np.flatnonzero(row)
        plane = np.tensordot(row[used], volume[used].astype(np.float32), 1)
        resized[index] = np.clip(down @ plane @ across.T + 0.5, 0, 255)
    return resized


def to_sides_nearest(labels: NDArray[Any], sides: tuple[int, ...]) -> NDArray[Any]:
    """A volume of classes with other sides: each place takes the class of the nearest one."""
    if labels.shape == sides:
        return labels
    through, down, across = (nearest(old, new) for old, new in zip(labels.shape, sides, strict=True))
    return labels[through[:, None, None], down[:, None], across]
