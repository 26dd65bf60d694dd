"""What whoever reads figures must know of the images behind them. Said in one sentence each, the same everywhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedhelp_edge.data.images import Images

_CALLED = {"train": "training", "val": "validation", "test": "test"}
_LEAKS = (("val", "train"), ("test", "train"), ("test", "val"))


@dataclass(frozen=True)
class Finding:
    kind: str  # "leak" | "unknown-patients" | "no-validation-images"
    part: str  # in which it was found, "" where in all
    images: int  # so many
    of: int  # of so many
    sentence: str

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def findings(images: Images, classes: Sequence[str]) -> tuple[Finding, ...]:
    """What a site's images, as they are split, cannot tell or tell too well."""
    return (*leaks(images.splits, images.groups), *_unknown(images), *_unchosen(images, classes))


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


def _unknown(images: Images) -> Iterator[Finding]:
    """Without patients, two images of one may be in two parts, and nobody can tell."""
    count = len(images) - sum(map(bool, images.patients))
    if count:
        how = "only nearly identical pictures were kept in one part"
        said = f"{count} of {len(images)} images name no patient or lesion: of these {how}"
        if count == len(images):
            said = f"no image names its patient or lesion: {how}"
        yield Finding("unknown-patients", "", count, len(images), said)


def _unchosen(images: Images, classes: Sequence[str]) -> Iterator[Finding]:
    counts = {part: np.bincount(images.part(part).labels, minlength=len(classes)) for part in ("train", "val")}
    for place, name in enumerate(classes):
        if counts["train"][place] and not counts["val"][place]:
            said = f"no validation image shows {name!r}: how well this class is told is not known"
            yield Finding("no-validation-images", "val", 0, int(counts["train"][place]), said)
