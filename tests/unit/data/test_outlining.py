"""Outlining a folder: drafts that nothing learns from, masks that `check` reads, and kills at any moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedhelp_edge import files
from fedhelp_edge.data import loading
from fedhelp_edge.data.outlining import PictureOutlining
from fedhelp_edge.errors import MaskSizeError, NoImagesError, UsageError
from tests.unit.data import samples
from tests.unit.data.test_masks import plan, squares

CLASSES = ("a", "b")


def pictures(folder: Path, count: int = 3) -> Path:
    for index, image in enumerate(squares(count)[0]):
        samples.save(folder / f"{index:02}.png", image)
    return folder


def drawn(label: int = 1) -> NDArray[np.uint8]:
    labels = np.zeros((16, 16), np.uint8)
    labels[2:6, 3:9] = label
    return labels


def test_a_drawing_is_a_draft_that_training_does_not_see_until_it_is_done(tmp_path: Path) -> None:
    source = pictures(tmp_path / "in")
    outlining = PictureOutlining(source, CLASSES)
    outlining.save_draft("01.png", drawn())
    assert outlining.states() == ["", "draft", ""]
    again = PictureOutlining(source, CLASSES)
    assert np.array_equal(again.labels("01.png", (16, 16)), drawn())
    assert [path.name for path in again.masks_dir.iterdir()] == [".drafts"]
    assert again.next_open(0) == 1
    again.finish("01.png", drawn(2))
    assert (again.states(), again.next_open(0)) == (["", "done", ""], 2)
    assert not [*(again.masks_dir / ".drafts").iterdir()]


def test_finished_masks_are_pairs_for_check(tmp_path: Path) -> None:
    for source, masks_dir in ((tmp_path / "pairs", None), (tmp_path / "plain", tmp_path / "plain-masks")):
        pictures(source / "images" if masks_dir is None else source, 12)
        outlining = PictureOutlining(source, CLASSES)
        assert outlining.masks_dir == (masks_dir or source / "masks")
        for index, name in enumerate(outlining.names):
            outlining.finish(name, drawn(1 + index % 2))
        loaded = loading.load(source, plan(), state_dir=tmp_path / f"{source.name}-state", masks=masks_dir)
        assert len(loaded) == 12
        assert all(np.array_equal(mask > 0, drawn() > 0) for mask in loaded.masks)  # type: ignore[union-attr]


@pytest.mark.parametrize("masks", ["in", "in/masks", "link"])
def test_masks_never_lie_among_the_images_which_they_would_replace(masks: str, tmp_path: Path) -> None:
    source = pictures(tmp_path / "in")
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(UsageError, match="a mask could replace its image"):
        PictureOutlining(source, CLASSES, tmp_path / masks)


def test_masks_lie_beside_the_folder_that_a_person_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pictures(tmp_path / "in") / "deeper").mkdir()
    for folder, source in (("in", "."), ("in/deeper", ".."), (".", "in/")):
        monkeypatch.chdir(tmp_path / folder)
        assert PictureOutlining(Path(source), CLASSES).masks_dir.absolute() == tmp_path / "in-masks"


def test_a_mask_of_another_program_is_corrected_where_it_lies(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    samples.save(tmp_path / "masks" / "00_mask.png", drawn() * np.uint8(255))
    outlining = PictureOutlining(tmp_path, ("a",))
    assert outlining.states() == ["done", "", ""]
    assert np.array_equal(outlining.labels("00.png", (16, 16)), drawn())
    outlining.save_draft("00.png", np.zeros((16, 16), np.uint8))
    assert outlining.states() == ["draft", "", ""]
    outlining.save_draft("00.png", drawn())  # undone: it equals the mask again
    assert outlining.states() == ["done", "", ""]
    outlining.finish("00.png", drawn())
    assert [path.name for path in sorted((tmp_path / "masks").iterdir())] == [".drafts", "00_mask.png"]


def test_what_cannot_be_outlined_says_why_and_stays_as_it_is(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    samples.save(tmp_path / "images" / "01.bmp", squares(1)[0][0])
    (tmp_path / "images" / "phone.heic").write_bytes(b"no picture")
    samples.save(tmp_path / "masks" / "00.bmp", drawn())
    samples.save(tmp_path / "masks" / "02.png", drawn()[:8])
    outlining = PictureOutlining(tmp_path, CLASSES)
    assert {problem.file: problem.code for problem in outlining.problems} == {
        "00.png": "E_MASK_KIND", "01.bmp": "E_MASK_PAIR", "01.png": "E_MASK_PAIR", "phone.heic": "E_HEIC",
    }  # fmt: skip
    assert outlining.names == ("02.png",)
    with pytest.raises(MaskSizeError):
        outlining.labels("02.png", (16, 16))
    samples.save(tmp_path / "masks" / ".drafts" / "02.png", drawn()[:8])
    with pytest.raises(MaskSizeError, match=r"its draft 02\.png") as caught:
        outlining.labels("02.png", (16, 16))
    assert "remove .drafts/02.png" in caught.value.remedy
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoImagesError, match="no pictures that can be outlined"):
        PictureOutlining(tmp_path / "empty", CLASSES)


def test_a_kill_between_the_steps_of_a_save_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pictures(tmp_path / "in")
    outlining = PictureOutlining(source, CLASSES)
    outlining.save_draft("00.png", drawn())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            outlining.finish("00.png", drawn())
    assert PictureOutlining(source, CLASSES).states() == ["done", "", ""]
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", lambda *_, **__: pytest.fail("killed"))
        for save in (outlining.save_draft, outlining.finish):
            with pytest.raises(pytest.fail.Exception):
                save("00.png", drawn(2))
    again = PictureOutlining(source, CLASSES)
    assert again.states() == ["done", "", ""]
    assert np.array_equal(again.labels("00.png", (16, 16)), drawn())


def test_large_pictures_are_shown_smaller_in_their_proportions(tmp_path: Path) -> None:
    samples.save(tmp_path / "wide.png", np.zeros((300, 2600), np.uint8))
    samples.save(tmp_path / "small.png", squares(1)[0][0])
    outlining = PictureOutlining(tmp_path, CLASSES)
    wide, small = map(outlining.on_screen, ("wide.png", "small.png"))
    assert (wide.pixels.shape, wide.size, wide.aspect) == ((236, 2048, 3), (300, 2600), 2600 / 300)
    assert np.array_equal(small.pixels[..., 0], squares(1)[0][0])
