"""Read a DICOM segmentation (SEG) as the mask of a series or of a picture.

Its segments are classes by their labels, which are the plan's names or aliases of these (`--map`). A frame's own
position says which slice it outlines: numbers and order say nothing, and empty frames are often left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files, plan
from fedhelp_edge.data import budget, dicom, dicom_series, picture, resample
from fedhelp_edge.data.dicom_series import Series, Slice
from fedhelp_edge.data.grid import times
from fedhelp_edge.data.labels import ClassNames
from fedhelp_edge.errors import (
    FileMissingError,
    ImageBrokenError,
    ImageSizeError,
    MaskGridError,
    MaskKindError,
    MaskLabelError,
    MaskPairError,
    MaskSizeError,
)

_REFERENCES = ["SOPClassUID", "ReferencedSeriesSequence"]
_GROUPS = (  # what is said of a frame
    "SegmentIdentificationSequence", "PixelMeasuresSequence", "PlaneOrientationSequence", "PlanePositionSequence",
    "DerivationImageSequence",
)  # fmt: skip
_LARGEST_SHIFT = 0.1  # of a voxel, by which a frame may lie elsewhere than its slice: headers are rounded
_ALIKE = 1e-3  # between directions and pixel distances of a frame and of its slice


@dataclass(frozen=True)
class _Frame:
    """One frame, and what the file says of it."""

    classes: NDArray[np.uint8]  # rows x columns; 0: the background
    spacing: tuple[float, ...]  # these three as of a slice; empty where the file does not state them
    directions: tuple[float, ...]
    position: tuple[float, ...]
    images: frozenset[str]  # the instances that it outlines; empty where the file does not name them


def read_references(path: Path) -> frozenset[str]:
    """The UIDs of the series and images that a segmentation outlines; raise `MaskKindError` if the file is none."""
    with _opened(path, stop_before_pixels=True, specific_tags=_REFERENCES) as dataset:
        series = dataset.get("ReferencedSeriesSequence") or []
        images = [image for each in series for image in each.get("ReferencedInstanceSequence") or []]
        uids = {dicom.text_of(each, "SeriesInstanceUID") for each in series}
        return frozenset(uids | {dicom.text_of(image, "ReferencedSOPInstanceUID") for image in images}) - {""}


def read_volume(path: Path, series: Series, image: plan.ImageSettings, classes: ClassNames) -> NDArray[np.uint8]:
    """Read the mask of a series at the plan's distances; raise unless it lies where the series does."""
    first = series.slices[0]
    labels = np.zeros(series.grid.shape[::-1], np.uint8)  # slices x rows x columns, as the series has them
    with _opened(path) as dataset:
        if dicom.text_of(dataset, "FrameOfReferenceUID") != first.frame_of_reference:
            raise MaskGridError("its mask belongs to another scan: their frames of reference differ")
        if (sides := _sides(dataset)) != first.sides:
            raise MaskSizeError(f"its mask has slices of {times(sides)} pixels, and its image {times(first.sides)}")
        for frame in _frames(dataset, classes):
            _add(frame, labels[_place(frame, series)])
    return resample.to_sides_nearest(series.grid.turned(labels.transpose()), series.grid.sides_at(image))


def read_picture(path: Path, instance: str, classes: ClassNames) -> NDArray[np.uint8]:
    """Read the mask of a picture (rows x columns); raise if it says that it outlines another one."""
    with _opened(path) as dataset:
        labels = np.zeros(_sides(dataset), np.uint8)
        for frame in _frames(dataset, classes):
            if instance and frame.images and instance not in frame.images:
                raise MaskGridError("its mask says that it outlines another image")
            _add(frame, labels)
        return labels


@contextmanager
def _opened(path: Path, **options: Any) -> Iterator[Any]:
    try:
        with (
            picture.translate_errors(),
            files.reading(path) as file,
            budget.metered(file, budget.SEGMENTATION_READS) as (limited, _),
        ):
            dataset = dicom.read_dataset(limited, largest=budget.SEGMENTATION_ELEMENT, **options)
            if dicom.text_of(dataset, "SOPClassUID") not in dicom_series.SEGMENTATIONS:
                raise MaskKindError("its mask is a DICOM file, but no segmentation")
            yield dataset
    except FileMissingError as error:
        raise MaskPairError("its mask disappeared while the folder was read") from error


def _sides(dataset: Any) -> tuple[int, int]:
    sides = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    budget.check_sides(*sides)
    return sides


def _frames(dataset: Any, classes: ClassNames) -> Iterator[_Frame]:
    """The frames of a segmentation, whose segments are classes of the plan."""
    is_map = _check_kind(dataset) == "LABELMAP"
    class_of = _classes_of_segments(dataset, classes)
    (rows, columns), count = _sides(dataset), int(dataset.get("NumberOfFrames") or 1)
    if count * rows * columns > budget.NPZ_VOLUME:
        raise ImageSizeError(f"its mask has {count} frames of {rows} x {columns} pixels")
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if len(groups) != count:
        raise ImageBrokenError("its mask does not say what its frames are")
    with budget.memory(2 * count * rows * columns):
        values = dicom.stored_pixels(dataset).reshape(count, rows, columns)
        for group, frame in zip(groups, values, strict=True):
            of_segment, measures, direction, place, derivation = (_about(dataset, group, name) for name in _GROUPS)
            numbers = frame if is_map else frame * np.uint16(of_segment.ReferencedSegmentNumber)
            shown, sources = class_of[numbers], derivation.get("SourceImageSequence") or []
            if ((numbers > 0) & (shown == 0)).any():
                raise ImageBrokenError("its mask has segments that it does not describe")
            yield _Frame(
                shown,
                dicom.spacing_of(measures),
                dicom.numbers_of(direction, "ImageOrientationPatient", 6),
                dicom.numbers_of(place, "ImagePositionPatient", 3),
                frozenset(dicom.text_of(source, "ReferencedSOPInstanceUID") for source in sources) - {""},
            )


def _check_kind(dataset: Any) -> str:
    """The kind of a segmentation, which must be one that states the class of each pixel."""
    kind, syntax = dicom.text_of(dataset, "SegmentationType"), dataset.file_meta.TransferSyntaxUID
    if kind not in ("BINARY", "LABELMAP"):
        raise MaskKindError(
            "its mask has degrees in place of classes (FRACTIONAL)", remedy="export the segmentation as BINARY"
        )
    if syntax.is_compressed and not syntax.is_deflated:
        raise MaskKindError(
            f"its mask is compressed ({syntax.name})", remedy="export the segmentation without compression"
        )
    if dicom.is_own(dataset):
        raise MaskKindError(
            "this program drew its mask: it is a result, not the truth", remedy="correct the outline in a viewer first"
        )
    return kind


def _classes_of_segments(dataset: Any, classes: ClassNames) -> NDArray[np.uint8]:
    """The class of each segment number; 0 for numbers that are no segment."""
    class_of = np.zeros(1 << 16, np.uint8)
    for segment in dataset.get("SegmentSequence") or []:
        number, label = int(segment.SegmentNumber), dicom.text_of(segment, "SegmentLabel")
        if number == 0:  # a label map may name the background
            continue
        if (index := classes.index(label)) is None:
            raise MaskLabelError(
                f"a segment of its mask has another name: {classes.why_unknown(label)}",
                remedy="say which class it is, as --map 'NAME=CLASS', or export the segmentation without it",
            )
        class_of[number] = index + 1
    return class_of


def _about(dataset: Any, group: Any, keyword: str) -> Any:
    """What a file says of one frame, or of all its frames; an empty dataset if nothing."""
    for place in (group, *(dataset.get("SharedFunctionalGroupsSequence") or [])):
        if items := place.get(keyword):
            return items[0]
    return type(group)()


def _place(frame: _Frame, series: Series) -> int:
    """The number of the slice that a frame outlines."""
    first, grid = series.slices[0], series.grid
    if not _is_parallel(frame, first):
        raise MaskGridError("the slices of its mask lie in other directions or distances than those of its image")
    offset = np.diag([-1.0, -1.0, 1.0]) @ frame.position - grid.affine[:3, 3]
    column, row, number = np.linalg.solve(grid.affine[:3, :3], offset)
    place = round(number) if abs(number) < len(series.slices) else -1
    if not (0 <= place < len(series.slices) and max(abs(column), abs(row), abs(number - place)) < _LARGEST_SHIFT):
        raise MaskGridError("a slice of its mask lies where its image has none")
    return place


def _is_parallel(frame: _Frame, first: Slice) -> bool:
    if not (frame.spacing and frame.directions and frame.position):
        return False
    turn = np.abs(np.subtract(frame.directions, first.directions)).max()
    stretch = np.abs(np.subtract(frame.spacing, first.spacing)).max()
    return bool(turn <= _ALIKE and stretch <= _ALIKE * min(first.spacing))


def _add(frame: _Frame, labels: NDArray[np.uint8]) -> None:
    """Draw a frame into a slice; raise if it has drawn another class there."""
    drawn = frame.classes > 0
    if (drawn & (labels > 0) & (labels != frame.classes)).any():
        raise MaskKindError(
            "its segments overlap: a pixel has two classes", remedy="export segments that do not overlap"
        )
    labels[drawn] = frame.classes[drawn]
