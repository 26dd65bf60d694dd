"""Load a site's images from a source: read, label, decode once, order, split."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedhelp_edge import plan as plans
from fedhelp_edge.data import (
    folder,
    groups,
    masked_volumes,
    masks,
    near_duplicates,
    npz,
    picture,
    pseudonyms,
    split,
    store,
    table,
)
from fedhelp_edge.data.augment import Augmentation
from fedhelp_edge.data.images import SPLITS, ImageKind, Images, Pixels, Problem
from fedhelp_edge.data.labels import ClassNames, load_aliases, load_columns, load_masks
from fedhelp_edge.data.source_row import BlockRow, ImageSource, SourceRow, normalise
from fedhelp_edge.errors import (
    DuplicateImageError,
    FileMissingError,
    GroupElsewhereError,
    ImageDoubtError,
    LabelConflictError,
    LabelUnknownError,
    LeakedImageError,
    MaskGridError,
    MaskKindError,
    MaskLabelError,
    MaskPairError,
    MaskSizeError,
    NearDuplicateError,
    NoImagesError,
    OneClassError,
    UsageError,
    VolumeKindError,
    remedy_of,
)
from fedhelp_edge.plan import Plan

SPLIT_FILE = "split.json"
_MASK_ERRORS = (MaskGridError, MaskKindError, MaskLabelError, MaskPairError, MaskSizeError, VolumeKindError)
_FOR_MASKS = {error.code for error in _MASK_ERRORS}  # whose remedy fits a whole source too


@dataclass(frozen=True)
class _LabelledImage:
    row: SourceRow
    label: int  # of a mask bit k-1 is set if class k is in it
    entry: store.Entry


@dataclass(frozen=True)
class UnsplitImages:
    """A source's images before they are split; `images.splits` is what the source itself says, or ""."""

    images: Images
    sizes: tuple[tuple[int, int], ...]  # original width and height
    doubts: tuple[Problem, ...]  # problems of images that are used nevertheless
    classes: tuple[str, ...]
    studies: tuple[str, ...]  # names of the DICOM studies, "" where there is none


def load(
    source: Path,
    plan: Plan,
    *,
    state_dir: Path,
    masks: Path | None = None,
    mapping: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
    redraw: bool = False,
    key_dir: Path | None = None,
    workers: int | None = None,
    progress: store.Progress | None = None,
) -> Images:
    """Load a site's images from a folder, a table or an NPZ; each is decoded once and split once.

    For segmentation `masks` is the folder of the masks of the images in `source`, unless `source` has both. `check` may
    have saved it.

    `state_dir` is the site's folder for decoded images, class aliases, column names and split.json, which the first
    call writes. Use another folder for images that must not be trained on: here they would join train. With `redraw` a
    saved split is neither used nor written: the source and the plan alone decide. `key_dir` has the key of the names of
    patients, if that is not `state_dir`: two sources that are compared need the same.
    """
    masks = find_masks(masks, source, plan, state_dir)
    aliases = load_aliases(state_dir, source, plan.classes) if mapping is None else mapping
    columns = load_columns(state_dir, source) if columns is None else columns
    unsplit = load_unsplit(
        source, plan, cache_dir=state_dir, key_dir=key_dir, masks=masks, mapping=aliases, columns=columns,
        workers=workers, progress=progress,
    )  # fmt: skip
    images, split_file = unsplit.images, None if redraw else state_dir / SPLIT_FILE
    if not len(images):
        raise no_images_error(source, images.problems)
    if plan.has_masks:
        if problem := no_outlines_error(images):
            raise problem
        from fedhelp_edge.data import border  # which needs scipy

        return border.attach(assign_splits(unsplit, plan, split_file, write=True), plan, state_dir)
    if len(used_classes := np.unique(images.labels)) < 2:
        raise OneClassError(f"all {len(images)} usable images are of the class {unsplit.classes[used_classes[0]]!r}")
    return assign_splits(unsplit, plan, split_file, write=True)


def find_masks(masks: Path | None, source: Path, plan: Plan | None, state_dir: Path) -> Path | None:
    """The folder of the masks: the one that a person names, or the one that `check` saved."""
    if masks and not (plan and plan.has_masks):
        raise UsageError(
            "masks are for segmentation; this plan is for classification" if plan else "no plan says what masks show",
            remedy="leave --masks away, or name a plan with task = 'segmentation'",
        )
    return masks or load_masks(state_dir, source)


def no_outlines_error(images: Images) -> OneClassError | None:
    """The error of masks that are all empty."""
    if images.labels.any():
        return None
    return OneClassError(
        f"the masks of all {len(images)} usable images are empty", remedy="add images in which something is outlined"
    )


def no_images_error(source: Path, problems: Sequence[Problem]) -> NoImagesError:
    """The error of a source that has no usable image. Where one reason is that of all, so is what to do."""
    if not problems:
        return NoImagesError(f"{source.name} contains no images")
    cause = f"no image of {source.name} can be used; the first of {len(problems)} reasons: {problems[0].cause}"
    if all(problem.code == LabelUnknownError.code for problem in problems):
        return NoImagesError(
            cause, remedy=f"write the names of your classes in the plan, or {LabelUnknownError.remedy}"
        )
    codes = {problem.code for problem in problems}
    if len(codes) == 1 and codes <= _FOR_MASKS:
        return NoImagesError(cause, remedy=remedy_of(problems[0].code))
    return NoImagesError(cause)


def load_unsplit(
    source: Path,
    plan: Plan | None,
    *,
    cache_dir: Path,
    key_dir: Path | None = None,
    masks: Path | None = None,
    mapping: Mapping[str, str],
    columns: Mapping[str, str] = {},
    workers: int | None = None,
    progress: store.Progress | None = None,
    image: plans.ImageSettings | None = None,
) -> UnsplitImages:
    """Load a source without splitting it. Without a plan the names of its folders or labels are the classes.

    Without a plan `image` says at which size. `key_dir` is explained in `load`.
    """
    names = pseudonyms.load(key_dir or cache_dir)
    image_plan = plan.image if plan else image or plans.ImageSettings()
    plan_classes = ClassNames(plan.classes, mapping) if plan else None
    if plan and plan.has_masks:
        return _load_pairs(source, masks, plan, mapping, cache_dir, names, workers, progress)
    rows = _open_source(source, image_plan, plan_classes, columns)
    classes = plan_classes or ClassNames(_source_classes(rows), mapping)
    problems = list(rows.problems)
    labels = [classes.index(row.label) for row in rows.rows]
    usable = [i for i, label in enumerate(labels) if label is not None]
    for row, label in zip(rows.rows, labels, strict=True):
        if label is None:
            problems.append(Problem.from_error(row.name, LabelUnknownError(classes.why_unknown(row.label))))
    decoded_dir = cache_dir / "decoded" / _cache_name(source, image_plan, names)
    stored = store.decode_rows(
        rows, usable, image_plan, decoded_dir, pseudonyms=names, workers=workers, progress=progress
    )
    labelled = [
        _LabelledImage(rows.rows[i], labels[i] or 0, entry) for i, entry in zip(usable, stored.entries, strict=True)
    ]
    unique, left_out = _without_duplicates(labelled, classes)
    pixels = Pixels(stored.pixels, np.asarray([item.entry.at for item in unique], np.int64))
    first_alike = near_duplicates.first_alike(pixels)
    images = _images(labelled, unique, pixels, first_alike, (*problems, *left_out))
    doubts = (*_doubt_problems(unique), *_near_duplicate_problems(images, first_alike))
    return UnsplitImages(images, _sizes(unique), doubts, classes.names, _studies(unique))


def _load_pairs(
    source: Path, masks_dir: Path | None, plan: Plan, mapping: Mapping[str, str], cache_dir: Path,
    names: pseudonyms.Pseudonyms, workers: int | None, progress: store.Progress | None,
) -> UnsplitImages:  # fmt: skip
    """Load images with masks. A mask, not a name, says which classes an image has."""
    rows = _open_pairs(source, masks_dir, plan, ClassNames(plan.classes, mapping))
    decided = ("" if masks_dir is None else masks_dir.resolve(), plan.classes, sorted(mapping.items()))
    folder_name = _cache_name(source, plan.image, names, f"|{decided}|{plan.image.depth}|{plan.image.spacing}")
    stored = store.decode_rows(
        rows, range(len(rows.rows)), plan.image, cache_dir / "decoded" / folder_name, pseudonyms=names,
        outputs=plan.outputs, workers=workers, progress=progress,
    )  # fmt: skip
    pairs = [_LabelledImage(row, _present(entry), entry) for row, entry in zip(rows.rows, stored.entries, strict=True)]
    unique, left_out = _without_duplicates(pairs)
    index = np.asarray([item.entry.at for item in unique], np.int64)
    pixels = Pixels(stored.pixels, index, store.PIXELS)
    is_volume = plan.image.is_volume  # whose dark blocks are alike without meaning anything
    first_alike = [*range(len(unique))] if is_volume else near_duplicates.first_alike(pixels)
    counts = [item.entry.mask_pixels for item in unique]
    images = replace(
        _images(pairs, unique, pixels, first_alike, (*rows.problems, *left_out)),
        masks=Pixels(stored.pixels, index, store.MASK),
        mask_pixels=np.asarray(counts, np.int64).reshape(-1, plan.outputs),
        blocks=tuple(item.row.block for item in unique if isinstance(item.row, BlockRow)),
        augmentation=Augmentation(plan.masks.mirror, plan.masks.elastic, plan.masks.intensity),
    )
    doubts = (*_doubt_problems(unique), *_near_duplicate_problems(images, first_alike))
    return UnsplitImages(images, _sizes(unique), doubts, plan.classes, _studies(unique))


def _open_pairs(source: Path, masks_dir: Path | None, plan: Plan, classes: ClassNames) -> ImageSource:
    """Open a source of images with masks by its kind: a folder or an NPZ."""
    if not source.exists():
        raise FileMissingError(f"{source.name} does not exist")
    if source.suffix.lower() == ".npz" and not source.is_dir():
        return npz.read(source, plan.image, len(plan.classes))
    if not source.is_dir():
        kind = "volumes" if plan.image.is_volume else "images"
        raise NoImagesError(f"{source.name} is not a folder or an NPZ of {kind} with masks")
    read_folder = masked_volumes.read_folder if plan.image.is_volume else masks.read_folder
    return read_folder(source, masks_dir, plan.image, classes)


def _present(entry: store.Entry) -> int:
    """The classes that a mask shows, as bits."""
    return sum(1 << label for label, count in enumerate(entry.mask_pixels[1:]) if count)


def _images(
    labelled: Sequence[_LabelledImage], unique: Sequence[_LabelledImage], pixels: Pixels, first_alike: Sequence[int],
    problems: tuple[Problem, ...],
) -> Images:  # fmt: skip
    """The images that are used: of all that a source has, each once."""
    hashes = tuple(item.entry.sha256 for item in unique)
    patients, first_related = _patients([item for item in labelled if not item.entry.code], hashes)
    return Images(
        pixels,
        np.asarray([item.label for item in unique], np.int64),
        tuple(item.row.split for item in unique),
        tuple(item.row.name for item in unique),
        groups.name_groups(patients, groups.connect(first_related, [*map(str, first_alike)]), hashes),
        tuple(item.row.centre for item in unique),
        problems,
        patients,
        hashes,
        tuple(ImageKind(*item.entry.kind) if item.entry.kind else None for item in unique),
        tuple(item.row.sex or item.entry.sex for item in unique),
        tuple(item.row.age or item.entry.age for item in unique),
    )


def _sizes(images: Sequence[_LabelledImage]) -> tuple[tuple[int, int], ...]:
    return tuple((item.entry.width, item.entry.height) for item in images)


def _studies(images: Sequence[_LabelledImage]) -> tuple[str, ...]:
    return tuple(item.entry.study for item in images)


def assign_splits(unsplit: UnsplitImages, plan: Plan, path: Path | None, *, write: bool) -> Images:
    """Split images as saved in `path`; if nothing is saved, draw a split, and save it if `write`."""
    images, image_kind = unsplit.images, "x".join(map(str, unsplit.images.pixels.shape[1:]))
    saved = split.load(path, image_kind) if path else None
    if saved is None:
        labels = [int(label) for label in images.labels]
        splits = split.draw(images.hashes, labels, images.groups, images.splits, plan)
        if write and path:
            split.save(path, image_kind, dict(zip(images.hashes, splits, strict=True)))
        return replace(images, splits=tuple(splits))
    splits = split.extend(images.hashes, images.groups, images.splits, saved)
    cause = "its patient, or a near-duplicate, is in the validation or test set"
    left_out = [
        Problem.from_error(name, GroupElsewhereError(cause))
        for name, assigned in zip(images.names, splits, strict=True)
        if not assigned
    ]
    used = np.asarray([i for i, assigned in enumerate(splits) if assigned], np.int64)
    return replace(images, splits=tuple(splits), problems=(*images.problems, *left_out)).only(used)


def _open_source(
    source: Path, image: plans.ImageSettings, plan_classes: ClassNames | None, columns: Mapping[str, str]
) -> ImageSource:
    """Open a source by its kind: a folder, a folder with a labels.csv, a table or an NPZ."""
    if not source.exists():
        raise FileMissingError(f"{source.name} does not exist")
    if source.is_dir():
        labels = source / "labels.csv"
        if labels.is_file():
            return table.read(labels, image, columns)
        return folder.read(source, image, (lambda name: plan_classes.index(name) is not None) if plan_classes else None)
    if source.suffix.lower() == ".npz":
        return npz.read(source, image)
    if source.suffix.lower() in table.SUFFIXES:
        return table.read(source, image, columns)
    raise NoImagesError(f"{source.name} is neither a folder nor a table nor an NPZ")


def _source_classes(source: ImageSource) -> list[str]:
    """The class names that a source uses, each in its first spelling."""
    names: dict[str, str] = {}
    for row in source.rows:
        if str(row.label).strip():
            names.setdefault(normalise(str(row.label)), str(row.label).strip())
    return [names[name] for name in sorted(names, key=lambda name: name.zfill(9) if name.isdecimal() else name)]


def _cache_name(source: Path, image: plans.ImageSettings, names: pseudonyms.Pseudonyms, masks: str = "") -> str:
    """The name of the cache folder for this source at this size, for its masks and for these names of patients."""
    decoder = f"{picture.DECODER_VERSION}|{names.fingerprint}"
    identity = f"{source.resolve()}|{image.size}|{image.channels}|{decoder}{masks}"
    return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _without_duplicates(
    images: Sequence[_LabelledImage], classes: ClassNames | None = None
) -> tuple[list[_LabelledImage], list[Problem]]:
    """Keep one image of each pixel hash; explain why the others are left out."""
    unique: list[_LabelledImage] = []
    problems: list[Problem] = []
    by_hash: dict[str, list[_LabelledImage]] = defaultdict(list)
    for image in images:
        if image.entry.code:
            name = image.row.block.volume if isinstance(image.row, BlockRow) else image.row.name
            problem = Problem(name, image.entry.code, image.entry.cause)
            if problem not in problems[-1:]:  # the blocks of a volume have one
                problems.append(problem)
        else:
            by_hash[image.entry.sha256].append(image)
    for sha256 in sorted(by_hash):
        first, *others = sorted(by_hash[sha256], key=_duplicate_rank)
        if others and len({(image.label, image.entry.mask) for image in by_hash[sha256]}) > 1:
            problems += [_label_conflict(image, by_hash[sha256], classes) for image in (first, *others)]
            continue
        unique.append(first)
        for image in others:
            splits_differ = first.row.split != image.row.split
            difference = (
                f" in {first.row.split or 'no split'}, while this is in {image.row.split or 'no split'}"
                if splits_differ
                else ""
            )
            error = (LeakedImageError if splits_differ else DuplicateImageError)(
                f"the same image as {first.row.name}{difference}"
            )
            problems.append(Problem.from_error(image.row.name, error))
    return unique, problems


def _duplicate_rank(image: _LabelledImage) -> tuple[int, str]:
    """Of copies in several splits the one in test stays, so that it is not trained on."""
    return -SPLITS.index(image.row.split) if image.row.split else 1, image.row.name


def _label_conflict(image: _LabelledImage, copies: Sequence[_LabelledImage], classes: ClassNames | None) -> Problem:
    if classes is None:
        other = next(copy for copy in copies if copy.entry.mask != image.entry.mask)
        return Problem.from_error(
            image.row.name, LabelConflictError(f"the same image as {other.row.name}, which has another mask")
        )
    other = next(copy for copy in copies if copy.label != image.label)
    cause = f"the same image as {other.row.name}, which is labelled {classes.names[other.label]}"
    return Problem.from_error(image.row.name, LabelConflictError(cause))


def _doubt_problems(images: Sequence[_LabelledImage]) -> Iterator[Problem]:
    for image in images:
        if image.entry.doubt:
            yield Problem.from_error(image.row.name, ImageDoubtError(image.entry.doubt))


def _near_duplicate_problems(images: Images, firsts: Sequence[int]) -> Iterator[Problem]:
    """Near-duplicates that do not have the same patient."""
    for index, first in enumerate(firsts):
        if index != first and not images.patients[index] == images.patients[first] != "":
            yield Problem.from_error(
                images.names[index], NearDuplicateError(f"almost the same image as {images.names[first]}")
            )


def _patients(copies: Sequence[_LabelledImage], hashes: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """For each of these hashes: its patient, and a name that it shares with all images of that patient.

    A patient is named by the table, folder or NPZ, or by the DICOM file, of any copy. If copies name two patients, they
    are one. A name that all images share is ignored: it is an anonymiser's word, or a folder around all. The images of
    a DICOM study are of one patient, whoever that is.
    """
    by_row, by_file, by_study = (
        [image.row.group for image in copies], [image.entry.group for image in copies],
        [image.entry.study for image in copies],
    )  # fmt: skip
    nobody = [""] * len(copies)
    by_row = by_row if len(set(by_row)) > 1 else nobody
    by_file, by_study = (names if len(set(names) - {""}) > 1 else nobody for names in (by_file, by_study))
    own_hashes = [image.entry.sha256 for image in copies]
    patient_of, related = dict.fromkeys(own_hashes, ""), dict[str, str]()
    for sha256, *names, first in zip(
        own_hashes, by_row, by_file, groups.connect(by_row, by_file, by_study, own_hashes), strict=True
    ):
        patient_of[sha256] = patient_of[sha256] or next(filter(None, names), "")
        related[sha256] = str(first)
    return tuple(patient_of[sha256] for sha256 in hashes), [related[sha256] for sha256 in hashes]
