"""Images of one patient, and near duplicates, stay in one set; leaks that remain are reported."""

from __future__ import annotations

import json
from collections import defaultdict
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedhelp_edge import errors
from fedhelp_edge.data import loading
from fedhelp_edge.data.check import check
from fedhelp_edge.data.findings import findings
from fedhelp_edge.data.images import Images
from tests.unit.data import samples


def photographs(count: int, seed: int = 0) -> list[Image.Image]:
    """Images with shapes, like photographs."""
    coarse = samples.noise(count, 6, 6, 3, seed=seed)
    return [Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC) for pixels in coarse]


def parts_of(images: Images, key: str) -> dict[str, set[str]]:
    """The sets of the images by the start of their names, up to a separator."""
    splits: dict[str, set[str]] = defaultdict(set)
    for name, part in zip(images.names, images.splits, strict=True):
        splits[name.partition(key)[0]].add(part)
    return splits


def sentences(images: Images) -> list[str]:
    return [finding.sentence for finding in findings(images, ("a", "b"))]


# ------------------------------------------------------------------------------------------------ before the split


@pytest.mark.parametrize("seed", range(3))
def test_near_duplicates_are_in_one_set_without_named_patients(seed: int, tmp_path: Path) -> None:
    for index, name in enumerate("ab"):
        for i, image in enumerate(photographs(14, seed=index)):
            samples.save(tmp_path / "images" / name / f"{i:02}-first.png", np.asarray(image))
            image.save(tmp_path / "images" / name / f"{i:02}-again.jpg", quality=85)
    images = loading.load(tmp_path / "images", samples.plan(size=32, seed=seed), state_dir=tmp_path / "kept")
    splits = parts_of(images, "-")
    assert len(images) == 56
    assert len(splits) == 28
    assert all(len(parts) == 1 for parts in splits.values())
    assert {"train", "val", "test"} == set().union(*splits.values())


def test_the_folder_below_a_class_is_the_patient_who_may_have_more_than_one_class(tmp_path: Path) -> None:
    for i, pixels in enumerate(samples.noise(60)):
        samples.save(tmp_path / "images" / "ab"[i % 2] / f"P{i // 4}" / "left eye" / f"{i}.png", pixels)
    images = loading.load(tmp_path / "images", samples.plan(), state_dir=tmp_path / "kept")
    assert set(images.groups) == {f"P{i}" for i in range(15)}
    where = {(group, part) for group, part in zip(images.groups, images.splits, strict=True)}
    assert len(where) == 15
    assert {part for _, part in where} == {"train", "val", "test"}


def test_a_folder_below_the_class_that_all_images_share_is_not_a_patient(tmp_path: Path) -> None:
    for i, pixels in enumerate(samples.noise(20)):
        samples.save(tmp_path / "images" / "ab"[i % 2] / "pictures" / f"{i}.png", pixels)
    images = loading.load(tmp_path / "images", samples.plan(), state_dir=tmp_path / "kept")
    assert set(images.groups) == {""}


def test_a_split_folder_below_the_class_is_not_a_patient(tmp_path: Path) -> None:
    for i, pixels in enumerate(samples.noise(20)):
        samples.save(tmp_path / "images" / "ab"[i % 2] / ("test" if i < 6 else "train") / f"{i}.png", pixels)
    images = loading.load(tmp_path / "images", samples.plan(val=0.0), state_dir=tmp_path / "kept")
    assert set(images.groups) == {""}
    assert {part: images.splits.count(part) for part in images.splits} == {"train": 14, "test": 6}


@pytest.mark.parametrize("kind", ["names", "numbers"])
def test_an_npz_names_patients_with_and_without_splits(kind: str, tmp_path: Path) -> None:
    pixels, patients = samples.noise(60), np.arange(60) // 4
    groups = patients if kind == "numbers" else np.array([f"Zoë {i}" for i in patients])
    labels = np.arange(60) % 2
    np.savez(tmp_path / "whole.npz", images=pixels, labels=labels, groups=groups)
    np.savez(
        tmp_path / "parts.npz",
        train_images=pixels[:40], train_labels=labels[:40], train_groups=groups[:40],
        test_images=pixels[40:], test_labels=labels[40:], test_groups=groups[40:],
    )  # fmt: skip
    for name in ("whole", "parts"):
        images = loading.load(tmp_path / f"{name}.npz", samples.plan(), state_dir=tmp_path / name)
        where = {(group, part) for group, part in zip(images.groups, images.splits, strict=True)}
        assert len(where) == len(set(images.groups)) == 15
        assert sentences(images) == []


@pytest.mark.parametrize(
    ("groups", "word"), [(np.arange(3), "differ in length"), (np.zeros(4), "one name or whole number")]
)
def test_groups_of_an_npz_that_do_not_match_its_images_are_refused(
    groups: np.ndarray, word: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "set.npz", images=samples.noise(4), labels=np.arange(4) % 2, groups=groups)
    with pytest.raises(errors.BadNpzError, match=word):
        loading.load(tmp_path / "set.npz", samples.plan(), state_dir=tmp_path / "kept")


def test_a_folder_a_table_and_an_npz_with_the_same_patients_are_split_alike(tmp_path: Path) -> None:
    pixels, lines = samples.noise(40), ["path,label,patient"]
    for i, image in enumerate(pixels):
        samples.save(tmp_path / "images" / "ab"[i % 2] / f"p{i // 3}" / f"{i}.png", image)
        lines.append(f"images/{'ab'[i % 2]}/p{i // 3}/{i}.png,{'ab'[i % 2]},{i // 3 + 100}")
    (tmp_path / "set.csv").write_text("\n".join(lines), encoding="utf-8")
    np.savez(tmp_path / "set.npz", images=pixels, labels=np.arange(40) % 2, groups=np.arange(40) // 3)
    splits = [
        loading.load(tmp_path / name, samples.plan("a", "b"), state_dir=tmp_path / f"kept {name}").splits
        for name in ("images", "set.csv", "set.npz")
    ]
    assert splits[0] == splits[1] == splits[2]
    assert set(splits[0]) == {"train", "val", "test"}


def test_patients_of_a_table_and_near_duplicates_make_one_group(tmp_path: Path) -> None:
    lines = ["path,label,patient"]
    for i, image in enumerate(photographs(20)):
        samples.save(tmp_path / f"{i}.png", np.asarray(image))
        lines.append(f"{i}.png,{'ab'[i % 2]},{'one' if i in (0, 2) else 'two' if i == 4 else i}")
    Image.open(tmp_path / "2.png").save(tmp_path / "again.jpg", quality=85)
    lines.append("again.jpg,a,two")
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    images = loading.load(tmp_path / "t.csv", samples.plan(size=32), state_dir=tmp_path / "kept")
    groups = dict(zip(images.names, images.groups, strict=True))
    assert len({groups[name] for name in ("0.png", "2.png", "4.png", "again.jpg")}) == 1
    assert len(set(groups.values())) == 18


@pytest.mark.parametrize("kept", ["the copy without a patient", "the copy of another patient"])
def test_a_picture_that_is_there_twice_belongs_to_the_patients_of_both_copies(kept: str, tmp_path: Path) -> None:
    """Which copy stays is chance: the patient's other pictures may not come into another part for that."""
    own = "" if kept == "the copy without a patient" else "P0"
    lines = ["path,label,patient"]
    for i, pixels in enumerate(samples.noise(20)):
        samples.save(tmp_path / f"{i:02}.png", pixels)
        lines.append(f"{i:02}.png,{'ab'[i % 2]},{own if i == 0 else 'P1' if i in (2, 4) else f'Q{i}'}")
    samples.save(tmp_path / "copy.png", samples.noise(20)[0])
    (tmp_path / "t.csv").write_text("\n".join([*lines, "copy.png,a,P1"]), encoding="utf-8")
    images = loading.load(tmp_path / "t.csv", samples.plan(size=32), state_dir=tmp_path / "kept")
    assert "copy.png" not in images.names
    groups = dict(zip(images.names, images.groups, strict=True))
    assert len({groups[name] for name in ("00.png", "02.png", "04.png")}) == 1
    assert len(set(groups.values())) == 18
    assert images.patients[images.names.index("00.png")] == (own or "P1")


@pytest.mark.parametrize("word", ["unknown", "n/a", "nan", "-", "Anonymous"])
def test_a_word_for_unknown_is_not_a_patient(word: str, tmp_path: Path) -> None:
    lines = ["path,label,patient"]
    for i, pixels in enumerate(samples.noise(6)):
        samples.save(tmp_path / f"{i}.png", pixels)
        lines.append(f"{i}.png,{'ab'[i % 2]},{word if i < 4 else 'p'}")
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    images = loading.load(tmp_path / "t.csv", samples.plan(), state_dir=tmp_path / "kept")
    assert sorted(images.groups) == ["", "", "", "", "p", "p"]


# ---------------------------------------------------------------------------------------------------- a given split


def load_table(path: Path, rows: dict[str, tuple[str, str]]) -> Images:
    """Images of a table with patient and split of some; the others have no patient and are training images."""
    lines = ["path,label,patient,split"]
    for i, pixels in enumerate(samples.noise(40)):
        samples.save(path / f"{i}.png", pixels)
        lines.append(f"{i}.png,{'ab'[i % 2]},{','.join(rows.get(str(i), (f'q{i}', 'train')))}")
    (path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    return loading.load(path / "t.csv", samples.plan(val=0.0), state_dir=path / "kept")


def test_the_leak_of_a_given_split_is_one_finding_with_counts(tmp_path: Path) -> None:
    rows = {"0": ("p", "val"), "1": ("p", "train"), "2": ("q3", "val"), "4": ("r", "val"), "5": ("r", "test")}
    rows |= {str(i): (f"v{i}", "val") for i in (6, 7)}
    images = load_table(tmp_path, rows)
    assert sentences(images) == [
        "2 of 5 validation images show a patient (or nearly the same picture) that is also in train",
        "1 of 1 test image shows a patient (or nearly the same picture) that is also in val",
    ]
    (first, last) = findings(images, ("a", "b"))
    assert first.to_json() == {
        "kind": "leak", "part": "val", "images": 2, "of": 5, "sentence": first.sentence
    }  # fmt: skip
    assert (last.part, last.images, last.of) == ("test", 1, 1)


def test_near_duplicates_in_two_given_sets_are_also_a_leak(tmp_path: Path) -> None:
    for i, image in enumerate(photographs(12)):
        samples.save(tmp_path / "images" / "train" / "ab"[i % 2] / f"{i}.png", np.asarray(image))
        if i < 4:
            (tmp_path / "images" / "val" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / "images" / "val" / "ab"[i % 2] / f"{i}.jpg", quality=85)
    images = loading.load(tmp_path / "images", samples.plan(size=32), state_dir=tmp_path / "kept")
    sentence = "4 of 4 validation images show a patient (or nearly the same picture) that is also in train"
    assert sentences(images)[0] == sentence
    report = check(tmp_path / "images", samples.plan(size=32), state_dir=tmp_path / "kept")
    assert report.findings[0].sentence == sentence
    assert report.groups == [2, 2, 2, 2]


def test_an_image_without_a_given_split_follows_its_patient(tmp_path: Path) -> None:
    images = load_table(tmp_path, {"0": ("p", "test"), "1": ("p", ""), "2": ("q", "val"), "3": ("q", "")})
    where = dict(zip(images.names, images.splits, strict=True))
    assert [where[f"{i}.png"] for i in range(4)] == ["test", "test", "val", "val"]


def test_missing_patient_names_are_reported_with_their_number(tmp_path: Path) -> None:
    images = loading.load(samples.folder(tmp_path / "images"), samples.plan(), state_dir=tmp_path / "kept")
    assert sentences(images)[0].startswith("no image has a patient or lesion: only near-duplicates")
    images = load_table(tmp_path, {"0": ("", "train"), "1": ("", "train"), "2": ("p", "val"), "3": ("q", "val")})
    assert sentences(images)[0].startswith("2 of 40 images have no patient or lesion")


def test_a_class_without_validation_images_is_a_finding(tmp_path: Path) -> None:
    images = load_table(tmp_path, {"0": ("p", "val")})
    assert sentences(images) == ["no validation image shows 'b': how well the model recognises this class is unknown"]


# ------------------------------------------------------------------------------------------------ what joins later


def test_a_new_near_duplicate_of_a_test_image_is_left_out(tmp_path: Path) -> None:
    source = tmp_path / "images"
    for i, image in enumerate(photographs(40)):
        samples.save(source / "ab"[i % 2] / f"{i}.png", np.asarray(image))
    plan = samples.plan(size=32)
    first = loading.load(source, plan, state_dir=tmp_path / "kept")
    for part in ("test", "train"):
        name = first.names[first.splits.index(part)]
        Image.open(source / name).save(source / name[0] / f"again-{part}.jpg", quality=85)
    again = loading.load(source, plan, state_dir=tmp_path / "kept")
    assert [(problem.file.rpartition("/")[2], problem.code) for problem in again.problems] == [
        ("again-test.jpg", "E_GROUP")
    ]
    assert len(again) == 41
    assert not [finding for finding in findings(again, plan.classes) if finding.kind == "leak"]


def test_a_split_stored_before_grouping_stays_and_its_leak_is_reported(tmp_path: Path) -> None:
    source = tmp_path / "images"
    for i, image in enumerate(photographs(20)):
        samples.save(source / "ab"[i % 2] / f"{i}.png", np.asarray(image))
    Image.open(source / "a" / "0.png").save(source / "a" / "again.jpg", quality=85)
    plan = samples.plan(size=32)
    images = loading.load(source, plan, state_dir=tmp_path / "kept")
    path = tmp_path / "kept" / "split.json"
    saved = json.loads(path.read_bytes())
    for name, part in (("a/0.png", "val"), ("a/again.jpg", "train")):
        saved["parts"]["32x32x3"][sha256(images.pixels[images.names.index(name)].tobytes()).hexdigest()] = part
    path.write_text(json.dumps(saved), encoding="utf-8")
    again = loading.load(source, plan, state_dir=tmp_path / "kept")
    assert len(again) == len(images)
    assert [finding.part for finding in findings(again, plan.classes) if finding.kind == "leak"] == ["val"]
