"""Findings: why figures measured on a site's images may mislead, in one sentence each, the same everywhere."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data import groups, near_duplicates
from fedhelp_edge.data.images import Images, Problem
from fedhelp_edge.data.near_duplicates import ImageSequence
from fedhelp_edge.errors import DuplicateImageError, LabelConflictError, LabelUnknownError, LeakedImageError
from fedhelp_edge.safe_text import counted

_SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}
_WHY_LEFT_OUT = {
    LeakedImageError.code: "the same picture is in another of train, val and test",
    LabelConflictError.code: "the same picture has another label",
    LabelUnknownError.code: "their label is no class of the plan",
    DuplicateImageError.code: "the same picture is there already",
}
_LEAK_PAIRS = (("val", "train"), ("test", "train"), ("test", "val"))


@dataclass(frozen=True)
class Finding:
    """One reason why figures may mislead."""

    # "leak" | "left-out" | "unknown-patients" | "unknown-training-images" | "no-validation-images" | "small-images"
    kind: str
    part: str  # the split that it concerns, "" for all
    images: int  # number of images concerned
    of: int  # number of images in the split
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """The fields, which are also the keys in bundles and JSON outputs."""
        return dict(vars(self))


def findings(images: Images, classes: Sequence[str], *other_sites: Images) -> tuple[Finding, ...]:
    """All findings about the split images of one site, or of several together: one's training image may be another's
    test image."""
    sites = (images, *other_sites)
    splits, groups = (
        [value for site in sites for value in getattr(site, attribute)] for attribute in ("splits", "groups")
    )
    patients = [patient for site in sites for patient in site.patients or ("",) * len(site)]
    shown = np.concatenate([site.shows(len(classes)) for site in sites])
    return (*leaks(splits, groups), *_unknown_patients(patients), *_unvalidated_classes(splits, shown, classes))


def training_overlap(others: Images, own: Images) -> Iterator[Finding]:
    """Findings about other images, all of them for testing, that the site used for training or validation."""
    own = own.only(np.flatnonzero(np.array(own.splits) != "test"))
    by_patient = groups.connect([*own.patients, *others.patients])
    if own.blocks:  # of volumes: those of the same pixels
        by_pixels = groups.connect([*own.hashes, *others.hashes])
    else:
        by_pixels = near_duplicates.first_alike(_Concatenated(own.pictures, others.pictures))
    joined = groups.connect([*map(str, by_patient)], [*map(str, by_pixels)])
    all_leaks = leaks([*own.splits, *("test",) * len(others)], [*map(str, joined)])
    yield from (finding for finding in all_leaks if finding.part == "test")


class _Concatenated:
    """The pixels of two sources as one sequence."""

    def __init__(self, first: ImageSequence, second: ImageSequence) -> None:
        self._first, self._second = first, second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        count = len(self._first)
        return np.asarray(self._first[index] if index < count else self._second[index - count])


def leaks(splits: Sequence[str], groups: Sequence[str]) -> Iterator[Finding]:
    """Findings about validation or test images of which another of the same group is in train or val."""
    splits_of: dict[str, set[str]] = defaultdict(set)
    for split, group in zip(splits, groups, strict=True):
        if group:
            splits_of[group].add(split)
    for split, other in _LEAK_PAIRS:
        split_groups = [group for name, group in zip(splits, groups, strict=True) if name == split]
        if count := sum(other in splits_of[group] for group in split_groups if group):
            shows = "shows" if count == 1 else "show"
            images = f"{count} of {counted(len(split_groups), f'{_SPLIT_NAMES[split]} image')}"
            sentence = f"{images} {shows} a patient (or nearly the same picture) that is also in {other}"
            yield Finding("leak", split, count, len(split_groups), sentence)


def left_out(problems: Sequence[Problem], used: int) -> Iterator[Finding]:
    """Findings about images of a source that are left out, one for each reason; `used` is the number of the others."""
    for code, count in sorted(Counter(problem.code for problem in problems).items()):
        total = len(problems) + used
        are = "is" if count == 1 else "are"
        reason = _WHY_LEFT_OUT.get(code, "they cannot be used")
        sentence = f"{count} of {counted(total, 'image')} {are} left out: {reason} ({code})"
        yield Finding("left-out", "", count, total, sentence)


def _unknown_patients(patients: Sequence[str]) -> Iterator[Finding]:
    """Without patient names, images of one patient may be in two splits, and nobody can tell."""
    count = len(patients) - sum(map(bool, patients))
    if count:
        have = "has" if count == 1 else "have"
        consequence = "only near-duplicates were kept in one split"
        sentence = f"{count} of {counted(len(patients), 'image')} {have} no patient or lesion: of these {consequence}"
        if count == len(patients):
            sentence = f"no image has a patient or lesion: {consequence}"
        yield Finding("unknown-patients", "", count, len(patients), sentence)


def _unvalidated_classes(splits: Sequence[str], shown: NDArray[np.bool_], classes: Sequence[str]) -> Iterator[Finding]:
    training_counts, validation_counts = (shown[np.array(splits) == part].sum(0).tolist() for part in ("train", "val"))
    for index, name in enumerate(classes):
        if training_counts[index] and not validation_counts[index]:
            sentence = f"no validation image shows {name!r}: how well the model recognises this class is unknown"
            yield Finding("no-validation-images", "val", 0, training_counts[index], sentence)
