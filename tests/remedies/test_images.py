"""What `check` finds wrong with images and labels: what its hint says is done, and they are ready to train."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedhelp_edge import data
from fedhelp_edge import plan as plans
from fedhelp_edge.methods.registry import TABLES
from tests.federation import PLAN
from tests.site_and_hub import SiteAndHub, fails_with, succeeds
from tests.unit.data import bombs, samples
from tests.unit.infer.test_predict import huge_header

CLASSES = ("a", "b", "c")


@pytest.fixture
def people(tmp_path: Path) -> SiteAndHub:
    """A folder of good images, and a plan for them."""
    samples.folder(tmp_path / "images", 10, CLASSES)
    return SiteAndHub(tmp_path, PLAN)


@pytest.fixture
def images(people: SiteAndHub) -> Path:
    return people.folder / "images"


def told(people: SiteAndHub, source: str | Path = "images") -> dict[str, str]:
    """What `check` finds: each code with its hint, and the verdict under ""."""
    text = shown(people, source)
    return {**dict(re.findall(r"^(E_\w+) \(\d+\): (.*)$", text, re.M)), "": text.splitlines()[-1]}


def shown(people: SiteAndHub, source: str | Path) -> str:
    done = people.site("check", source, "--plan", "plan.toml")
    ready = done.stdout.endswith("\nready to train\n")
    assert done.returncode == (0 if ready else 1), done.stderr
    return done.stdout


def table(folder: Path, lines: list[str], name: str = "labels.csv") -> None:
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


READY = {"": "ready to train"}


# --- files -----------------------------------------------------------------------------------------------------------
def cut(path: Path) -> None:
    whole = samples.save(path, samples.noise(1, 64, 64, 3)[0]).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def frames(path: Path) -> None:
    image = Image.fromarray(samples.noise(1, 64, 64)[0])
    image.save(path, save_all=True, append_images=[Image.fromarray(samples.noise(1, 64, 64, seed=1)[0])])


def passes(path: Path) -> None:
    path.write_bytes(bombs.jpeg_of_scans())


def document(path: Path) -> None:
    path.write_bytes(b"PK\3\4 a picture on a page")


def phone(path: Path) -> None:
    path.write_bytes(b"\0\0\0\x18ftypheic and what nothing here can open")


def archive(path: Path) -> None:
    path.write_bytes(b"PK\3\4 pictures")


def black(path: Path) -> None:
    samples.save(path, np.zeros((64, 64, 3), np.uint8))


def preview(path: Path) -> None:
    samples.save(path, samples.noise(1, 6, 7, 3)[0])


@pytest.mark.parametrize(
    ("code", "hint", "name", "spoil", "right"),
    [
        ("E_ARCHIVE", "unpack it beside the other images", "x.zip", archive, "x.png"),
        ("E_IMAGE_BLANK", "remove it if it shows nothing", "x.png", black, "x.png"),
        ("E_IMAGE_TINY", "export it at its full size", "x.png", preview, "x.png"),
        ("E_IMAGE", "copy the file again from where it came", "x.png", cut, "x.png"),
        ("E_IMAGE_KIND", "export it as one ordinary image (PNG", "x.docx", document, "x.png"),
        ("E_HEIC", "export it as JPEG", "x.heic", phone, "x.jpg"),
        ("E_IMAGE_SIZE", "export it at an ordinary size", "x.png", huge_header, "x.png"),
        ("E_IMAGE_COST", "export it again as one ordinary PNG", "x.jpg", passes, "x.png"),
        ("E_IMAGE_DOUBT", "if not, export it again", "x.gif", frames, "x.png"),
    ],
)
def test_a_file_that_cannot_be_used_as_it_is_is_copied_or_exported_again(
    people: SiteAndHub, images: Path, code: str, hint: str, name: str, spoil: Callable[[Path], None], right: str
) -> None:
    spoil(images / "a" / name)
    found = told(people)
    assert (found.keys(), hint in found[code]) == ({"", code}, True)
    (images / "a" / name).unlink()
    samples.save(images / "a" / right, samples.noise(1, 64, 64, 3)[0])
    assert told(people) == READY
    assert re.search(r"^a .* 11$", shown(people, "images"), re.M)


# --- classes ---------------------------------------------------------------------------------------------------------
def test_a_class_that_is_missing_has_a_folder_with_another_name_and_a_tiny_one_gets_more(
    people: SiteAndHub, images: Path
) -> None:
    (images / "c").rename(people.folder / "see")
    found = told(people)
    assert "nothing to do if this site has no such images" in found["E_CLASS_MISSING"]
    assert found[""] == "ready to train"
    (people.folder / "see").rename(images / "c")
    assert told(people) == READY
    more = people.folder / "more"
    more.mkdir()
    for path in sorted((images / "b").iterdir())[2:]:
        path.rename(more / path.name)
    assert "add more if you can" in told(people)["E_CLASS_TINY"]
    for path in more.iterdir():
        path.rename(images / "b" / path.name)
    assert told(people) == READY


def test_a_class_without_a_validation_image_gets_more_images_or_is_left_out(people: SiteAndHub, images: Path) -> None:
    more = people.folder / "more"
    more.mkdir()
    for path in sorted((images / "b").iterdir())[1:]:
        path.rename(more / path.name)
    found = told(people)
    assert found["E_CLASS_VALIDATION"].startswith(
        "before the first training add images of this class, of other patients"
    )
    assert found[""] == "not ready: first put right E_CLASS_VALIDATION (1)"
    (images / "b").rename(people.folder / "left-out")
    assert told(people)[""] == "ready to train"
    (people.folder / "left-out").rename(images / "b")
    for path in more.iterdir():
        path.rename(images / "b" / path.name)
    assert told(people) == READY


def test_once_the_split_is_kept_a_table_puts_images_of_a_class_into_val(people: SiteAndHub, images: Path) -> None:
    more = people.folder / "more"
    more.mkdir()
    for path in sorted((images / "b").iterdir())[1:]:
        path.rename(more / path.name)
    data.load(images, plans.load(people.folder / "plan.toml", TABLES), state_dir=people.folder / "site" / "images")
    for path in more.iterdir():
        path.rename(images / "b" / path.name)
    assert "puts images into val" in told(people)["E_CLASS_VALIDATION"]
    names = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    table(images, ["path,label,split", *(f"{name},{name[0]},{'val' if name == 'b/005.png' else ''}" for name in names)])
    assert told(people, "images/labels.csv") == READY


def test_images_of_one_class_alone_are_joined_by_those_of_another(people: SiteAndHub, images: Path) -> None:
    for name in ("b", "c"):
        (images / name).rename(people.folder / name)
    found = told(people)
    assert "add images of another class" in found["E_ONE_CLASS"]
    assert found[""] == "not ready: first put right E_ONE_CLASS (1)"
    for name in ("b", "c"):
        (people.folder / name).rename(images / name)
    assert told(people) == READY


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
def test_a_table_is_saved_again_with_a_first_line_of_names(people: SiteAndHub, images: Path, text: bytes) -> None:
    (images / "labels.csv").write_bytes(text)
    fails_with(people.site("check", "images", "--plan", "plan.toml"), "E_TABLE", "give it a first line of names")
    names = [f"{name}/{number:03}.png,{name}" for name in CLASSES for number in range(10)]
    table(images, ["path,label", *names])
    assert told(people) == READY


def test_a_row_that_cannot_be_read_is_put_right(people: SiteAndHub, images: Path) -> None:
    names = [f"{name}/{number:03}.png,{name}" for name in CLASSES for number in range(10)]
    table(images, ["path,label,split", *(f"{one},train" for one in names[1:]), f"{names[0]},tset"])
    assert "patient, split and centre" in told(people)["E_TABLE"]
    table(images, ["path,label,split", *(f"{one},train" for one in names[1:]), f"{names[0]},test"])
    assert told(people) == READY


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
def test_an_npz_is_laid_out_as_it_should_be(people: SiteAndHub, change: dict[str, np.ndarray | None]) -> None:
    right: dict[str, np.ndarray | None] = {"images": samples.noise(30, 8, 8, 3), "labels": np.arange(30) % 3}
    path = people.folder / "images.npz"
    np.savez(path, **{name: array for name, array in {**right, **change}.items() if array is not None})
    fails_with(people.site("check", path, "--plan", "plan.toml"), "E_NPZ", "whole numbers of 8 or 16 bit")
    path.unlink()
    np.savez(path, **{name: array for name, array in right.items() if array is not None})
    assert told(people, path) == READY


# --- the same image twice ---------------------------------------------------------------------------------------------
def test_a_contradiction_ends_when_one_of_the_two_is_removed_and_a_copy_harms_nothing(
    people: SiteAndHub, images: Path
) -> None:
    shutil.copy(images / "a" / "000.png", images / "b" / "x.png")
    found = told(people)
    assert "find out which label is right and remove the other file" in found["E_CONFLICT"]
    assert found[""] == "not ready: first put right E_CONFLICT (2)"
    (images / "b" / "x.png").rename(images / "a" / "x.png")
    found = told(people)
    assert "nothing to do: the image counts once" in found["E_DUPLICATE"]
    assert found[""] == "ready to train"
    (images / "a" / "x.png").unlink()
    assert told(people) == READY


def alike(images: Path) -> list[str]:
    """A picture with shapes in it, saved again as another file; the lines of a table of all pictures."""
    shapes = Image.fromarray(samples.noise(1, 6, 6, 3, seed=9)[0]).resize((64, 64), Image.Resampling.BICUBIC)
    shapes.save(images / "a" / "x.png")
    shapes.save(images / "a" / "y.jpg", quality=85)
    names = [path.relative_to(images).as_posix() for path in sorted(images.glob("*/*.*"))]
    return [f"{name},{name[0]}" for name in names]


def test_two_images_that_are_almost_the_same_get_one_group_or_one_of_them_goes(
    people: SiteAndHub, images: Path
) -> None:
    lines = alike(images)
    table(images, ["path,label,split", *(f"{line},train" for line in lines)])
    assert "remove one, or give both the same group in a table" in told(people)["E_NEAR_DUPLICATE"]
    grouped = [f"{line},train,{'lesion 1' if line[2] in 'xy' else ''}" for line in lines]
    table(images, ["path,label,split,group", *grouped])
    assert told(people) == READY
    (images / "a" / "y.jpg").unlink()
    table(images, ["path,label,split", *(f"{line},train" for line in lines if "y.jpg" not in line)])
    assert told(people) == READY


PARTS = {0: "test", 1: "val"}  # of each class's images, what its number says; all others are learned from


def sheet(images: Path, *lines: str, parts: bool = True) -> None:
    """A table of the good images in parts, and more lines; or none in any part."""
    names = [f"{name}/{number:03}.png,{name}" for name in CLASSES for number in range(10)]
    rows = [f"{one},{PARTS.get(place % 10, 'train')}," for place, one in enumerate(names)]
    table(images, ["path,label,split,group", *(rows if parts else [f"{one},," for one in names]), *lines])


def test_what_is_in_two_parts_is_removed_from_one_or_put_into_the_same(people: SiteAndHub, images: Path) -> None:
    alike(images)
    for first, second in (("train,", "test,"), ("train,p1", "test,p1")):
        sheet(images, f"a/x.png,a,{first}", f"a/y.jpg,a,{second}")
        found = told(people)
        assert "remove one of the two; or, before the first training, put both into the same set" in found["E_LEAK"]
        assert found[""].startswith("not ready: first put right E_LEAK")
    sheet(images, "a/x.png,a,train,", "a/y.jpg,a,train,")
    assert told(people)[""] == "ready to train"  # by the same split
    sheet(images, "a/x.png,a,,p1", "a/y.jpg,a,,p1", parts=False)
    assert told(people) == READY  # by the same group
    sheet(images, "a/y.jpg,a,test,")
    assert told(people) == READY  # one of the two


def test_once_trained_the_parts_are_kept_by_a_file_that_a_backup_brings_back(people: SiteAndHub, images: Path) -> None:
    pytest.importorskip("torch")
    alike(images)
    lines = "a/x.png,a,train,", "a/y.jpg,a,test,p1"
    sheet(images, *lines)
    kept = people.folder / "site" / "images" / "split.json"
    train = ("train", "images", "--plan", "plan.toml", "--threads", "1")
    succeeds(people.site(*train))
    shutil.copy(kept, people.folder / "backup.json")
    kept.write_bytes(kept.read_bytes()[:-9])
    for command in (("check", "images", "--plan", "plan.toml"), train):
        fails_with(people.site(*command), "E_SPLIT", "restore split.json from a backup")
    shutil.copy(people.folder / "backup.json", kept)
    succeeds(people.site(*train))
    sheet(images, "a/x.png,a,train,", "a/y.jpg,a,train,p1")  # too late: what was measured by is measured by
    assert "remove one of the two" in told(people)["E_LEAK"]
    samples.save(images / "a" / "z.png", samples.noise(1, seed=7)[0])
    sheet(images, lines[1], "a/z.png,a,,p1")
    found = told(people)
    assert "nothing to do: the image is left out" in found["E_GROUP"]
    assert found[""] == "ready to train"
