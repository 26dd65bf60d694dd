"""Images are decoded once; a second run maps the cached file, which is complete or absent."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge import files
from fedhelp_edge.data import folder, loading, picture
from fedhelp_edge.data.images import Pixels
from tests.unit.data import samples


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded."""
    names: list[str] = []
    decode = folder.decode

    def noted(path: Path, image: object) -> object:
        names.append(path.name)
        return decode(path, image)  # type: ignore[arg-type]

    monkeypatch.setattr(folder, "decode", noted)
    return names


def cache_files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "decoded").rglob("*") if path.is_file())


def test_a_second_run_decodes_nothing_and_maps_the_file(tmp_path: Path, decoding: list[str]) -> None:
    source = samples.folder(tmp_path / "images")
    (source / "a" / "broken.png").write_bytes(b"x")
    first = loading.load(source, samples.plan(), state_dir=tmp_path / "cache")
    assert len(decoding) == 21
    before = cache_files(tmp_path / "cache")
    again = loading.load(source, samples.plan(), state_dir=tmp_path / "cache")
    assert len(decoding) == 21
    assert cache_files(tmp_path / "cache") == before
    assert np.array_equal(first.pixels[:], again.pixels[:])
    assert first.problems == again.problems
    assert isinstance(again.pixels, Pixels)
    assert isinstance(again.pixels._rows, np.memmap)


def test_only_new_or_changed_images_are_decoded_and_the_old_cache_is_removed(
    tmp_path: Path, decoding: list[str]
) -> None:
    source = samples.folder(tmp_path / "images")
    loading.load(source, samples.plan(), state_dir=tmp_path / "cache")
    (old,) = cache_files(tmp_path / "cache")
    decoding.clear()
    samples.save(source / "a" / "new.png", samples.noise(1, seed=8)[0])
    samples.save(source / "a" / "003.png", samples.noise(1, 20, 16, 3, seed=9)[0])
    (source / "b" / "001.png").unlink()
    images = loading.load(source, samples.plan(), state_dir=tmp_path / "cache")
    assert sorted(decoding) == ["003.png", "new.png"]
    assert cache_files(tmp_path / "cache") != [old]
    assert len(cache_files(tmp_path / "cache")) == 1
    fresh = loading.load(source, samples.plan(), state_dir=tmp_path / "other")
    assert np.array_equal(images.pixels[:], fresh.pixels[:])
    assert images.names == fresh.names


def test_another_size_or_another_version_decodes_again(
    tmp_path: Path, decoding: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = samples.folder(tmp_path / "images")
    loading.load(source, samples.plan(), state_dir=tmp_path / "cache")
    loading.load(source, samples.plan(size=8), state_dir=tmp_path / "cache")
    loading.load(source, samples.plan(channels=1), state_dir=tmp_path / "cache")
    monkeypatch.setattr(picture, "DECODER_VERSION", 99)
    loading.load(source, samples.plan(), state_dir=tmp_path / "cache")
    assert len(decoding) == 80
    assert len(cache_files(tmp_path / "cache")) == 4


@pytest.mark.parametrize("harm", ["cut", "empty", "longer", "index"])
def test_a_damaged_cache_is_written_again(harm: str, tmp_path: Path) -> None:
    source = samples.folder(tmp_path / "images")
    first = loading.load(source, samples.plan(), state_dir=tmp_path / "cache")
    pixels_before = first.pixels[:]
    (path,) = cache_files(tmp_path / "cache")
    text = path.read_bytes()
    first = None  # type: ignore[assignment]  # Windows lets nobody write to what is mapped
    path.write_bytes({"cut": text[:-100], "empty": b"", "longer": b"x" + text, "index": text[:-40] + bytes(40)}[harm])
    assert np.array_equal(loading.load(source, samples.plan(), state_dir=tmp_path / "cache").pixels[:], pixels_before)
    assert cache_files(tmp_path / "cache") != [path]


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = samples.folder(tmp_path / "images")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        loading.load(source, samples.plan(), state_dir=tmp_path / "cache")
    assert cache_files(tmp_path / "cache") == []
    assert not (tmp_path / "cache" / "split.json").exists()
    monkeypatch.undo()
    assert len(loading.load(source, samples.plan(), state_dir=tmp_path / "cache")) == 20


def test_leftovers_of_a_killed_run_are_never_read_and_removed_later(tmp_path: Path) -> None:
    source = samples.folder(tmp_path / "images")
    loading.load(source, samples.plan(), state_dir=tmp_path / "cache")
    (path,) = cache_files(tmp_path / "cache")
    old, fresh = (path.with_name(f".{name}.images.part") for name in ("old", "fresh"))
    for part in (old, fresh):
        part.write_bytes(path.read_bytes()[:-50])
    os.utime(old, (0, 0))
    samples.save(source / "a" / "new.png", samples.noise(1, seed=8)[0])
    assert len(loading.load(source, samples.plan(), state_dir=tmp_path / "cache")) == 21
    assert (old.exists(), fresh.exists()) == (False, True)


@pytest.mark.parametrize("workers", [1, 3, 16])
def test_the_number_of_workers_changes_nothing(workers: int, tmp_path: Path) -> None:
    source = samples.folder(tmp_path / "images", 40)
    single = loading.load(source, samples.plan(), state_dir=tmp_path / "one", workers=1)
    many = loading.load(source, samples.plan(), state_dir=tmp_path / "many", workers=workers)
    assert np.array_equal(single.pixels[:], many.pixels[:])
    assert (single.names, single.splits) == (many.names, many.splits)
