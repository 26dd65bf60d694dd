"""A site's images once they are read: pixels that stay on the disk until asked for, and what is known of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.errors import FedhelpError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Problem:
    """Why a file is not used, or what is doubtful about it; `file` is "" where all files are meant."""

    file: str
    code: str
    cause: str

    @staticmethod
    def of(file: str, error: FedhelpError) -> Problem:
        return Problem(file, error.code, error.cause)


class Pixels:
    """Some rows of an array (mostly a memory map), in an order of their own, copied only when they are asked for."""

    def __init__(self, rows: NDArray[np.uint8], index: NDArray[np.int64]) -> None:
        self._rows, self._index = rows, index

    def __len__(self) -> int:
        return len(self._index)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._index), *self._rows.shape[1:])

    def __getitem__(self, key: int | slice | Sequence[int] | NDArray[Any]) -> NDArray[np.uint8]:
        return np.asarray(self._rows[self._index[key]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def only(self, index: NDArray[np.int64]) -> Pixels:
        return Pixels(self._rows, self._index[index])


@dataclass(frozen=True)
class Images:
    """A site's images, brought to the plan's size once and ordered by the hash of their pixels."""

    pixels: Pixels | NDArray[np.uint8]  # N x size x size x channels
    labels: NDArray[np.int64]  # index into the plan's classes
    splits: tuple[str, ...]  # "train" | "val" | "test", as kept
    names: tuple[str, ...]  # relative to the folder they came from: for messages only
    groups: tuple[str, ...]  # what shows one patient, one lesion or nearly one picture; "" where it stands alone
    centres: tuple[str, ...]  # "" where none
    problems: tuple[Problem, ...] = ()  # what could not be used
    patients: tuple[str, ...] = ()  # patient or lesion as the source says, "" or nothing at all where it does not

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, split: str) -> Images:
        """Only those of one split."""
        return self.only(np.asarray([i for i, image_split in enumerate(self.splits) if image_split == split], np.int64))

    def only(self, index: NDArray[np.int64]) -> Images:
        """Only those at these places, in this order. No pixel is copied."""
        pixels = self.pixels
        if not isinstance(pixels, Pixels):
            pixels = Pixels(pixels, np.arange(len(pixels)))

        def pick(values: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(values[i] for i in index) if values else ()

        return replace(
            self,
            pixels=pixels.only(index),
            labels=self.labels[index],
            splits=pick(self.splits),
            names=pick(self.names),
            groups=pick(self.groups),
            centres=pick(self.centres),
            patients=pick(self.patients),
        )
