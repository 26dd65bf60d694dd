"""Read an NPZ in the layout of MedMNIST: `{train,val,test}_{images,labels}`, or `images` and `labels`.

Optional: `…groups` (patients or lesions, as names or whole numbers) and `…centers`.
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
from fedhelp_edge.data.arrays import NpzArchive
from fedhelp_edge.data.images import SPLITS, Problem
from fedhelp_edge.data.source_row import Decoded, DecodeJob, SourceRow, parse_patient
from fedhelp_edge.errors import BadNpzError
from fedhelp_edge.safe_text import counted

_CENTRE_KEYS = ("centers", "centres")
GROUP_KEYS = ("groups", "patients", "lesions")
_NAME_SIZE = 512  # bytes of the name of a patient, a centre or a class


@dataclass(frozen=True)
class NpzSource:
    """A source whose rows are entries of an array, named `train/12`, or `12` if the file has no splits."""

    path: Path
    image: plan.ImageSettings
    rows: Sequence[SourceRow]
    problems: Sequence[Problem] = ()

    def jobs(self, indices: Sequence[int]) -> Iterator[DecodeJob]:
        for array in self.arrays(indices):
            yield partial(decode, array, self.image)

    def arrays(self, indices: Sequence[int]) -> Iterator[NDArray[Any]]:
        """Yield the array of each of these rows."""
        key, position = "", 0
        with arrays.open_archive(self.path) as archive:
            entries: Iterator[NDArray[Any]] = iter(())
            for i in indices:
                split, _, index = self.rows[i].name.rpartition("/")
                if _images_key(split) != key or int(index) < position:
                    key, position = _images_key(split), 0
                    entries = archive.rows(key)
                yield next(islice(entries, int(index) - position, None))  # one at a time: there may be many
                position = int(index) + 1


def read(path: Path, image: plan.ImageSettings) -> NpzSource:
    """Read the rows of an NPZ, not yet the pixels. Labels are names if it has `class_names`, else numbers."""
    with files.reading(path) as file:
        stat = os.fstat(file.fileno())
    stamp = f"{stat.st_size}:{stat.st_mtime_ns}"
    rows: list[SourceRow] = []
    with arrays.open_archive(path) as archive:
        names = (
            [str(name) for name in archive.array("class_names", _NAME_SIZE * budget.COLUMNS).ravel()]
            if "class_names" in archive
            else []
        )
        for split, count in _count_images(archive).items():
            prefix = f"{split}_" if split else ""
            labels = _read_labels(archive, f"{prefix}labels", count)
            centres, groups = (_read_words(archive, prefix, keys, count) for keys in (_CENTRE_KEYS, GROUP_KEYS))
            for i, label_number in enumerate(labels):
                label: str | int = names[label_number] if 0 <= label_number < len(names) else label_number
                name = f"{split}/{i}" if split else str(i)
                rows.append(SourceRow(name, label, stamp, parse_patient(groups[i]), split, centres[i]))
    return NpzSource(path, image, rows)


def read_unlabelled(path: Path, image: plan.ImageSettings) -> NpzSource:
    """Read the rows of an NPZ without its labels, which it need not have."""
    rows: list[SourceRow] = []
    with arrays.open_archive(path) as archive:
        for split, count in _count_images(archive).items():
            rows += [SourceRow(f"{split}/{i}" if split else str(i), "", "", split=split) for i in range(count)]
    return NpzSource(path, image, rows)


def _images_key(split: str) -> str:
    return f"{split}_images" if split else "images"


def _count_images(archive: NpzArchive) -> dict[str, int]:
    """The number of images of each split; "" stands for images without a split."""
    splits = [split for split in SPLITS if _images_key(split) in archive]
    if not splits and "images" not in archive:
        raise BadNpzError("it has neither 'train_images' nor 'images'")
    counts = {split: _check_and_count(archive, _images_key(split)) for split in splits or [""]}
    if sum(counts.values()) > budget.ROWS:
        raise BadNpzError(f"it has more than {budget.ROWS:,} images")
    return counts


def _read_labels(archive: NpzArchive, key: str, count: int) -> list[int]:
    if key not in archive:
        raise BadNpzError(f"it has no '{key}'")
    shape, dtype = archive.header(key).shape, archive.header(key).dtype
    if dtype.kind not in "iu" or not shape or math.prod(shape) != shape[0]:
        raise BadNpzError(f"'{key}' should be one whole number for each image")
    if shape[0] != count:
        raise BadNpzError(f"'{key}' has {counted(shape[0], 'entry', 'entries')} for {counted(count, 'image')}")
    return [int(label) for label in archive.array(key).ravel()]


def _read_words(archive: NpzArchive, prefix: str, keys: Sequence[str], count: int) -> list[str]:
    """A word for each image from the first of these arrays; "" if there is none."""
    key = next((prefix + key for key in keys if prefix + key in archive), None)
    if key is None:
        return [""] * count
    header = archive.header(key)
    if header.dtype.kind not in "iuUS":
        raise BadNpzError(f"'{key}' should be one name or whole number for each image")
    if math.prod(header.shape) != count:
        raise BadNpzError(f"'{prefix}images' and '{key}' differ in length")
    words = archive.array(key, _NAME_SIZE * max(count, 1000)).ravel()
    return [word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word) for word in words.tolist()]


def _check_and_count(archive: NpzArchive, key: str) -> int:
    """Check from its header that an array holds images; return their number."""
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
    if math.prod(shape[1:]) * dtype.itemsize > budget.NPZ_IMAGE or max(shape[1:3]) > budget.SIDE:
        raise BadNpzError(
            f"each image of '{key}' is larger than {budget.NPZ_IMAGE >> 20} MiB, or {budget.SIDE:,} pixels"
        )
    return int(shape[0])


def decode(entry: NDArray[Any], image: plan.ImageSettings) -> Decoded:
    """Fit an entry of an array of images to the plan's size and channels."""
    with picture.translate_errors():
        array = entry if entry.dtype == np.uint8 else picture.stretch(entry)
        return Decoded(picture.fit(array, image), array.shape[1], array.shape[0])
