"""An answer says which image of which study it is about; images of kinds that the model does not know are refused."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydicom")


from fedhelp_edge.data import loading, picture
from fedhelp_edge.data.images import ImageKind
from fedhelp_edge.infer import answer_formats, answering, inputs, metadata, trained_kinds
from fedhelp_edge.infer.bundle import Bundle
from fedhelp_edge.infer.metadata import TrainedKinds
from tests import bundles, studies
from tests.unit.data import samples

UIDS = {
    "sop_instance_uid": "1.2.3.0.1.1", "series_instance_uid": "1.2.3.0.1", "study_instance_uid": "1.2.3.0",
    "accession_number": "A0", "modality": "XC", "body_part": "SKIN", "photometric_interpretation": "RGB",
}  # fmt: skip
SKIN = TrainedKinds(("XC",), ("SKIN",), ("RGB",))


def answered(bundle: Bundle, *paths: Path) -> list[dict[str, Any]]:
    with picture.without_warnings():
        return list(answering.answer_items(bundle, inputs.list_items(paths)))


def trained_on(bundle: Bundle, kinds: TrainedKinds, *, any_kind: bool = False) -> Bundle:
    return replace(bundle, facts=replace(bundle.facts, kinds=kinds), any_kind=any_kind)


def test_every_format_says_which_image_of_which_study_it_is(opened: Bundle, tmp_path: Path) -> None:
    rows = answered(opened, *studies.write(tmp_path, 1), bundles.write_test_images(tmp_path, 1) / "000.png")
    assert {name: rows[0][name] for name in UIDS} == UIDS
    assert {rows[1][name] for name in UIDS} == {None}
    text = {kind: "".join(form.text(opened, rows)) for kind, form in answer_formats.FORMATS.items()}
    assert json.loads(text["json"])["results"][0].items() >= UIDS.items()
    assert next(csv.DictReader(io.StringIO(text["csv"]))).items() >= UIDS.items()
    for kind in ("table", "html"):
        assert "XC SKIN, accession number A0, study 1.2.3.0, series 1.2.3.0.1, instance 1.2.3.0.1.1" in text[kind]


def test_a_file_that_cannot_be_used_says_it_too(opened: Bundle, tmp_path: Path) -> None:
    (path,) = studies.write(tmp_path, 1, PixelData=None)
    (row,) = answered(opened, path)
    assert row["error"]["code"] == "E_IMAGE_KIND"
    assert {name: row[name] for name in UIDS} == UIDS


def test_text_that_is_burned_in_is_warned_about_in_every_format(opened: Bundle, tmp_path: Path) -> None:
    rows = answered(opened, *studies.write(tmp_path, 1, BurnedInAnnotation="YES"), *studies.write(tmp_path, 1, 1))
    assert ["burned" in row["doubt"] for row in rows] == [True, False]
    for form in answer_formats.FORMATS.values():
        assert "".join(form.text(opened, rows)).count("text is burned into the image") == 1


def test_hostile_identifiers_are_cut_and_escaped(opened: Bundle, tmp_path: Path) -> None:
    (path,) = studies.write(tmp_path, 1, AccessionNumber="=1+1\x1b[31m", BodyPartExamined="A" * 16)
    path.write_bytes(path.read_bytes().replace(b"1.2.3.0.1.1\0", b"../../..<b>\0"))
    rows = answered(opened, path)
    text = {kind: "".join(form.text(opened, rows)) for kind, form in answer_formats.FORMATS.items()}
    assert "\x1b" not in text["table"] + text["csv"] + text["html"]
    assert "<b>" not in text["html"]
    assert next(csv.DictReader(io.StringIO(text["csv"])))["accession_number"].startswith("'=")


@pytest.mark.parametrize(
    ("tags", "cause"),
    [
        ({"Modality": "CT"}, "its modality is CT, but the model was trained on XC"),
        ({"BodyPartExamined": "KNEE"}, "its body part is KNEE, but the model was trained on SKIN"),
    ],
)
def test_another_kind_of_image_is_refused_unless_a_person_asks_for_it(
    tags: dict[str, str], cause: str, opened: Bundle, tmp_path: Path
) -> None:
    paths = [*studies.write(tmp_path, 1, **tags), *studies.write(tmp_path, 1, 1)]
    other, known = answered(trained_on(opened, SKIN), *paths)
    assert (other["error"]["code"], other["reason"], other["answer"]) == ("E_OTHER_KIND", cause, None)
    assert "--any-kind" in other["error"]["remedy"]
    assert (known["error"], known["doubt"]) == (None, "")
    other, _ = answered(trained_on(opened, SKIN, any_kind=True), *paths)
    assert (other["error"], other["doubt"]) == (None, cause)


def test_another_photometric_interpretation_is_refused_but_colour_spaces_are_alike(
    opened: Bundle, tmp_path: Path
) -> None:
    grey = bundles.site().images.split("test").pixels[0][..., 0].copy()
    paths = [
        samples.dicom(tmp_path / f"{name}.dcm", grey, PhotometricInterpretation=name, Modality="XC")
        for name in ("MONOCHROME1", "MONOCHROME2")
    ]
    model = trained_on(opened, TrainedKinds(("XC",), (), ("MONOCHROME2",)))
    assert [bool(row["error"]) for row in answered(model, *paths)] == [True, False]
    (colour,) = studies.write(tmp_path, 1, PhotometricInterpretation="YBR_FULL")
    assert [bool(row["error"]) for row in answered(model, colour)] == [True]
    assert [bool(row["error"]) for row in answered(trained_on(opened, SKIN), colour)] == [False]


def test_a_file_that_does_not_state_its_kind_is_answered_with_a_note(opened: Bundle, tmp_path: Path) -> None:
    (row,) = answered(trained_on(opened, SKIN), *studies.write(tmp_path, 1, BodyPartExamined=None))
    assert row["error"] is None
    assert row["doubt"] == "the file does not state its body part; the model was trained on SKIN"


def test_a_model_knows_the_kinds_of_its_sites_images_and_says_so_on_its_card(tmp_path: Path) -> None:
    for number, name in enumerate(bundles.CLASSES):
        studies.write(tmp_path / "images" / name, 2, 10 * number, Modality=("XC", "DX", "XC")[number])
    for _ in range(2):  # decoded, then read from the cache
        unsplit = loading.load_unsplit(
            tmp_path / "images", bundles.site().plan, cache_dir=tmp_path / "home", mapping={}
        )
    kinds = unsplit.images.kinds
    assert set(kinds) == {ImageKind("XC", "SKIN", "RGB"), ImageKind("DX", "SKIN", "RGB")}
    images = bundles.site().images
    some = (kinds * len(images))[: len(images) - 60] + (None,) * 60
    exported = bundles.site().make(images=replace(images, kinds=some))
    assert exported.facts.kinds == TrainedKinds(("DX", "XC"), ("SKIN",), ("RGB",))
    assert metadata.read(exported.facts.text()).kinds == exported.facts.kinds
    assert "modalities: DX, XC" in exported.card


def test_pictures_state_no_kind_and_nothing_is_refused(tmp_path: Path, opened: Bundle) -> None:
    images = loading.load(samples.folder(tmp_path), samples.plan(), state_dir=tmp_path / "home")
    assert trained_kinds.collect(images.kinds) == TrainedKinds()
    assert all(row["error"] is None for row in answered(opened, *studies.write(tmp_path / "in", 2, Modality="CT")))


def test_a_model_of_an_earlier_version_is_read_and_refuses_no_kind(opened: Bundle) -> None:
    document = json.loads(opened.facts.text())
    del document["kinds"]
    assert metadata.read(json.dumps(document)).kinds == TrainedKinds()


def test_answers_of_an_earlier_version_are_completed(opened: Bundle, tmp_path: Path) -> None:
    studies.write(tmp_path / "in", 1)
    answering.write_answers(tmp_path / "out", opened, [tmp_path / "in"], "json")
    log = tmp_path / "out" / answering.LOG_FILE
    header, line = log.read_text().splitlines()
    old = {name: value for name, value in json.loads(line).items() if name not in UIDS}
    log.write_text(f"{header}\n{json.dumps(old)}\n")
    path, _ = answering.write_answers(tmp_path / "out", opened, [tmp_path / "in"], "json")
    assert json.loads(path.read_text())["results"][0].items() >= UIDS.items()
