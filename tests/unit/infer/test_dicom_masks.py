"""Outlines as DICOM segmentations: where the image's voxels lie, in the study of the image, valid for others' tools."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("highdicom")
pytest.importorskip("nibabel")

import nibabel
import pydicom
from highdicom import seg

from fedhelp_edge.data import nifti
from fedhelp_edge.infer import inputs, mask_answering
from fedhelp_edge.infer.dicom_masks import MaskWriter
from fedhelp_edge.infer.drawing import Drawn, Outline
from fedhelp_edge.parcel import keys
from tests import mask_bundles, studies
from tests.bundles import run_command
from tests.command import check_schema
from tests.unit.data import samples, series

STUDY: dict[str, Any] = {
    "PatientID": "P-0815", "PatientName": "Müller^Zoë", "PatientBirthDate": "19700131", "PatientSex": "F",
    "StudyDate": "20260102", "StudyTime": "131415", "StudyID": "7", "ReferringPhysicianName": "Doe^J",
    "SpecificCharacterSet": "ISO_IR 192", "AccessionNumber": "A1", "StudyInstanceUID": "1.2.3",
}  # fmt: skip


def volume(folder: Path, number: int = 0, **tags: Any) -> NDArray[np.uint8]:
    """Writes a validation volume of the model's site as a series, at the plan's distances; returns its mask."""
    images = mask_bundles.site(8).images.split("val")
    image, mask = list(zip(images.case_pictures(), images.case_masks(), strict=True))[number]
    where = {"PixelSpacing": [1.0, 1.0], "ImagePositionPatient": lambda at: [0.0, 0.0, 2.0 * at]}
    series.write(folder, image[..., 0], uid=f"1.2.3.{number + 1}", **{**STUDY, **where, **tags})
    return mask


def predict(capsys: Any, folder: Path, depth: int, *words: str | Path) -> tuple[int, list[dict[str, Any]]]:
    model = mask_bundles.saved_model(folder, depth)
    if not (folder / "home").exists():
        keys.save(folder / "home", mask_bundles.site(depth).keys, None)
    options = ("--home", folder / "home", "--threads", "1", "--out", folder / "out", "--format", "dicom")
    code, _, _ = run_command(capsys, "predict", model, *words, *options)
    document = json.loads((folder / "out" / "answers.json").read_text(encoding="utf-8"))
    check_schema("fedhelp-edge predict", document)
    return code, document["results"]


def labels(result: Any, sides: tuple[int, ...]) -> NDArray[np.uint8]:
    """The class of each pixel, slice by slice, as highdicom reads it."""
    found = np.zeros(sides, np.uint8)
    order = {uid: number for number, uid in enumerate(sorted({uid for _, _, uid in result.get_source_image_uids()},
                                                             key=lambda uid: int(uid.split(".")[-1])))}  # fmt: skip
    for uid, number in order.items():
        for label in (1, 2):
            frame = result.get_pixels_by_source_instance([uid], segment_numbers=[label], ignore_spatial_locations=True)
            found[number][frame[0, ..., 0] > 0] = label
    return found


def test_a_series_gets_a_valid_segmentation_in_its_study(tmp_path: Path, capsys: Any) -> None:
    truth = volume(tmp_path / "images" / "scan")
    code, (row,) = predict(capsys, tmp_path, 8, tmp_path / "images")
    assert (code, row["file"], row["error"]) == (0, "scan", None)
    assert (row["study_instance_uid"], row["series_instance_uid"], row["modality"]) == ("1.2.3", "1.2.3.1", "MR")
    (name,) = row["dicom"]
    path = tmp_path / "out" / name
    assert studies.errors(path) == []
    result = seg.segread(path)
    for keyword, value in STUDY.items():
        assert str(result[keyword].value) == value, keyword
    assert result.FrameOfReferenceUID == "1.2.3.1.0"
    assert result.SeriesInstanceUID != "1.2.3.1"
    assert [each.SegmentLabel for each in result.SegmentSequence] == ["a", "b", "uncertain pixels"]
    assert "Not a medical device" in result.SegmentSequence[0].SegmentDescription
    assert np.mean(labels(result, truth.shape) == truth) > 0.95
    mask = np.asarray(nifti_file(tmp_path / "out" / row["mask"]).dataobj)
    assert np.array_equal(labels(result, truth.shape), mask.transpose(2, 1, 0))
    (tmp_path / "out" / "answers.jsonl").unlink()
    _, (again,) = predict(capsys, tmp_path, 8, tmp_path / "images")
    assert again["dicom"] == [name]  # made again it replaces itself


@pytest.mark.parametrize("directions", [series.AXIAL, series.CORONAL, series.SAGITTAL])
def test_every_voxel_lies_where_the_nifti_mask_has_it(directions: Any, tmp_path: Path) -> None:
    series.write(tmp_path / "images" / "s", samples.noise(1, 6, 7, 9)[0], directions, **STUDY)
    (item,) = inputs.list_items([tmp_path / "images"], mask_bundles.plan_of(8).image)
    assert item.volume is not None
    grid = item.volume.grid
    draw = np.random.default_rng(0)
    mask = draw.integers(0, 3, grid.sides).astype(np.uint8)
    outline = Outline("answered", "", 0.5, Drawn(mask, mask == 2, np.zeros(1), {}, 0.1))
    (name,) = MaskWriter(tmp_path, mask_bundles.loaded_bundle(tmp_path, 8))(item, {}, outline)
    assert studies.errors(tmp_path / name) == []
    placed = seg.segread(tmp_path / name).get_volume(segment_numbers=[1, 2], combine_segments=True)
    (tmp_path / "m.nii").write_bytes(gzip.decompress(nifti.encode(mask, grid)))
    expected = nifti_file(tmp_path / "m.nii")
    assert places(placed.array, np.diag([-1.0, -1, 1, 1]) @ placed.affine) == places(
        np.asarray(expected.dataobj), expected.affine
    )


def nifti_file(path: Path) -> Any:
    return nibabel.load(path)


def places(values: NDArray[Any], affine: NDArray[Any]) -> set[tuple[int, ...]]:
    """Class and place, in tenths of a mm, of each voxel that has a class."""
    at = np.argwhere(values > 0)
    millimetres = at @ affine[:3, :3].T + affine[:3, 3]
    return {
        (int(values[tuple(i)]), *np.rint(10 * mm).astype(int).tolist()) for i, mm in zip(at, millimetres, strict=True)
    }


def test_a_picture_gets_a_valid_segmentation_of_its_own_size(tmp_path: Path, capsys: Any) -> None:
    image, truth = (next(part) for part in (mask_bundles.site().images.split("val").case_pictures(),
                                            mask_bundles.site().images.split("val").case_masks()))  # fmt: skip
    tags = {
        **STUDY,
        "SOPInstanceUID": "1.2.3.1.1",
        "SeriesInstanceUID": "1.2.3.1",
        "Modality": "XC",
        "InstanceNumber": 1,
    }
    samples.dicom(tmp_path / "images" / "x.dcm", image[..., 0], WindowCenter=128, WindowWidth=256, **tags)
    samples.save(tmp_path / "images" / "y.png", image)
    _, rows = predict(capsys, tmp_path, 1, tmp_path / "images")
    assert [len(row["dicom"]) for row in rows] == [1, 0]  # a PNG belongs to no study
    path = tmp_path / "out" / rows[0]["dicom"][0]
    assert studies.errors(path) == []
    result = seg.segread(path)
    assert np.mean(labels(result, (1, *truth.shape)) == truth) > 0.95


def test_unusable_and_unlike_images_get_a_report_that_says_why_and_no_segmentation(tmp_path: Path, capsys: Any) -> None:
    volume(tmp_path / "images" / "scan")
    (tmp_path / "images" / "scan" / "005.dcm").unlink()
    volume(tmp_path / "images" / "unlike", 1)
    for path in (tmp_path / "images" / "unlike").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PixelData = np.tile(np.array([0, 255], np.uint8), (20, 8)).tobytes()
        dataset.save_as(path)
    code, rows = predict(capsys, tmp_path, 8, tmp_path / "images")
    assert code == 1
    assert {row["file"]: row["verdict"] for row in rows} == {"scan": None, "unlike": "unlike"}
    for row, reason in zip(rows, ("not-usable", "unlike"), strict=True):
        (name,) = row["dicom"]
        report = pydicom.dcmread(tmp_path / "out" / name)
        assert report.Modality == "SR"
        for code_value in ("not-classified", reason):
            assert f'"{code_value}"' in report.to_json()
        assert studies.errors(tmp_path / "out" / name) == []
    (refused,) = [row["error"] for row in rows if row["error"]]
    assert refused["code"] == "E_VOLUME"
    assert "it lacks 1 slice" in refused["cause"]
    assert "with all its slices" in refused["remedy"]


@pytest.mark.parametrize("modality", ["DX", "XC", "XA"])
def test_images_of_any_kind_get_a_valid_result(modality: str, tmp_path: Path) -> None:
    image = next(mask_bundles.site().images.split("val").case_pictures()).repeat(3, 2)
    path = studies.write_kind(tmp_path / "in", modality, image)
    bundle = mask_bundles.loaded_bundle(tmp_path)
    (row,) = mask_answering.answer_items(bundle, inputs.list_items([path]), results=MaskWriter(tmp_path, bundle))
    assert (row["verdict"], row["error"]) == ("answered", None)
    (name,) = row["dicom"]
    assert studies.errors(tmp_path / name) == []
    # highdicom makes no segmentation of kinds that may have several frames: a report says so
    assert pydicom.dcmread(tmp_path / name).Modality == ("SR" if modality == "XA" else "SEG")


def test_one_slice_of_a_series_is_refused_with_what_to_name(tmp_path: Path, capsys: Any) -> None:
    volume(tmp_path / "images")
    code, (row,) = predict(capsys, tmp_path, 8, tmp_path / "images" / "000.dcm")
    assert code == 1
    assert (row["error"]["code"], row["error"]["remedy"]) == ("E_VOLUME", "name the folder with all its slices")


def test_a_series_of_another_kind_is_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    from fedhelp_edge.infer.metadata import TrainedKinds

    opened = mask_bundles.loaded_bundle(tmp_path, 8)
    trained = replace(opened, facts=replace(opened.facts, kinds=TrainedKinds(("MR",), (), ())))
    for modality, code in (("MR", None), ("CT", "E_OTHER_KIND")):
        volume(tmp_path / modality / "scan", Modality=modality)
        (row,) = mask_answering.answer_items(trained, inputs.list_items([tmp_path / modality], opened.facts.image))
        assert (row["error"] and row["error"]["code"]) == code
