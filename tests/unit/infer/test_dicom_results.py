"""`predict --format dicom`: a report and a heat-map for each image, which other programs accept and read."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("highdicom")

import pydicom
from highdicom import sr

from fedhelp_edge import __version__
from fedhelp_edge import plan as plans
from fedhelp_edge.data import picture
from fedhelp_edge.errors import BadPlanError
from fedhelp_edge.infer import answering, codes, inputs, metadata
from fedhelp_edge.infer.bundle import Bundle
from fedhelp_edge.infer.dicom_results import ResultWriter
from fedhelp_edge.methods.registry import METHODS
from tests import bundles, studies
from tests.bundles import run_command
from tests.unit.infer.test_dicom_identity import SKIN, trained_on


def results(bundle: Bundle, folder: Path, *paths: Path) -> list[tuple[dict[str, Any], list[pydicom.Dataset]]]:
    """The row and the DICOM files of each image."""
    folder.mkdir(exist_ok=True)
    with picture.without_warnings():
        rows = list(answering.answer_items(bundle, inputs.list_items(paths), results=ResultWriter(folder, bundle)))
    return [(row, [pydicom.dcmread(folder / name) for name in row["dicom"]]) for row in rows]


def group(report: pydicom.Dataset) -> Any:
    """The report's only group of measurements, as highdicom reads it."""
    (measured,) = sr.ComprehensiveSR.from_dataset(report).content.get_image_measurement_groups()
    return measured


def evaluations(report: pydicom.Dataset, name: Any) -> list[str]:
    return [item.value.value for item in group(report).get_qualitative_evaluations(name=name)]


def test_results_are_valid_and_read_back_to_the_same_numbers(
    opened: Bundle, model: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studies.write(tmp_path / "in", 12)
    words = ("predict", model, tmp_path / "in", "--home", home, "--format", "dicom", "--out", tmp_path / "out")
    assert run_command(capsys, *words)[0] == 0
    rows = json.loads((tmp_path / "out" / "answers.json").read_text())["results"]
    assert {row["verdict"] for row in rows} >= {"answered", "unlike"}
    of_class = codes.of_classes(opened.facts)
    for row in rows:
        report, *heatmaps = (pydicom.dcmread(tmp_path / "out" / name) for name in row["dicom"])
        assert len(heatmaps) == (row["verdict"] != "unlike")
        for result in (report, *heatmaps):
            assert studies.errors(Path(result.filename)) == []
            assert (result.PatientID, str(result.PatientName)) == ("P-0815", "Müller^Zoë")
            assert (result.StudyInstanceUID, result.AccessionNumber) == (
                row["study_instance_uid"],
                row["accession_number"],
            )
            assert result.DeviceSerialNumber == opened.sha256
        probabilities = {m.name.meaning: float(m.value) for m in group(report).get_measurements()}
        expected = {} if row["verdict"] == "unlike" else row["probabilities"]
        assert probabilities == {f"Probability of {name}": p for name, p in expected.items()}
        answer = of_class[row["answer"]] if row["answer"] else codes.NOT_CLASSIFIED
        assert group(report).finding_type.value == answer.value
        assert evaluations(report, codes.POSSIBLE) == [
            of_class[name].value for name in row["set"] if row["verdict"] != "unlike"
        ]
        (source,) = sr.ComprehensiveSR.from_dataset(report).get_evidence()
        assert source[2] == row["sop_instance_uid"]


def test_the_report_says_which_model_of_which_round_of_which_federation_answered(
    opened: Bundle, tmp_path: Path
) -> None:
    ((_, (report, *_rest)),) = results(opened, tmp_path / "out", *studies.write(tmp_path, 1))
    text = report.to_json()
    for part in (
        opened.sha256,
        opened.facts.federation,
        "round: 3",
        f"fedhelp-edge {__version__}",
        "signer trusted: yes",
    ):
        assert part in text
    assert (report.CompletionFlag, report.PreliminaryFlag, report.VerificationFlag) == (
        "COMPLETE", "PRELIMINARY", "UNVERIFIED",
    )  # fmt: skip


def test_not_classified_is_a_coded_state_with_a_coded_reason(opened: Bundle, tmp_path: Path) -> None:
    paths = studies.write(tmp_path, 30)
    seen = {row["verdict"]: files[0] for row, files in results(opened, tmp_path / "out", *paths) if not row["answer"]}
    for verdict in ("uncertain", "unlike"):
        if verdict in seen:
            assert group(seen[verdict]).finding_type == codes.NOT_CLASSIFIED
            assert evaluations(seen[verdict], codes.REASON) == [verdict]
    assert "unlike" in seen
    many = studies.write(tmp_path / "many", 1, NumberOfFrames=2, PixelData=bundles.noise(2, 48, 64, 3).tobytes())
    ((row, (report,)),) = results(opened, tmp_path / "out", *many)
    assert row["error"]["code"] == "E_IMAGE_KIND"
    assert evaluations(report, codes.REASON) == ["not-usable"]
    assert "this DICOM file has 2 frames" in report.to_json()
    other = trained_on(opened, SKIN)
    ((row, (report,)),) = results(other, tmp_path / "out", *studies.write(tmp_path / "ct", 1, Modality="CT"))
    assert group(report).finding_type == codes.NOT_CLASSIFIED
    assert studies.errors(Path(report.filename)) == []


def test_the_same_answer_has_the_same_uids_and_two_models_have_different_ones(opened: Bundle, tmp_path: Path) -> None:
    paths = studies.write(tmp_path, 6)
    first, again = ([row["dicom"] for row, _ in results(opened, tmp_path / "out", *paths)] for _ in range(2))
    assert first == again
    assert len({name for names in first for name in names}) == sum(map(len, first))
    other = replace(opened, sha256="0" * 64)
    assert not {name for row, _ in results(other, tmp_path / "out", *paths) for name in row["dicom"]} & {
        name for names in first for name in names
    }


def test_the_heat_map_has_the_images_proportions(opened: Bundle, tmp_path: Path) -> None:
    all_results = results(opened, tmp_path / "out", *studies.write(tmp_path, 12))
    heatmap = next(files[1] for _, files in all_results if len(files) > 1)
    assert heatmap.pixel_array.shape == (384, 512, 3)
    assert heatmap.SourceImageSequence[0].ReferencedSOPInstanceUID == heatmap.StudyInstanceUID + ".1.1"
    assert "orange speaks for" in heatmap.DerivationDescription


def test_a_result_is_no_image(opened: Bundle, tmp_path: Path) -> None:
    for _, files in results(opened, tmp_path / "out", *studies.write(tmp_path, 12)):
        for file in files:
            ((row, _),) = results(opened, tmp_path / "again", Path(file.filename))
            assert (row["error"]["code"], row["dicom"]) == ("E_IMAGE_KIND", [])


@pytest.mark.parametrize(
    "tags",
    [
        dict.fromkeys(("PatientID", "PatientName", "StudyDate", "StudyTime", "AccessionNumber", "PatientSex"), None),
        {"PatientName": "山田^太郎", "PatientID": "P" * 64, "StudyDescription": "x" * 64},
        {"PatientBirthDate": "", "PatientSex": "", "InstanceNumber": "-1"},
    ],
)
def test_whatever_the_header_says_the_report_is_valid(tags: dict[str, Any], opened: Bundle, tmp_path: Path) -> None:
    for _, files in results(opened, tmp_path / "out", *studies.write(tmp_path, 3, **tags)):
        assert [error for file in files for error in studies.errors(Path(file.filename))] == []


def test_the_patient_is_named_as_in_the_image(opened: Bundle, tmp_path: Path) -> None:
    (path,) = studies.write(
        tmp_path, 1, PatientID="one\\two", PatientName="山田^太郎=やまだ^たろう", IssuerOfPatientID="H"
    )
    for result in results(opened, tmp_path / "out", path)[0][1]:
        image = pydicom.dcmread(path, specific_tags=["PatientID", "PatientName"])
        assert (result.PatientID, result.PatientName) == (image.PatientID, image.PatientName)
        assert list(result.SoftwareVersions) == [f"fedhelp-edge {__version__}", "round 3"]


def test_values_that_are_none_of_their_kind_are_left_out(opened: Bundle, tmp_path: Path) -> None:
    (path,) = studies.write(tmp_path, 1)
    data = path.read_bytes().replace(b"19700131", b"01.02.70").replace(b"20260102", b"yesterda").replace(b"F ", b"X ")
    path.write_bytes(data.replace(b"131415", b"1:2:3."))
    ((_, (report, *_rest)),) = results(opened, tmp_path / "out", path)
    assert (report.PatientBirthDate, report.StudyDate, report.StudyTime, report.PatientSex) == ("", "", "", "")
    assert studies.errors(Path(report.filename)) == []


def test_files_without_a_study_are_answered_in_the_list_alone(
    model: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundles.write_test_images(tmp_path / "in", 1)
    studies.write(tmp_path / "in", 1, StudyInstanceUID=None)
    words = ("predict", model, tmp_path / "in", "--home", home, "--format", "dicom")
    code, _, err = run_command(capsys, *words)
    assert (code, "name a folder for them with --out" in err) == (2, True)
    assert run_command(capsys, *words, "--out", tmp_path / "out")[0] == 0
    rows = json.loads((tmp_path / "out" / "answers.json").read_text())["results"]
    assert [row["dicom"] for row in rows] == [[], []]
    assert all(row["probabilities"] for row in rows)


def test_findings_have_the_plans_codes_where_it_has_some(opened: Bundle, tmp_path: Path) -> None:
    plans_codes = dict.fromkeys(bundles.CLASSES, "SCT 233604007 Pneumonia")
    bundle = replace(opened, facts=replace(opened.facts, codes=plans_codes))
    assert metadata.read(bundle.facts.text()).codes == plans_codes
    for row, (report, *_) in results(bundle, tmp_path / "out", *studies.write(tmp_path, 12)):
        if row["answer"]:
            finding = group(report).finding_type
            assert (finding.scheme_designator, finding.value, finding.meaning) == ("SCT", "233604007", "Pneumonia")
            assert studies.errors(Path(report.filename)) == []


@pytest.mark.parametrize(
    ("codes_of_plan", "mistake"),
    [
        ('{benign = "233604007"}', "is not 'SCHEME VALUE MEANING'"),
        ('{other = "SCT 1 Other"}', "'other' is no class of the plan"),
    ],
)
def test_a_plan_with_wrong_codes_is_refused(codes_of_plan: str, mistake: str) -> None:
    text = f'classes = ["benign", "malignant"]\n[dicom]\ncodes = {codes_of_plan}\n'
    with pytest.raises(BadPlanError, match=re.escape(mistake)):
        plans.read(text, METHODS)


def test_codes_of_a_plan_are_in_the_model() -> None:
    text = bundles.PLAN + f'[dicom]\ncodes = {{{bundles.CLASSES[0]} = "SCT 1 One"}}\n'
    assert plans.read(text, METHODS).dicom.codes == {bundles.CLASSES[0]: "SCT 1 One"}
    made = replace(bundles.site(), plan=plans.read(text, METHODS)).make()
    assert made.facts.codes == {bundles.CLASSES[0]: "SCT 1 One"}
