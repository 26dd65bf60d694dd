"""An NPZ laid out as MedMNIST's: `{train,val,test}_{images,labels}`, or `images` and `labels`.

`…groups` (patients or lesions, as names or whole numbers) and `…centers` if they are known.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files, plan
from fedhelp_edge.data import picture
from fedhelp_edge.data.images import SPLITS, Problem
from fedhelp_edge.data.row import Decoded, Job, Row, patient
from fedhelp_edge.errors import BadNpz

_CENTRES = ("centers", "centres")
_GROUPS = ("groups", "patients", "lesions")


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
        loaded, array = "", np.empty(0, np.uint8)
        for i in wanted:
            part, _, place = self.rows[i].name.rpartition("/")
            key = f"{part}_images" if part else "images"
            if key != loaded:  # one array at a time: they may be large
                with _opened(self.path) as archive:
                    loaded, array = key, archive[key]
            yield array[int(place)]


def read(path: Path, image: plan.Image) -> Npz:
    """Every image of an NPZ, of which only labels are loaded yet: names if `class_names` is there, else numbers."""
    with files.reading(path) as file:
        stat = os.fstat(file.fileno())
    stamp = f"{stat.st_size}:{stat.st_mtime_ns}"
    rows: list[Row] = []
    with _opened(path) as archive:
        names = [str(name) for name in archive["class_names"].ravel()] if "class_names" in archive else []
        for part in _parts(archive):
            prefix = f"{part}_" if part else ""
            count = _count(path, f"{prefix}images")
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
    with _opened(path) as archive:
        for part in _parts(archive):
            count = _count(path, f"{part}_images" if part else "images")
            rows += [Row(f"{part}/{i}" if part else str(i), "", "", split=part) for i in range(count)]
    return Npz(path, image, rows)


def _parts(archive: Any) -> list[str]:
    """Which of train, val and test it has; "" stands for images that it puts into none."""
    parts = [part for part in SPLITS if f"{part}_images" in archive]
    if not parts and "images" not in archive:
        raise BadNpz("there is neither 'train_images' nor 'images' in it")
    return parts or [""]


def _labels(archive: Any, key: str, count: int) -> list[int]:
    if key not in archive:
        raise BadNpz(f"there is no '{key}' in it")
    labels = archive[key]
    if labels.dtype.kind not in "iu" or labels.size != len(labels):
        raise BadNpz(f"'{key}' should be one whole number for each image")
    if len(labels) != count:
        raise BadNpz(f"'{key}' has {len(labels)} entries for {count} images")
    return [int(label) for label in labels.ravel()]


def _beside(archive: Any, prefix: str, keys: Sequence[str], count: int) -> list[str]:
    """A word for each image, "" where the file has none of these arrays."""
    key = next((prefix + key for key in keys if prefix + key in archive), None)
    if key is None:
        return [""] * count
    words = archive[key].ravel()
    if words.dtype.kind not in "iuUS":
        raise BadNpz(f"'{key}' should be one name or whole number for each image")
    if len(words) != count:
        raise BadNpz(f"'{prefix}images' and '{key}' differ in length")
    return [word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word) for word in words.tolist()]


def _count(path: Path, key: str) -> int:
    """How many images an array has, and whether they are images, from its header alone."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
    if (
        dtype not in (np.uint8, np.uint16)
        or len(shape) not in (3, 4)
        or (len(shape) == 4 and shape[3] not in (1, 3, 4))
    ):
        sides = " x ".join(map(str, shape))
        raise BadNpz(
            f"'{key}' is {sides} of {dtype}; it should be images x height x width (x 1, 3 or 4), uint8 or uint16"
        )
    if 0 in shape[1:]:
        raise BadNpz(f"the images of '{key}' have no pixels")
    return int(shape[0])


def decode(one: NDArray[Any], image: plan.Image) -> Decoded:
    """An entry of an array of images, as the plan wants it."""
    with picture.refusing():
        array = one if one.dtype == np.uint8 else picture.stretch(one)
        return Decoded(picture.fit(array, image), array.shape[1], array.shape[0])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with files.reading(path) as file:
            archive = np.load(file, allow_pickle=False)
            if not hasattr(archive, "files"):
                raise BadNpz("it holds one array, not several with names")
            yield archive
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as fault:
        pickled = "pickle" in str(fault) or "Object arrays" in str(fault)
        raise BadNpz("it holds pickled objects, which are never read" if pickled else "it is damaged") from None
