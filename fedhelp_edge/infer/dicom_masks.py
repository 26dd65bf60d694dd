"""Write an outline as a DICOM segmentation (SEG), into the study of its image.

Each class is a segment, and so are the uncertain pixels, which overlap with them. Its UID follows from the model and
the image, as that of a report.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes as standard
from pydicom.sr.coding import Code

from fedhelp_edge.data import dicom_series, resample
from fedhelp_edge.data.dicom_series import Slice
from fedhelp_edge.infer import answer_formats, codes, dicom_results
from fedhelp_edge.infer.bundle import MaskBundle
from fedhelp_edge.infer.drawing import Outline
from fedhelp_edge.infer.inputs import InputItem

_SERIES = 9003  # its number, above those of scanners, reports and heat-maps
_NO_CLASS: Mapping[str, Any] = {"answer": None, "probabilities": {}, "set": [], "flags": []}  # of a whole image
_LACKING = "its file lacks what a segmentation must repeat, such as its frame of reference"
_LABEL = 64  # characters of a DICOM long string


@dataclass(frozen=True)
class MaskWriter:
    """Writes the outlines of a model into a folder; of an image without one, a report that says why."""

    folder: Path
    bundle: MaskBundle

    def __call__(self, item: InputItem, row: Mapping[str, Any], answer: Outline | None) -> list[str]:
        """Write what was outlined in an image or series; return the file's name: none where it names no study."""
        source = dicom_results.read_source(item)
        if not source:
            return []
        if not answer or answer.verdict == "unlike":
            return [self._report(source, row)]
        slices = _slices(item)
        if not slices:
            return []
        parts = [answer.drawn.mask == label for label in range(1, len(self.bundle.facts.classes) + 1)]
        parts.append(answer.drawn.uncertain)
        pixels = np.stack([_as_stored(part.astype(np.uint8), item) for part in parts], -1)
        try:
            result = _segmentation(self.bundle, source, slices, pixels, answer.reason or "outlined by a model")
        except (AttributeError, ValueError):  # of highdicom; the first for kinds that may have several frames
            return [self._report(source, {**row, "verdict": None, "reason": _LACKING})]
        return [dicom_results.write(self.folder, result)]

    def _report(self, source: Dataset, row: Mapping[str, Any]) -> str:
        """Write why there is no outline."""
        return dicom_results.write(self.folder, dicom_results.report(self.bundle, source, {**row, **_NO_CLASS}))


def _slices(item: InputItem) -> tuple[Slice, ...]:
    """The slices of a series, or a picture as the only one."""
    if item.volume:
        return item.volume.series.slices
    header = dicom_series.read_slice(item.path) if item.path else None
    return (header,) if header else ()


def _as_stored(part: NDArray[np.uint8], item: InputItem) -> NDArray[np.uint8]:
    """A mask as slices x rows x columns of the files."""
    if item.volume is None:
        return part[None]
    grid = item.volume.grid
    return np.asarray(grid.back(resample.to_sides_nearest(part, grid.sides)).transpose(), np.uint8)


def _segmentation(
    bundle: MaskBundle, source: Dataset, slices: tuple[Slice, ...], pixels: NDArray[np.uint8], words: str
) -> Dataset:
    apart = math.dist(slices[0].position, slices[1].position) if len(slices) > 1 else None
    images = [_source_image(source, each, apart) for each in slices]
    place = dicom_results.series(bundle, images[0], "outline", _SERIES, "fedhelp-edge: outlines")
    if len(slices) > 1:  # with other slices it is another volume
        instances = (each.instance for each in slices)
        place["sop_instance_uid"] = dicom_results.unique_uid("outline", bundle.sha256, *instances)
    result: Dataset = Segmentation(
        images,
        pixels,
        SegmentationTypeValues.BINARY,
        [*_segments(bundle, images[0])],
        **place,
        **dicom_results.equipment(bundle),
        content_label="OUTLINES",
        content_description=words[:_LABEL],
    )
    if "FrameOfReferenceUID" not in result:
        result.PatientOrientation = None  # a picture does not state it
    return result


def _source_image(study: Dataset, header: Slice, thickness: float | None) -> Dataset:
    """What a segmentation repeats of one slice or picture. Its own slices are as thick as they lie apart."""
    image = copy.deepcopy(study)
    image.SOPClassUID, image.SOPInstanceUID = header.sop_class, header.instance
    image.Rows, image.Columns = header.sides
    if header.frame_of_reference and header.spacing and header.directions and header.position:
        image.FrameOfReferenceUID, image.PositionReferenceIndicator = header.frame_of_reference, None
        image.PixelSpacing, image.ImageOrientationPatient = list(header.spacing), list(header.directions)
        image.ImagePositionPatient, image.SliceThickness = list(header.position), thickness
    return image


def _segments(bundle: MaskBundle, source: Dataset) -> Iterator[SegmentDescription]:
    facts = bundle.facts
    algorithm = AlgorithmIdentificationSequence(
        facts.name[:_LABEL], standard.DCM.ArtificialIntelligence, f"round {facts.round}"
    )
    kinds: list[tuple[str, Code, Code]] = [
        (name, standard.SCT.Tissue, code) for name, code in codes.of_classes(facts).items()
    ]
    kinds.append(("uncertain pixels", standard.SCT.SpatialAndRelationalConcept, codes.UNCERTAIN_PIXELS))
    for number, (name, category, code) in enumerate(kinds, 1):
        segment = SegmentDescription(
            number, name[:_LABEL], category, code, SegmentAlgorithmTypeValues.AUTOMATIC, algorithm,
            dicom_results.unique_uid("segment", name, bundle.sha256, source.SOPInstanceUID), name[:_LABEL],
        )  # fmt: skip
        segment.SegmentDescription = "; ".join([answer_formats.NOTICE, *dicom_results.provenance(bundle)])[:1024]
        yield segment
