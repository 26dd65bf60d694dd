"""An NPZ laid out as MedMNIST's: `{train,val,test}_{images,labels}`, or `images` and `labels`.

`…groups` (patients or lesions, as names or whole numbers) and `…centers` if they are known.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files, plan
from fedhelp_edge.data import arrays, budget, picture
from fedhelp_edge.data.arrays import Archive
from fedhelp_edge.data.images import SPLITS, Problem
from fedhelp_edge.data.source_row import Decoded, Job, Row, patient
from fedhelp_edge.errors import BadNpzError

_CENTRES = ("centers", "centres")
_GROUPS = ("groups", "patients", "lesions")
_NAME = 512  # bytes of a patient, a centre or a class


@dataclass(frozen=True)
class Npz:
    """Rows that are entries of an array, named `train/12`, or `12` where the file makes no parts."""

    path: Path
    image: plan.Image
    rows: Sequence[Row]
    problems: Sequence[Problem] = ()

    def jobs(self, wanted: Sequence[int]) -> Iterator[Job]:
        for one in self.arrays(wanted):
            yield partial(decode, one, self.image)

    def arrays(self, wanted: Sequence[int]) -> Iterator[NDArray[Any]]:
        """What the file holds of each wanted row."""
        key, place = "", 0
        with arrays.opened(self.path) as archive:
            entries: Iterator[NDArray[Any]] = iter(())
            for i in wanted:
                part, _, number = self.rows[i].name.rpartition("/")
                if _images(part) != key or int(number) < place:
                    key, place = _images(part), 0
                    entries = archive.rows(key)
                yield next(islice(entries, int(number) - place, None))  # one at a time: there may be many
                place = int(number) + 1


def read(path: Path, image: plan.Image) -> Npz:
    """Every image of an NPZ, of which only labels are loaded yet: names if `class_names` is there, else numbers."""
    with files.reading(path) as file:
        stat = os.fstat(file.fileno())
    stamp = f"{stat.st_size}:{stat.st_mtime_ns}"
    rows: list[Row] = []
    with arrays.opened(path) as archive:
        names = (
            [str(name) for name in archive.array("class_names", _NAME * budget.COLUMNS).ravel()]
            if "class_names" in archive
            else []
        )
        for part, count in _parts(archive).items():
            prefix = f"{part}_" if part else ""
            labels = _labels(archive, f"{prefix}labels", count)
            centres, groups = (_beside(archive, prefix, keys, count) for keys in (_CENTRES, _GROUPS))
            for i, number in enumerate(labels):
                label: str | int = names[number] if 0 <= number < len(names) else number
                name = f"{part}/{i}" if part else str(i)
                rows.append(Row(name, label, stamp, patient(groups[i]), part, centres[i]))
    return Npz(path, image, rows)


def unlabelled(path: Path, image: plan.Image) -> Npz:
    """Every image of an NPZ, whether it has labels or not: they are not looked at."""
    rows: list[Row] = []
    with arrays.opened(path) as archive:
        for part, count in _parts(archive).items():
            rows += [Row(f"{part}/{i}" if part else str(i), "", "", split=part) for i in range(count)]
    return Npz(path, image, rows)


def _images(part: str) -> str:
    return f"{part}_images" if part else "images"


def _parts(archive: Archive) -> dict[str, int]:
    """How many images it has in train, val and test; "" stands for images that it puts into none."""
    parts = [part for part in SPLITS if _images(part) in archive]
    if not parts and "images" not in archive:
        raise BadNpzError("there is neither 'train_images' nor 'images' in it")
    counts = {part: _count(archive, _images(part)) for part in parts or [""]}
    if sum(counts.values()) > budget.ROWS:
        raise BadNpzError(f"it has more than {budget.ROWS:,} images")
    return counts


def _labels(archive: Archive, key: str, count: int) -> list[int]:
    if key not in archive:
        raise BadNpzError(f"there is no '{key}' in it")
    shape, dtype = archive.header(key).shape, archive.header(key).dtype
    if dtype.kind not in "iu" or not shape or math.prod(shape) != shape[0]:
        raise BadNpzError(f"'{key}' should be one whole number for each image")
    if shape[0] != count:
        raise BadNpzError(f"'{key}' has {shape[0]} entries for {count} images")
    return [int(label) for label in archive.array(key).ravel()]


def _beside(archive: Archive, prefix: str, keys: Sequence[str], count: int) -> list[str]:
    """A word for each image, "" where the file has none of these arrays."""
    key = next((prefix + key for key in keys if prefix + key in archive), None)
    if key is None:
        return [""] * count
    header = archive.header(key)
    if header.dtype.kind not in "iuUS":
        raise BadNpzError(f"'{key}' should be one name or whole number for each image")
    if math.prod(header.shape) != count:
        raise BadNpzError(f"'{prefix}images' and '{key}' differ in length")
    words = archive.array(key, _NAME * max(count, 1000)).ravel()
    return [word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word) for word in words.tolist()]


def _count(archive: Archive, key: str) -> int:
    """How many images an array has, and whether they are images, from its header alone."""
    header = archive.header(key)
    shape, dtype = header.shape, header.dtype
    if (
        dtype not in (np.uint8, np.uint16)
        or len(shape) not in (3, 4)
        or (len(shape) == 4 and shape[3] not in (1, 3, 4))
    ):
        sides = " x ".join(map(str, shape))
        raise BadNpzError(
            f"'{key}' is {sides} of {dtype}; it should be images x height x width (x 1, 3 or 4), uint8 or uint16"
        )
    if 0 in shape[1:]:
        raise BadNpzError(f"the images of '{key}' have no pixels")
    if math.prod(shape[1:]) * dtype.itemsize > budget.ROW or max(shape[1:3]) > budget.SIDE:
        raise BadNpzError(f"each image of '{key}' is larger than {budget.ROW >> 20} MiB, or {budget.SIDE:,} pixels")
    return int(shape[0])


def decode(one: NDArray[Any], image: plan.Image) -> Decoded:
    """An entry of an array of images, as the plan wants it."""
    with picture.refusing():
        array = one if one.dtype == np.uint8 else picture.stretch(one)
        return Decoded(picture.fit(array, image), array.shape[1], array.shape[0])
