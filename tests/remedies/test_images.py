"""Faults that `check` finds in images and labels: the test follows the hint, and they are ready to train."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedhelp_edge import plan as plans
from fedhelp_edge.data import grid as grids
from fedhelp_edge.data import loading, nifti
from fedhelp_edge.methods.registry import METHODS
from tests.federation import PLAN
from tests.site_and_hub import SiteAndHub, fails_with, succeeds
from tests.unit.data import bombs, samples
from tests.unit.data.test_masks import squares
from tests.unit.infer.test_predict import huge_header

CLASSES = ("a", "b", "c")


@pytest.fixture
def people(tmp_path: Path) -> SiteAndHub:
    """A folder of valid images, and a plan for them."""
    samples.folder(tmp_path / "images", 10, CLASSES)
    return SiteAndHub(tmp_path, PLAN)


@pytest.fixture
def images(people: SiteAndHub) -> Path:
    return people.folder / "images"


def check_hints(people: SiteAndHub, source: str | Path = "images") -> dict[str, str]:
    """The codes that `check` reports, each with its hint, and the verdict under ""."""
    text = check_output(people, source)
    return {**dict(re.findall(r"^(E_\w+) \(\d+\): (.*)$", text, re.M)), "": text.splitlines()[-1]}


def check_output(people: SiteAndHub, source: str | Path) -> str:
    done = people.site("check", source, "--plan", "plan.toml")
    ready = done.stdout.endswith("\nready to train\n")
    assert done.returncode == (0 if ready else 1), done.stderr
    return done.stdout


def write_table(folder: Path, lines: list[str], name: str = "labels.csv") -> None:
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


READY = {"": "ready to train"}


# --- files -----------------------------------------------------------------------------------------------------------
def truncated(path: Path) -> None:
    whole = samples.save(path, samples.noise(1, 64, 64, 3)[0]).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def two_frames(path: Path) -> None:
    image = Image.fromarray(samples.noise(1, 64, 64)[0])
    image.save(path, save_all=True, append_images=[Image.fromarray(samples.noise(1, 64, 64, seed=1)[0])])


def many_scans(path: Path) -> None:
    path.write_bytes(bombs.jpeg_of_scans())


def document(path: Path) -> None:
    path.write_bytes(b"PK\3\4 a picture on a page")


def broken_heic(path: Path) -> None:
    path.write_bytes(b"\0\0\0\x18ftypheic and what nothing here can open")


def archive(path: Path) -> None:
    path.write_bytes(b"PK\3\4 pictures")


def all_black(path: Path) -> None:
    samples.save(path, np.zeros((64, 64, 3), np.uint8))


def tiny(path: Path) -> None:
    samples.save(path, samples.noise(1, 6, 7, 3)[0])


@pytest.mark.parametrize(
    ("code", "hint", "name", "spoil", "right"),
    [
        ("E_ARCHIVE", "unpack it beside the other images", "x.zip", archive, "x.png"),
        ("E_IMAGE_BLANK", "remove it if it shows nothing", "x.png", all_black, "x.png"),
        ("E_IMAGE_TINY", "export it at its full size", "x.png", tiny, "x.png"),
        ("E_IMAGE", "copy the file again from where it came", "x.png", truncated, "x.png"),
        ("E_IMAGE_KIND", "export it as one ordinary image (PNG", "x.docx", document, "x.png"),
        ("E_HEIC", "export it as JPEG", "x.heic", broken_heic, "x.jpg"),
        ("E_IMAGE_SIZE", "export it at an ordinary size", "x.png", huge_header, "x.png"),
        ("E_IMAGE_COST", "export it again as one ordinary PNG", "x.jpg", many_scans, "x.png"),
        ("E_IMAGE_DOUBT", "if not, export it again", "x.gif", two_frames, "x.png"),
    ],
)
def test_an_unusable_file_is_copied_or_exported_again(
    people: SiteAndHub, images: Path, code: str, hint: str, name: str, spoil: Callable[[Path], None], right: str
) -> None:
    spoil(images / "a" / name)
    hints = check_hints(people)
    assert (hints.keys(), hint in hints[code]) == ({"", code}, True)
    (images / "a" / name).unlink()
    samples.save(images / "a" / right, samples.noise(1, 64, 64, 3)[0])
    assert check_hints(people) == READY
    assert re.search(r"^a .* 11$", check_output(people, "images"), re.M)


# --- classes ---------------------------------------------------------------------------------------------------------
def test_a_missing_class_gets_its_folder_name_and_a_tiny_one_gets_more_images(people: SiteAndHub, images: Path) -> None:
    (images / "c").rename(people.folder / "see")
    hints = check_hints(people)
    assert "nothing to do if this site has no such images" in hints["E_CLASS_MISSING"]
    assert hints[""] == "ready to train"
    (people.folder / "see").rename(images / "c")
    assert check_hints(people) == READY
    more = people.folder / "more"
    more.mkdir()
    for path in sorted((images / "b").iterdir())[2:]:
        path.rename(more / path.name)
    assert "add more if you can" in check_hints(people)["E_CLASS_TINY"]
    for path in more.iterdir():
        path.rename(images / "b" / path.name)
    assert check_hints(people) == READY


def test_a_class_without_validation_images_gets_more_images_or_is_left_out(people: SiteAndHub, images: Path) -> None:
    more = people.folder / "more"
    more.mkdir()
    for path in sorted((images / "b").iterdir())[1:]:
        path.rename(more / path.name)
    hints = check_hints(people)
    assert hints["E_CLASS_VALIDATION"].startswith(
        "before the first training add images of this class, of other patients"
    )
    assert hints[""] == "not ready: first put right E_CLASS_VALIDATION (1)"
    (images / "b").rename(people.folder / "left-out")
    assert check_hints(people)[""] == "ready to train"
    (people.folder / "left-out").rename(images / "b")
    for path in more.iterdir():
        path.rename(images / "b" / path.name)
    assert check_hints(people) == READY


def test_once_the_split_is_fixed_a_table_marks_images_of_a_class_as_val(people: SiteAndHub, images: Path) -> None:
    more = people.folder / "more"
    more.mkdir()
    for path in sorted((images / "b").iterdir())[1:]:
        path.rename(more / path.name)
    loading.load(images, plans.load(people.folder / "plan.toml", METHODS), state_dir=people.folder / "site" / "images")
    for path in more.iterdir():
        path.rename(images / "b" / path.name)
    assert "puts images into val" in check_hints(people)["E_CLASS_VALIDATION"]
    names = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    write_table(
        images, ["path,label,split", *(f"{name},{name[0]},{'val' if name == 'b/005.png' else ''}" for name in names)]
    )
    assert check_hints(people, "images/labels.csv") == READY


def test_images_of_a_single_class_are_joined_by_those_of_another(people: SiteAndHub, images: Path) -> None:
    for name in ("b", "c"):
        (images / name).rename(people.folder / name)
    hints = check_hints(people)
    assert "add images of another class" in hints["E_ONE_CLASS"]
    assert hints[""] == "not ready: first put right E_ONE_CLASS (1)"
    for name in ("b", "c"):
        (people.folder / name).rename(images / name)
    assert check_hints(people) == READY


# --- tables and arrays ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    [
        b"path,label\n\0\xff.png,a\n",
        b"a/000.png,a\na/001.png,a\n",
        b"path,kind\na/000.png,a\n",
        b"picture,label\na/000.png,a\n",
    ],
    ids=["no text", "no names", "no label", "no path"],
)
def test_a_table_is_saved_again_with_a_header_line(people: SiteAndHub, images: Path, text: bytes) -> None:
    (images / "labels.csv").write_bytes(text)
    fails_with(people.site("check", "images", "--plan", "plan.toml"), "E_TABLE", "give it a first line of names")
    names = [f"{name}/{number:03}.png,{name}" for name in CLASSES for number in range(10)]
    write_table(images, ["path,label", *names])
    assert check_hints(people) == READY


def test_an_invalid_row_is_corrected(people: SiteAndHub, images: Path) -> None:
    names = [f"{name}/{number:03}.png,{name}" for name in CLASSES for number in range(10)]
    write_table(images, ["path,label,split", *(f"{row},train" for row in names[1:]), f"{names[0]},tset"])
    assert "patient, split and centre" in check_hints(people)["E_TABLE"]
    write_table(images, ["path,label,split", *(f"{row},train" for row in names[1:]), f"{names[0]},test"])
    assert check_hints(people) == READY


@pytest.mark.parametrize(
    "change",
    [
        {"images": np.zeros((30, 8, 8, 3), np.float32)},
        {"labels": np.zeros(30, np.float32)},
        {"labels": np.zeros(3, np.uint8)},
        {"images": None, "pictures": np.zeros((30, 8, 8, 3), np.uint8)},
    ],
    ids=["fractions", "labels", "count", "names"],
)
def test_an_invalid_npz_is_replaced_by_a_valid_one(people: SiteAndHub, change: dict[str, np.ndarray | None]) -> None:
    valid_arrays: dict[str, np.ndarray | None] = {"images": samples.noise(30, 8, 8, 3), "labels": np.arange(30) % 3}
    path = people.folder / "images.npz"
    np.savez(path, **{name: array for name, array in {**valid_arrays, **change}.items() if array is not None})
    fails_with(people.site("check", path, "--plan", "plan.toml"), "E_NPZ", "whole numbers of 8 or 16 bit")
    path.unlink()
    np.savez(path, **{name: array for name, array in valid_arrays.items() if array is not None})
    assert check_hints(people, path) == READY


def test_an_npz_that_was_cut_on_its_way_is_copied_again(people: SiteAndHub) -> None:
    path = people.folder / "images.npz"
    np.savez(path, images=samples.noise(30, 8, 8, 3), labels=np.arange(30) % 3)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    done = people.site("check", path, "--plan", "plan.toml")
    fails_with(done, "E_NPZ", "copy the file again")
    assert "images.npz is damaged" in done.stderr
    path.write_bytes(whole)
    assert check_hints(people, path) == READY


# --- the same image twice ---------------------------------------------------------------------------------------------
def test_a_conflict_of_labels_ends_when_one_file_is_removed_and_a_copy_does_no_harm(
    people: SiteAndHub, images: Path
) -> None:
    shutil.copy(images / "a" / "000.png", images / "b" / "x.png")
    hints = check_hints(people)
    assert "find out which label is right and remove the other file or line" in hints["E_CONFLICT"]
    assert hints[""] == "not ready: first put right E_CONFLICT (2)"
    (images / "b" / "x.png").rename(images / "a" / "x.png")
    hints = check_hints(people)
    assert "nothing to do: the image counts once" in hints["E_DUPLICATE"]
    assert hints[""] == "ready to train"
    (images / "a" / "x.png").unlink()
    assert check_hints(people) == READY


def test_a_study_of_several_modalities_gets_a_column_that_says_which_one_is_labelled(people: SiteAndHub) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed (extra: medical)")
    studies = people.folder / "studies"
    for number, pixels in enumerate(samples.noise(30, 64, 64)):
        samples.dicom(studies / f"{number}", pixels, AccessionNumber=f"A{number}", Modality="DX")
    samples.dicom(studies / "slice", samples.noise(1, 64, 64, seed=1)[0], AccessionNumber="A7", Modality="CT")
    lines = [f"A{number},{CLASSES[number % 3]}" for number in range(30)]
    write_table(studies, ["accession,label", *lines])
    assert (
        "say in a column 'modality' of the table which images the label is" in check_hints(people, studies)["E_STUDY"]
    )
    write_table(studies, ["accession,label,modality", *(f"{line},DX" for line in lines)])
    assert check_hints(people, studies) == READY


def test_a_study_without_a_line_in_the_table_gets_one(people: SiteAndHub) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed (extra: medical)")
    studies = people.folder / "studies"
    for number, pixels in enumerate(samples.noise(31, 64, 64)):
        samples.dicom(studies / f"{number}", pixels, AccessionNumber=f"A{number}", Modality="DX")
    lines = ["accession,label", *(f"A{number},{CLASSES[number % 3]}" for number in range(31))]
    write_table(studies, lines[:-1])
    assert "add a line with its label to the table" in check_hints(people, studies)["E_STUDY_UNLABELLED"]
    write_table(studies, lines)
    assert check_hints(people, studies) == READY


def test_a_picture_with_text_in_it_is_looked_at_and_copied(people: SiteAndHub) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed (extra: medical)")
    tags = {"SOPInstanceUID": "1.2.3", "Modality": "US"}
    samples.dicom(people.folder / "scans" / "1", samples.noise(1, 8, 8)[0], **tags)
    words = ("label", "scans", "--deidentified")
    refused = people.site(*words, "out")
    assert refused.returncode == 1
    assert refused.stdout.partition(":")[0] == "E_BURNED_IN"
    assert "if no text in it names the patient, add --burned-in" in refused.stdout
    succeeds(people.site(*words, "told", "--burned-in"))


def save_near_duplicates(images: Path) -> list[str]:
    """Saves one image with shapes in two files; returns the lines of a table of all images."""
    shapes = Image.fromarray(samples.noise(1, 6, 6, 3, seed=9)[0]).resize((64, 64), Image.Resampling.BICUBIC)
    shapes.save(images / "a" / "x.png")
    shapes.save(images / "a" / "y.jpg", quality=85)
    names = [path.relative_to(images).as_posix() for path in sorted(images.glob("*/*.*"))]
    return [f"{name},{name[0]}" for name in names]


def test_near_duplicates_get_the_same_group_or_one_is_removed(people: SiteAndHub, images: Path) -> None:
    lines = save_near_duplicates(images)
    write_table(images, ["path,label,split", *(f"{line},train" for line in lines)])
    assert "remove one, or give both the same group in a table" in check_hints(people)["E_NEAR_DUPLICATE"]
    grouped = [f"{line},train,{'lesion 1' if line[2] in 'xy' else ''}" for line in lines]
    write_table(images, ["path,label,split,group", *grouped])
    assert check_hints(people) == READY
    (images / "a" / "y.jpg").unlink()
    write_table(images, ["path,label,split", *(f"{line},train" for line in lines if "y.jpg" not in line)])
    assert check_hints(people) == READY


SPLITS = {0: "test", 1: "val"}  # by an image's number in its class; all others are training images


def write_split_table(images: Path, *lines: str, with_splits: bool = True) -> None:
    """Writes a table of the valid images with their splits, or without any, and more lines."""
    names = [f"{name}/{number:03}.png,{name}" for name in CLASSES for number in range(10)]
    rows = [f"{row},{SPLITS.get(index % 10, 'train')}," for index, row in enumerate(names)]
    write_table(images, ["path,label,split,group", *(rows if with_splits else [f"{row},," for row in names]), *lines])


def test_an_image_in_two_sets_is_removed_from_one_or_moved_into_the_same_set(people: SiteAndHub, images: Path) -> None:
    save_near_duplicates(images)
    for first, second in (("train,", "test,"), ("train,p1", "test,p1")):
        write_split_table(images, f"a/x.png,a,{first}", f"a/y.jpg,a,{second}")
        hints = check_hints(people)
        assert "remove one of the two; or, before the first training, put both into the same set" in hints["E_LEAK"]
        assert hints[""].startswith("not ready: first put right E_LEAK")
    write_split_table(images, "a/x.png,a,train,", "a/y.jpg,a,train,")
    assert check_hints(people)[""] == "ready to train"  # by the same split
    write_split_table(images, "a/x.png,a,,p1", "a/y.jpg,a,,p1", with_splits=False)
    assert check_hints(people) == READY  # by the same group
    write_split_table(images, "a/y.jpg,a,test,")
    assert check_hints(people) == READY  # one of the two


def test_after_training_the_split_file_is_restored_from_a_backup(people: SiteAndHub, images: Path) -> None:
    pytest.importorskip("torch")
    save_near_duplicates(images)
    lines = "a/x.png,a,train,", "a/y.jpg,a,test,p1"
    write_split_table(images, *lines)
    split_file = people.folder / "site" / "images" / "split.json"
    train = ("train", "images", "--plan", "plan.toml", "--threads", "1")
    succeeds(people.site(*train))
    shutil.copy(split_file, people.folder / "backup.json")
    split_file.write_bytes(split_file.read_bytes()[:-9])
    for command in (("check", "images", "--plan", "plan.toml"), train):
        fails_with(people.site(*command), "E_SPLIT", "restore split.json from a backup")
    shutil.copy(people.folder / "backup.json", split_file)
    succeeds(people.site(*train))
    write_split_table(images, "a/x.png,a,train,", "a/y.jpg,a,train,p1")  # too late: test images stay test images
    assert "remove one of the two" in check_hints(people)["E_LEAK"]
    samples.save(images / "a" / "z.png", samples.noise(1, seed=7)[0])
    write_split_table(images, lines[1], "a/z.png,a,,p1")
    hints = check_hints(people)
    assert "nothing to do: the image is left out" in hints["E_GROUP"]
    assert hints[""] == "ready to train"


# --- masks ------------------------------------------------------------------------------------------------------------
def test_masks_that_do_not_fit_are_exported_again_and_one_that_is_empty_may_stay(people: SiteAndHub) -> None:
    """Each hint is followed, and the images are ready to train."""
    plan = 'task = "segmentation"\nclasses = ["lung"]\nmethod = "fedavg"\n[image]\nsize = 16\n'
    (people.folder / "plan.toml").write_text(plan)
    pairs = people.folder / "pairs"
    outline = np.zeros((16, 16), np.uint8)
    outline[4:9, 4:9] = 255
    for number, image in enumerate(samples.noise(24)):
        samples.save(pairs / "images" / f"{number:02}.png", image)
        samples.save(pairs / "masks" / f"{number:02}.png", outline)
    assert check_hints(people, "pairs") == READY

    def with_mask(change: Callable[[Path], object]) -> dict[str, str]:
        change(pairs / "masks" / "03.png")
        return check_hints(people, "pairs")

    hints = with_mask(lambda path: samples.save(path, outline[:8]))
    assert "export the mask of this very image" in hints["E_MASK_SIZE"]
    assert hints[""] == "not ready: first put right E_MASK_SIZE (1)"
    hints = with_mask(lambda path: Image.fromarray(outline).save(path.with_suffix(".jpg"), quality=50) or path.unlink())
    assert "JPEG changes such numbers" in hints["E_MASK_LABEL"]
    (pairs / "masks" / "03.jpg").unlink()
    hints = check_hints(people, "pairs")
    assert "give each image a mask with its name" in hints["E_MASK_PAIR"]
    hints = with_mask(lambda path: samples.save(path, samples.noise(1)[0]))
    assert "a PNG of one channel" in hints["E_MASK_KIND"]
    hints = with_mask(lambda path: samples.save(path, 0 * outline))
    assert "nothing to do if the image shows nothing of it" in hints["E_MASK_EMPTY"]
    assert hints[""] == "ready to train"
    hints = with_mask(lambda path: samples.save(path, np.full_like(outline, 255)))
    assert "correct it if it is wrong" in hints["E_MASK_DOUBT"]
    assert hints[""] == "ready to train"
    assert with_mask(lambda path: samples.save(path, outline)) == READY
    (pairs / "masks").rename(people.folder / "drawn")
    fails_with(people.site("check", "pairs/images", "--plan", "plan.toml"), "E_MASK_PAIR", "--masks")
    succeeds(people.site("check", "pairs/images", "--plan", "plan.toml", "--masks", "drawn"))
    assert check_hints(people, "pairs/images") == READY  # which it remembers


def test_a_mask_of_another_volume_is_exported_again(people: SiteAndHub) -> None:
    pytest.importorskip("nibabel")
    plan = 'task = "segmentation"\nclasses = ["a"]\nmethod = "fedavg"\n[image]\nsize = 8\ndepth = 8\nchannels = 1\n'
    (people.folder / "plan.toml").write_text(plan)
    images, masks = squares(24, 8, 8, 8, classes=1)
    grid = grids.plain((8, 8, 8), (1.0, 1.0, 1.0))
    for number, pair in enumerate(zip(images, masks, strict=True)):
        for folder, values in zip(("images", "masks"), pair, strict=True):
            path = people.folder / "volumes" / folder / f"{number:02}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(nifti.encode(values, grid))
    assert check_hints(people, "volumes") == READY
    image = people.folder / "volumes" / "images" / "03.nii.gz"
    whole = image.read_bytes()
    tilted = replace(grid, affine=grid.affine + 0.3 * np.eye(4, k=1))
    image.write_bytes(nifti.encode(images[3], tilted))
    assert "without tilt, as DICOM or NIfTI" in check_hints(people, "volumes")["E_VOLUME"]
    image.write_bytes(whole)
    mask = people.folder / "volumes" / "masks" / "03.nii.gz"
    right = mask.read_bytes()
    mask.write_bytes(nifti.encode(masks[3], grids.plain((8, 8, 8), (1.0, 1.0, 2.0))))
    hints = check_hints(people, "volumes")
    assert "export the mask again from the very image" in hints["E_MASK_GRID"]
    assert hints[""] == "not ready: first put right E_MASK_GRID (1)"
    mask.write_bytes(right)
    assert check_hints(people, "volumes") == READY
