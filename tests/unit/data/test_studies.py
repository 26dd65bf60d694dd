"""Studies as an archive exports them are labelled by a table of accession numbers, of studies or of series."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge import errors
from fedhelp_edge.data import folder, labels, loading
from fedhelp_edge.data import table as tables
from fedhelp_edge.data.check import check
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.pseudonyms import KEY_FILE
from tests.unit.data import samples

pytest.importorskip("pydicom", reason="pydicom is not installed (extra: medical)")

PLAN = samples.plan(channels=1)
STUDIES = 20  # of two images each; two studies of each patient


def export(root: Path, count: int = STUDIES, per_study: int = 2, **tags: Any) -> Path:
    """A folder as an archive writes it on a disc: nested folders, names without a suffix, and a DICOMDIR."""
    samples.dicom(root / "DICOMDIR", samples.noise(1, 16, 16)[0], PixelData=None, Rows=None, Modality=None)
    for number, pixels in enumerate(samples.noise(count * per_study, 16, 16)):
        study = number // per_study
        own = {
            "PatientID": f"P-{study // 2}", "PatientName": "Secretperson^Hildegard", "StudyInstanceUID": f"1.2.{study}",
            "SeriesInstanceUID": f"1.2.{study}.1", "SOPInstanceUID": f"1.2.{study}.1.{number}", "Modality": "DX",
            "AccessionNumber": f"A{study}", **tags,
        }  # fmt: skip
        samples.dicom(root / f"PT{study // 2:06}" / f"ST{study:06}" / "SE000000" / f"IM{number:06}", pixels, **own)
    return root


def add(root: Path, study: int, name: str, **tags: Any) -> Path:
    """Add a file to a study."""
    own = {"StudyInstanceUID": f"1.2.{study}", "AccessionNumber": f"A{study}", "PatientID": f"P-{study // 2}"}
    return samples.dicom(root / name, samples.noise(1, 16, 16, seed=99)[0], **own, **tags)


def table(root: Path, *lines: str) -> Path:
    path = root / "labels.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def by_accession(root: Path, *more: str) -> Path:
    return table(root, "AccessionNumber,label", *(f"A{study},{'ab'[study % 2]}" for study in range(STUDIES)), *more)


def problems(images: Images) -> list[tuple[str, str, str]]:
    return [(problem.file, problem.code, problem.cause) for problem in images.problems]


@pytest.mark.parametrize(
    ("heading", "identifier"),
    [
        ("AccessionNumber", "A{}"),
        ("Accession Number", "A{}"),
        ("StudyInstanceUID", "1.2.{}"),
        ("SeriesInstanceUID", "1.2.{}.1"),
    ],
)
def test_a_label_counts_for_all_images_of_its_study(heading: str, identifier: str, tmp_path: Path) -> None:
    root = export(tmp_path / "export")
    table(root, f"{heading};Befund", *(f"{identifier.format(study)};{'ab'[study % 2]}" for study in range(STUDIES)))
    images = loading.load(root, PLAN, state_dir=tmp_path / "kept")
    assert (len(images), int(images.labels.sum()), images.problems) == (2 * STUDIES, STUDIES, ())


def test_a_patient_stays_in_one_part_under_a_name_that_nobody_can_guess(tmp_path: Path) -> None:
    images = loading.load(by_accession(export(tmp_path / "export")), PLAN, state_dir=tmp_path / "kept")
    splits = defaultdict(set)
    for group, split in zip(images.groups, images.splits, strict=True):
        splits[group].add(split)
    assert len(splits) == STUDIES // 2
    assert all(len(parts) == 1 for parts in splits.values())
    assert {"train", "val", "test"} == set().union(*splits.values())
    again = loading.load(tmp_path / "export", PLAN, state_dir=tmp_path / "kept")
    elsewhere = loading.load(tmp_path / "export", PLAN, state_dir=tmp_path / "elsewhere")
    assert images.groups == again.groups
    assert not {*images.groups} & {*elsewhere.groups}
    same_key = loading.load(tmp_path / "export", PLAN, state_dir=tmp_path / "others", key_dir=tmp_path / "kept")
    assert same_key.patients == images.patients
    written = b"".join(path.read_bytes() for path in (tmp_path / "kept").rglob("*") if path.is_file())
    assert not any(word in written for word in (b"P-1", b"Secretperson", b"1.2.1", b"A1"))
    assert (tmp_path / "kept" / KEY_FILE).stat().st_mode & 0o077 == 0


def test_images_of_a_study_stay_together_though_nobody_knows_the_patient(tmp_path: Path) -> None:
    root = export(tmp_path / "export", PatientID="ANONYMOUS")
    images = loading.load(by_accession(root), PLAN, state_dir=tmp_path / "kept")
    assert len(set(images.groups)) == STUDIES
    assert set(images.patients) == {""}


def test_check_counts_studies_and_patients(tmp_path: Path) -> None:
    report = check(by_accession(export(tmp_path / "export")), PLAN, state_dir=tmp_path / "kept")
    assert (report.ready, report.images, report.studies, report.patients) == (True, 40, 20, 10)


def test_what_is_no_image_of_a_study_is_passed_over(tmp_path: Path) -> None:
    root = by_accession(export(tmp_path / "export")).parent
    add(root, 0, "report", PixelData=None, Rows=None, Modality="SR")
    add(root, 0, "outline", Modality="SEG")
    add(root, 0, "our heat-map", Manufacturer="fedhelp-edge", Modality="DX")
    (root / "notes.docx").write_bytes(b"PK\3\4")
    images = loading.load(root, PLAN, state_dir=tmp_path / "kept")
    assert (len(images), images.problems) == (2 * STUDIES, ())


def test_lines_that_contradict_each_other_are_not_used_and_a_repeated_one_counts_once(tmp_path: Path) -> None:
    path = by_accession(export(tmp_path / "export"), "A1,B", "A2,b")
    report = check(path, PLAN, state_dir=tmp_path / "kept")
    conflicts = [(problem.file, problem.cause) for problem in report.blocking]
    assert conflicts == [
        ("line 4 of labels.csv", "line 23 gives the same images another label"),
        ("line 23 of labels.csv", "line 4 gives the same images another label"),
    ]
    assert {problem.code for problem in report.blocking} == {"E_CONFLICT"}
    assert report.images == 2 * STUDIES - 2


def test_a_label_without_a_study_or_whose_study_has_no_image_is_named_by_its_line(tmp_path: Path) -> None:
    root = by_accession(export(tmp_path / "export"), "A99,a", ",a", "A98,a").parent
    add(root, 98, "report", PixelData=None, Rows=None, Modality="SR")
    images = loading.load(root, PLAN, state_dir=tmp_path / "kept")
    missing = "no DICOM file below the table's folder has this identifier"
    assert problems(images) == [
        ("line 22 of labels.csv", "E_FILE_MISSING", missing),
        ("line 23 of labels.csv", "E_FILE_MISSING", missing),
        ("line 24 of labels.csv", "E_STUDY", "none of its files is an image"),
    ]


@pytest.mark.parametrize(
    ("column", "identifier", "left_out"),
    [
        ("AccessionNumber", "A0", "2 studies, with 5 images"),
        ("SeriesInstanceUID", "1.2.0.1", "3 series, with 5 images"),
        ("SOPInstanceUID", "1.2.0.1.0", "6 images"),
    ],
)
def test_studies_without_a_line_in_the_table_are_counted(
    column: str, identifier: str, left_out: str, tmp_path: Path
) -> None:
    root = export(tmp_path, 2)
    add(root, 4, "one", SOPInstanceUID="1.1", SeriesInstanceUID="1.2.4.1", Modality="DX")
    add(root, 4, "two", SOPInstanceUID="1.2", SeriesInstanceUID="1.2.4.1", Modality="DX")
    add(root, 4, "three", SOPInstanceUID="1.3", SeriesInstanceUID="1.2.4.2", Modality="CT")
    add(root, 5, "report", PixelData=None, Rows=None, Modality="SR")
    read = tables.read(table(root, f"{column},label", f"{identifier},a"), PLAN.image)
    assert [(problem.file, problem.code, problem.cause) for problem in read.problems] == [
        ("labels.csv", "E_STUDY_UNLABELLED", f"without a line: {left_out}")
    ]
    assert read.rows


def test_a_study_of_several_modalities_needs_a_column_that_says_which_one_is_labelled(tmp_path: Path) -> None:
    root = by_accession(export(tmp_path / "export")).parent
    add(root, 1, "slice", Modality="CT")
    images = loading.load(root, PLAN, state_dir=tmp_path / "kept")
    assert problems(images) == [("line 3 of labels.csv", "E_STUDY", "its images are of several modalities (CT, DX)")]
    lines = [f"A{study},{'ab'[study % 2]},{'MR' if study == 2 else 'DX'}" for study in range(STUDIES)]
    table(root, "AccessionNumber,label,modality", *lines)
    images = loading.load(root, PLAN, state_dir=tmp_path / "kept")
    assert problems(images) == [("line 4 of labels.csv", "E_STUDY", "it has no image of the modality MR, but of DX")]
    assert len(images) == 2 * (STUDIES - 1)
    assert "slice" not in images.names


def test_training_remembers_which_column_has_the_accession_numbers(tmp_path: Path) -> None:
    root = export(tmp_path / "export")
    table(root, "Nr,label", *(f"A{study},{'ab'[study % 2]}" for study in range(STUDIES)))
    with pytest.raises(errors.BadTableError, match="AccessionNumber"):
        loading.load(root, PLAN, state_dir=tmp_path / "kept")
    check(root, PLAN, state_dir=tmp_path / "kept", columns={"accession": "Nr"})
    assert labels.load_columns(tmp_path / "kept", root) == {"accession": "Nr"}
    assert len(loading.load(root, PLAN, state_dir=tmp_path / "kept")) == 2 * STUDIES
    assert folder.is_dicom(next(root.rglob("IM*")))
