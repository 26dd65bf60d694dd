"""Folders, tables and NPZ files of the same images give the same federation in any layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhelp_edge import errors
from fedhelp_edge.data import loading
from fedhelp_edge.data.images import Images
from tests.unit.data import samples


def same(first: Images, second: Images) -> bool:
    """Whether pixels, labels and splits are equal and in the same order."""
    return (
        np.array_equal(first.pixels[:], second.pixels[:])
        and np.array_equal(first.labels, second.labels)
        and first.splits == second.splits
    )


# --------------------------------------------------------------------------------------------------- the containers


@settings(max_examples=25)
@given(order=st.permutations(range(20)), names=st.lists(st.uuids(), min_size=20, max_size=20, unique=True))
def test_a_folder_a_table_and_an_npz_of_the_same_images_are_the_same(
    order: list[int], names: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("same")
    pixels, labels = samples.noise(20), [i % 2 for i in range(20)]
    np.savez(home / "set.npz", images=pixels[order], labels=np.asarray(labels)[order], class_names=np.array(["a", "b"]))
    lines = ["path;label"]
    for i in order:
        name = samples.save(home / "images" / "ab"[labels[i]] / f"{names[i]}.png", pixels[i]).relative_to(home)
        lines.append(f"{name.as_posix()};{'ab'[labels[i]]}")
    (home / "set.csv").write_text("\n".join(lines), encoding="utf-8")
    loaded = [
        loading.load(home / name, samples.plan(), state_dir=home / f"kept {name}")
        for name in ("images", "set.csv", "set.npz")
    ]
    assert all(same(loaded[0], other) for other in loaded[1:])


def test_splits_and_centres_of_an_npz_in_medmnists_layout_are_used(tmp_path: Path) -> None:
    pixels = samples.noise(30, 16, 16)
    arrays = {}
    for index, part in enumerate(("train", "val", "test")):
        arrays[f"{part}_images"] = pixels[index * 10 :][:10]
        arrays[f"{part}_labels"] = np.arange(10, dtype=np.uint8)[:, None] % 2
        arrays[f"{part}_centers"] = np.full(10, index)
    np.savez(tmp_path / "set.npz", **arrays)
    images = loading.load(tmp_path / "set.npz", samples.plan(channels=1), state_dir=tmp_path / "kept")
    assert {
        (name.split("/")[0], part, centre)
        for name, part, centre in zip(images.names, images.splits, images.centres, strict=True)
    } == {
        ("train", "train", "0"),
        ("val", "val", "1"),
        ("test", "test", "2"),
    }
    for i, name in enumerate(images.names):
        part, index = name.split("/")
        assert np.array_equal(images.pixels[i][..., 0], arrays[f"{part}_images"][int(index)])
        assert images.labels[i] == int(index) % 2


def test_folders_above_the_class_are_splits_and_centres_and_those_below_are_neither(tmp_path: Path) -> None:
    samples.folder(tmp_path / "images" / "train" / "north", seed=1)
    samples.folder(tmp_path / "images" / "Test" / "south", seed=2)
    samples.save(tmp_path / "images" / "train" / "north" / "a" / "deep" / "er" / "x.png", samples.noise(1, seed=9)[0])
    images = loading.load(tmp_path / "images", samples.plan(val=0.0), state_dir=tmp_path / "kept")
    where = list(zip(images.splits, images.centres, strict=True))
    assert {pair: where.count(pair) for pair in where} == {("train", "north"): 21, ("test", "south"): 20}


def test_a_folder_with_labels_csv_in_it_is_a_table(tmp_path: Path) -> None:
    for i, pixels in enumerate(samples.noise(6)):
        samples.save(tmp_path / "images" / f"{i}.png", pixels)
    lines = "path,label\n" + "".join(f"{i}.png,{'ab'[i % 2]}\n" for i in range(6))
    (tmp_path / "images" / "labels.csv").write_text(lines, encoding="utf-8")
    images = loading.load(tmp_path / "images", samples.plan(), state_dir=tmp_path / "kept")
    assert sorted(zip(images.names, images.labels.tolist(), strict=True)) == [(f"{i}.png", i % 2) for i in range(6)]


@pytest.mark.parametrize("bits", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_are_converted_to_the_plans_size_and_channels(bits: str, channels: int, tmp_path: Path) -> None:
    pixels = samples.noise(8, 20, 24, 3 if bits == "uint8" else 1).astype(bits) * (1 if bits == "uint8" else 100)
    np.savez(tmp_path / "set.npz", images=pixels, labels=np.arange(8) % 2)
    images = loading.load(tmp_path / "set.npz", samples.plan(channels=channels), state_dir=tmp_path / "kept")
    assert images.pixels.shape == (8, 16, 16, channels)


# --------------------------------------------------------------------------------------------------------- tables


def table(path: Path, text: str | bytes) -> Images:
    """The images of a table beside six files a.png … f.png."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, pixels in zip("abcdef", samples.noise(6), strict=True):
        samples.save(path.parent / "files" / f"{name}.png", pixels)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return loading.load(path, samples.plan(), state_dir=path.parent / ".kept")


@pytest.mark.parametrize("text", [
    "path,label\nfiles/a.png,a\nfiles/b.png,b\n",
    "\ufeffPath,Label\r\nfiles\\a.png,A\r\nfiles\\b.png,b\r\n",
    "image\tdx\na\ta\nb\tb\n",
    "image;class_name;other\nA.PNG;a;1\nb.png;b;2\n",
    'label,filename\n"a","./files/../files/a.png"\nb,files/b.png\n',
], ids=["plain", "windows", "tabs, no suffix", "semicolons, name alone", "quoted"])  # fmt: skip
def test_tables_as_people_write_them_are_read(text: str, tmp_path: Path) -> None:
    images = table(tmp_path / "t.csv", text)
    assert sorted(zip(images.names, images.labels.tolist(), strict=True)) == [("files/a.png", 0), ("files/b.png", 1)]
    assert images.problems == ()


def test_groups_splits_and_centres_of_a_table_are_used(tmp_path: Path) -> None:
    text = "path,label,lesion_id,fold,center\na,a,L1,train,3\nb,b,L2,test,3\nc,a,,validation,5\n"
    images = table(tmp_path / "t.csv", text)
    rows = sorted(zip(images.names, images.groups, images.splits, images.centres, strict=True))
    assert rows == [
        ("files/a.png", "L1", "train", "3"),
        ("files/b.png", "L2", "test", "3"),
        ("files/c.png", "", "val", "5"),
    ]


def test_each_unusable_row_has_a_reason(tmp_path: Path) -> None:
    images = table(
        tmp_path / "t.csv",
        "path,label,split\na,a,\nb,b,\nc,,\nd,a,sometimes\nnowhere.png,a,\n,a,\ne,z,\nbad\0name,a,\n",
    )
    assert samples.codes(images) == [
        ("bad\0name", "E_FILE_MISSING"),
        ("c", "E_LABEL"),
        ("d", "E_TABLE"),
        ("files/e.png", "E_LABEL"),
        ("line 7 of t.csv", "E_TABLE"),
        ("nowhere.png", "E_FILE_MISSING"),
    ]


def test_an_ambiguous_file_name_is_not_guessed(tmp_path: Path) -> None:
    samples.save(tmp_path / "more" / "a.png", samples.noise(1, seed=9)[0])
    images = table(tmp_path / "t.csv", "path,label\na.png,a\nb.png,b\nc.png,a\n")
    assert samples.codes(images) == [("a.png", "E_TABLE")]


@pytest.mark.parametrize(
    ("text", "word"),
    [("", "label"), ("path,weight\n", "label"), ("label\na\n", "image"), (b"path,label\n\0\xfe,a\n", "UTF-8")],
)
def test_a_table_without_required_columns_is_refused(text: str | bytes, word: str, tmp_path: Path) -> None:
    with pytest.raises(errors.BadTableError, match=word):
        table(tmp_path / "t.csv", text)


# ----------------------------------------------------------------------------------------------------------- NPZ


class Pickled:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('the pickle was run')",)


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        ({"pictures": np.zeros(3)}, "neither"),
        ({"images": samples.noise(3)}, "no 'labels'"),
        ({"images": samples.noise(3), "labels": np.arange(4)}, "4 entries for 3"),
        ({"images": samples.noise(3), "labels": np.zeros(3)}, "whole number"),
        ({"images": samples.noise(3), "labels": np.zeros((3, 2), int)}, "one whole number"),
        ({"images": np.zeros((3, 8, 8), np.float32), "labels": np.arange(3)}, "float32"),
        ({"images": np.zeros((3, 8, 8, 8), np.uint8), "labels": np.arange(3)}, "3 x 8 x 8 x 8"),
        ({"images": np.zeros((3, 0, 8), np.uint8), "labels": np.arange(3)}, "no pixels"),
        ({"images": samples.noise(3), "labels": np.array([Pickled()] * 3)}, "pickled"),
        ({"images": np.array([Pickled()] * 3), "labels": np.arange(3)}, "object"),
        ({"images": samples.noise(3), "labels": np.arange(3), "centers": np.arange(2)}, "differ in length"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_npz_of_another_layout_is_refused_and_no_pickle_is_run(
    arrays: dict[str, Any], word: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(errors.BadNpzError, match=word):
        loading.load(tmp_path / "set.npz", samples.plan(), state_dir=tmp_path / "kept")


@pytest.mark.parametrize("cut", [0, 10, 500, -30])
def test_a_damaged_npz_is_refused(cut: int, tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=samples.noise(3), labels=np.arange(3))
    (tmp_path / "set.npz").write_bytes((tmp_path / "set.npz").read_bytes()[:cut])
    with pytest.raises(errors.BadNpzError):
        loading.load(tmp_path / "set.npz", samples.plan(), state_dir=tmp_path / "kept")
