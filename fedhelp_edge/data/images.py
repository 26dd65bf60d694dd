"""A site's images after decoding: pixels mapped from disk, with label, split and group of each.

Where a plan has an encoder, learners see its features in the place of pixels (`data.features`).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data import groups
from fedhelp_edge.data.augment import PLAIN, Augmentation, augment, vary
from fedhelp_edge.data.volume import Block
from fedhelp_edge.errors import FedhelpError

SPLITS = ("train", "val", "test")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Problem:
    """Why a file is left out, or why it is doubtful; `file` is "" if the problem concerns all files."""

    file: str
    code: str
    cause: str

    @staticmethod
    def from_error(file: str, error: FedhelpError) -> Problem:
        """The problem of a file that raised an error."""
        return Problem(file, error.code, error.cause)


class ImageKind(NamedTuple):
    """The kind of image that a DICOM file states; "" where it states nothing."""

    modality: str
    body_part: str
    photometric_interpretation: str


class Pixels:
    """A view of some rows of an array (mostly a memory map), in any order; rows are copied only when indexed.

    Of rows with named parts, an image and its mask, it is a view of one part.
    """

    def __init__(self, rows: NDArray[Any], index: NDArray[np.int64], part: str = "") -> None:
        self._rows, self._index, self._part = rows, index, part
        self._values = rows[part] if part else rows

    def __len__(self) -> int:
        return len(self._index)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._index), *self._values.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._values.dtype

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled for a process of this program, a mapped file goes by its path, and other rows as they are."""
        if isinstance(self._rows, np.memmap) and isinstance(self._rows.base, mmap.mmap):
            rows = self._rows
            return _map_rows, (rows.filename, rows.dtype, rows.offset, rows.shape, self._index, self._part)
        return Pixels, (self[:], np.arange(len(self)))

    def __getitem__(self, key: int | slice | Sequence[int] | NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self._values[self._index[key]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def only(self, index: NDArray[np.int64]) -> Pixels:
        """A view of the rows at these indices."""
        return Pixels(self._rows, self._index[index], self._part)


def _map_rows(
    path: Any, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...], index: NDArray[np.int64], part: str
) -> Pixels:
    return Pixels(np.memmap(path, dtype, "r", offset, shape), index, part)


class ImageSet:
    """Images with one label or one mask each, to draw batches from."""

    pixels: Any  # N x side x side x channels, uint8; or an encoder's features, N x views x width, float16
    labels: NDArray[np.int64]
    masks: Any = None  # N x side x side, uint8: the class of each pixel
    borders: Any = None  # float16, of as many numbers as the masks: how near each pixel is to outlines
    mask_pixels: Any = None  # N x outputs: how many pixels of each mask have each class
    augmentation: Augmentation = PLAIN  # of images with masks

    def __len__(self) -> int:
        return len(self.labels)

    def take(
        self, indices: NDArray[np.int64], draw: np.random.Generator | None = None, rank_slice: slice = slice(None)
    ) -> dict[str, NDArray[Any]]:
        """One process's slice of a batch: its images, augmented if there is a `draw`, and their labels or masks.

        Of features, a `draw` picks one of the cached views of each image. A mask moves with its image, and so do the
        borders in it.
        """
        own = indices[rank_slice]
        images = self.pixels[own]
        if self.masks is not None:
            return self._take_masks(images, own, draw, rank_slice, len(indices))
        if images.dtype == np.float16:
            views = 0 if draw is None else draw.integers(0, images.shape[1], size=len(indices))[rank_slice]
            images = images[np.arange(len(own)), views]
        elif draw is not None:
            images = augment(images, draw, rank_slice, len(indices))
        return {"images": images, "labels": self.labels[own]}

    def _take_masks(
        self, images: NDArray[np.uint8], own: NDArray[np.int64], draw: np.random.Generator | None, rank_slice: slice,
        whole_batch: int,
    ) -> dict[str, NDArray[Any]]:  # fmt: skip
        masks, channels = self.masks[own][..., None], images.shape[-1]
        parts = [images, masks]
        if self.borders is not None:
            parts.append(self.borders[own].reshape(masks.shape).view(np.uint8))
        records = np.concatenate(parts, -1)  # all that belongs to a pixel: one gather moves it
        if draw is not None:
            records = augment(records, draw, rank_slice, whole_batch, self.augmentation)
        images = records[..., :channels].copy()
        if draw is not None and (intensity := self.augmentation.intensity):
            images = vary(images, draw, rank_slice, whole_batch, intensity)
        taken: dict[str, NDArray[Any]] = {"images": images, "labels": records[..., channels].astype(np.int64)}
        if self.borders is not None:
            taken["class_pixels"] = np.asarray(self.mask_pixels).sum(0)
            taken["borders"] = records[..., channels + 1 :].copy().view(np.float16)[..., 0].astype(np.float32)
        return taken


@dataclass(frozen=True)
class Images(ImageSet):
    """A site's images at the plan's size, ordered by the hash of their pixels."""

    pixels: Pixels | NDArray[Any]  # N x size x size x channels; or features, see above
    labels: NDArray[np.int64]  # index into the plan's classes; of masks bit k-1 is set if class k is in it
    splits: tuple[str, ...]  # "train" | "val" | "test"
    names: tuple[str, ...]  # relative to the source: for messages only
    groups: tuple[str, ...]  # one name for one patient, one lesion or near-duplicates; "" for a single image
    centres: tuple[str, ...]  # "" if unknown
    problems: tuple[Problem, ...] = ()  # files that are left out
    patients: tuple[str, ...] = ()  # patient or lesion as the source names it, or ""; empty if it names none
    hashes: tuple[str, ...] = ()  # SHA-256 of each image's pixels; empty where nobody needs them
    kinds: tuple[ImageKind | None, ...] = ()  # of DICOM files; empty where nobody needs them
    sexes: tuple[str, ...] = ()  # of patients, "" if unknown: see `data.people`; empty where nobody needs them
    ages: tuple[str, ...] = ()  # bands
    decoded: Pixels | NDArray[np.uint8] | None = None  # the images themselves, where `pixels` are features
    masks: Pixels | NDArray[np.uint8] | None = None  # N x size x size; of volumes N x depth x size x size
    borders: Pixels | NDArray[np.float16] | None = None
    mask_pixels: NDArray[np.int64] | None = None
    blocks: tuple[Block, ...] = ()  # of volumes: where each image lies in its own
    augmentation: Augmentation = PLAIN

    @property
    def cases(self) -> list[NDArray[np.int64]]:
        """The indices of the images of each case, which is judged as a whole: an image, or the blocks of a volume."""
        by_volume: dict[object, list[int]] = {}
        for index in range(len(self)):
            by_volume.setdefault(self.blocks[index].volume if self.blocks else index, []).append(index)
        return [np.asarray(indices, np.int64) for indices in by_volume.values()]

    @property
    def case_groups(self) -> NDArray[np.int64]:
        """A number for the group of each case."""
        return groups.numbers(self.groups)[[case[0] for case in self.cases]]

    def case_masks(self) -> Iterator[NDArray[np.uint8]]:
        """The mask of each case, of an image or of a whole volume; nothing of images without masks."""
        return iter(()) if self.masks is None else self._whole(self.masks)

    def case_pictures(self) -> Iterator[NDArray[np.uint8]]:
        """The pixels of each case: of an image, or of a whole volume."""
        return self._whole(self.pictures)

    def _whole(self, parts: Any) -> Iterator[NDArray[np.uint8]]:
        """Each image's part, or those of a volume's blocks put together."""
        if not self.blocks:
            yield from (parts[index] for index in range(len(self)))
            return
        block = parts.shape[1:4]
        for case in self.cases:
            volume = np.zeros((*self.blocks[case[0]].sides, *parts.shape[4:]), np.uint8)
            for index in case:
                place = self.blocks[index]
                volume[place.inside(block)] = parts[index][place.covered(block)]
            yield volume

    def shows(self, classes: int) -> NDArray[np.bool_]:
        """Whether each image is of each class, or its mask has pixels of it: N x classes."""
        if self.mask_pixels is None:
            return np.asarray(self.labels[:, None] == np.arange(classes))
        return np.asarray(self.mask_pixels[:, 1:] > 0)

    def cases_show(self, classes: int) -> NDArray[np.bool_]:
        """The same of each case: cases x classes."""
        shown = self.shows(classes)
        return np.array([shown[case].any(0) for case in self.cases], np.bool_).reshape(len(self.cases), classes)

    @property
    def pictures(self) -> Pixels | NDArray[np.uint8]:
        """The images themselves, whatever learners see of them."""
        return self.pixels if self.decoded is None else self.decoded

    def split(self, split: str) -> Images:
        """The images of one split."""
        return self.only(np.asarray([i for i, image_split in enumerate(self.splits) if image_split == split], np.int64))

    def only(self, index: NDArray[np.int64]) -> Images:
        """The images at these indices, in this order. No pixel is copied."""

        def view(rows: Pixels | NDArray[Any]) -> Pixels:
            return (rows if isinstance(rows, Pixels) else Pixels(rows, np.arange(len(rows)))).only(index)

        def pick(values: tuple[_T, ...]) -> tuple[_T, ...]:
            return tuple(values[i] for i in index) if values else ()

        return replace(
            self,
            pixels=view(self.pixels),
            labels=self.labels[index],
            splits=pick(self.splits),
            names=pick(self.names),
            groups=pick(self.groups),
            centres=pick(self.centres),
            patients=pick(self.patients),
            hashes=pick(self.hashes),
            kinds=pick(self.kinds),
            sexes=pick(self.sexes),
            ages=pick(self.ages),
            decoded=None if self.decoded is None else view(self.decoded),
            masks=None if self.masks is None else view(self.masks),
            borders=None if self.borders is None else view(self.borders),
            mask_pixels=None if self.mask_pixels is None else self.mask_pixels[index],
            blocks=tuple(self.blocks[i] for i in index) if self.blocks else (),
        )
