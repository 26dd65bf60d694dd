"""Read a DICOM series as a volume: the slices in a folder that have one SeriesInstanceUID.

Where a slice lies decides its place, never its name or number. So a volume with slices missing, or with two at one
place, is found out before a pixel is read. Windows of the files do not count: a volume is shown as its NIfTI would be.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files
from fedhelp_edge.data import budget, dicom, picture, shading
from fedhelp_edge.data import grid as grids
from fedhelp_edge.data.grid import Grid, times
from fedhelp_edge.data.shading import Voxels
from fedhelp_edge.data.source_row import DicomIdentity
from fedhelp_edge.errors import FileMissingError, ImageBrokenError, ImageCostError, ImageSizeError, VolumeKindError
from fedhelp_edge.safe_text import counted

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # SOP classes: regions, label map
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "AccessionNumber",
    "Modality", "BodyPartExamined", "PhotometricInterpretation", "Manufacturer", "PatientID", "PresentationIntentType",
    "BurnedInAnnotation", "Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "BitsAllocated", "PixelSpacing",
    "ImageOrientationPatient", "ImagePositionPatient", "RescaleSlope", "RescaleType",
]  # fmt: skip
_LARGEST_SHIFT = 0.1  # of the distance between slices, by which one may lie elsewhere: headers are rounded
_SAME_PLACE = 1e-3  # mm
_ALIKE = 1e-3  # between the directions and pixel distances of two slices
_FARTHEST = 1e6  # mm from the origin
_EXPORT_PLAIN = "export one series of single grey slices, or the volume as NIfTI"


@dataclass(frozen=True)
class Slice:
    """What the header of one file states."""

    path: Path
    size: int  # bytes of the file
    modified: int  # nanoseconds
    instance: str
    sop_class: str
    frame_of_reference: str
    photometric: str
    sides: tuple[int, int]  # rows, columns
    samples: int
    frames: int
    stored: int  # bytes of a pixel
    spacing: tuple[float, ...]  # mm between rows and columns
    directions: tuple[float, ...]  # along a row, then down a column
    position: tuple[float, ...]  # of the first pixel, in mm to the left, back and up
    identity: DicomIdentity
    group: str
    doubt: str
    is_hounsfield: bool
    content: bytes | None = None  # of a file that came without a disk


@dataclass(frozen=True)
class Series:
    """The slices of one volume in the order of their places."""

    slices: tuple[Slice, ...]
    grid: Grid  # columns x rows x slices


def read_slice(path: Path, content: bytes | None = None) -> Slice | None:
    """Read the header of a DICOM file; None if it is no image, as a report or a segmentation.

    `content` is what the file holds, if it came without a disk.
    """
    try:
        with picture.translate_errors(), files.reading_content(path, content) as file:
            with budget.metered(file, budget.DICOM_READS) as (limited, size):
                dataset = dicom.read_dataset(limited, stop_before_pixels=True, specific_tags=_TAGS)
            sides = (int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0))
            if not all(sides) or dicom.text_of(dataset, "SOPClassUID") in SEGMENTATIONS:
                return None
            return Slice(
                path,
                size,
                0 if content else path.stat().st_mtime_ns,
                dicom.text_of(dataset, "SOPInstanceUID"),
                dicom.text_of(dataset, "SOPClassUID"),
                dicom.text_of(dataset, "FrameOfReferenceUID"),
                dicom.text_of(dataset, "PhotometricInterpretation"),
                sides,
                int(dataset.get("SamplesPerPixel") or 1),
                int(dataset.get("NumberOfFrames") or 1),
                -(-int(dataset.get("BitsAllocated") or 8) // 8),
                dicom.spacing_of(dataset),
                dicom.numbers_of(dataset, "ImageOrientationPatient", 6),
                dicom.numbers_of(dataset, "ImagePositionPatient", 3),
                dicom.identity_of(dataset),
                dicom.patient_of(dataset),
                "; ".join(dicom.doubts(dataset)),
                dicom.is_hounsfield(dataset),
                content,
            )
    except FileMissingError as error:
        raise FileMissingError("it disappeared while the folder was read") from error


def of_slices(slices: Iterable[Slice]) -> Series:
    """Order the slices of a series; raise `VolumeKindError` unless they are one complete volume."""
    by_instance = {each.instance or str(each.path): each for each in slices}  # a copy of a slice is the same slice
    unordered = [*by_instance.values()]
    _check_kind(unordered)
    first = unordered[0]
    along_row, down_column = np.array(first.directions).reshape(2, 3)
    normal = np.cross(along_row, down_column)
    ordered = sorted(unordered, key=lambda each: float(np.dot(each.position, normal)))
    positions = np.array([each.position for each in ordered])
    _check_places(ordered, positions, normal)
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    row_distance, column_distance = first.spacing
    columns = (along_row * column_distance, down_column * row_distance, step, positions[0])
    affine = np.eye(4)
    affine[:3] = np.diag([-1.0, -1.0, 1.0]) @ np.stack(columns, 1)  # DICOM counts to the left and back
    shape = (first.sides[1], first.sides[0], len(ordered))
    return Series(tuple(ordered), grids.of_affine(shape, affine))


def read(series: Series) -> Voxels:
    """Read all slices."""
    first = series.slices[0]
    with picture.translate_errors(), budget.memory(shading.COPIES * _size(series.slices)):
        return Voxels(
            series.grid.turned(_voxels(series).transpose()), series.grid, first.photometric == "MONOCHROME1",
            first.doubt, first.group, replace(first.identity, sop_instance_uid=""),  # it has one for each slice
            first.is_hounsfield,
        )  # fmt: skip


def _check_kind(slices: Sequence[Slice]) -> None:
    """Check that slices are alike, grey, and say where they lie; and what decoding them would cost."""
    first = slices[0]
    if any(each.samples != 1 or each.photometric == "PALETTE COLOR" for each in slices):
        raise VolumeKindError("its slices are in colour", remedy=_EXPORT_PLAIN)
    if (frames := max(each.frames for each in slices)) > 1:
        raise VolumeKindError(f"one of its files has {frames} frames", remedy=_EXPORT_PLAIN)
    if len(slices) < 2:
        raise VolumeKindError("it is a single slice", remedy="name the folder that has all slices of the series")
    sides = sorted({each.sides for each in slices})
    if len(sides) > 1:
        raise VolumeKindError(
            f"its slices differ in size: {times(sides[0])} and {times(sides[-1])} pixels",
            remedy="export the series without its overview pictures (localizers)",
        )
    if len(slices) > budget.SLICES or _size(slices) > budget.NPZ_VOLUME:
        raise ImageSizeError(
            f"it has {times((len(slices), *first.sides))} voxels, more than {budget.NPZ_VOLUME >> 20} MiB",
            remedy="export thicker slices, or only the part that matters",
        )
    if not all(map(_is_placed, slices)):
        raise VolumeKindError("its slices do not say where they lie in the patient", remedy=_EXPORT_PLAIN)
    if len({(each.photometric, each.stored, each.frame_of_reference) for each in slices}) > 1 or any(
        np.abs(np.subtract(each.directions, first.directions)).max() > _ALIKE
        or np.abs(np.subtract(each.spacing, first.spacing)).max() > _ALIKE * min(first.spacing)
        for each in slices
    ):
        raise VolumeKindError(
            "its slices differ in direction, pixel distance or kind", remedy="export one series of one scan"
        )


def _is_placed(header: Slice) -> bool:
    """Whether a slice says where it lies: at some place, with directions of length 1."""
    if not (header.spacing and header.directions and header.position):
        return False
    lengths = np.linalg.norm(np.array(header.directions).reshape(2, 3), axis=1)
    return bool(np.allclose(lengths, 1, atol=_ALIKE)) and max(map(abs, header.position)) < _FARTHEST


def _check_places(ordered: Sequence[Slice], positions: NDArray[np.float64], normal: NDArray[np.float64]) -> None:
    """Check that slices lie on a line at equal distances, and none at the place of another."""
    steps = np.diff(positions @ normal)
    if same := int((steps < _SAME_PLACE).sum()):
        raise VolumeKindError(
            f"{same} of its {len(ordered)} slices lie where another one does: it has several times or echoes",
            remedy="export a single time point of it as a series",
        )
    distance = np.median(steps[steps < 1.5 * steps.min()])
    gaps = np.rint(steps / distance)
    if np.abs(steps / distance - gaps).max() > _LARGEST_SHIFT:
        raise VolumeKindError(
            f"its slices lie {steps.min():.2f} to {steps.max():.2f} mm apart",
            remedy="export one reconstruction with equal distances, or resample it and save it as NIfTI",
        )
    if missing := int(gaps.sum()) - len(steps):
        at = int(gaps.argmax())
        between = f"{ordered[at].path.name} and {ordered[at + 1].path.name}"
        raise VolumeKindError(
            f"it lacks {counted(missing, 'slice')}, most of them between {between}",
            remedy="copy the whole series again from the archive, with all its slices",
        )
    line = np.linspace(positions[0], positions[-1], len(ordered))
    if np.abs(positions - line).max() > _LARGEST_SHIFT * distance:
        raise VolumeKindError("its slices do not lie on a line", remedy=_EXPORT_PLAIN)


def _voxels(series: Series) -> NDArray[Any]:
    """The numbers of all slices (slices x rows x columns); NaN where a slice is padded."""
    end = time.thread_time() + budget.SERIES_SECONDS
    first = _values(series.slices[0])
    voxels = np.empty((len(series.slices), *series.slices[0].sides), first.dtype)
    for number, header in enumerate(series.slices):
        values = _values(header) if number else first
        if values.shape != header.sides or values.dtype != voxels.dtype:
            raise ImageBrokenError("its slices differ from their headers, or in their kind of numbers")
        voxels[number] = values
        if time.thread_time() > end:
            raise ImageCostError("it takes too long to decode")
    return voxels


def _values(header: Slice) -> NDArray[Any]:
    """The numbers of one slice: as stored, or rescaled to the scanner's unit."""
    from pydicom.pixels.processing import apply_modality_lut

    with (
        files.reading_content(header.path, header.content) as file,
        budget.metered(file, budget.DICOM_READS) as (limited, _),
    ):
        dataset = dicom.read_dataset(limited)
    dicom.check_and_estimate(dataset)
    stored = dicom.stored_pixels(dataset)
    is_plain = not any(name in dataset for name in ("RescaleSlope", "ModalityLUTSequence", "PixelPaddingValue"))
    if is_plain:
        return stored
    values = np.asarray(apply_modality_lut(stored, dataset), np.float32)
    values[~dicom.image_mask(stored, dataset)] = np.nan
    return values


def _size(slices: Sequence[Slice]) -> int:
    """The bytes of all voxels."""
    return len(slices) * math.prod(slices[0].sides) * slices[0].stored
