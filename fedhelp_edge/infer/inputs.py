"""Iterate over the images to diagnose (files, folders, DICOM, NPZ) as items that decode themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fedhelp_edge import plan
from fedhelp_edge.data import folder, npz
from fedhelp_edge.data.source_row import Decoded, DicomIdentity
from fedhelp_edge.errors import FedhelpError, FileMissingError


@dataclass(frozen=True)
class InputItem:
    """One image to diagnose."""

    name: str  # relative to the folder that was given
    stamp: str  # changes when the file does; "" if there is no file
    decode: Callable[[plan.ImageSettings], Decoded]
    path: Path | None = None  # of a file with one image

    def identify(self) -> DicomIdentity | None:
        """The identity of a DICOM file, also of one that cannot be decoded."""
        return folder.identify(self.path) if self.path else None


def list_items(paths: Sequence[Path], *, answers_dir: Path | None = None) -> Iterator[InputItem]:
    """Yield every image of these paths, in order; an unusable file is an item that raises its error when decoded.

    Files below `answers_dir` are skipped: answers are written there.
    """
    names = [path.absolute().name for path in paths]
    for path, name in zip(paths, names, strict=True):
        prefix = "" if len(paths) == 1 else f"{name if names.count(name) == 1 else path.as_posix()}/"
        if path.is_dir():
            yield from _folder_items(path, prefix, answers_dir)
        elif path.suffix.lower() == ".npz":
            yield from _npz_items(path, name)
        else:
            yield _file_item(path, prefix.rstrip("/") or name)


def count_items(paths: Sequence[Path]) -> int:
    """Estimate quickly how many items there are."""
    total = 0
    for path in paths:
        if path.is_dir():
            total += sum(1 for _ in folder.list_files(path))
        elif path.suffix.lower() == ".npz" and path.exists():
            with suppress(FedhelpError):
                total += len(npz.read_unlabelled(path, plan.ImageSettings()).rows)
        else:
            total += 1
    return total


def _folder_items(root: Path, prefix: str, answers_dir: Path | None) -> Iterator[InputItem]:
    excluded = answers_dir.resolve() if answers_dir else None
    for name, stamp in folder.list_files(root):
        if excluded and excluded in (root / name).resolve().parents:
            continue
        try:
            if folder.is_image(root, name):
                yield InputItem(prefix + name, stamp, partial(folder.decode, root / name), root / name)
        except FedhelpError as error:
            yield _refused_item(prefix + name, error)


def _npz_items(path: Path, name: str) -> Iterator[InputItem]:
    try:
        source = npz.read_unlabelled(path, plan.ImageSettings())
        stamp = _stamp(path)
        for row, array in zip(source.rows, source.arrays(range(len(source.rows))), strict=True):
            yield InputItem(f"{name}/{row.name}", stamp, partial(npz.decode, array))
    except FedhelpError as error:
        yield _refused_item(name, error)


def _file_item(path: Path, name: str) -> InputItem:
    if not path.exists():
        return _refused_item(name, FileMissingError("there is no such file or folder"))
    return InputItem(name, _stamp(path), partial(folder.decode, path), path)


def _refused_item(name: str, error: FedhelpError) -> InputItem:
    def decode(image: plan.ImageSettings) -> Decoded:
        raise error

    return InputItem(name, "", decode)


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}"
