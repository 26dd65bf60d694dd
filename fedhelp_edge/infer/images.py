"""What a person asks about: image files, folders, DICOM and NPZ, as a stream of items that decode themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fedhelp_edge import plan
from fedhelp_edge.data import folder, npz
from fedhelp_edge.data.source_row import Decoded
from fedhelp_edge.errors import FedhelpError, FileMissingError


@dataclass(frozen=True)
class Item:
    name: str  # relative to the folder that was named
    stamp: str  # changes when the file does; "" where there is no file to look at
    decode: Callable[[plan.Image], Decoded]


def items(given: Sequence[Path], *, apart: Path | None = None) -> Iterator[Item]:
    """Everything below what was named, in order; what cannot be used is an item that says why when it is decoded.

    Files below `apart`, where answers are written, are no images.
    """
    names = [path.absolute().name for path in given]
    for path, name in zip(given, names, strict=True):
        prefix = "" if len(given) == 1 else f"{name if names.count(name) == 1 else path.as_posix()}/"
        if path.is_dir():
            yield from _below(path, prefix, apart)
        elif path.suffix.lower() == ".npz":
            yield from _entries(path, name)
        else:
            yield _file(path, prefix.rstrip("/") or name)


def count(given: Sequence[Path]) -> int:
    """About how many there are, quickly."""
    found = 0
    for path in given:
        if path.is_dir():
            found += sum(1 for _ in folder.listing(path))
        elif path.suffix.lower() == ".npz" and path.exists():
            with suppress(FedhelpError):
                found += len(npz.unlabelled(path, plan.Image()).rows)
        else:
            found += 1
    return found


def _below(root: Path, prefix: str, apart: Path | None) -> Iterator[Item]:
    hidden = apart.resolve() if apart else None
    for name, stamp in folder.listing(root):
        if hidden and hidden in (root / name).resolve().parents:
            continue
        try:
            if folder.is_image(root, name):
                yield Item(prefix + name, stamp, partial(folder.decode, root / name))
        except FedhelpError as fault:
            yield _refused(prefix + name, fault)


def _entries(path: Path, name: str) -> Iterator[Item]:
    try:
        found = npz.unlabelled(path, plan.Image())
        stamp = _stamp(path)
        for row, one in zip(found.rows, found.arrays(range(len(found.rows))), strict=True):
            yield Item(f"{name}/{row.name}", stamp, partial(npz.decode, one))
    except FedhelpError as fault:
        yield _refused(name, fault)


def _file(path: Path, name: str) -> Item:
    if not path.exists():
        return _refused(name, FileMissingError("there is no such file or folder"))
    return Item(name, _stamp(path), partial(folder.decode, path))


def _refused(name: str, fault: FedhelpError) -> Item:
    def decode(image: plan.Image) -> Decoded:
        raise fault

    return Item(name, "", decode)


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}"
