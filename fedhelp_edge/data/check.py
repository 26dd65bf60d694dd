"""What is right and wrong with a site's images, before anything is learned from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedhelp_edge.data import groups, labels, store
from fedhelp_edge.data import loading as gathering
from fedhelp_edge.data.findings import Finding, findings
from fedhelp_edge.data.images import SPLITS, Images, Problem
from fedhelp_edge.errors import (
    ClassMissingError,
    ClassTinyError,
    ClassUnvalidatedError,
    ImageBlankError,
    ImageTinyError,
    LabelConflictError,
    LabelUnknownError,
    LeakedImageError,
    NoImagesError,
    OneClassError,
)
from fedhelp_edge.plan import Plan

TINY = 10  # images of a class
TINY_SIDE = 8  # pixels
BLANK_SPREAD, BLANK_PART = 8, 0.99  # of 255, and of the pixels
# what a person should put right first; all else is left out or noted, and training goes on
_STOPS = tuple(
    kind.code
    for kind in (
        NoImagesError,
        OneClassError,
        LabelUnknownError,
        LabelConflictError,
        LeakedImageError,
        ClassUnvalidatedError,
    )
)


@dataclass(frozen=True)
class Report:
    parts: Mapping[str, Mapping[str, int]]  # of each class, how many images in train, val and test
    problems: Sequence[Problem]
    sizes: Sequence[tuple[int, int]]  # of every image as it was, smallest first
    findings: Sequence[Finding]  # what figures from these images cannot tell, or tell too well
    groups: Sequence[int]  # of each patient, lesion or picture that is there more than once, how many images

    @property
    def classes(self) -> dict[str, int]:
        return {name: sum(counts.values()) for name, counts in self.parts.items()}

    @property
    def images(self) -> int:
        return sum(self.classes.values())

    @property
    def stops(self) -> list[Problem]:
        """The problems for which it is not ready."""
        return [problem for problem in self.problems if problem.code in _STOPS]

    @property
    def ready(self) -> bool:
        return not self.stops


def check(
    source: Path,
    plan: Plan | None,
    *,
    kept: Path,
    mapping: Mapping[str, str] = {},
    columns: Mapping[str, str] = {},
    workers: int | None = None,
    progress: store.Progress | None = None,
) -> Report:
    """Look at a source as training will, which uses what is decoded, `mapping` and `columns` again; a split is only
    tried."""
    names = mapping or (labels.kept_names(kept, source, plan.classes) if plan else {})
    called = columns or labels.kept_columns(kept, source)
    found = gathering.gather(source, plan, kept=kept, mapping=names, columns=called, workers=workers, progress=progress)
    if mapping:
        labels.keep_names(kept, source, mapping)
    if columns:
        labels.keep_columns(kept, source, columns)
    plan = plan or Plan(classes=found.classes)
    images = gathering.assign(found, plan, kept / gathering.SPLIT_FILE, write=False)
    problems = [*_of_classes(source, images, plan), *images.problems, *found.doubts, *_of_groups(images)]
    tiny = list(_tiny(found.images, found.sizes))
    problems += [*(one for one in tiny if isinstance(one, Problem)), *_blank(found.images)]
    parts = {name: Counter(dict.fromkeys(SPLITS, 0)) for name in plan.classes}
    for label, split in zip(images.labels, images.splits, strict=True):
        parts[plan.classes[label]][split] += 1
    sizes = sorted(found.sizes, key=lambda size: size[0] * size[1])
    several = [len(places) for places in groups.members(images.groups) if len(places) > 1]
    small = [one for one in tiny if isinstance(one, Finding)]
    return Report(parts, problems, sizes, [*findings(images, plan.classes), *small], several)


def _of_classes(source: Path, images: Images, plan: Plan) -> Iterator[Problem]:
    counts, chosen = (Counter(part.labels.tolist()) for part in (images, images.part("val")))
    if not counts:
        yield Problem.of("", NoImagesError(gathering.nothing(source, images.problems)))
        return
    if len(counts) == 1:
        yield Problem.of(
            "", OneClassError(f"all {len(images)} usable images are of the class {plan.classes[min(counts)]!r}")
        )
    for place, name in enumerate(plan.classes):
        if not counts[place]:
            yield Problem.of("", ClassMissingError(f"there is no image of the class {name!r}"))
        elif counts[place] < TINY:
            number = "1 image" if counts[place] == 1 else f"{counts[place]} images"
            yield Problem.of("", ClassTinyError(f"the class {name!r} has only {number}"))
        if counts[place] and plan.data.val and not chosen[place]:
            yield Problem.of("", ClassUnvalidatedError(f"no validation image shows the class {name!r}"))


def _tiny(images: Images, sizes: Sequence[tuple[int, int]]) -> Iterator[Problem | Finding]:
    """Images with fewer than half of the plan's pixels on a side; where most are so small, that is said once."""
    side = images.pixels.shape[1]
    small = [place for place, size in enumerate(sizes) if 2 * min(size) < side]
    most = 2 * len(small) > len(sizes)
    if most:
        said = f"{len(small)} of {len(sizes)} images have fewer than half of the plan's {side} pixels on a side"
        yield Finding("small-images", "", len(small), len(sizes), said)
    for place, (width, height) in enumerate(sizes):
        if min(width, height) < TINY_SIDE or (place in small and not most):
            least = max(TINY_SIDE, (side + 1) // 2)
            cause = f"it has {width} x {height} pixels; {least} on each side are the least"
            yield Problem.of(images.names[place], ImageTinyError(cause))


def _blank(images: Images) -> Iterator[Problem]:
    """Images in which hardly a pixel differs: a lens cap, an empty page, an export that went wrong."""
    for place, name in enumerate(images.names):
        pixels = images.pixels[place]
        middle = np.median(pixels, axis=(0, 1))
        if np.mean(np.abs(pixels - middle).max(axis=2) <= BLANK_SPREAD) >= BLANK_PART:
            colour = "black" if middle.max() < 16 else "white" if middle.min() > 239 else "of one colour"
            yield Problem.of(name, ImageBlankError(f"it is {colour} throughout"))


def _of_groups(images: Images) -> Iterator[Problem]:
    """Groups in more than one part: only a source that makes the parts itself, or an older split, has them."""
    for places in groups.members(images.groups):
        first, *others = sorted(places, key=lambda i: SPLITS.index(images.splits[i]))
        for i in others:
            if (here := images.splits[i]) != (there := images.splits[first]):
                same = images.patients[i] and images.patients[i] == images.patients[first]
                which = "of the same patient" if same else "which is almost the same image or of the same patient"
                cause = f"in {here}, while {images.names[first]}, {which}, is in {there}"
                yield Problem.of(images.names[i], LeakedImageError(cause))
