"""What whoever reads figures must know of the images behind them. Said in one sentence each, the same everywhere."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data import groups, near_duplicates
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.near_duplicates import Rows

_CALLED = {"train": "training", "val": "validation", "test": "test"}
_LEAKS = (("val", "train"), ("test", "train"), ("test", "val"))


@dataclass(frozen=True)
class Finding:
    kind: str  # "leak" | "unknown-patients" | "unknown-training-images" | "no-validation-images" | "small-images"
    part: str  # in which it was found, "" where in all
    images: int  # so many
    of: int  # of so many
    sentence: str

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def findings(images: Images, classes: Sequence[str], *more: Images) -> tuple[Finding, ...]:
    """What a site's images, as they are split, cannot tell or tell too well; or those of several sites together, for
    what one site learns from another may be measured by."""
    sites = (images, *more)
    splits, groups = ([word for site in sites for word in getattr(site, name)] for name in ("splits", "groups"))
    patients = [patient for site in sites for patient in site.patients or ("",) * len(site)]
    labels = np.concatenate([site.labels for site in sites])
    return (*leaks(splits, groups), *_unknown(patients), *_unchosen(splits, labels, classes))


def seen_before(others: Images, own: Images) -> Iterator[Finding]:
    """How many of other images, that are measured on, the site has learned from or chosen by."""
    own = own.only(np.flatnonzero(np.array(own.splits) != "test"))
    of_patients = groups.together([*own.patients, *others.patients])
    alike = near_duplicates.first_alike(_Both(own.pixels, others.pixels))
    firsts = groups.together([*map(str, of_patients)], [*map(str, alike)])
    found = leaks([*own.splits, *("test",) * len(others)], [*map(str, firsts)])
    yield from (finding for finding in found if finding.part == "test")


class _Both:
    """The pixels of two sources, one after the other."""

    def __init__(self, first: Rows, second: Rows) -> None:
        self._first, self._second = first, second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def __getitem__(self, place: int) -> NDArray[np.uint8]:
        before = len(self._first)
        return np.asarray(self._first[place] if place < before else self._second[place - before])


def leaks(splits: Sequence[str], groups: Sequence[str]) -> Iterator[Finding]:
    """Images that are chosen or measured by, while another of their group is learned from or chosen by."""
    where: dict[str, set[str]] = defaultdict(set)
    for split, group in zip(splits, groups, strict=True):
        if group:
            where[group].add(split)
    for part, other in _LEAKS:
        own = [group for split, group in zip(splits, groups, strict=True) if split == part]
        if count := sum(other in where[group] for group in own if group):
            shows = "shows" if count == 1 else "show"
            said = f"{count} of {len(own)} {_CALLED[part]} images {shows} a patient (or nearly the same picture) "
            yield Finding("leak", part, count, len(own), f"{said}that is also in {other}")


def _unknown(patients: Sequence[str]) -> Iterator[Finding]:
    """Without patients, two images of one may be in two parts, and nobody can tell."""
    count = len(patients) - sum(map(bool, patients))
    if count:
        how = "only nearly identical pictures were kept in one part"
        said = f"{count} of {len(patients)} images name no patient or lesion: of these {how}"
        if count == len(patients):
            said = f"no image names its patient or lesion: {how}"
        yield Finding("unknown-patients", "", count, len(patients), said)


def _unchosen(splits: Sequence[str], labels: NDArray[np.int64], classes: Sequence[str]) -> Iterator[Finding]:
    learned, chosen = (Counter(labels[np.array(splits) == part].tolist()) for part in ("train", "val"))
    for place, name in enumerate(classes):
        if learned[place] and not chosen[place]:
            said = f"no validation image shows {name!r}: how well this class is told is not known"
            yield Finding("no-validation-images", "val", 0, learned[place], said)
