"""Read an NPZ in the layout of MedMNIST: `{train,val,test}_{images,labels}`, or `images` and `labels`.

For segmentation it has `…masks`, and labels do not count. With a depth its images are volumes, N x slices x rows x
columns. Optional: `…groups` (patients or lesions, as names or whole numbers) and `…centers`.
"""

from __future__ import annotations

import hashlib
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
from fedhelp_edge.data import arrays, budget, masks, picture, source_row, volume
from fedhelp_edge.data import grid as grids
from fedhelp_edge.data.arrays import NpzArchive
from fedhelp_edge.data.images import SPLITS, Problem
from fedhelp_edge.data.source_row import BlockRow, Decoded, DecodeJob, SourceRow, parse_patient
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
    classes: int = 0  # of the masks; 0: there are none

    def jobs(self, indices: Sequence[int]) -> Iterator[DecodeJob]:
        if not self.classes:
            for array in self.arrays(indices):
                yield partial(decode, array, self.image)
            return
        for array, mask in zip(self.arrays(indices), self.arrays(indices, "masks"), strict=True):
            yield partial(_decode_pair, array, mask, self.image, self.classes)

    def arrays(self, indices: Sequence[int], what: str = "images") -> Iterator[NDArray[Any]]:
        """Yield the array of each of these rows: of its image, or of its mask. Blocks of a volume have one."""
        key, position = "", -1
        with arrays.open_archive(self.path) as archive:
            entries: Iterator[NDArray[Any]] = iter(())
            for i in indices:
                split, _, number = self.rows[i].name.partition("@")[0].rpartition("/")
                if _key(split, what) != key or int(number) < position:
                    key, position = _key(split, what), -1
                    entries = archive.rows(key)
                if int(number) > position:
                    entry = next(islice(entries, int(number) - position - 1, None))  # one at a time: there may be many
                position = int(number)
                yield entry


@dataclass(frozen=True)
class NpzBlocks(NpzSource):
    """A source whose rows are blocks of volumes with masks, named `train/12@0,32,0`."""

    rows: Sequence[BlockRow]

    def jobs(self, indices: Sequence[int]) -> Iterator[DecodeJob]:
        """Jobs that cut blocks out of volumes. Each volume is made grey once, for all its blocks."""
        last: Any = None
        for i, array, mask in zip(indices, self.arrays(indices), self.arrays(indices, "masks"), strict=True):
            if array is not last:
                last, shaded = array, array if array.dtype == np.uint8 else picture.stretch(array)
                digest = hashlib.sha256(shaded.tobytes()).digest()
            yield partial(decode_block, shaded, mask, self.rows[i].block, digest, self.image, self.classes)


def read(path: Path, image: plan.ImageSettings, classes: int = 0) -> NpzSource:
    """Read the rows of an NPZ, not yet the pixels. Labels are names if it has `class_names`, else numbers.

    With `classes`, the plan's, it has masks, and labels do not count.
    """
    with files.reading(path) as file:
        stat = os.fstat(file.fileno())
    stamp = f"{stat.st_size}:{stat.st_mtime_ns}"
    rows, block_rows = list[SourceRow](), list[BlockRow]()
    with arrays.open_archive(path) as archive:
        names = (
            [str(name) for name in archive.array("class_names", _NAME_SIZE * budget.COLUMNS).ravel()]
            if "class_names" in archive
            else []
        )
        for split, count in _count_images(archive, image).items():
            prefix = f"{split}_" if split else ""
            if classes:
                _check_masks(archive, split)
            labels = [0] * count if classes else _read_labels(archive, f"{prefix}labels", count)
            centres, groups = (_read_words(archive, prefix, keys, count) for keys in (_CENTRE_KEYS, GROUP_KEYS))
            for i, label_number in enumerate(labels):
                label: str | int = names[label_number] if 0 <= label_number < len(names) else label_number
                name = f"{split}/{i}" if split else str(i)
                row = SourceRow(name, label, stamp, parse_patient(groups[i]), split, centres[i])
                sides = archive.header(_key(split, "images")).shape[1:4]
                if image.is_volume:
                    block_rows += source_row.block_rows(row, sides, image.block)
                else:
                    rows.append(row)
    if image.is_volume:
        return NpzBlocks(path, image, block_rows, classes=classes)
    return NpzSource(path, image, rows, classes=classes)


def read_unlabelled(path: Path, image: plan.ImageSettings) -> NpzSource:
    """Read the rows of an NPZ without its labels, which it need not have."""
    rows: list[SourceRow] = []
    with arrays.open_archive(path) as archive:
        for split, count in _count_images(archive, image).items():
            rows += [SourceRow(f"{split}/{i}" if split else str(i), "", "", split=split) for i in range(count)]
    return NpzSource(path, image, rows)


def _key(split: str, what: str) -> str:
    return f"{split}_{what}" if split else what


def _count_images(archive: NpzArchive, image: plan.ImageSettings) -> dict[str, int]:
    """The number of images of each split; "" stands for images without a split."""
    splits = [split for split in SPLITS if _key(split, "images") in archive]
    if not splits and "images" not in archive:
        raise BadNpzError("it has neither 'train_images' nor 'images'")
    check = _check_and_count_volumes if image.is_volume else _check_and_count
    counts = {split: check(archive, _key(split, "images")) for split in splits or [""]}
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


def _check_masks(archive: NpzArchive, split: str) -> None:
    """Check from its header that an array holds a mask for each image, and as large."""
    images, key = archive.header(_key(split, "images")).shape, _key(split, "masks")
    if key not in archive:
        raise BadNpzError(f"it has no '{key}'", remedy="add the masks: images x height x width, a whole number a pixel")
    header = archive.header(key)
    if header.dtype.kind not in "bui" or header.shape not in (images, images[:-1]):
        sides, image_sides = (" x ".join(map(str, shape)) for shape in (header.shape, images))
        raise BadNpzError(
            f"'{key}' is {sides} of {header.dtype}, and the images are {image_sides}",
            remedy="masks are images x height x width (of volumes x depth too), whole numbers, as large as the images",
        )


def _check_and_count_volumes(archive: NpzArchive, key: str) -> int:
    """Check from its header that an array holds volumes; return their number."""
    header = archive.header(key)
    shape, dtype = header.shape, header.dtype
    if dtype not in (np.uint8, np.uint16) or len(shape) not in (4, 5) or (len(shape) == 5 and shape[4] not in (1, 3)):
        sides = " x ".join(map(str, shape))
        raise BadNpzError(
            f"'{key}' is {sides} of {dtype}; of volumes it should be number x slices x rows x columns (x 1 or 3)",
            remedy="save volumes as uint8 or uint16, or take [image] depth out of the plan",
        )
    if 0 in shape[1:]:
        raise BadNpzError(f"the volumes of '{key}' have no voxels")
    if math.prod(shape[1:]) * dtype.itemsize > budget.NPZ_VOLUME:
        raise BadNpzError(f"each volume of '{key}' is larger than {budget.NPZ_VOLUME >> 20} MiB")
    return int(shape[0])


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


def decode_volume(entry: NDArray[Any], image: plan.ImageSettings) -> Decoded:
    """A whole volume of an array of volumes, whose distances are taken to be the plan's."""
    with picture.translate_errors():
        shaded = entry if entry.dtype == np.uint8 else picture.stretch(entry)
        pixels = _with_channels(shaded, image.channels)
        grid = grids.plain(pixels.shape[:3], image.spacing)
        return Decoded(pixels, pixels.shape[2], pixels.shape[1], grid=grid)


def _with_channels(volume: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """A volume or a block of it, grey or in colours, with as many channels as the plan asks for."""
    pixels = volume.reshape(*volume.shape[:3], -1)
    if pixels.shape[3] == channels:
        return pixels
    return np.repeat(np.rint(pixels.mean(3, keepdims=True)).astype(np.uint8), channels, 3)


def _decode_pair(entry: NDArray[Any], mask: NDArray[Any], image: plan.ImageSettings, classes: int) -> Decoded:
    """Fit an entry of an array of images, and its mask."""
    return masks.pair(decode(entry, image), mask.reshape(mask.shape[:2]), image, classes)


def decode_block(
    shaded: NDArray[np.uint8], mask: NDArray[Any], place: volume.Block, digest: bytes, image: plan.ImageSettings,
    classes: int,
) -> Decoded:  # fmt: skip
    """Cut a block out of a volume of grey or colour, and out of its mask. `digest` names the volume."""
    pixels = _with_channels(volume.cut(shaded, place, image.block), image.channels)
    labels = volume.cut(masks.to_labels(mask.reshape(mask.shape[:3]), classes), place, image.block)
    copied = digest + repr(place.start).encode()
    return Decoded(pixels, place.sides[2], place.sides[1], mask=labels, copied=copied)
