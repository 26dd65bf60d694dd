"""Sorting images into classes: choices are stored at once, and other entries stay."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fedhelp_edge.data import loading
from fedhelp_edge.data.check import check
from fedhelp_edge.data.sorting import LABELS_FILE, Agreement, Sorting
from fedhelp_edge.errors import BadTableError, NoImagesError
from tests.unit.data import samples


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for index, pixels in enumerate(samples.noise(4)):
        samples.save(tmp_path / "pictures" / f"scan{index}.png", pixels)
    return tmp_path / "pictures"


def test_a_choice_is_stored_at_once_and_read_again(pictures: Path) -> None:
    Sorting(pictures, ("a", "b")).assign("scan2.png", 1)
    again = Sorting(pictures, ("a", "b"))
    assert again.label("scan2.png") == 1
    assert again.counts() == [0, 1]


def test_the_next_image_is_the_first_without_a_class_behind_this_one(pictures: Path) -> None:
    sorting = Sorting(pictures, ("a", "b"))
    assert sorting.next_unlabelled() == 0
    sorting.assign("scan3.png", 0)
    assert sorting.next_unlabelled(2) == 0
    for name in sorting.names:
        sorting.assign(name, 0)
    assert sorting.next_unlabelled() is None
    sorting.assign("scan1.png", None)
    assert sorting.next_unlabelled() == 1


def test_training_reads_the_sorted_images(pictures: Path, tmp_path: Path) -> None:
    sorting = Sorting(pictures, ("a", "b"))
    for index in range(3):
        sorting.assign(f"scan{index}.png", index % 2)
    report = check(pictures, samples.plan(), state_dir=tmp_path / "kept")
    assert report.classes == {"a": 2, "b": 1}


def test_images_in_a_class_folder_start_with_that_class_and_keep_their_split(pictures: Path, tmp_path: Path) -> None:
    samples.save(pictures / "test" / "B" / "known.png", samples.noise(1, seed=9)[0])
    sorting = Sorting(pictures, ("a", "b"))
    assert sorting.label("test/B/known.png") == 1
    sorting.assign("scan0.png", 0)
    assert loading.load(pictures, samples.plan(), state_dir=tmp_path / "kept").splits.count("test") == 1


def test_entries_of_another_program_stay(pictures: Path) -> None:
    (pictures / LABELS_FILE).write_text("id;dx;image_id\n1;;scan1\n2;A;gone.png\n")
    sorting = Sorting(pictures, ("a", "b"))
    sorting.assign("scan1.png", 1)
    sorting.assign("scan0.png", 0)
    assert (pictures / LABELS_FILE).read_text().splitlines() == [
        "id;dx;image_id",
        "1;b;scan1",
        "2;A;gone.png",
        ";a;scan0.png",
    ]


def test_a_phones_images_are_recognised_and_get_a_remedy(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    (pictures / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    for problems in (
        Sorting(pictures, ("a", "b")).problems,
        [
            problem
            for problem in check(pictures, samples.plan(), state_dir=pictures.parent / "kept").problems
            if "IMG" in problem.file
        ],
    ):
        assert [(problem.file, problem.code) for problem in problems] == [("IMG_1.HEIC", "E_HEIC")]


def test_a_folder_without_images_and_a_table_without_files_are_refused(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoImagesError):
        Sorting(tmp_path / "empty", ("a", "b"))
    (pictures / LABELS_FILE).write_text("PatientID,label\n1,a\n")
    with pytest.raises(BadTableError):
        Sorting(pictures, ("a", "b"))


def test_an_image_is_shown_in_its_own_proportions(pictures: Path) -> None:
    samples.save(pictures / "wide.png", samples.noise(1, 10, 40, 3)[0])
    decoded = Sorting(pictures, ("a", "b")).decode_for_screen("wide.png", 32)
    assert (decoded.width, decoded.height, decoded.pixels.shape) == (40, 10, (32, 32, 3))


def test_no_cell_of_the_table_is_a_formula_and_every_image_is_found_again(pictures: Path, tmp_path: Path) -> None:
    (pictures / "scan0.png").rename(pictures / "=1+1.png")
    Sorting(pictures, ("a", "+")).assign("=1+1.png", 1)
    assert (pictures / LABELS_FILE).read_text().splitlines()[1].startswith("./=1+1.png,'+")
    assert Sorting(pictures, ("a", "+")).label("=1+1.png") == 1


def test_kappa_is_agreement_beyond_chance(tmp_path: Path) -> None:
    pairs = [(0, 0)] * 20 + [(0, 1)] * 5 + [(1, 0)] * 10 + [(1, 1)] * 15  # 35 of 50 agree, 25 by chance
    for index, pixels in enumerate(samples.noise(len(pairs))):
        samples.save(tmp_path / f"{index:02}.png", pixels)
    readers = [Sorting(tmp_path, ("a", "b"), reader) for reader in ("", "second")]
    for sorting, choices in zip(readers, zip(*pairs, strict=True), strict=True):
        sorting.assign_all((name, choice, False) for name, choice in zip(sorting.names, choices, strict=True))
    assert readers[1].agreement(readers[0]) == Agreement(50, 35, pytest.approx(0.4))


def test_readers_with_one_class_or_no_common_image_have_no_kappa(pictures: Path) -> None:
    first, second = (Sorting(pictures, ("a", "b"), reader) for reader in ("x", "y"))
    assert second.agreement(first) == Agreement(0, 0, None)
    for sorting in (first, second):
        sorting.assign_all((name, 0, False) for name in sorting.names)
    assert second.agreement(first) == Agreement(len(first.names), len(first.names), None)


def test_a_table_that_another_program_wrote_gets_a_column_for_unsure_once_it_is_needed(pictures: Path) -> None:
    sorting = Sorting(pictures, ("a", "b"), "x")
    sorting.assign(sorting.names[0], 0)
    assert "unsure" not in sorting.file.read_text()
    sorting.assign(sorting.names[1], None, unsure=True)
    again = Sorting(pictures, ("a", "b"), "x")
    assert [again.is_unsure(name) for name in again.names[:2]] == [False, True]
    assert again.problems == ()
