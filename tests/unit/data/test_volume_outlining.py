"""Outlining volumes: slice by slice as they are viewed, masks that lie where the volume does, kills at any moment."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("scipy")
pytest.importorskip("nibabel")

import nibabel
from hypothesis import given
from hypothesis import strategies as st

from fedhelp_edge import files
from fedhelp_edge.data import loading, nifti, volume_outlining
from fedhelp_edge.data.volume_files import VolumeFile
from fedhelp_edge.data.volume_outlining import VolumeOutlining
from fedhelp_edge.errors import ImageBrokenError, MaskSizeError, NoImagesError
from tests import mask_bundles
from tests.unit.data import series
from tests.unit.data.test_nifti import noise, save

CLASSES = ("a", "b")
SIDES = (6, 5, 7)  # slices, rows and columns


def volumes(folder: Path, count: int = 2) -> Path:
    for index in range(count):
        save(
            folder / f"{index}.nii.gz", noise(7, 5, 6).astype(np.uint8), np.diag([2.0, 1, 3, 1])
        )  # to the right, forward and up
    return folder


def drawn(label: int = 1) -> NDArray[np.uint8]:
    labels = np.zeros(SIDES[1:], np.uint8)
    labels[0, 1:4] = label
    return labels


def written(path: Path) -> NDArray[Any]:
    """What another program reads: right, forward and up."""
    return np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)


def test_a_slice_is_drawn_as_it_is_viewed_and_lies_there_in_the_mask(tmp_path: Path) -> None:
    outlining = VolumeOutlining(volumes(tmp_path / "in", 1), CLASSES)
    (name,) = outlining.names
    shown = outlining.on_screen(name, 1)
    assert (outlining.slices(name), outlining.first_slice(name)) == (6, 2)
    assert (shown.size, shown.aspect) == ((5, 7), 14 / 5)
    values = written(tmp_path / "in" / "0.nii.gz")
    assert np.array_equal(shown.pixels[..., 0], values[::-1, ::-1, 4].T)  # the topmost but one
    outlining.save_draft(name, drawn(), 1)
    outlining.finish(name, drawn(2), 3)
    mask = written(tmp_path / "in-masks" / "0.nii.gz")
    assert np.array_equal(mask[::-1, ::-1, 4].T, drawn())
    assert np.array_equal(mask[::-1, ::-1, 2].T, drawn(2))
    assert np.count_nonzero(mask) == 6
    assert (outlining.states(), outlining.first_slice(name)) == (["done"], 3)
    assert not [*(tmp_path / "in-masks" / ".drafts").iterdir()]


def test_drafts_last_and_go_with_what_is_undone(tmp_path: Path) -> None:
    outlining = VolumeOutlining(volumes(tmp_path / "in"), CLASSES)
    outlining.save_draft("0.nii.gz", drawn(), 0)
    outlining.save_draft("0.nii.gz", drawn(2), 5)
    outlining.save_draft("1.nii.gz", drawn(2), 2)
    again = VolumeOutlining(tmp_path / "in", CLASSES)
    assert (again.states(), again.next_open()) == (["draft", "draft"], 0)
    kept = [again.labels("0.nii.gz", SIDES[1:], at) for at in range(6)]
    assert np.array_equal(kept, [drawn(), *[drawn(0)] * 4, drawn(2)])
    for at in (0, 5):
        again.save_draft("0.nii.gz", drawn(0), at)
    assert again.states() == ["", "draft"]
    assert VolumeOutlining(tmp_path / "in", CLASSES).states() == ["", "draft"]


@pytest.mark.parametrize("directions", [series.AXIAL, series.CORONAL, series.SAGITTAL])
def test_a_series_gets_a_mask_that_check_finds(directions: tuple[int, ...], tmp_path: Path) -> None:
    for number in range(8):
        series.write(
            tmp_path / "images" / f"{number}", np.roll(noise(6, 20, 16), number) * 16, directions, uid=f"1.2.{number}"
        )
    outlining = VolumeOutlining(tmp_path, mask_bundles.CLASSES)
    for number, name in enumerate(outlining.names):
        labels = np.zeros(outlining.on_screen(name).size, np.uint8)
        labels[1:4, 2:5] = 1 + number % 2
        outlining.save_draft(name, labels, 1)
        outlining.finish(name, labels, 2)
    loaded = loading.load(tmp_path, mask_bundles.plan_of(8), state_dir=tmp_path / "state")
    assert (loaded.problems, len({block.volume for block in loaded.blocks})) == ((), 8)
    assert all(mask.any() for mask in loaded.case_masks())


def test_masks_of_other_programs_are_corrected_where_they_lie(tmp_path: Path) -> None:
    volumes(tmp_path / "images")
    for name, kind in (("0_seg.nii", np.uint8), ("1.nii.gz", np.int16)):
        save(tmp_path / "masks" / name, (np.arange(210).reshape(7, 5, 6) == 0).astype(kind), np.diag([2.0, 1, 3, 1]))
    (tmp_path / "masks" / "1.nii.gz").rename(tmp_path / "masks" / "1.NII.GZ")
    outlining = VolumeOutlining(tmp_path, CLASSES)
    for name in outlining.names:
        assert outlining.labels(name, SIDES[1:], 5)[-1, -1] == 1  # the lowest, hindmost voxel at the patient's left
        outlining.finish(name, drawn(2), 0)
    for name in ("0_seg.nii", "1.NII.GZ"):
        assert np.bincount(written(tmp_path / "masks" / name).ravel()).tolist() == [206, 1, 3]
    assert nibabel.load(tmp_path / "masks" / "0_seg.nii").shape == (7, 5, 6)  # as its name says, not compressed


def test_what_cannot_be_outlined_says_why(tmp_path: Path) -> None:
    volumes(tmp_path / "images", 3)
    save(tmp_path / "images" / "twice.nii", noise(7, 5, 6))
    save(tmp_path / "images" / "twice.nii.gz", noise(7, 5, 6))
    (tmp_path / "images" / "broken.nii").write_bytes(b"no volume")
    save(tmp_path / "masks" / "0.nii.gz", np.zeros((7, 5, 5), np.uint8))
    (tmp_path / "masks" / ".drafts" / "1.nii.gz.slices").mkdir(parents=True)
    files.write_atomic(tmp_path / "masks" / ".drafts" / "1.nii.gz.slices" / "00099.png", b"")
    outlining = VolumeOutlining(tmp_path, CLASSES)
    assert {each.file: each.code for each in outlining.problems} == {
        "twice.nii": "E_MASK_PAIR", "twice.nii.gz": "E_MASK_PAIR",
    }  # fmt: skip
    with pytest.raises(MaskSizeError, match="5 x 5 x 7 voxels"):
        outlining.on_screen("0.nii.gz")
    with pytest.raises(ImageBrokenError, match=r"draft 00099\.png: it cannot be read as an image") as caught:
        outlining.on_screen("1.nii.gz")
    assert "remove .drafts/1.nii.gz.slices/00099.png from the folder of masks" in caught.value.remedy
    with pytest.raises(ImageBrokenError, match="it is not a NIfTI file"):
        outlining.on_screen("broken.nii")
    assert outlining.on_screen("2.nii.gz").size == (5, 7)  # the others are not touched by it
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoImagesError, match="no volumes that can be outlined"):
        VolumeOutlining(tmp_path / "empty", CLASSES)


def test_a_copy_of_a_draft_by_a_synced_folder_is_no_draft(tmp_path: Path) -> None:
    outlining = VolumeOutlining(volumes(tmp_path / "in", 1), CLASSES)
    (name,) = outlining.names
    outlining.save_draft(name, drawn(), 0)
    (draft,) = (tmp_path / "in-masks" / ".drafts" / f"{name}.slices").iterdir()
    shutil.copy(draft, draft.with_name("00005.sync-conflict-20261127.png"))
    again = VolumeOutlining(tmp_path / "in", CLASSES)
    assert np.array_equal(again.labels(name, SIDES[1:], 0), drawn())
    again.save_draft(name, drawn(0), 0)
    assert again.states() == [""]


def test_the_start_reads_no_volume_that_was_corrected_after_it_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outlining = VolumeOutlining(volumes(tmp_path / "in", 1), CLASSES)
    (name,) = outlining.names
    outlining.finish(name, drawn(), 0)
    os.utime(tmp_path / "in-masks" / name, (1, 1))
    outlining.save_draft(name, drawn(2), 1)
    monkeypatch.setattr(VolumeFile, "read", lambda _: pytest.fail("it was read"))
    assert VolumeOutlining(tmp_path / "in", CLASSES).states() == ["draft"]


def test_a_mask_that_another_program_saves_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    outlining = VolumeOutlining(volumes(tmp_path / "in", 1), CLASSES)
    (name,) = outlining.names
    outlining.save_draft(name, drawn(), 0)
    other = np.zeros((7, 5, 6), np.uint8)
    other[..., 0] = 2  # the lowest slice
    save(tmp_path / "in-masks" / name, other, np.diag([2.0, 1, 3, 1]))
    assert np.array_equal(outlining.labels(name, SIDES[1:], 5), np.full(SIDES[1:], 2))
    outlining.finish(name, drawn(), 1)
    mask = written(tmp_path / "in-masks" / name)
    assert [int(mask[..., index].sum()) for index in range(6)] == [70, 0, 0, 0, 3, 3]


def test_a_kill_between_the_steps_of_a_save_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outlining = VolumeOutlining(volumes(tmp_path / "in", 1), CLASSES)
    (name,) = outlining.names
    outlining.save_draft(name, drawn(), 0)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            outlining.finish(name, drawn(2), 1)
    assert VolumeOutlining(tmp_path / "in", CLASSES).states() == ["done"]
    for save_slice in (outlining.save_draft, outlining.finish):
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "replace", lambda *_, **__: pytest.fail("killed"))
            with pytest.raises(pytest.fail.Exception):
                save_slice(name, drawn(2), 4)
    again = VolumeOutlining(tmp_path / "in", CLASSES)
    assert again.states() == ["done"]
    assert np.array_equal([again.labels(name, SIDES[1:], at) for at in (0, 1, 4)], [drawn(), drawn(2), drawn(0)])


def disc(radius: float, column: float = 20, label: int = 1) -> NDArray[np.uint8]:
    rows, columns = np.ogrid[:41, :41]
    return (label * ((rows - 20) ** 2 + (columns - column) ** 2 <= radius**2)).astype(np.uint8)


def volume(count: int, planes: dict[int, NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """A volume of so many slices, with an outline on these."""
    drawn = np.zeros((count, 41, 41), np.uint8)
    for index, plane in planes.items():
        drawn[index] = plane
    return drawn


def between(drawn: NDArray[np.uint8], at: int, spacing: tuple[float, float] = (1, 1)) -> NDArray[np.uint8]:
    suggested = volume_outlining.between(drawn, at, 2, spacing)
    assert suggested is not None
    return suggested


@given(st.floats(4, 15), st.floats(4, 15), st.integers(1, 19))
def test_between_two_discs_lies_a_disc_of_the_radius_between(low: float, high: float, at: int) -> None:
    middle = between(volume(21, {0: disc(low), 20: disc(high)}), at)
    radius = low + at / 20 * (high - low)
    assert not (middle & ~disc(radius + 1.5)).any()
    assert not (disc(radius - 1.5) & ~middle & 1).any()


def test_each_class_has_its_own_nearest_slices() -> None:
    first, second = disc(5, 10, 1), disc(5, 30, 2)
    drawn = volume(9, dict.fromkeys(range(9), first))
    drawn[[1, 7]] |= second  # the second class is outlined after the first one
    assert np.array_equal(between(drawn, 4), first | second)
    drawn[8] = 0
    assert np.array_equal(between(drawn, 8), first | second)  # a copy of the last one


def test_distances_are_in_mm_where_pixels_are_not_square() -> None:
    fine = volume(3, {0: disc(12, 14), 2: disc(4, 30)})
    coarse = fine[:, ::4]
    assert np.count_nonzero(between(coarse, 1, (4, 1)) != between(fine, 1)[::4]) <= 4
    assert np.count_nonzero(between(coarse, 1) != between(fine, 1)[::4]) > 8


def test_between_slices_outlines_move_fade_and_never_mix(tmp_path: Path) -> None:
    moved = between(volume(3, {0: disc(6, 14), 2: disc(6, 24)}), 1)
    assert np.argwhere(moved).mean(0) == pytest.approx([20, 19], abs=0.1)
    both = np.maximum(disc(5, 10, 1), disc(5, 30, 2))
    assert np.array_equal(between(volume(4, {0: both, 3: both}), 1), both)
    faded = between(volume(3, {0: both, 2: disc(5, 10, 1)}), 1)
    assert (set(np.unique(faded)), np.array_equal(faded == 1, disc(5, 10) == 1)) == ({0, 1}, True)
    outlining = VolumeOutlining(volumes(tmp_path / "in", 1), CLASSES)
    (name,) = outlining.names
    assert outlining.between(name, 2) is None
    outlining.save_draft(name, drawn(2), 0)
    suggested = outlining.between(name, 2)
    assert suggested is not None
    assert np.array_equal(suggested, drawn(2))  # there is one neighbour
    outlining.save_draft(name, drawn(1), 4)
    assert outlining.between(name, 5) is not None
    assert np.array_equal(np.asarray(outlining.between(name, 5)), drawn(1))  # the nearest one
    assert np.array_equal(np.asarray(outlining.between(name, 4)), drawn(2))  # a slice is not its own neighbour


def test_a_models_mask_is_shown_slice_by_slice_at_the_files_own_distances(tmp_path: Path) -> None:
    outlining = VolumeOutlining(volumes(tmp_path / "in", 1), CLASSES)
    (name,) = outlining.names
    coarse = np.zeros((3, 5, 7), np.uint8)  # from the feet up
    coarse[2, 0, 0] = 1
    shown = [outlining.as_shown(name, at, coarse) for at in range(6)]
    assert [labels.any() for labels in shown] == [True, True, False, False, False, False]
    assert shown[0][-1, -1] == 1
    assert nifti.is_nifti(name)
