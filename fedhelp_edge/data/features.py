"""Cache an encoder's features of images in one file, which later runs map into memory.

A file holds the features of N images (N x views x width, float16), then the SHA-256 of each image. It is written
atomically. A long computation saves what it has in further files, from which the next one continues after a kill. At
its end one file holds all. The folder's name says of which encoder, image size and views its files are.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files
from fedhelp_edge.data.images import Pixels
from fedhelp_edge.data.store import remove_leftovers

_HASH = 32  # bytes
_SAVE_SECONDS = 20.0  # between two files of a long computation

Features = NDArray[np.float16]
Compute = Callable[[Sequence[int]], Generator[Features]]  # the features of these images, views x width each, in order
Progress = Callable[[int, int, float], None]  # images done, images in all, images a second


@dataclass(frozen=True)
class EncoderFacts:
    """What a method may know about the encoder."""

    width: int  # features of an image
    text: NDArray[np.float32] | None = None  # of the plan's classes: classes x width
    logit_scale: float | None = None  # by which the encoder multiplies a similarity of image and text


def cached(
    folder: Path, hashes: Sequence[str], shape: tuple[int, int], compute: Compute, progress: Progress | None = None
) -> Pixels:
    """The features of the images with these hashes, in their order. Those that the folder lacks are computed first.

    `shape` is views x width.
    """
    index = _load(folder, shape)
    while missing := [i for i, hash_ in enumerate(hashes) if hash_ not in index]:  # again if another process cleared up
        _compute(folder, hashes, missing, compute, progress)
        index = _load(folder, shape)
    if len({index[hash_].path for hash_ in hashes}) > 1:
        _join(folder, index, shape)
        index = _load(folder, shape)
    rows = _map(index[hashes[0]].path, shape) if hashes else np.empty((0, *shape), np.float16)
    return Pixels(rows, np.asarray([index[hash_].row for hash_ in hashes], np.int64))


def hash_image(image: NDArray[np.uint8]) -> str:
    """The hash by which an image's features are cached."""
    return hashlib.sha256(image.tobytes()).hexdigest()


@dataclass(frozen=True)
class _Place:
    """Where an image's features are."""

    path: Path
    row: int


def _compute(
    folder: Path, hashes: Sequence[str], missing: Sequence[int], compute: Compute, progress: Progress | None
) -> None:
    """Compute the features of these images, and save them every few seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    started = saved_at = time.monotonic()
    unsaved: dict[str, Features] = {}
    with closing(compute(missing)) as results:
        for count, (i, features) in enumerate(zip(missing, results, strict=True), 1):
            unsaved[hashes[i]] = features
            now = time.monotonic()
            if now - saved_at > _SAVE_SECONDS or count == len(missing):
                _write(folder, unsaved)
                unsaved, saved_at = {}, now
            if progress:
                progress(count, len(missing), count / max(now - started, 1e-9))


def _write(folder: Path, features: Mapping[str, Features]) -> None:
    with files.writing(folder / f"{os.urandom(8).hex()}.features") as file:
        for rows in features.values():
            file.write(rows.astype("<f2", copy=False).tobytes())
        for hash_ in features:
            file.write(bytes.fromhex(hash_))


def _join(folder: Path, index: Mapping[str, _Place], shape: tuple[int, int]) -> None:
    """Write one file of all features, and remove those that it was made of."""
    mapped = {path: _map(path, shape) for path in {place.path for place in index.values()}}
    _write(folder, _Rows({hash_: (mapped[place.path], place.row) for hash_, place in index.items()}))
    for path in mapped:
        with suppress(OSError):  # Windows locks an open file; the next join removes it
            path.unlink()


class _Rows(Mapping[str, Features]):
    """Features that are read from their files when their turn comes."""

    def __init__(self, rows: Mapping[str, tuple[Features, int]]) -> None:
        self._rows = rows

    def __getitem__(self, hash_: str) -> Features:
        rows, row = self._rows[hash_]
        return np.asarray(rows[row])

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def _load(folder: Path, shape: tuple[int, int]) -> dict[str, _Place]:
    """Where the features of each image are. A file that is damaged or gone does not count."""
    index: dict[str, _Place] = {}
    for path in sorted(folder.glob("*.features"), key=lambda path: path.name):
        with suppress(OSError), files.reading(path) as file:
            count, odd = divmod(file.seek(0, os.SEEK_END), _row_size(shape) + _HASH)
            if not odd:
                file.seek(count * _row_size(shape))
                hashes = file.read()
                places = (hashes[start : start + _HASH].hex() for start in range(0, len(hashes), _HASH))
                index |= {hash_: _Place(path, row) for row, hash_ in enumerate(places)}
    return index


def _map(path: Path, shape: tuple[int, int]) -> Features:
    count = path.stat().st_size // (_row_size(shape) + _HASH)
    return cast("Features", np.memmap(path, np.float16, "r", shape=(count, *shape)))


def _row_size(shape: tuple[int, int]) -> int:
    return 2 * math.prod(shape)
