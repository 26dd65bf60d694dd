"""Check a site's images before training: what stops it, and what is doubtful."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedhelp_edge.data import groups, labels, loading, mask_doubts, store
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
    MaskGridError,
    MaskLabelError,
    MaskSizeError,
    NoImagesError,
    OneClassError,
)
from fedhelp_edge.plan import Plan
from fedhelp_edge.safe_text import counted

MIN_CLASS_IMAGES = 10
MIN_SIDE = 8  # pixels
BLANK_SPREAD, BLANK_FRACTION = 8, 0.99  # an image is blank if this fraction of its pixels is so near to the median
# problems that a person must solve before training; images with any other problem are left out or reported
_BLOCKING_CODES = tuple(
    kind.code
    for kind in (
        NoImagesError,
        OneClassError,
        LabelUnknownError,
        LabelConflictError,
        LeakedImageError,
        ClassUnvalidatedError,
        MaskGridError,
        MaskLabelError,
        MaskSizeError,
    )
)


@dataclass(frozen=True)
class CheckReport:
    """What `check` found out about a source."""

    counts: Mapping[str, Mapping[str, int]]  # class -> split -> number of images, of which a mask may show several
    splits: Mapping[str, int]  # number of usable images of each split
    problems: Sequence[Problem]
    sizes: Sequence[tuple[int, int]]  # width and height of every original image, smallest first
    findings: Sequence[Finding]  # why figures measured on these images may mislead
    groups: Sequence[int]  # sizes of the groups with more than one image
    studies: int  # DICOM studies of the images; 0 where they state none
    patients: int  # known ones; of the images of one group some may name none

    @property
    def classes(self) -> dict[str, int]:
        """The number of images of each class."""
        return {name: sum(counts.values()) for name, counts in self.counts.items()}

    @property
    def images(self) -> int:
        """The number of usable images."""
        return sum(self.splits.values())

    @property
    def blocking(self) -> list[Problem]:
        """The problems that stop training."""
        return [problem for problem in self.problems if problem.code in _BLOCKING_CODES]

    @property
    def ready(self) -> bool:
        """Whether a site can train on the source."""
        return not self.blocking


def check(
    source: Path,
    plan: Plan | None,
    *,
    state_dir: Path,
    masks: Path | None = None,
    mapping: Mapping[str, str] = {},
    columns: Mapping[str, str] = {},
    workers: int | None = None,
    progress: store.Progress | None = None,
) -> CheckReport:
    """Check a source as training will read it.

    Saves the decoded images, `mapping` and `columns` for training; draws a split but does not save it.
    """
    aliases = mapping or (labels.load_aliases(state_dir, source, plan.classes) if plan else {})
    column_names = columns or labels.load_columns(state_dir, source)
    masks = loading.find_masks(masks, source, plan, state_dir)
    unsplit = loading.load_unsplit(
        source, plan, cache_dir=state_dir, masks=masks, mapping=aliases, columns=column_names, workers=workers,
        progress=progress,
    )  # fmt: skip
    if mapping:
        labels.save_aliases(state_dir, source, mapping)
    if columns:
        labels.save_columns(state_dir, source, columns)
    if masks:
        labels.save_masks(state_dir, source, masks)
    plan = plan or Plan(classes=unsplit.classes)
    images = loading.assign_splits(unsplit, plan, state_dir / loading.SPLIT_FILE, write=False)
    problems = [*_class_problems(source, images, plan), *images.problems, *unsplit.doubts, *_split_groups(images)]
    problems += mask_doubts.doubts(unsplit.images, plan.classes) if plan.has_masks else []
    is_volume = plan.image.is_volume  # some blocks of which are dark, and whose sides are not squeezed
    small_images = [] if is_volume else list(_small_images(unsplit.images, unsplit.sizes))
    blank_images = () if is_volume else _blank_images(unsplit.images)
    problems += [*(item for item in small_images if isinstance(item, Problem)), *blank_images]
    cases = images.cases  # of volumes several blocks each
    shown, splits = images.cases_show(len(plan.classes)), np.array([images.splits[case[0]] for case in cases], np.str_)
    counts = {
        name: {split: int(shown[splits == split, index].sum()) for split in SPLITS}
        for index, name in enumerate(plan.classes)
    }
    sizes = sorted(unsplit.sizes, key=lambda size: size[0] * size[1])
    group_sizes = [len(members) for members in groups.members(images.groups) if len(members) > 1]
    small_findings = [item for item in small_images if isinstance(item, Finding)]
    all_findings = [*findings(images, plan.classes), *small_findings]
    studies, patients = ({*names} - {""} for names in (unsplit.studies, images.patients))
    return CheckReport(
        counts, {split: int((splits == split).sum()) for split in SPLITS}, problems, sizes, all_findings, group_sizes,
        len(studies), len(patients),
    )  # fmt: skip


def _class_problems(source: Path, images: Images, plan: Plan) -> Iterator[Problem]:
    counts, validation_counts = (
        subset.cases_show(len(plan.classes)).sum(0).tolist() for subset in (images, images.split("val"))
    )
    if not len(images):
        yield Problem.from_error("", loading.no_images_error(source, images.problems))
        return
    if plan.has_masks and (error := loading.no_outlines_error(images)):
        yield Problem.from_error("", error)
    if not plan.has_masks and sum(map(bool, counts)) == 1:
        yield Problem.from_error(
            "",
            OneClassError(f"all {len(images)} usable images are of the class {plan.classes[int(images.labels[0])]!r}"),
        )
    for index, name in enumerate(plan.classes):
        if not counts[index]:
            yield Problem.from_error("", ClassMissingError(f"no image has the class {name!r}"))
        elif counts[index] < MIN_CLASS_IMAGES:
            cause = f"the class {name!r} has only {counted(counts[index], 'image')}"
            yield Problem.from_error("", ClassTinyError(cause))
        if counts[index] and plan.data.val and not validation_counts[index]:
            yield Problem.from_error("", ClassUnvalidatedError(f"no validation image shows the class {name!r}"))


def _small_images(images: Images, sizes: Sequence[tuple[int, int]]) -> Iterator[Problem | Finding]:
    """Images with less than half of the plan's pixels on a side; if most are, one finding stands for all of them."""
    side = images.pixels.shape[1]
    small_indices = [index for index, size in enumerate(sizes) if 2 * min(size) < side]
    mostly_small = 2 * len(small_indices) > len(sizes)
    if mostly_small:
        small = f"{len(small_indices)} of {counted(len(sizes), 'image')} {'has' if len(small_indices) == 1 else 'have'}"
        sentence = f"{small} fewer than half of the plan's {side} pixels on a side"
        yield Finding("small-images", "", len(small_indices), len(sizes), sentence)
    for index, (width, height) in enumerate(sizes):
        if min(width, height) < MIN_SIDE or (index in small_indices and not mostly_small):
            min_side = max(MIN_SIDE, (side + 1) // 2)
            cause = f"it has {width} x {height} pixels; each side needs at least {min_side}"
            yield Problem.from_error(images.names[index], ImageTinyError(cause))


def _blank_images(images: Images) -> Iterator[Problem]:
    """Images of nearly one colour: a lens cap, an empty page, a failed export."""
    for index, name in enumerate(images.names):
        pixels = images.pixels[index]
        median = np.median(pixels, axis=(0, 1))
        if np.mean(np.abs(pixels - median).max(axis=2) <= BLANK_SPREAD) >= BLANK_FRACTION:
            colour = "black" if median.max() < 16 else "white" if median.min() > 239 else "of one colour"
            yield Problem.from_error(name, ImageBlankError(f"it is {colour} throughout"))


def _split_groups(images: Images) -> Iterator[Problem]:
    """Groups in more than one split: only a source with its own splits, or an older split, has them."""
    for members in groups.members(images.groups):
        first, *others = sorted(members, key=lambda i: SPLITS.index(images.splits[i]))
        for i in others:
            if (own_split := images.splits[i]) != (first_split := images.splits[first]):
                same_patient = images.patients[i] and images.patients[i] == images.patients[first]
                relation = (
                    "of the same patient" if same_patient else "which is almost the same image or of the same patient"
                )
                cause = f"it is in {own_split}; {images.names[first]}, {relation}, is in {first_split}"
                yield Problem.from_error(images.names[i], LeakedImageError(cause))
