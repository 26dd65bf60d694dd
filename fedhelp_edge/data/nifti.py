"""Read and write NIfTI volumes: always in the patient's directions, at the plan's distances.

A volume of any order is turned to RAS, as nearly as its own axes allow. Then slices go from the feet to the head, rows
from back to front, and columns from the left to the right. Oblique slices stay oblique.
What the header states is checked before memory is spent.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files, plan
from fedhelp_edge.data import budget, picture, resample
from fedhelp_edge.data.source_row import Decoded
from fedhelp_edge.errors import (
    FileMissingError,
    ImageBrokenError,
    ImageSizeError,
    MaskGridError,
    MaskKindError,
    MaskLabelError,
    MaskSizeError,
    MissingPackageError,
    VolumeKindError,
)

SUFFIXES = (".nii", ".nii.gz")
_GZIP = b"\x1f\x8b"
_HEADER_SIZES = {348: "Nifti1Header", 540: "Nifti2Header"}
_MAX_OFFSET = 1 << 24  # bytes before the voxels; extensions of the header are small
_LARGEST_TILT = 0.01  # cosine between two axes, which should be at right angles
_LARGEST_SHIFT = 0.1  # of a voxel, by which a mask may lie elsewhere than its image: headers are rounded
_SHADED = (0.5, 99.5)  # percentiles that become black and white
_SAMPLE = 1 << 22  # voxels, for the percentiles
_COPIES = 4  # of a volume in memory at most


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
            raise ImageSizeError(f"at the plan's distances it would have {_times(sides)} voxels")
        return sides


@dataclass(frozen=True)
class Header:
    """What the header of a file states, checked."""

    grid: Grid
    dtype: np.dtype[Any]
    offset: int  # of the voxels in the file
    slope: float
    intercept: float
    doubt: str  # why it may lie otherwise than it seems

    @property
    def size(self) -> int:
        """The bytes of all voxels."""
        return math.prod(self.grid.shape) * self.dtype.itemsize


def is_nifti(name: str) -> bool:
    """Whether a file's name is that of a NIfTI volume."""
    return name.lower().endswith(SUFFIXES)


def read_header(path: Path) -> Header:
    """Read and check the header of a volume."""
    with _opened(path) as (_, header):
        return header


def decode(path: Path, image: plan.ImageSettings) -> Decoded:
    """Decode a whole volume: slices x rows x columns x channels, at the plan's distances."""
    with _opened(path) as (file, header), budget.memory(_COPIES * header.size):
        grey = resample.to_sides(_shade(header, _voxels(file, header)), header.grid.sides_at(image))
        pixels = np.repeat(grey[..., None], image.channels, 3) if image.channels > 1 else grey[..., None]
        return Decoded(pixels, grey.shape[2], grey.shape[1], doubt=header.doubt, grid=header.grid)


def read_labels(path: Path, of: Grid, image: plan.ImageSettings) -> NDArray[Any]:
    """Read the values of a mask at the plan's distances; raise unless it lies where its image does."""
    with _opened(path) as (file, header), budget.memory(_COPIES * header.size):
        if header.dtype.names or header.dtype.kind == "V":
            raise MaskKindError("its mask has colours")
        if header.grid.sides != of.sides:
            sizes = f"{_times(header.grid.sides)} voxels, and its image {_times(of.sides)}"
            raise MaskSizeError(f"its mask has {sizes}")
        shift = float(np.abs(header.grid.corners() - of.corners()).max())
        if shift > _LARGEST_SHIFT * min(of.spacing):
            raise MaskGridError(f"its mask lies up to {shift:.1f} mm away from its image")
        values = header.grid.turned(_voxels(file, header))
        labels = resample.to_sides_nearest(values, of.sides_at(image))
        if labels.dtype.kind != "f" and (header.slope, header.intercept) == (1, 0):
            return labels
        scaled = labels.astype(np.float64) * header.slope + header.intercept
        whole = np.rint(scaled)
        if not np.abs(scaled - whole).max() < 1e-3:
            raise MaskLabelError("its mask has values that are no whole numbers")
        return whole.astype(np.int64)


def encode(labels: NDArray[np.uint8], grid: Grid) -> bytes:
    """A mask (slices x rows x columns of its image) as a compressed NIfTI file that lies where the image does."""
    mask = grid.back(resample.to_sides_nearest(labels, grid.sides))
    written = _nibabel().Nifti1Image(np.ascontiguousarray(mask), grid.affine)
    written.header.set_xyzt_units("mm")
    return gzip.compress(written.to_bytes(), mtime=0)


def plain_grid(sides: tuple[int, ...], spacing: tuple[float, ...]) -> Grid:
    """The grid of a volume of which only the distances are known."""
    return Grid(sides[::-1], np.diag([*spacing[::-1], 1.0]), (0, 1, 2), (False,) * 3)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Header]]:
    """Open a volume before its voxels."""
    try:
        with picture.translate_errors(), files.reading(path) as file, budget.metered(file) as (limited, _):
            packed = limited.read(2) == _GZIP
            limited.seek(0)
            stream = gzip.GzipFile(fileobj=limited) if packed else limited
            yield stream, _read_header(stream)
    except FileMissingError as error:
        raise FileMissingError("it disappeared while the folder was read") from error


def _read_header(file: Any) -> Header:
    nibabel = _nibabel()
    head = file.read(max(_HEADER_SIZES))
    size = next((size for size in _HEADER_SIZES if size in _both_orders(head[:4])), 0)
    if not size or len(head) < size:
        raise ImageBrokenError("it is not a NIfTI file")
    try:
        header = getattr(nibabel, _HEADER_SIZES[size])(head[:size])
        dtype, affine = header.get_data_dtype(), np.asarray(header.get_best_affine(), np.float64)
        shape, offset = tuple(map(int, header.get_data_shape())), int(header.get_data_offset())
        scale, shift = header.get_slope_inter()  # None: as they are
    except Exception as error:  # whatever nibabel raises on a damaged header
        raise ImageBrokenError("its header is damaged") from error
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise VolumeKindError(f"it has {len(shape)} dimensions ({_times(shape)}); a volume has 3")
    if min(shape) < 1 or not size <= offset <= _MAX_OFFSET or bytes(header["magic"])[:2] != b"n+":
        raise ImageBrokenError("its header is damaged, or its voxels are in another file")
    if math.prod(shape) * dtype.itemsize > budget.NPZ_VOLUME:
        raise ImageSizeError(
            f"it has {_times(shape)} voxels of {dtype.itemsize} bytes, more than {budget.NPZ_VOLUME >> 20} MiB",
            remedy="cut out the part that matters, or save it with whole numbers of 16 bits",
        )
    return Header(_grid(shape, affine), dtype, offset, float(scale or 1), float(shift or 0), _doubt(header))


def _grid(shape: tuple[int, ...], affine: NDArray[np.float64]) -> Grid:
    steps = affine[:3, :3]
    lengths = np.sqrt((steps**2).sum(0))
    if not (np.isfinite(affine).all() and (lengths > 0).all() and (lengths < 1e4).all()):
        raise VolumeKindError("its header does not say how far its voxels lie apart")
    directions = steps / lengths
    if np.abs(directions.T @ directions - np.eye(3)).max() > _LARGEST_TILT:
        raise VolumeKindError("its axes are not at right angles (gantry tilt)")
    orientation = _nibabel().orientations.io_orientation(affine)
    return Grid(
        shape,
        affine,
        tuple(int(axis) for axis in orientation[:, 0]),
        tuple(bool(sign < 0) for sign in orientation[:, 1]),
    )


def _doubt(header: Any) -> str:
    unknown = int(header["qform_code"]) == int(header["sform_code"]) == 0
    return "its header does not say which side is which" if unknown else ""


def _voxels(file: Any, header: Header) -> NDArray[Any]:
    """The voxels as they are stored, in the file's order."""
    file.seek(header.offset)
    data = file.read(header.size)
    if len(data) < header.size:
        raise ImageBrokenError("it ends too early")
    return np.frombuffer(data, header.dtype).reshape(header.grid.shape, order="F")


def _shade(header: Header, voxels: NDArray[Any]) -> NDArray[np.uint8]:
    """The voxels as 0 to 255, turned. Bytes stay as they are; of others some outliers become black or white."""
    if voxels.dtype.kind not in "iuf":
        raise VolumeKindError("its voxels are colours or complex numbers")
    turned = header.grid.turned(voxels)
    if voxels.dtype == np.uint8 and header.slope > 0:
        return np.ascontiguousarray(turned)
    sample = voxels.ravel(order="K")[:: max(1, voxels.size // _SAMPLE) | 1]
    known = sample[np.isfinite(sample)]
    low, high = np.percentile(known, _SHADED) if known.size else (0.0, 0.0)
    if not high > low and known.size:
        low, high = float(known.min()), float(known.max())
    if not high > low:
        return np.zeros(turned.shape, np.uint8)
    if header.slope < 0:
        low, high = high, low
    return picture.map_bands(
        lambda band: np.nan_to_num(np.clip((band.astype(np.float64) - low) / (high - low), 0, 1)), turned
    )


def _both_orders(head: bytes) -> tuple[int, int]:
    return int.from_bytes(head, "little"), int.from_bytes(head, "big")


def _times(sides: tuple[int, ...]) -> str:
    return " x ".join(map(str, sides))


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise MissingPackageError("NIfTI needs nibabel", remedy="pip install 'fedhelp-edge[medical]'") from error
    return nibabel
