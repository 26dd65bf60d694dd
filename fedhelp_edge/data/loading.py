"""From a source to a site's images: read, label, decode once, put in order, split."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedhelp_edge import plan as plans
from fedhelp_edge.data import folder, groups, near_duplicates, npz, picture, split, store, table
from fedhelp_edge.data.images import SPLITS, Images, Pixels, Problem
from fedhelp_edge.data.labels import Classes, kept_columns, kept_names
from fedhelp_edge.data.source_row import Row, Source, normal
from fedhelp_edge.errors import (
    DuplicateImageError,
    FileMissingError,
    GroupElsewhereError,
    ImageDoubtError,
    LabelConflictError,
    LabelUnknownError,
    LeakedImageError,
    NearDuplicateError,
    NoImagesError,
    OneClassError,
)
from fedhelp_edge.plan import Plan

SPLIT_FILE = "split.json"


@dataclass(frozen=True)
class _Image:
    row: Row
    label: int
    entry: store.Entry


@dataclass(frozen=True)
class Gathered:
    """A source's images before they are split; `images.splits` is what the source itself says, "" where nothing."""

    images: Images
    hashes: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]  # width and height, as they were
    doubts: tuple[Problem, ...]  # of images that are used
    classes: tuple[str, ...]


def load(
    source: Path,
    plan: Plan,
    *,
    kept: Path,
    mapping: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
    workers: int | None = None,
    progress: store.Progress | None = None,
) -> Images:
    """A site's images from a folder, a table or an NPZ, decoded once and split once.

    `kept` is the site's folder for what was decoded, for the other names of classes that `check` was given, and for
    split.json, which the first call writes. Give another folder to look at images that are not to be learned from:
    here they would join train.
    """
    names = kept_names(kept, source, plan.classes) if mapping is None else mapping
    columns = kept_columns(kept, source) if columns is None else columns
    found = gather(source, plan, kept=kept, mapping=names, columns=columns, workers=workers, progress=progress)
    images = found.images
    if not len(images):
        raise NoImagesError(nothing(source, images.problems))
    if len(present := np.unique(images.labels)) < 2:
        raise OneClassError(f"all {len(images)} usable images are of the class {found.classes[present[0]]!r}")
    return assign(found, plan, kept / SPLIT_FILE, write=True)


def nothing(source: Path, problems: Sequence[Problem]) -> str:
    """Why there is nothing to learn from."""
    if not problems:
        return f"{source.name} holds no images"
    return f"of {source.name}, no image can be used; the first of {len(problems)} reasons: {problems[0].cause}"


def gather(
    source: Path,
    plan: Plan | None,
    *,
    kept: Path,
    mapping: Mapping[str, str],
    columns: Mapping[str, str] = {},
    workers: int | None = None,
    progress: store.Progress | None = None,
) -> Gathered:
    """Everything that a source holds. Without a plan the names of its folders or labels are the classes."""
    image = plan.image if plan else plans.Image()
    known = Classes(plan.classes, mapping) if plan else None
    rows = _open(source, image, known, columns)
    classes = known or Classes(_own_classes(rows), mapping)
    problems = list(rows.problems)
    labels = [classes.place(row.label) for row in rows.rows]
    wanted = [i for i, label in enumerate(labels) if label is not None]
    for row, label in zip(rows.rows, labels, strict=True):
        if label is None:
            problems.append(Problem.of(row.name, LabelUnknownError(classes.why(row.label))))
    place = kept / "decoded" / _place(source, image)
    done = store.decoded(rows, wanted, image, place, workers=workers, progress=progress)
    found = [_Image(rows.rows[i], labels[i] or 0, entry) for i, entry in zip(wanted, done.entries, strict=True)]
    chosen, left_out = _once(found, classes)
    hashes = tuple(one.entry.sha256 for one in chosen)
    pixels = Pixels(done.pixels, np.asarray([one.entry.at for one in chosen], np.int64))
    alike = near_duplicates.first_alike(pixels)
    by_row, by_file = _patients(chosen)
    patients = tuple(row or file for row, file in zip(by_row, by_file, strict=True))
    images = Images(
        pixels,
        np.asarray([one.label for one in chosen], np.int64),
        tuple(one.row.split for one in chosen),
        tuple(one.row.name for one in chosen),
        groups.named(patients, groups.together(by_row, by_file, [*map(str, alike)]), hashes),
        tuple(one.row.centre for one in chosen),
        (*problems, *left_out),
        patients,
    )
    return Gathered(
        images,
        hashes,
        tuple((one.entry.width, one.entry.height) for one in chosen),
        (*_doubts(chosen), *_alike(images, alike)),
        classes.names,
    )


def assign(found: Gathered, plan: Plan, path: Path, *, write: bool) -> Images:
    """The images with the part of each, as kept in `path`; if nothing was kept, as drawn now, and kept if `write`."""
    images, kind = found.images, "x".join(map(str, found.images.pixels.shape[1:]))
    kept = split.load(path, kind)
    if kept is None:
        labels = [int(label) for label in images.labels]
        splits = split.draw(found.hashes, labels, images.groups, images.splits, plan)
        if write:
            split.keep(path, kind, dict(zip(found.hashes, splits, strict=True)))
        return replace(images, splits=tuple(splits))
    splits = split.join(found.hashes, images.groups, images.splits, kept)
    cause = "it shows a patient, or nearly a picture, of the validation or test images"
    left_out = [
        Problem.of(name, GroupElsewhereError(cause)) for name, own in zip(images.names, splits, strict=True) if not own
    ]
    used = np.asarray([i for i, own in enumerate(splits) if own], np.int64)
    return replace(images, splits=tuple(splits), problems=(*images.problems, *left_out)).only(used)


def _open(source: Path, image: plans.Image, known: Classes | None, columns: Mapping[str, str]) -> Source:
    """What kind of source it is tells its name; a folder with a labels.csv is a table."""
    if not source.exists():
        raise FileMissingError(f"{source.name} is not there")
    if source.is_dir():
        labels = source / "labels.csv"
        if labels.is_file():
            return table.read(labels, image, columns)
        return folder.read(source, image, (lambda name: known.place(name) is not None) if known else None)
    if source.suffix.lower() == ".npz":
        return npz.read(source, image)
    if source.suffix.lower() in table.SUFFIXES:
        return table.read(source, image, columns)
    raise NoImagesError(f"{source.name} is neither a folder nor a table nor an NPZ")


def _own_classes(source: Source) -> list[str]:
    """The names that a source itself uses, each as it is first spelled."""
    names: dict[str, str] = {}
    for row in source.rows:
        if str(row.label).strip():
            names.setdefault(normal(str(row.label)), str(row.label).strip())
    return [names[name] for name in sorted(names, key=lambda name: name.zfill(9) if name.isdecimal() else name)]


def _place(source: Path, image: plans.Image) -> str:
    """The name of the folder for what is decoded from this source to this size."""
    said = f"{source.resolve()}|{image.size}|{image.channels}|{picture.VERSION}"
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _once(found: Sequence[_Image], classes: Classes) -> tuple[list[_Image], list[Problem]]:
    """Each image once, by the hash of its pixels; and why the others are left out."""
    chosen: list[_Image] = []
    problems: list[Problem] = []
    alike: dict[str, list[_Image]] = defaultdict(list)
    for one in found:
        if one.entry.code:
            problems.append(Problem(one.row.name, one.entry.code, one.entry.cause))
        else:
            alike[one.entry.sha256].append(one)
    for sha256 in sorted(alike):
        first, *others = sorted(alike[sha256], key=_rank)
        if others and len({one.label for one in alike[sha256]}) > 1:
            problems += [_conflict(one, alike[sha256], classes) for one in (first, *others)]
            continue
        chosen.append(first)
        for one in others:
            leaks = first.row.split != one.row.split
            where = (
                f" in {first.row.split or 'no part'}, while this is in {one.row.split or 'no part'}" if leaks else ""
            )
            fault = (LeakedImageError if leaks else DuplicateImageError)(f"the same image as {first.row.name}{where}")
            problems.append(Problem.of(one.row.name, fault))
    return chosen, problems


def _rank(one: _Image) -> tuple[int, str]:
    """Of copies in several parts the one that measures stays, so that nobody learns from it."""
    return -SPLITS.index(one.row.split) if one.row.split else 1, one.row.name


def _conflict(one: _Image, alike: Sequence[_Image], classes: Classes) -> Problem:
    other = next(two for two in alike if two.label != one.label)
    cause = f"the same image as {other.row.name}, which is labelled {classes.names[other.label]}"
    return Problem.of(one.row.name, LabelConflictError(cause))


def _doubts(images: Sequence[_Image]) -> Iterator[Problem]:
    for one in images:
        if one.entry.doubt:
            yield Problem.of(one.row.name, ImageDoubtError(one.entry.doubt))


def _alike(images: Images, alike: Sequence[int]) -> Iterator[Problem]:
    """Pictures that are almost the same, though nobody said that they belong together."""
    for place, first in enumerate(alike):
        if place != first and not images.patients[place] == images.patients[first] != "":
            yield Problem.of(images.names[place], NearDuplicateError(f"almost the same image as {images.names[first]}"))


def _patients(images: Sequence[_Image]) -> tuple[list[str], list[str]]:
    """Who is shown: as the table, the folder or the NPZ says, and as the DICOM files say.

    A name that all share says nothing: it is an anonymiser's word, or a folder around all.
    """
    by_row, by_file = [one.row.group for one in images], [one.entry.group for one in images]
    nobody = [""] * len(images)
    return by_row if len(set(by_row)) > 1 else nobody, by_file if len(set(by_file) - {""}) > 1 else nobody
