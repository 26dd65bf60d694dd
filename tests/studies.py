"""DICOM files as an archive holds them: images of the test set, each in a study of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import bundles
from tests.unit.data import samples

TAGS: dict[str, Any] = {
    "Modality": "XC", "BodyPartExamined": "SKIN", "PatientID": "P-0815", "PatientName": "Müller^Zoë",
    "PatientBirthDate": "19700131", "PatientSex": "F", "StudyDate": "20260102", "StudyTime": "131415",
    "StudyID": "7", "ReferringPhysicianName": "Doe^J", "SpecificCharacterSet": "ISO_IR 192", "BurnedInAnnotation": "NO",
}  # fmt: skip
_STORAGE = "1.2.840.10008.5.1.4.1.1"
_DX: dict[str, Any] = {
    "ImageType": ["ORIGINAL", "PRIMARY", ""], "PresentationIntentType": "FOR PRESENTATION", "BodyPartExamined": "CHEST",
    "PixelIntensityRelationship": "LOG", "PixelIntensityRelationshipSign": 1, "PresentationLUTShape": "IDENTITY",
    "RescaleIntercept": 0, "RescaleSlope": 1, "RescaleType": "US", "LossyImageCompression": "00", "KVP": "120",
    "DetectorType": "DIRECT", "PositionerType": "NONE", "ImagerPixelSpacing": [0.1, 0.1], "ViewPosition": "PA",
    "ImageLaterality": "U", "PatientOrientation": ["L", "F"],
    "AnatomicRegionSequence": [("51185008", "Thorax")], "AcquisitionContextSequence": [], "Laterality": None,
}  # fmt: skip
_XA: dict[str, Any] = {
    "ImageType": ["ORIGINAL", "PRIMARY", "SINGLE PLANE"], "PixelIntensityRelationship": "LIN", "KVP": "",
    "RadiationSetting": "SC", "XRayTubeCurrent": 1, "ExposureTime": 1, "Exposure": 1,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {  # what makes an image of each kind valid; sequences of codes as (value, meaning)
    "OT": {"ConversionType": "WSD"},
    "CR": {
        "SOPClassUID": f"{_STORAGE}.1", "BodyPartExamined": "CHEST", "ViewPosition": "PA", "KVP": "120",
        "AcquisitionNumber": 1, "Laterality": None,
    },
    "DX": {"SOPClassUID": f"{_STORAGE}.1.1", **_DX},
    "MG": {
        "SOPClassUID": f"{_STORAGE}.1.2", **_DX, "BodyPartExamined": "BREAST", "ImageLaterality": "L",
        "PositionerType": "MAMMOGRAPHIC", "OrganExposed": "BREAST", "BreastImplantPresent": "NO", "PartialView": "NO",
        "ViewPosition": "CC", "ViewCodeSequence": [("399162004", "cranio-caudal")],
        "AnatomicRegionSequence": [("76752008", "Breast")],
    },
    "XC": {"SOPClassUID": f"{_STORAGE}.77.1.4", "LossyImageCompression": "00", "AcquisitionContextSequence": []},
    "US": {"SOPClassUID": f"{_STORAGE}.6.1", "LossyImageCompression": "00"},
    "RF": {"SOPClassUID": f"{_STORAGE}.12.2", **_XA},
    "XA": {
        "SOPClassUID": f"{_STORAGE}.12.1", **_XA, "PositionerMotion": "STATIC", "PositionerPrimaryAngle": 1,
        "PositionerSecondaryAngle": 1,
    },
}  # fmt: skip


def write_kind(folder: Path, modality: str, pixels: NDArray[np.uint8]) -> Path:
    """Writes a valid image of a kind: of what is photographed the colours, else the first one as 12 bits."""
    tags = {**TAGS, "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.1", "SOPInstanceUID": "1.2.3.1.1",
            "SeriesNumber": 1, "InstanceNumber": 1, "AccessionNumber": "A1", "Manufacturer": "M", "Laterality": "",
            "PatientOrientation": "", "ImageType": ["ORIGINAL", "PRIMARY"], "BodyPartExamined": None,
            **KINDS[modality], "Modality": modality}  # fmt: skip
    for keyword, value in tags.items():
        if keyword.endswith("Sequence"):
            tags[keyword] = [_code(*item) for item in value]
    if modality == "MG":
        tags["ViewCodeSequence"][0].ViewModifierCodeSequence = [_code("399163009", "magnification")]
    if modality in ("XC", "US"):
        return samples.dicom(folder / f"{modality}.dcm", pixels, **tags)
    tags |= {"BitsStored": 12, "HighBit": 11, "WindowCenter": 2048, "WindowWidth": 4096}
    return samples.dicom(folder / f"{modality}.dcm", pixels[..., 0] * np.uint16(16), **tags)


def _code(value: str, meaning: str) -> Any:
    from pydicom import Dataset

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "SCT", meaning
    return code


def write(folder: Path, count: int, first: int = 0, **tags: Any) -> list[Path]:
    """Writes images of the test set as `N.dcm`, accession numbers A0, A1, …; a tag that is None is left out."""
    pictures = bundles.site().images.split("test").pixels
    paths = []
    for number in range(first, first + count):
        uids = {"StudyInstanceUID": f"1.2.3.{number}", "SeriesInstanceUID": f"1.2.3.{number}.1"}
        uids["SOPInstanceUID"] = f"1.2.3.{number}.1.1"
        own = {**TAGS, **uids, "AccessionNumber": f"A{number}", "InstanceNumber": "1", **tags}
        pixels = np.asarray(pictures[number % len(pictures)])
        paths.append(samples.dicom(folder / f"{number}.dcm", pixels.repeat(3, 0).repeat(4, 1), **own))
    return paths


def errors(path: Path) -> list[str]:
    """What dciodvfy, a validator by others, calls an error in a DICOM file."""
    if not (program := shutil.which("dciodvfy")):
        pytest.skip("dciodvfy is not installed (Debian: dicom3tools)")
    done = subprocess.run([program, str(path)], capture_output=True, text=True, errors="replace", check=False)
    return re.findall("^Error.*", done.stdout + done.stderr, re.M)
