"""Masks beside images: the class of each pixel, from 0, the background, to the number of the plan's classes.

Pairs come from a folder of images and one of masks, in which a mask has its image's path, or from an NPZ. A mask keeps
its image's size until both are brought to the plan's. Then each pixel takes the class of the nearest one.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedhelp_edge import files, plan
from fedhelp_edge.data import folder, nifti, picture, source_row, volume
from fedhelp_edge.data.images import Problem
from fedhelp_edge.data.source_row import Decoded, DecodeJob, SourceRow, parse_patient, parse_split
from fedhelp_edge.data.volume import Block
from fedhelp_edge.errors import (
    FedhelpError,
    FileMissingError,
    MaskKindError,
    MaskLabelError,
    MaskPairError,
    MaskSizeError,
    VolumeKindError,
)

IMAGES, MASKS = "images", "masks"  # the folders of a source that has both
_ENDINGS = ("_mask", "_segmentation", "_seg", "_label", "_labels")  # of a mask's name, behind its image's
_WIDE = 255  # stands for the one class of a plan that has one


def to_labels(values: NDArray[Any], classes: int) -> NDArray[np.uint8]:
    """The class of each pixel from the values of a mask; raise `MaskLabelError` for a value that is none."""
    values = values.astype(np.uint8) if values.dtype == np.bool_ else values
    numbers = np.unique(values).tolist()
    if classes == 1 and set(numbers) <= {0, _WIDE}:
        return (values > 0).astype(np.uint8)
    if wrong := [value for value in numbers if not 0 <= value <= classes]:
        names = ", ".join(map(str, wrong[:3])) + (", ..." if len(wrong) > 3 else "")
        also = f", or 0 and {_WIDE}" if classes == 1 else ""
        raise MaskLabelError(f"its mask has the values {names}; the plan's classes are 0 to {classes}{also}")
    return values.astype(np.uint8)


def fit(labels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Squeeze a mask to a square as its image is squeezed: each pixel takes the class of the nearest one."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(labels)).resize((size, size), Image.Resampling.NEAREST))


def pair(decoded: Decoded, values: NDArray[Any], image: plan.ImageSettings, classes: int) -> Decoded:
    """A decoded picture with its mask, from the mask's values at the size of its file."""
    height, width = values.shape
    if (width, height) != (decoded.width, decoded.height):
        sizes = f"{width} x {height} pixels, and its image {decoded.width} x {decoded.height}"
        raise MaskSizeError(f"its mask has {sizes}")
    return replace(decoded, mask=fit(to_labels(values, classes), image.size))


def read_values(path: Path, image: plan.ImageSettings) -> NDArray[Any]:
    """The values of a mask's file: grey or a palette's indices. A picture in colours has no classes."""
    try:
        with picture.translate_errors(), files.reading(path) as file, picture.opened(file, image) as (mask, frames):
            if frames > 1:
                raise MaskKindError("its mask has several frames")
            if mask.mode in ("1", "L", "P", "I") or mask.mode.startswith("I;16"):
                values = np.asarray(mask)
                return values.astype(np.uint8) * _WIDE if mask.mode == "1" else values
            if mask.mode not in ("LA", "RGB", "RGBA"):
                raise MaskKindError(f"its mask is a picture of the kind {mask.mode}")
            grey, *others = (np.asarray(band) for band in mask.split()[: 1 if mask.mode == "LA" else 3])
            if not all(np.array_equal(grey, other) for other in others):
                raise MaskKindError("its mask is a picture in colours")
            return grey
    except FileMissingError as error:
        raise MaskPairError("its mask disappeared while the folder was read") from error


def decode(path: Path, mask: Path, image: plan.ImageSettings, classes: int) -> Decoded:
    """Decode the files of an image and of its mask."""
    return pair(folder.decode(path, image), read_values(mask, image), image, classes)


def _decode_volume(path: Path, mask: Path, image: plan.ImageSettings, classes: int) -> Decoded:
    """Decode a whole volume and its mask, at the plan's distances."""
    decoded = nifti.decode(path, image)
    labels = to_labels(nifti.read_labels(mask, nifti.read_header(path).grid, image), classes)
    return replace(decoded, mask=labels, copied=hashlib.sha256(decoded.pixels.tobytes()).digest())


def _cut(whole: Decoded | FedhelpError, place: Block, image: plan.ImageSettings) -> Decoded:
    """A block of a volume, and of its mask; raise the error of one that cannot be used."""
    if isinstance(whole, FedhelpError):
        raise whole
    pixels, labels = (volume.cut(np.asarray(part), place, image.block) for part in (whole.pixels, whole.mask))
    return replace(whole, pixels=pixels, mask=labels, grid=None, copied=whole.copied + repr(place.start).encode())


@dataclass(frozen=True)
class MaskFolder:
    """A source whose rows are images below `root`, or blocks of volumes, with a mask each below `masks`."""

    root: Path
    masks: Path
    image: plan.ImageSettings
    classes: int
    rows: Sequence[SourceRow]
    problems: Sequence[Problem]
    mask_of: Mapping[str, str]  # the mask's path below `masks`, by the image's name

    def jobs(self, indices: Sequence[int]) -> Iterator[DecodeJob]:
        if self.image.is_volume:
            yield from self._blocks(indices)
            return
        for i in indices:
            name = self.rows[i].name
            yield partial(decode, self.root / name, self.masks / self.mask_of[name], self.image, self.classes)

    def _blocks(self, indices: Sequence[int]) -> Iterator[DecodeJob]:
        """Jobs that cut blocks out of volumes. Each volume is decoded once, for all its blocks."""
        for name, group in groupby(indices, key=lambda i: self._block(i).volume):
            whole: Decoded | FedhelpError
            try:
                whole = _decode_volume(self.root / name, self.masks / self.mask_of[name], self.image, self.classes)
            except FedhelpError as error:
                whole = error
            for i in group:
                yield partial(_cut, whole, self._block(i), self.image)

    def _block(self, index: int) -> Block:
        place = self.rows[index].block
        assert place is not None  # noqa: S101 - each row of a volume has one
        return place


def read_folder(source: Path, masks: Path | None, image: plan.ImageSettings, classes: int) -> MaskFolder:
    """Read the pairs of a folder `images` beside a folder `masks`, or of any two folders: pictures, or NIfTI volumes.

    Folders above an image may name its split, then a centre, then a patient.
    """
    root = source
    if masks is None:
        root, masks = source / IMAGES, source / MASKS
    for path in (root, masks):
        if not path.is_dir():
            inside = f" in {source.name}" if path.parent == source else ""
            raise MaskPairError(f"there is no folder {path.name!r}{inside}")
    is_mask = nifti.is_nifti if image.is_volume else folder.is_mask
    by_key: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, stamp in folder.list_files(masks):
        if is_mask(name):
            by_key[_key(name)].append((name, stamp))
    rows, problems, mask_of = [], [], dict[str, str]()
    for name, stamp in folder.list_files(root):
        try:
            if not _is_image(root, name, image):
                continue
            mask_of[name], mask_stamp = _mask_of(name, by_key)
            sides = nifti.read_header(root / name).grid.sides_at(image) if image.is_volume else ()
        except FedhelpError as error:
            problems.append(Problem.from_error(name, error))
            continue
        folders = name.split("/")[:-1]
        split = next(filter(None, map(parse_split, folders)), "")
        centre, patient, *_ = [*(part for part in folders if not parse_split(part)), "", ""]
        row = SourceRow(name, "", f"{stamp}+{mask_stamp}", parse_patient(patient), split, centre)
        rows += source_row.block_rows(row, sides, image.block) if image.is_volume else [row]
    used = set(mask_of.values())
    alone = sorted(name for pairs in by_key.values() for name, _ in pairs if name not in used)
    problems += [Problem.from_error(f"{masks.name}/{name}", MaskPairError("this mask has no image")) for name in alone]
    return MaskFolder(root, masks, image, classes, rows, problems, mask_of)


def _is_image(root: Path, name: str, image: plan.ImageSettings) -> bool:
    """Whether a file is an image of the plan's kind; raise `ImageKindError` for one of another kind."""
    if image.is_volume and nifti.is_nifti(name):
        return True
    if not folder.is_image(root, name):
        return False
    if image.is_volume:
        raise VolumeKindError("it is a picture, and the plan is for volumes")
    return True


def _key(name: str) -> str:
    """A file's path without its suffix."""
    return name[:-7] if name.lower().endswith(".nii.gz") else str(PurePosixPath(name).with_suffix(""))


def _mask_of(name: str, by_key: Mapping[str, Sequence[tuple[str, str]]]) -> tuple[str, str]:
    """The path and stamp of an image's mask."""
    masks = next(filter(None, (by_key.get(_key(name) + ending) for ending in ("", *_ENDINGS))), None)
    if not masks:
        raise MaskPairError("it has no mask of the same name")
    if len(masks) > 1:
        raise MaskPairError(f"it has several masks: {', '.join(mask for mask, _ in masks)}")
    return masks[0]
