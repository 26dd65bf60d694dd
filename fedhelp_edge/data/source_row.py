"""What every kind of source gives: rows that say which image has which label, and a way to decode each."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data.images import Problem

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
    name: str  # relative to the source, with "/"
    label: str | int  # a name, or an index into the plan's classes
    stamp: str  # changes when the file does
    group: str = ""  # the patient or lesion
    split: str = ""
    centre: str = ""


@dataclass(frozen=True)
class Decoded:
    pixels: NDArray[np.uint8]  # size x size x channels
    width: int  # as it was
    height: int
    group: str = ""  # what the file itself says of the patient
    doubt: str = ""  # why it may not show what is meant


DecodeJob: TypeAlias = Callable[[], Decoded]


class ImageSource(Protocol):
    @property
    def rows(self) -> Sequence[SourceRow]: ...

    @property
    def problems(self) -> Sequence[Problem]:
        """What could not become a row."""

    def jobs(self, wanted: Sequence[int]) -> Iterator[DecodeJob]:
        """For each wanted row, in this order, what decodes it. Jobs run in any thread; they raise `FedhelpError`."""


def normalise(name: str) -> str:
    """What is the same name for a person is the same here: accents composed, no space around, small letters."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).strip().casefold())


def parse_split(word: str) -> str:
    """train, val or test, or "" if the word means none of them."""
    return _SPLIT_WORDS.get(normalise(word), "")


def parse_patient(word: str) -> str:
    """The name of a patient or lesion, or "" where the word stands for nobody."""
    return "" if normalise(word) in _NO_PATIENT else word.strip()
