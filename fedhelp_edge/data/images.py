"""A site's images after decoding: pixels mapped from disk, with label, split and group of each.

Where a plan has an encoder, learners see its features in the place of pixels (`data.features`).
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data.augment import augment
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
    """A view of some rows of an array (mostly a memory map), in any order; rows are copied only when indexed."""

    def __init__(self, rows: NDArray[Any], index: NDArray[np.int64]) -> None:
        self._rows, self._index = rows, index

    def __len__(self) -> int:
        return len(self._index)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._index), *self._rows.shape[1:])

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled for a process of this program, a mapped file goes by its path, and other rows as they are."""
        if isinstance(self._rows, np.memmap) and isinstance(self._rows.base, mmap.mmap):
            rows = self._rows
            return _map_rows, (rows.filename, rows.dtype, rows.offset, rows.shape, self._index)
        return Pixels, (self[:], np.arange(len(self)))

    def __getitem__(self, key: int | slice | Sequence[int] | NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self._rows[self._index[key]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def only(self, index: NDArray[np.int64]) -> Pixels:
        """A view of the rows at these indices."""
        return Pixels(self._rows, self._index[index])


def _map_rows(path: Any, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...], index: NDArray[np.int64]) -> Pixels:
    return Pixels(np.memmap(path, dtype, "r", offset, shape), index)


class ImageSet:
    """Images with one label each, to draw batches from."""

    pixels: Any  # N x side x side x channels, uint8; or an encoder's features, N x views x width, float16
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(
        self, indices: NDArray[np.int64], draw: np.random.Generator | None = None, rank_slice: slice = slice(None)
    ) -> dict[str, NDArray[Any]]:
        """One process's slice of a batch: its images, augmented if there is a `draw`, and their labels.

        Of features, a `draw` picks one of the cached views of each image.
        """
        own = indices[rank_slice]
        images = self.pixels[own]
        if images.dtype == np.float16:
            views = 0 if draw is None else draw.integers(0, images.shape[1], size=len(indices))[rank_slice]
            images = images[np.arange(len(own)), views]
        elif draw is not None:
            images = augment(images, draw, rank_slice, len(indices))
        return {"images": images, "labels": self.labels[own]}


@dataclass(frozen=True)
class Images(ImageSet):
    """A site's images at the plan's size, ordered by the hash of their pixels."""

    pixels: Pixels | NDArray[Any]  # N x size x size x channels; or features, see above
    labels: NDArray[np.int64]  # index into the plan's classes
    splits: tuple[str, ...]  # "train" | "val" | "test"
    names: tuple[str, ...]  # relative to the source: for messages only
    groups: tuple[str, ...]  # one name for one patient, one lesion or near-duplicates; "" for a single image
    centres: tuple[str, ...]  # "" if unknown
    problems: tuple[Problem, ...] = ()  # files that are left out
    patients: tuple[str, ...] = ()  # patient or lesion as the source names it, or ""; empty if it names none
    hashes: tuple[str, ...] = ()  # SHA-256 of each image's pixels; empty where nobody needs them
    kinds: tuple[ImageKind | None, ...] = ()  # of DICOM files; empty where nobody needs them
    decoded: Pixels | NDArray[np.uint8] | None = None  # the images themselves, where `pixels` are features

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
            decoded=None if self.decoded is None else view(self.decoded),
        )
