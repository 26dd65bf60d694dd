"""Where the voxels of a volume lie in the patient, whatever file they come from.

A volume of any order is turned to the patient's directions, as nearly as its own axes allow. Then slices go from the
feet to the head, rows from back to front, and columns from the left to the right. Oblique slices stay oblique.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import plan
from fedhelp_edge.data import budget
from fedhelp_edge.errors import ImageSizeError, MaskGridError, MaskSizeError, VolumeKindError

_LARGEST_TILT = 0.01  # cosine between two axes, which should be at right angles
_LARGEST_SHIFT = 0.1  # of a voxel, by which a mask may lie elsewhere than its image: headers are rounded
_LARGEST_STEP = 1e4  # mm between two voxels


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a volume lie."""

    shape: tuple[int, ...]  # in the file's order
    affine: NDArray[np.float64]  # from the file's indices to mm
    axes: tuple[int, ...]  # the patient's axis (0: to the right, 1: forward, 2: up) along each of the file's
    flips: tuple[bool, ...]  # whether it runs the other way

    @property
    def sides(self) -> tuple[int, ...]:
        """Slices, rows and columns."""
        return tuple(self.shape[axis] for axis in reversed(np.argsort(self.axes)))

    @property
    def spacing(self) -> tuple[float, ...]:
        """mm from slice to slice, row to row and column to column."""
        steps = np.sqrt((self.affine[:3, :3] ** 2).sum(0))
        return tuple(float(steps[axis]) for axis in reversed(np.argsort(self.axes)))

    def turned(self, values: NDArray[Any]) -> NDArray[Any]:
        """The file's array as slices, rows and columns."""
        return np.transpose(self._flipped(values), np.argsort(self.axes)[::-1])

    def back(self, values: NDArray[Any]) -> NDArray[Any]:
        """The inverse of `turned`."""
        return self._flipped(np.transpose(values, 2 - np.array(self.axes)))

    def _flipped(self, values: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(np.flip(values, np.flatnonzero(self.flips).tolist()))

    def corners(self) -> NDArray[np.float64]:
        """Where the outermost voxels lie, in mm: in the patient's order, whatever the file's is."""
        ends = np.array([*product((0, 1), repeat=3)])[:, list(self.axes)] ^ np.array(self.flips)
        return np.asarray(ends * (np.array(self.shape) - 1) @ self.affine[:3, :3].T + self.affine[:3, 3])

    def sides_at(self, image: plan.ImageSettings) -> tuple[int, ...]:
        """Slices, rows and columns at the plan's distances; raise `ImageSizeError` if they are too many."""
        pairs = zip(self.sides, self.spacing, image.spacing, strict=True)
        sides = tuple(max(1, round(side * step / new)) for side, step, new in pairs)
        if math.prod(sides) > budget.NPZ_VOLUME:
            raise ImageSizeError(f"at the plan's distances it would have {times(sides)} voxels")
        return sides

    def check_mask(self, mask: Grid) -> None:
        """Raise `MaskSizeError` or `MaskGridError` unless a mask lies where this image does."""
        if mask.sides != self.sides:
            raise MaskSizeError(f"its mask has {times(mask.sides)} voxels, and its image {times(self.sides)}")
        shift = float(np.abs(mask.corners() - self.corners()).max())
        if shift > _LARGEST_SHIFT * min(self.spacing):
            raise MaskGridError(f"its mask lies up to {shift:.1f} mm away from its image")


def of_affine(shape: tuple[int, ...], affine: NDArray[np.float64]) -> Grid:
    """The grid of a file's axes; raise `VolumeKindError` if they are not at right angles, or no axes."""
    steps = affine[:3, :3]
    with np.errstate(over="ignore"):
        lengths = np.sqrt((steps**2).sum(0))
    if not (np.isfinite(affine).all() and (lengths > 0).all() and (lengths < _LARGEST_STEP).all()):
        raise VolumeKindError("its header does not say how far its voxels lie apart")
    directions = steps / lengths
    if np.abs(directions.T @ directions - np.eye(3)).max() > _LARGEST_TILT:
        raise VolumeKindError(
            "its axes are not at right angles (gantry tilt)",
            remedy="export the volume after the scanner's or a viewer's correction of its tilt",
        )
    axes = max(permutations(range(3)), key=lambda axes: np.abs(directions[list(axes), range(3)]).sum())
    return Grid(shape, affine, axes, tuple(bool(directions[axes[along], along] < 0) for along in range(3)))


def plain(sides: tuple[int, ...], spacing: tuple[float, ...]) -> Grid:
    """The grid of a volume of which only the distances are known."""
    return Grid(sides[::-1], np.diag([*spacing[::-1], 1.0]), (0, 1, 2), (False,) * 3)


def as_viewed(plane: NDArray[Any]) -> NDArray[Any]:
    """A slice as radiologists look at it: from the feet, with the front up. So the patient's right is on the left.

    It is its own inverse.
    """
    return plane[::-1, ::-1]


def times(sides: tuple[int, ...]) -> str:
    """Sides in words."""
    return " x ".join(map(str, sides))
