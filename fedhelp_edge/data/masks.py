"""Masks beside images: the class of each pixel, from 0, the background, to the number of the plan's classes.

Pairs come from a folder of images and one of masks, in which a mask has its image's path, or from an NPZ. A DICOM
segmentation may name its image instead. A mask keeps its image's size until both are brought to the plan's. Then each
pixel takes the class of the nearest one.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedhelp_edge import files, plan
from fedhelp_edge.data import folder, picture, segmentation
from fedhelp_edge.data.images import Problem
from fedhelp_edge.data.labels import ClassNames
from fedhelp_edge.data.source_row import Decoded, DecodeJob, SourceRow, parse_patient, parse_split
from fedhelp_edge.errors import (
    FedhelpError,
    FileMissingError,
    MaskKindError,
    MaskLabelError,
    MaskPairError,
    MaskSizeError,
)

IMAGES, MASKS = "images", "masks"  # the folders of a source that has both
_ENDINGS = ("_mask", "_segmentation", "_seg", "_label", "_labels")  # of a mask's name, behind its image's
_WIDE = 255  # stands for the one class of a plan that has one
# of classes, which colour-blind people can distinguish (Okabe and Ito 2008); its yellow is for uncertain pixels
COLOURS = np.array(
    [[230, 159, 0], [86, 180, 233], [0, 158, 115], [213, 94, 0], [204, 121, 167], [0, 114, 178]], np.uint8
)


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
        is_turned = (height, width) == (decoded.width, decoded.height)
        raise MaskSizeError(f"its mask has {sizes}" + (": one of them is turned" if is_turned else ""))
    return replace(decoded, mask=fit(to_labels(values, classes), image.size))


def read_values(path: Path, image: plan.ImageSettings) -> NDArray[Any]:
    """The values of a mask's file, as a viewer turns it. A picture in colours has no classes."""
    try:
        with picture.translate_errors(), files.reading(path) as file, picture.opened(file, image) as (mask, frames):
            if frames > 1:
                raise MaskKindError("its mask has several frames")
            if mask.mode == "P":
                return _palette_values(mask)
            if mask.mode in ("1", "L", "I") or mask.mode.startswith("I;16"):
                values = np.asarray(mask)
                return values.astype(np.uint8) * _WIDE if mask.mode == "1" else values
            if mask.mode not in ("LA", "RGB", "RGBA"):
                raise MaskKindError(f"its mask is a picture of the kind {mask.mode}")
            bands = [np.asarray(band) for band in mask.split()]
            if not all(np.array_equal(bands[0], band) for band in bands[:3] if mask.mode != "LA"):
                raise MaskKindError("its mask is a picture in colours")
            if mask.mode.endswith("A") and np.ptp(bands[0]) == 0 < np.ptp(bands[-1]):
                raise MaskKindError("its mask is drawn in transparency alone")
            return bands[0]
    except FileMissingError as error:
        raise MaskPairError("its mask disappeared while the folder was read") from error


def _palette_values(mask: Image.Image) -> NDArray[np.uint8]:
    """A palette's indices; of a GIF its greys, since programs number the colours of a GIF anew."""
    indices, palette = np.asarray(mask), np.full((256, 3), 255, np.uint8)
    colours = np.array(mask.getpalette(), np.uint8).reshape(-1, 3)
    palette[: len(colours)] = colours
    used = np.unique(indices)
    if mask.format == "GIF":
        if np.ptp(palette[used], axis=1).any():
            raise MaskKindError("its mask is a GIF in colours, whose order says nothing")
        return np.asarray(palette[indices, 0])
    black = used[~palette[used].any(1)]
    if len(black) and palette[0].any():
        raise MaskKindError(f"its mask's palette has black, the usual background, as {black[0]}; it should be 0")
    return indices


def encode(labels: NDArray[np.uint8]) -> bytes:
    """A mask as PNG: each pixel's number is its class, which a palette shows in its colour."""
    image, palette = Image.fromarray(labels), np.zeros((256, 3), np.uint8)
    palette[1:] = np.resize(COLOURS, (255, 3))
    image.putpalette(palette.tobytes())
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def decode(path: Path, mask: Path, image: plan.ImageSettings, classes: ClassNames) -> Decoded:
    """Decode the files of an image and of its mask."""
    decoded = folder.decode(path, image)
    if folder.is_dicom(mask):
        values = segmentation.read_picture(mask, decoded.identity.sop_instance_uid if decoded.identity else "", classes)
    else:
        values = read_values(mask, image)
    return pair(decoded, values, image, len(classes.names))


@dataclass(frozen=True)
class MaskFolder:
    """A source whose rows are images below `root`, with a mask each."""

    root: Path
    image: plan.ImageSettings
    classes: ClassNames
    rows: Sequence[SourceRow]
    problems: Sequence[Problem]
    mask_of: Mapping[str, Path]  # by the image's name

    def jobs(self, indices: Sequence[int]) -> Iterator[DecodeJob]:
        for i in indices:
            name = self.rows[i].name
            yield partial(decode, self.root / name, self.mask_of[name], self.image, self.classes)


def read_folder(source: Path, masks: Path | None, image: plan.ImageSettings, classes: ClassNames) -> MaskFolder:
    """Read the pairs of a folder `images` beside a folder `masks`, or of any two folders.

    Folders above an image may name its split, then a centre, then a patient.
    """
    root, files = find_folders(source, masks, is_picture)
    rows, problems, mask_of = [], [], dict[str, Path]()
    for name, stamp in folder.list_files(root):
        try:
            if name in files.names or not folder.is_image(root, name):
                continue
            mask_of[name], mask_stamp = files.of(key(name), partial(instance, root / name))
        except FedhelpError as error:
            problems.append(Problem.from_error(name, error))
            continue
        rows.append(named_row(name, f"{stamp}+{mask_stamp}"))
    return MaskFolder(root, image, classes, rows, [*problems, *files.problems()], mask_of)


def is_picture(name: str) -> bool:
    """Whether a file's name is that of a picture."""
    return PurePosixPath(name).suffix.lower() in picture.SUFFIXES


def find_folders(source: Path, masks: Path | None, is_plain_mask: Callable[[str], bool]) -> tuple[Path, MaskFiles]:
    """The folder of the images, and the masks: in `source`, or in these two folders."""
    root = source
    if masks is None:
        root, masks = source / IMAGES, source / MASKS
    for path in (root, masks):
        if not path.is_dir():
            inside = f" in {source.name}" if path.parent == source else ""
            raise MaskPairError(f"there is no folder {path.name!r}{inside}")
    return root, MaskFiles(masks, is_plain_mask, has_images=masks.samefile(root))


def named_row(name: str, stamp: str) -> SourceRow:
    """The row of an image; folders above it may name its split, then a centre, then a patient."""
    folders = name.split("/")[:-1]
    split = next(filter(None, map(parse_split, folders)), "")
    centre, patient, *_ = [*(part for part in folders if not parse_split(part)), "", ""]
    return SourceRow(name, "", stamp, parse_patient(patient), split, centre)


class MaskFiles:
    """The masks below a folder. An image finds its own by its name, or by its UID in a DICOM segmentation."""

    def __init__(self, root: Path, is_plain_mask: Callable[[str], bool], *, has_images: bool) -> None:
        self._root = root
        self._by_key, self._by_uid = (defaultdict[str, list[tuple[str, str]]](list) for _ in range(2))
        self._unused: dict[str, FedhelpError] = {}
        for name, stamp in folder.list_files(root):
            try:
                if folder.is_dicom(root / name):
                    for uid in segmentation.read_references(root / name):
                        self._by_uid[uid].append((name, stamp))
                elif has_images or not is_plain_mask(name):
                    continue
                self._by_key[key(name)].append((name, stamp))
                self._unused[name] = MaskPairError("this mask has no image")
            except FedhelpError as error:
                if not has_images:  # else it is one of them
                    self._unused[name] = error
        self.names = frozenset(self._unused) if has_images else frozenset[str]()  # of masks among the images

    def of(self, image_key: str, uid: Callable[[], str]) -> tuple[Path, str]:
        """The path and stamp of an image's mask; raise `MaskPairError` unless there is one."""
        mask = self.find(image_key, uid)
        if mask is None:
            raise MaskPairError("it has no mask of the same name")
        return mask

    def find(self, image_key: str, uid: Callable[[], str]) -> tuple[Path, str] | None:
        """The same, or None if there is none; raise `MaskPairError` if there are several."""
        found = next(filter(None, (self._by_key.get(image_key + ending) for ending in ("", *_ENDINGS))), None)
        if not found and self._by_uid:
            found = self._by_uid.get(uid())
        if not found:
            return None
        if len(found) > 1:
            raise MaskPairError(f"it has several masks: {', '.join(mask for mask, _ in found)}")
        ((name, stamp),) = found
        self._unused.pop(name, None)
        return self._root / name, stamp

    def problems(self) -> list[Problem]:
        """The masks that no image has found."""
        return [Problem.from_error(f"{self._root.name}/{name}", error) for name, error in sorted(self._unused.items())]


def key(name: str) -> str:
    """A file's path without its suffix. What follows the last dot of a UID is none."""
    if name.lower().endswith(".nii.gz"):
        return name[:-7]
    path = PurePosixPath(name)
    return name if path.suffix[1:].isdecimal() else str(path.with_suffix(""))


def instance(path: Path) -> str:
    """The SOP instance UID of a DICOM file, "" of another one."""
    identity = folder.identify(path)
    return identity.sop_instance_uid if identity else ""
