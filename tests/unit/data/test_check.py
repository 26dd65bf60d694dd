"""`check` reports problems of images before training, and whether they must be corrected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedhelp_edge.data import loading, near_duplicates
from fedhelp_edge.data.check import CheckReport, check
from tests.unit.data import samples


def smooth(count: int, seed: int = 0) -> list[Image.Image]:
    """Images with shapes, like photographs."""
    coarse = samples.noise(count, 6, 6, 3, seed=seed)
    return [Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC) for pixels in coarse]


def shapes(root: Path, count: int = 12) -> Path:
    for index, name in enumerate("ab"):
        for i, image in enumerate(smooth(count, seed=index)):
            samples.save(root / name / f"{i:03}.png", np.asarray(image))
    return root


def codes(report: CheckReport) -> set[str]:
    return {problem.code for problem in report.problems}


def test_valid_images_are_ready_and_counted_by_class_and_split(tmp_path: Path) -> None:
    report = check(shapes(tmp_path / "images", 20), samples.plan(), state_dir=tmp_path / "kept")
    assert (report.ready, list(report.problems), report.images) == (True, [], 40)
    assert report.classes == {"a": 20, "b": 20}
    assert report.counts["a"] == {"train": 14, "val": 2, "test": 4}


def test_the_counts_are_those_of_training_though_no_split_is_stored(tmp_path: Path) -> None:
    source = shapes(tmp_path / "images")
    report = check(source, samples.plan(), state_dir=tmp_path / "kept")
    assert not (tmp_path / "kept" / "split.json").exists()
    splits = loading.load(source, samples.plan(), state_dir=tmp_path / "kept").splits
    assert {part: sum(counts[part] for counts in report.counts.values()) for part in ("train", "val", "test")} == {
        part: splits.count(part) for part in ("train", "val", "test")
    }


def test_without_a_plan_the_folders_are_the_classes(tmp_path: Path) -> None:
    samples.folder(tmp_path / "images" / "train", 10, ("Mole", "scar"))
    report = check(tmp_path / "images", None, state_dir=tmp_path / "kept")
    assert report.classes == {"Mole": 10, "scar": 10}


def test_a_resized_or_brighter_copy_is_a_near_duplicate(tmp_path: Path) -> None:
    source = shapes(tmp_path / "images")
    image = Image.open(source / "a" / "000.png")
    image.save(source / "a" / "again.jpg", quality=85)
    image.resize((50, 50)).save(source / "a" / "smaller.png")
    image.point(lambda value: min(255, value + 6)).save(source / "a" / "brighter.png")
    report = check(source, samples.plan("a", "b", size=32, val=0.0, test=0.0), state_dir=tmp_path / "kept")
    named = {problem.file for problem in report.problems} | {p.cause.split()[-1] for p in report.problems}
    assert named == {"a/000.png", "a/again.jpg", "a/smaller.png", "a/brighter.png"}
    assert codes(report) == {"E_NEAR_DUPLICATE"}
    assert report.ready


def test_near_duplicates_in_two_sets_are_a_leak_to_correct(tmp_path: Path) -> None:
    source = shapes(tmp_path / "images" / "train").parent
    samples.folder(source / "test", 10, seed=5)
    Image.open(source / "train" / "a" / "000.png").save(source / "test" / "a" / "again.jpg", quality=85)
    report = check(source, samples.plan("a", "b", size=32, val=0.0), state_dir=tmp_path / "kept")
    (leak,) = report.blocking
    assert leak.code == "E_LEAK"
    assert {leak.file, *leak.cause.replace(",", "").split()} >= {"train/a/000.png", "test/a/again.jpg"}
    assert not report.ready


def test_a_patient_in_two_sets_is_a_leak_that_does_not_name_the_patient(tmp_path: Path) -> None:
    lines = ["path,label,patient,split"]
    for index, name in enumerate("ab"):
        for i, image in enumerate(smooth(12, seed=index)):
            samples.save(tmp_path / "images" / f"{name}{i}.png", np.asarray(image))
            lines.append(f"{name}{i}.png,{name},{'Smith' if i < 2 else ''},{'test' if i == 0 else 'train'}")
    (tmp_path / "images" / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    report = check(tmp_path / "images" / "t.csv", samples.plan(val=0.0), state_dir=tmp_path / "kept")
    assert {problem.file for problem in report.blocking} == {"a0.png", "b0.png"}
    assert "Smith" not in repr(report.problems)


@pytest.mark.parametrize("classes", [("a",), ()])
def test_too_few_training_images_are_not_ready(classes: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    samples.folder(tmp_path / "images", 10, classes)
    report = check(tmp_path / "images", samples.plan(), state_dir=tmp_path / "kept")
    assert [problem.code for problem in report.blocking] == ["E_ONE_CLASS" if classes else "E_NO_IMAGES"]


def test_missing_and_tiny_classes_and_broken_files_are_reported(tmp_path: Path) -> None:
    samples.folder(tmp_path / "images", 10, ("a", "b"))
    samples.folder(tmp_path / "images", 1, ("c",), seed=1)
    (tmp_path / "images" / "a" / "x.png").write_bytes(b"x")
    Image.new("L", (9, 9)).save(
        tmp_path / "images" / "b" / "y.gif", save_all=True, append_images=[Image.new("L", (9, 9), 9)]
    )
    report = check(tmp_path / "images", samples.plan("a", "b", "c", "d"), state_dir=tmp_path / "kept")
    expected = {"E_CLASS_TINY", "E_CLASS_MISSING", "E_CLASS_VALIDATION", "E_IMAGE", "E_IMAGE_DOUBT", "E_IMAGE_BLANK"}
    assert codes(report) == expected
    assert {problem.code for problem in report.blocking} == {"E_CLASS_VALIDATION"}


def test_a_class_without_validation_images_is_not_ready(tmp_path: Path) -> None:
    samples.folder(tmp_path / "images", 20, ("a", "b"))
    samples.folder(tmp_path / "images", 1, ("c",), seed=1)
    report = check(tmp_path / "images", samples.plan("a", "b", "c"), state_dir=tmp_path / "kept")
    assert report.counts["c"] == {"train": 1, "val": 0, "test": 0}
    assert [(problem.code, "'c'" in problem.cause) for problem in report.blocking] == [("E_CLASS_VALIDATION", True)]
    assert not report.ready
    without = check(tmp_path / "images", samples.plan("a", "b", "c", val=0.0), state_dir=tmp_path / "kept")
    assert without.ready  # a plan may have no validation images


def test_unknown_labels_and_contradictions_must_be_corrected(tmp_path: Path) -> None:
    source = samples.folder(tmp_path / "images", 12, ("a", "b", "c"))
    (source / "b" / "same.png").write_bytes((source / "a" / "000.png").read_bytes())
    report = check(source, samples.plan(), state_dir=tmp_path / "kept")
    assert {problem.code for problem in report.blocking} == {"E_LABEL", "E_CONFLICT"}


def test_sizes_are_those_before_resizing(tmp_path: Path) -> None:
    source = samples.folder(tmp_path / "images")
    samples.save(source / "a" / "large.png", samples.noise(1, 90, 120, 3)[0])
    report = check(source, samples.plan(), state_dir=tmp_path / "kept")
    assert (report.sizes[0], report.sizes[-1]) == ((16, 16), (120, 90))


def test_images_with_similar_hashes_alone_are_not_near_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    dark = np.zeros((30, 32, 32, 1), np.uint8)
    for i in range(30):
        dark[i, i, 3:] = 200
    assert near_duplicates.first_alike(dark) == list(range(30))
    monkeypatch.setattr(near_duplicates, "MAX_DIFFERENCE", 255.0)
    assert near_duplicates.first_alike(dark) != list(range(30))


def test_near_duplicates_are_found_among_more_images_than_can_be_compared_pairwise() -> None:
    pixels = samples.noise(25_000, 9, 9, 1)
    for i in range(0, 1000, 100):
        pixels[24_000 + i] = pixels[i] // 2 * 2
    firsts = near_duplicates.first_alike(pixels)
    assert {late: early for late, early in enumerate(firsts) if late != early} == {
        24_000 + i: i for i in range(0, 1000, 100)
    }


def test_many_copies_are_one_group() -> None:
    pixels = np.repeat(samples.noise(1, 32, 32, 1), 600, axis=0)
    pixels[:, 0, 0, 0], pixels[:, 0, 1, 0] = np.arange(600) // 4, np.arange(600) % 256
    assert set(near_duplicates.first_alike(pixels)) == {0}


def test_near_duplicates_of_a_third_image_belong_together() -> None:
    first, last = (np.asarray(image) for image in smooth(2))
    steps = np.stack([first + (last.astype(float) - first) * part / 40 for part in range(5)]).astype(np.uint8)
    assert np.abs(steps[0] - steps[4].astype(float)).mean() > near_duplicates.MAX_DIFFERENCE
    assert near_duplicates.first_alike(steps) == [0] * 5
