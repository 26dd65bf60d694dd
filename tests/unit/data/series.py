"""DICOM series and segmentations for tests, written by pydicom and highdicom."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.unit.data import samples

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
AXIAL, CORONAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)
SPACING = (1.5, 2.0)  # mm from row to row and column to column
STEP = 3.0  # mm from slice to slice


def write(
    folder: Path, voxels: NDArray[Any], directions: Sequence[float] = AXIAL, *, uid: str = "1.2.3.4",
    names: str = "{:03}.dcm", **tags: Any,
) -> list[Path]:  # fmt: skip
    """Writes a volume (slices x rows x columns) slice by slice; a tag that is a function gets the slice's number."""
    paths = []
    normal = np.cross(directions[:3], directions[3:])
    for number, pixels in enumerate(voxels):
        own = {
            "SOPClassUID": MR_IMAGE, "SOPInstanceUID": f"{uid}.{number + 1}", "SeriesInstanceUID": uid,
            "StudyInstanceUID": "1.2.3", "FrameOfReferenceUID": f"{uid}.0", "Modality": "MR",
            "PixelSpacing": list(SPACING), "ImageOrientationPatient": list(directions),
            "ImagePositionPatient": [*map(float, np.array((5.0, -7.0, 11.0)) + number * STEP * normal)],
            "PatientID": f"P{uid}", "PatientName": "A^B", "InstanceNumber": 1, "SliceThickness": STEP, **tags,
        }  # fmt: skip
        own = {name: value(number) if callable(value) else value for name, value in own.items()}
        paths.append(samples.dicom(folder / names.format(number), pixels, **own))
    return paths


def affine(directions: Sequence[float], count: int) -> NDArray[np.float64]:
    """The same place for NIfTI: from column, row and slice to mm to the right, forward and up."""
    across, down = np.array(directions, float).reshape(2, 3)
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2] = across * SPACING[1], down * SPACING[0], np.cross(across, down) * STEP
    matrix[:3, 3] = 5, -7, 11
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


def segmentation(
    path: Path, sources: Sequence[Path], labels: NDArray[np.uint8], names: Sequence[str] = ("a", "b"), *,
    kind: str = "BINARY", **tags: Any,
) -> Path:  # fmt: skip
    """Writes a mask (slices x rows x columns) of these files as a DICOM segmentation, by highdicom."""
    import pydicom
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes

    images = [pydicom.dcmread(source) for source in sources]
    algorithm = AlgorithmIdentificationSequence("viewer", codes.DCM.ArtificialIntelligence, "1")
    segments = [
        SegmentDescription(
            number, name, codes.SCT.Tissue, codes.SCT.Tissue, SegmentAlgorithmTypeValues.SEMIAUTOMATIC, algorithm
        )
        for number, name in enumerate(names, 1)
    ]
    masks = labels if kind == "LABELMAP" else np.stack([labels == number for number in range(1, len(names) + 1)], -1)
    for image in images:
        for empty in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber", "StudyID",
                      "ReferringPhysicianName"):  # fmt: skip
            setattr(image, empty, "")
    written = Segmentation(
        images, masks.astype(float if kind == "FRACTIONAL" else np.uint8), kind, segments, "1.9.8", 3, "1.9.8.7", 1,
        "a viewer", "x", "1", "2",
    )  # fmt: skip
    for name, value in tags.items():
        setattr(written, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    written.save_as(path, enforce_file_format=True)
    return path
