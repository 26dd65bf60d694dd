"""De-identified copies show the same pixels, say which profile they follow, and name nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge.data import folder, loading
from fedhelp_edge.data.deidentify import write_copies
from fedhelp_edge.data.pseudonyms import Pseudonyms, load
from fedhelp_edge.plan import ImageSettings
from tests import studies
from tests.command import error_code, run_in_process
from tests.unit.data import samples, series

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (extra: medical)")

NAMES = Pseudonyms(b"key" * 10)
SECRET = "Secretperson"
CT = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Modality": "CT", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "KVP": "120", "AcquisitionNumber": 1, "SeriesNumber": 1, "RescaleSlope": 1, "RescaleIntercept": -1024,
    "RescaleType": "HU", "WindowCenter": 40, "WindowWidth": 400, "ReferringPhysicianName": SECRET, "StudyID": "7",
    "PatientBirthDate": "19700131", "PatientSex": "F", "StudyDate": "20260102", "StudyTime": "131415",
    "AccessionNumber": "A1", "Manufacturer": "M", "PositionReferenceIndicator": "", "PatientPosition": "HFS",
    "Laterality": "",
    "PatientName": f"{SECRET}^Hildegard", "PatientID": "P-0815",
}  # fmt: skip


def scan(folder_: Path, **tags: Any) -> list[Path]:
    """A CT of two slices."""
    voxels = np.arange(2 * 16 * 16, dtype=np.int16).reshape(2, 16, 16)
    return series.write(folder_, voxels, names="{:03}", **{**CT, **tags})


def copy_of(path: Path, out: Path, names: Pseudonyms = NAMES) -> Path:
    return out / f"{names.uid(pydicom.dcmread(path).SOPInstanceUID)}.dcm"


def spoilt(path: Path) -> None:
    """Write the secret into every attribute of text that the standard has, into private ones and the preamble."""
    from pydicom.datadict import DicomDictionary

    dataset = pydicom.dcmread(path)
    for tag, (vr, *_) in DicomDictionary.items():
        keyword = pydicom.datadict.keyword_for_tag(tag)
        if keyword in dataset or (tag >> 16) <= 2 or (tag >> 16) >= 0x7FE0:
            continue
        if vr in ("LO", "LT", "PN", "SH", "ST", "UC", "UT"):
            dataset.add_new(tag, vr, SECRET)
        elif vr == "SQ":
            item = pydicom.Dataset()
            item.PatientName = item.CodingSchemeDesignator = SECRET
            dataset.add_new(tag, vr, [] if keyword.endswith(("ViewCodeSequence", "AnatomicRegionSequence")) else [item])
    dataset.private_block(0x0011, SECRET, create=True).add_new(1, "LO", SECRET)
    dataset.preamble = SECRET.encode().ljust(128, b"\0")
    dataset.save_as(path)


def test_no_attribute_of_the_standard_carries_a_name_out(tmp_path: Path) -> None:
    for path in scan(tmp_path / "scan"):
        spoilt(path)
        assert path.read_bytes().count(SECRET.encode()) > 1000
    copied, problems = write_copies(tmp_path / "scan", tmp_path / "out", NAMES)
    assert (copied, problems) == (2, [])
    for path in (tmp_path / "out").iterdir():
        content = path.read_bytes()
        assert not any(word in content for word in (SECRET.encode(), b"P-0815", b"1.2.3.4", b"19700131", b"20260102"))


def test_a_copy_shows_the_same_and_names_the_profile(tmp_path: Path) -> None:
    paths = scan(tmp_path / "scan")
    write_copies(tmp_path / "scan", tmp_path / "out", NAMES)
    copies = [pydicom.dcmread(copy_of(path, tmp_path / "out")) for path in paths]
    for path, copy in zip(paths, copies, strict=True):
        original = pydicom.dcmread(path)
        assert np.array_equal(copy.pixel_array, original.pixel_array)
        assert copy.ImagePositionPatient == original.ImagePositionPatient
        image = ImageSettings(16, 1)
        assert np.array_equal(folder.decode(path, image).pixels, folder.decode(Path(copy.filename), image).pixels)
        assert (copy.PatientIdentityRemoved, copy.PatientSex, copy.AccessionNumber) == ("YES", "", "")
        (profile,) = copy.DeidentificationMethodCodeSequence
        assert (profile.CodeValue, profile.CodingSchemeDesignator) == ("113100", "DCM")
        assert "Basic Application Level Confidentiality Profile" in str(copy.DeidentificationMethod)
        assert copy.file_meta.MediaStorageSOPInstanceUID == copy.SOPInstanceUID
        assert not studies.errors(Path(copy.filename))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert len({copy[keyword].value for copy in copies}) == 1
    again = write_copies(tmp_path / "scan", tmp_path / "again", Pseudonyms(b"another key"))
    assert again == (2, [])
    assert not {path.name for path in (tmp_path / "out").iterdir()} & {p.name for p in (tmp_path / "again").iterdir()}


@pytest.mark.parametrize("modality", studies.KINDS)
def test_a_copy_of_a_valid_image_of_any_kind_is_valid(modality: str, tmp_path: Path) -> None:
    path = studies.write_kind(tmp_path / "in", modality, samples.noise(1, 48, 64, 3)[0])
    assert studies.errors(path) == []
    assert write_copies(tmp_path / "in", tmp_path / "out", NAMES) == (1, [])
    copy = copy_of(path, tmp_path / "out")
    assert studies.errors(copy) == []
    for sequence in pydicom.dcmread(copy).get("ViewCodeSequence", []):
        assert sequence.ViewModifierCodeSequence[0].CodeMeaning == "magnification"


@pytest.mark.skipif(not (samples.GIVEN / "dicom").is_dir(), reason="the folder 'dicom' of FEDHELP_DATA is not here")
def test_copies_of_real_files_show_the_same_and_are_no_less_valid(tmp_path: Path) -> None:
    write_copies(samples.GIVEN / "dicom", tmp_path / "out", NAMES, burned_in=True)
    paths = [path for path in (samples.GIVEN / "dicom").iterdir() if folder.is_dicom(path)]
    assert len(paths) >= 4
    for path in paths:
        copy, image = copy_of(path, tmp_path / "out"), ImageSettings(64, 3)
        assert np.array_equal(folder.decode(path, image).pixels, folder.decode(copy, image).pixels)
        assert {*studies.errors(copy)} <= {*studies.errors(path)}


@pytest.mark.parametrize(
    ("tags", "cause"),
    [
        ({"BurnedInAnnotation": "YES"}, "text is burned into it"),
        ({"Modality": "US"}, "does not say"),
        ({"ConversionType": "WSD"}, "does not say"),
        ({"OverlayBitPosition": 12}, "an overlay"),
    ],
)
def test_an_image_with_text_in_its_pixels_is_refused_unless_told(
    tmp_path: Path, tags: dict[str, Any], cause: str
) -> None:
    (path, _) = scan(tmp_path / "scan", **{name: value for name, value in tags.items() if "Overlay" not in name})
    if "OverlayBitPosition" in tags:
        dataset = pydicom.dcmread(path)
        dataset.add_new(0x60000102, "US", 12)
        dataset.save_as(path)
    _, (problem, *_) = write_copies(tmp_path / "scan", tmp_path / "out", NAMES)
    assert (problem.file, problem.code, cause in problem.cause) == ("000", "E_BURNED_IN", True)
    assert not copy_of(path, tmp_path / "out").exists()
    assert write_copies(tmp_path / "scan", tmp_path / "told", NAMES, burned_in=True) == (2, [])


def test_labelled_copies_train_and_their_patients_stay_together(tmp_path: Path) -> None:
    lines = ["path,label"]
    for number, pixels in enumerate(samples.noise(24, 16, 16)):
        uids = {"SOPInstanceUID": f"1.2.{number}", "StudyInstanceUID": f"1.2.{number}.1"}
        path = samples.dicom(tmp_path / "scans" / f"{number}", pixels, PatientID=f"P{number // 2}", **uids)
        names = load(tmp_path / "fedhelp" / "images")
        lines.append(f"{copy_of(path, tmp_path / 'out', names).name},{'ab'[number % 2]}")
    words = ("label", str(tmp_path / "scans"), "--deidentified", str(tmp_path / "out"))
    done = run_in_process(*words, "--burned-in", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "de-identified copies: 24, not copied: 0" in done.stdout
    (tmp_path / "out" / "labels.csv").write_text("\n".join(lines))
    images = loading.load(tmp_path / "out", samples.plan(channels=1), state_dir=tmp_path / "kept")
    assert (len(images), len(set(images.groups))) == (24, 12)
    assert error_code(run_in_process(*words, home=tmp_path)) == "E_FILE_EXISTS"
