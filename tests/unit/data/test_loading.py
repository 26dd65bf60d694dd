"""Loading gives each image once under its class; unusable files have a reason."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedhelp_edge import errors
from fedhelp_edge.data import loading
from fedhelp_edge.data.check import check
from tests.unit.data import samples

# ------------------------------------------------------------------------------------------------------- the names


@pytest.mark.parametrize(
    "folder", ["Nävus", " nävus ", "NÄVUS", unicodedata.normalize("NFD", "nävus"), "mole", "MOLE "]
)
def test_a_folder_matches_its_class_in_any_spelling(folder: str, tmp_path: Path) -> None:
    if os.name == "nt" and folder != folder.strip():
        pytest.skip("Windows has no such folder")
    samples.folder(tmp_path / "images", 3, (folder, "b"))
    images = loading.load(
        tmp_path / "images", samples.plan("nävus", "b"), state_dir=tmp_path / "kept", mapping={"Mole": "Nävus"}
    )
    assert (images.labels.tolist().count(0), images.problems) == (3, ())


def test_an_unknown_folder_is_a_problem_of_each_image_with_a_suggestion(tmp_path: Path) -> None:
    samples.folder(tmp_path / "images", 2, ("melanoma", "naevus", "melanomma"))
    images = loading.load(tmp_path / "images", samples.plan("melanoma", "naevus"), state_dir=tmp_path / "kept")
    assert samples.codes(images) == [("melanomma/000.png", "E_LABEL"), ("melanomma/001.png", "E_LABEL")]
    assert images.problems[0].cause == "'melanomma' is not a class of the plan; do you mean 'melanoma'?"


def test_a_mapping_to_an_unknown_class_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(errors.LabelUnknownError, match="'c' is not a class"):
        loading.load(
            samples.folder(tmp_path / "images"), samples.plan(), state_dir=tmp_path / "kept", mapping={"x": "c"}
        )


def test_names_mapped_in_check_are_used_in_training_and_in_the_next_check(tmp_path: Path) -> None:
    samples.folder(tmp_path / "images", 10, ("mole", "b"))
    source, plan, state_dir = tmp_path / "images", samples.plan("nävus", "b"), tmp_path / "kept"
    check(source, plan, state_dir=state_dir, mapping={"x": "b"})
    assert check(source, plan, state_dir=state_dir, mapping={"Mole": "nävus"}).ready
    assert check(source, plan, state_dir=state_dir).ready
    assert loading.load(source, plan, state_dir=state_dir).labels.tolist().count(0) == 10
    with pytest.raises(errors.OneClassError):
        loading.load(source, samples.plan("other", "b"), state_dir=state_dir)  # no class of that plan has such a name


def test_a_class_of_the_plan_takes_precedence_over_a_mapped_name(tmp_path: Path) -> None:
    source, state_dir = samples.folder(tmp_path / "images", 4, ("a", "b", "c")), tmp_path / "kept"
    assert check(source, samples.plan("a", "b"), state_dir=state_dir, mapping={"C": "a"}).classes == {
        "a": 8,
        "b": 4,
    }
    assert np.bincount(loading.load(source, samples.plan("a", "b", "c"), state_dir=state_dir).labels).tolist() == [
        4,
        4,
        4,
    ]


def test_a_number_mapped_in_one_source_is_unknown_in_another(tmp_path: Path) -> None:
    state_dir, plan = tmp_path / "kept", samples.plan("a", "b")
    for name in ("one", "other"):
        np.savez(tmp_path / f"{name}.npz", images=samples.noise(6), labels=np.array([0, 1, 1, 1, 1, 0]))
    check(tmp_path / "one.npz", plan, state_dir=state_dir, mapping={"0": "b", "1": "a"})
    counts = [
        np.bincount(loading.load(tmp_path / f"{name}.npz", plan, state_dir=state_dir).labels)
        for name in ("one", "other")
    ]
    assert [count.tolist() for count in counts] == [[4, 2], [2, 4]]


def test_a_class_of_the_plan_cannot_be_mapped_to_another(tmp_path: Path) -> None:
    with pytest.raises(errors.LabelUnknownError, match="a class of the plan itself"):
        check(samples.folder(tmp_path / "images"), samples.plan(), state_dir=tmp_path / "kept", mapping={"B": "a"})


def test_numbers_out_of_the_plan_are_problems(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=samples.noise(6), labels=np.array([0, 1, 2, -1, 1, 0]))
    images = loading.load(tmp_path / "set.npz", samples.plan(), state_dir=tmp_path / "kept")
    assert samples.codes(images) == [("2", "E_LABEL"), ("3", "E_LABEL")]


def test_names_are_relative_and_never_show_the_folders_path(tmp_path: Path) -> None:
    source = samples.folder(tmp_path / "clinic of Dr X" / "images")
    (source / "a" / "bad.png").write_bytes(b"no")
    (source / "a" / "odd.heic").write_bytes(b"no")
    images = loading.load(source, samples.plan(), state_dir=tmp_path / "kept")
    assert len(images.problems) == 2
    assert "Dr X" not in repr((images.names, images.problems))


# --------------------------------------------------------------------------------------------------- copies of images


def test_a_repeated_image_counts_once(tmp_path: Path) -> None:
    source = samples.folder(tmp_path / "images")
    (source / "a" / "copy.png").write_bytes((source / "a" / "000.png").read_bytes())
    samples.save(source / "a" / "other kind.bmp", np.asarray(Image.open(source / "a" / "001.png")))
    images = loading.load(source, samples.plan(), state_dir=tmp_path / "kept")
    assert len(images) == 20
    assert samples.codes(images) == [("a/copy.png", "E_DUPLICATE"), ("a/other kind.bmp", "E_DUPLICATE")]
    assert "a/000.png" in images.problems[0].cause + images.problems[1].cause


def test_an_image_with_two_labels_is_not_used(tmp_path: Path) -> None:
    source = samples.folder(tmp_path / "images")
    (source / "b" / "same.png").write_bytes((source / "a" / "000.png").read_bytes())
    images = loading.load(source, samples.plan(), state_dir=tmp_path / "kept")
    assert len(images) == 19
    assert samples.codes(images) == [("a/000.png", "E_CONFLICT"), ("b/same.png", "E_CONFLICT")]


def test_an_image_in_two_sets_stays_in_the_measured_one(tmp_path: Path) -> None:
    source = samples.folder(tmp_path / "images" / "train", seed=1).parent
    samples.folder(source / "test", seed=2)
    (source / "train" / "a" / "copy.png").write_bytes((source / "test" / "a" / "000.png").read_bytes())
    images = loading.load(source, samples.plan(), state_dir=tmp_path / "kept")
    assert samples.codes(images) == [("train/a/copy.png", "E_LEAK")]
    assert images.splits[images.names.index("test/a/000.png")] == "test"


# ------------------------------------------------------------------------------------------------------- bad input


def test_an_empty_folder_has_no_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(errors.NoImagesError, match="contains no images"):
        loading.load(tmp_path / "images", samples.plan(), state_dir=tmp_path / "kept")


def test_a_folder_without_usable_images_reports_the_first_reason(tmp_path: Path) -> None:
    samples.folder(tmp_path / "images", 2, ("x", "y"))
    with pytest.raises(errors.NoImagesError, match=r"first of 4 reasons: 'x' is not a class of the plan") as caught:
        loading.load(tmp_path / "images", samples.plan(), state_dir=tmp_path / "kept")
    assert caught.value.remedy.startswith("write the names of your classes in the plan, or rename the folder")


def test_a_missing_or_invalid_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.FileMissingError):
        loading.load(tmp_path / "nowhere", samples.plan(), state_dir=tmp_path / "kept")
    with pytest.raises(errors.NoImagesError, match="neither a folder nor a table nor an NPZ"):
        loading.load(samples.save(tmp_path / "x.png", samples.noise(1)[0]), samples.plan(), state_dir=tmp_path / "kept")


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.OneClassError, match="'a'"):
        loading.load(samples.folder(tmp_path / "images", classes=("a",)), samples.plan(), state_dir=tmp_path / "kept")


def test_a_single_image_of_a_class_is_a_training_image(tmp_path: Path) -> None:
    samples.folder(tmp_path / "images", 10, ("a",))
    samples.folder(tmp_path / "images", 1, ("b",), seed=1)
    images = loading.load(tmp_path / "images", samples.plan(), state_dir=tmp_path / "kept")
    assert images.split("train").labels.tolist().count(1) == 1


def test_thousands_of_broken_files_do_not_block_the_valid_ones(tmp_path: Path) -> None:
    source = samples.folder(tmp_path / "images")
    for i in range(3000):
        (source / "a" / f"broken {i}.png").write_bytes(b"\x89PNG\r\n\x1a\n"[: i % 9])
    images = loading.load(source, samples.plan(), state_dir=tmp_path / "kept")
    assert (len(images), len(images.problems)) == (20, 3000)
    assert {problem.code for problem in images.problems} == {"E_IMAGE"}


def test_a_file_that_disappears_after_listing_is_a_problem(tmp_path: Path) -> None:
    source = samples.folder(tmp_path / "images")
    seen = []

    def snatch(done: int, total: int) -> None:
        seen.append((done, total))
        for name in ("008.png", "009.png"):
            (source / "b" / name).unlink(missing_ok=True)

    images = loading.load(source, samples.plan(), state_dir=tmp_path / "kept", workers=1, progress=snatch)
    assert samples.codes(images) == [("b/008.png", "E_FILE_MISSING"), ("b/009.png", "E_FILE_MISSING")]
    assert seen == [(done, 20) for done in range(1, 21)]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes among files")
def test_a_pipe_or_a_broken_link_among_the_images_does_not_block(tmp_path: Path) -> None:
    source = samples.folder(tmp_path / "images")
    os.mkfifo(source / "a" / "pipe.png")
    (source / "b" / "link.png").symlink_to(tmp_path / "gone")
    images = loading.load(source, samples.plan(), state_dir=tmp_path / "kept")
    assert samples.codes(images) == [("a/pipe.png", "E_FILE_KIND"), ("b/link.png", "E_FILE_MISSING")]


@pytest.mark.skipif(os.name == "nt", reason="making links takes rights on Windows")
def test_links_to_folders_are_followed_and_circles_end(tmp_path: Path) -> None:
    elsewhere = samples.folder(tmp_path / "elsewhere")
    (tmp_path / "images").mkdir()
    for name in "ab":
        (tmp_path / "images" / name).symlink_to(elsewhere / name, target_is_directory=True)
    (elsewhere / "a" / "again").symlink_to(elsewhere / "a", target_is_directory=True)
    assert len(loading.load(tmp_path / "images", samples.plan(), state_dir=tmp_path / "kept")) == 20


def test_other_files_are_ignored_and_probable_images_are_named(tmp_path: Path) -> None:
    source = samples.folder(tmp_path / "images")
    for name in ("a/notes.txt", "a/Thumbs.db", "a/.DS_Store", "README.md", "DICOMDIR"):
        (source / name).write_bytes(b"x")
    (source / "a" / "photo.heic").write_bytes(b"x")
    assert samples.codes(loading.load(source, samples.plan(), state_dir=tmp_path / "kept")) == [
        ("a/photo.heic", "E_HEIC")
    ]


def test_nothing_heavy_is_imported_to_read_images(tmp_path: Path) -> None:
    code = "import sys, fedhelp_edge.data; print(sorted({'torch', 'pydicom', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------------------------------------- real images


@pytest.mark.parametrize(
    ("name", "classes", "channels", "count", "centres"),
    [
        ("pneumoniamnist.npz", ("normal", "pneumonia"), 1, 5827, 1),
        ("fedisic_mini_32.npz", ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC"), 3, 2000, 4),
        ("bccd_cells_32.npz", ("RBC", "WBC", "Platelets"), 3, 1933, 1),
        ("fedisic_mini/labels.csv", ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC"), 3, 2000, 4),
    ],
)
def test_real_collections_are_read_completely(
    name: str, classes: tuple[str, ...], channels: int, count: int, centres: int, tmp_path: Path
) -> None:
    source = samples.GIVEN / "classification" / name
    if not source.exists():
        pytest.skip(f"classification/{name} of FEDHELP_DATA is not here")
    images = loading.load(source, samples.plan(*classes, channels=channels), state_dir=tmp_path)
    left_out = {problem.code for problem in images.problems}
    assert left_out <= {"E_DUPLICATE", "E_LEAK"}
    assert len(images) + len(images.problems) >= count
    assert set(images.labels.tolist()) == set(range(len(classes)))
    assert len(set(images.centres)) == centres
    assert set(images.splits) == {"train", "val", "test"}
