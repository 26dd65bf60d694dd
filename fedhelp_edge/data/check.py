"""What is right and wrong with a site's images, before anything is learned from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedhelp_edge.data import gather as gathering
from fedhelp_edge.data import groups, labels, store
from fedhelp_edge.data.findings import Finding, findings
from fedhelp_edge.data.images import SPLITS, Images, Problem
from fedhelp_edge.errors import (
    ClassMissing,
    ClassTiny,
    LabelConflict,
    LabelUnknown,
    Leak,
    NoImages,
    OneClass,
)
from fedhelp_edge.plan import Plan

TINY = 10  # images of a class
# what a person should put right first; all else is left out or noted, and training goes on
_STOPS = tuple(kind.code for kind in (NoImages, OneClass, LabelUnknown, LabelConflict, Leak))


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
    workers: int | None = None,
    progress: store.Progress | None = None,
) -> Report:
    """Look at a source as training will. For it are kept what is decoded, and `mapping`; a split is only tried."""
    names = mapping or (labels.kept_names(kept, source, plan.classes) if plan else {})
    found = gathering.gather(source, plan, kept=kept, mapping=names, workers=workers, progress=progress)
    if mapping:
        labels.keep_names(kept, source, mapping)
    plan = plan or Plan(classes=found.classes)
    images = gathering.assign(found, plan, kept / gathering.SPLIT_FILE, write=False)
    problems = [*_of_classes(source, images, plan), *images.problems, *found.doubts, *_of_groups(images)]
    parts = {name: Counter(dict.fromkeys(SPLITS, 0)) for name in plan.classes}
    for label, split in zip(images.labels, images.splits, strict=True):
        parts[plan.classes[label]][split] += 1
    sizes = sorted(found.sizes, key=lambda size: size[0] * size[1])
    several = [len(places) for places in groups.members(images.groups) if len(places) > 1]
    return Report(parts, problems, sizes, findings(images, plan.classes), several)


def _of_classes(source: Path, images: Images, plan: Plan) -> Iterator[Problem]:
    counts = Counter(int(label) for label in images.labels)
    if not counts:
        yield Problem.of("", NoImages(gathering.nothing(source, images.problems)))
        return
    if len(counts) == 1:
        yield Problem.of(
            "", OneClass(f"all {len(images)} usable images are of the class {plan.classes[min(counts)]!r}")
        )
    for place, name in enumerate(plan.classes):
        if not counts[place]:
            yield Problem.of("", ClassMissing(f"there is no image of the class {name!r}"))
        elif counts[place] < TINY:
            number = "1 image" if counts[place] == 1 else f"{counts[place]} images"
            yield Problem.of("", ClassTiny(f"the class {name!r} has only {number}"))


def _of_groups(images: Images) -> Iterator[Problem]:
    """Groups in more than one part: only a source that makes the parts itself, or an older split, has them."""
    for places in groups.members(images.groups):
        first, *others = sorted(places, key=lambda i: SPLITS.index(images.splits[i]))
        for i in others:
            if (here := images.splits[i]) != (there := images.splits[first]):
                same = images.patients[i] and images.patients[i] == images.patients[first]
                which = "of the same patient" if same else "which is almost the same image or of the same patient"
                cause = f"in {here}, while {images.names[first]}, {which}, is in {there}"
                yield Problem.of(images.names[i], Leak(cause))
