"""The interface of every kind of source: rows with an image's label, and jobs that decode the images."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data import volume
from fedhelp_edge.data.images import ImageKind, Problem
from fedhelp_edge.data.volume import Block

if TYPE_CHECKING:
    from fedhelp_edge.data.grid import Grid

_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}

_NO_PATIENT = frozenset(
    ("", "-", "?", "n/a", "na", "nan", "none", "null", "unknown", "anonymous", "anonymized", "anonymised")
)


@dataclass(frozen=True)
class SourceRow:
    """One image of a source, before it is decoded."""

    name: str  # relative to the source, with "/"
    label: str | int  # a name, or the index of a class
    stamp: str  # size and time of the file: changes when the file does
    group: str = ""  # patient or lesion
    split: str = ""
    centre: str = ""
    sex: str = ""  # of the patient: see `data.people`
    age: str = ""


@dataclass(frozen=True)
class BlockRow(SourceRow):
    """One block of a volume, which is an image of its source."""

    block: Block = field(kw_only=True)


def block_rows(row: SourceRow, sides: tuple[int, ...], block: tuple[int, ...]) -> list[BlockRow]:
    """A row for each block of a volume with these sides. The volume is their patient where no other is known."""
    group = row.group or row.name
    return [
        BlockRow(place.name, row.label, row.stamp, group, row.split, row.centre, block=place)
        for place in volume.blocks(row.name, sides, block)
    ]


@dataclass(frozen=True)
class DicomIdentity:
    """What a DICOM file says about which image it is; "" where it says nothing. It names no patient."""

    sop_instance_uid: str = ""
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    accession_number: str = ""
    modality: str = ""
    body_part: str = ""
    photometric_interpretation: str = ""

    @property
    def kind(self) -> ImageKind:
        """The kind of image."""
        return ImageKind(self.modality, self.body_part, self.photometric_interpretation)


@dataclass(frozen=True)
class Decoded:
    """One decoded image."""

    pixels: NDArray[np.uint8]  # size x size x channels; of volumes depth x size x size x channels
    width: int  # of the original
    height: int
    group: str = ""  # the patient's number that the file itself states; `data.store` keeps its keyed hash
    doubt: str = ""  # why it may be the wrong image
    identity: DicomIdentity | None = None  # of a DICOM file
    mask: NDArray[np.uint8] | None = None  # the class of each pixel, as large as the pixels
    grid: Grid | None = None  # where the voxels of a volume's file lie; its pixels are at the plan's distances
    spacing: tuple[float, ...] = ()  # mm between the original's rows and columns, where the file states it
    sex: str = ""  # of the patient of a DICOM file: see `data.people`
    age: str = ""
    screen: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 0, 1), np.uint8))  # to look at, if asked for
    is_lossy: bool = False  # whether its file was compressed with loss, as by a camera
    copied: bytes = b""  # what two copies of the image have in common; empty: the pixels


DecodeJob: TypeAlias = Callable[[], Decoded]


class ImageSource(Protocol):
    """A folder, a table or an NPZ."""

    @property
    def rows(self) -> Sequence[SourceRow]: ...

    @property
    def problems(self) -> Sequence[Problem]:
        """Files that could not become a row."""

    def jobs(self, indices: Sequence[int]) -> Iterator[DecodeJob]:
        """Yield a job for each of these rows, in this order. Jobs run in any thread and raise `FedhelpError`."""


def normalise(name: str) -> str:
    """Normalise a name for comparison: Unicode NFC, no surrounding space, case folded."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).strip().casefold())


def parse_split(word: str) -> str:
    """Return train, val or test, or "" if the word is none of them."""
    return _SPLIT_WORDS.get(normalise(word), "")


def parse_patient(word: str) -> str:
    """Return the name of a patient or lesion, or "" for a placeholder such as "unknown"."""
    return "" if normalise(word) in _NO_PATIENT else word.strip()
