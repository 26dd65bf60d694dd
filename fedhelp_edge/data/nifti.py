"""Read and write NIfTI volumes: always in the patient's directions, at the plan's distances.

What the header states is checked before memory is spent.
"""

from __future__ import annotations

import gzip
import logging
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
from fedhelp_edge.data import budget, picture, resample, shading
from fedhelp_edge.data import grid as grids
from fedhelp_edge.data.grid import Grid, times
from fedhelp_edge.data.shading import Voxels
from fedhelp_edge.data.source_row import Decoded
from fedhelp_edge.errors import (
    FileMissingError,
    ImageBrokenError,
    ImageSizeError,
    MaskKindError,
    MaskLabelError,
    MissingPackageError,
    VolumeKindError,
)

SUFFIXES = (".nii", ".nii.gz")
_GZIP = b"\x1f\x8b"
_HEADER_SIZES = {348: "Nifti1Header", 540: "Nifti2Header"}
_MILLIMETRES = (0, 2)  # codes of the unit of distances: unknown, or mm
_LARGEST_SHIFT = 0.1  # of a voxel, by which the two forms of a place may differ: headers are rounded
_LARGEST_LABEL = 1 << 31  # which a mask may have, to be named as no class of the plan
_MAX_OFFSET = 1 << 24  # bytes before the voxels; extensions of the header are small


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


def read(path: Path, content: bytes | None = None) -> Voxels:
    """Read a volume; `content` is what the file holds, if it came without a disk."""
    with _opened(path, content) as (file, header), budget.memory(header.size):
        values = header.grid.turned(_voxels(file, header))
        return Voxels(values, header.grid, is_inverse=header.slope < 0, doubt=header.doubt)


def decode(path: Path, image: plan.ImageSettings) -> Decoded:
    """Decode a whole volume: slices x rows x columns x channels, at the plan's distances."""
    return read(path).decoded(image)


def read_labels(path: Path, of: Grid, sides: tuple[int, ...]) -> NDArray[Any]:
    """Read the values of a mask with these sides; raise unless it lies where its image does."""
    with _opened(path) as (file, header), budget.memory(shading.COPIES * header.size):
        if header.dtype.names or header.dtype.kind == "V":
            raise MaskKindError("its mask has colours")
        of.check_mask(header.grid)
        values = header.grid.turned(_voxels(file, header))
        labels = resample.to_sides_nearest(values, sides)
        if labels.dtype.kind != "f" and (header.slope, header.intercept) == (1, 0):
            return labels
        scaled = labels.astype(np.float64) * header.slope + header.intercept
        whole = np.rint(scaled)
        if not (np.abs(scaled - whole).max() < 1e-3 and np.abs(whole).max() < _LARGEST_LABEL):
            raise MaskLabelError("its mask has values that are no whole numbers")
        return whole.astype(np.int64)


def encode(labels: NDArray[np.uint8], grid: Grid, *, is_packed: bool = True) -> bytes:
    """A mask (slices x rows x columns of its image) as a NIfTI file that lies where the image does."""
    mask = grid.back(resample.to_sides_nearest(labels, grid.sides))
    written = _nibabel().Nifti1Image(np.ascontiguousarray(mask), grid.affine)
    written.header.set_xyzt_units("mm")
    data: bytes = written.to_bytes()
    return gzip.compress(data, mtime=0) if is_packed else data


@contextmanager
def _opened(path: Path, content: bytes | None = None) -> Iterator[tuple[Any, Header]]:
    """Open a volume before its voxels."""
    try:
        with (
            picture.translate_errors(),
            files.reading_content(path, content) as file,
            budget.metered(file) as (limited, _),
        ):
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
        doubt = _doubt(header, shape)
    except Exception as error:  # whatever nibabel raises on a damaged header
        raise ImageBrokenError("its header is damaged") from error
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise VolumeKindError(f"it has {len(shape)} dimensions ({times(shape)}); a volume has 3")
    if min(shape) == 1:
        raise VolumeKindError("it is a single slice", remedy="name the file that has all slices of the volume")
    if int(header["xyzt_units"]) % 8 not in _MILLIMETRES:
        raise VolumeKindError("its distances are not in millimetres", remedy="save it again in millimetres")
    if min(shape) < 1 or not size <= offset <= _MAX_OFFSET or bytes(header["magic"])[:2] != b"n+":
        raise ImageBrokenError("its header is damaged, or its voxels are in another file")
    if math.prod(shape) * dtype.itemsize > budget.NPZ_VOLUME:
        raise ImageSizeError(
            f"it has {times(shape)} voxels of {dtype.itemsize} bytes, more than {budget.NPZ_VOLUME >> 20} MiB",
            remedy="cut out the part that matters, or save it with whole numbers of 16 bits",
        )
    return Header(grids.of_affine(shape, affine), dtype, offset, float(scale or 1), float(shift or 0), doubt)


def _doubt(header: Any, shape: tuple[int, ...]) -> str:
    """Why a volume may lie elsewhere: a header has two forms of its place, and may use none."""
    codes = int(header["qform_code"]), int(header["sform_code"])
    if not any(codes):
        return "its header does not say which side is which"
    if all(codes):
        by_sform, by_qform = (np.asarray(form, np.float64) for form in (header.get_sform(), header.get_qform()))
        corners = np.array([*product((0, 1), repeat=3)]) * (np.array(shape[:3]) - 1)
        apart = float(np.abs(corners @ (by_sform - by_qform)[:3, :3].T + (by_sform - by_qform)[:3, 3]).max())
        if not apart <= _LARGEST_SHIFT * float(np.sqrt((by_sform[:3, :3] ** 2).sum(0)).min()):
            return f"its header states two places, up to {apart:.1f} mm apart (sform and qform); the first one is used"
    return ""


def _voxels(file: Any, header: Header) -> NDArray[Any]:
    """The voxels as they are stored, in the file's order."""
    file.seek(header.offset)
    data = file.read(header.size)
    if len(data) < header.size:
        raise ImageBrokenError("it ends too early")
    file.read(1)  # of a compressed file this compares the checksum
    return np.frombuffer(data, header.dtype).reshape(header.grid.shape, order="F")


def _both_orders(head: bytes) -> tuple[int, int]:
    return int.from_bytes(head, "little"), int.from_bytes(head, "big")


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise MissingPackageError("NIfTI needs nibabel", remedy="pip install 'fedhelp-edge[medical]'") from error
    logging.getLogger("nibabel.global").disabled = True  # it prints what it corrects in a header
    return nibabel
