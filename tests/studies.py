"""DICOM files as an archive holds them: images of the test set, each in a study of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import bundles
from tests.unit.data import samples

TAGS: dict[str, Any] = {
    "Modality": "XC", "BodyPartExamined": "SKIN", "PatientID": "P-0815", "PatientName": "Müller^Zoë",
    "PatientBirthDate": "19700131", "PatientSex": "F", "StudyDate": "20260102", "StudyTime": "131415",
    "StudyID": "7", "ReferringPhysicianName": "Doe^J", "SpecificCharacterSet": "ISO_IR 192", "BurnedInAnnotation": "NO",
}  # fmt: skip


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
