"""A folder of images for each class. Above it may be a part (train, val, test) or a centre, below it the patient."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from fedhelp_edge import files, plan
from fedhelp_edge.data import dicom, picture
from fedhelp_edge.data.images import Problem
from fedhelp_edge.data.source_row import Decoded, Job, Row, patient, split_word
from fedhelp_edge.errors import ArchiveError, FileMissingError, ImageKindError, PhonePictureError

# what lies beside images and is meant for somebody else
_NOT_MEANT = frozenset(
    (".txt", ".csv", ".tsv", ".json", ".xml", ".md", ".html", ".yaml", ".ini", ".db", ".log", ".lnk", ".url")
)
_NOT_MEANT_FOLDERS = frozenset(("__macosx", "@eadir", "$recycle.bin", "system volume information"))
_ARCHIVES = frozenset((".zip", ".7z", ".rar", ".tar", ".gz", ".tgz"))
_DOCUMENTS = frozenset((".pdf", ".doc", ".docx", ".odt", ".rtf", ".ppt", ".pptx"))
_SHEETS = frozenset((".xls", ".xlsx", ".ods"))
_PHONE = frozenset((".heic", ".heif", ".hif", ".avif"))
_GONE = "it was there when the folder was listed, and is gone"


@dataclass(frozen=True)
class Files:
    """Rows that are files below `root`."""

    root: Path
    image: plan.Image
    rows: Sequence[Row]
    problems: Sequence[Problem]

    def jobs(self, wanted: Sequence[int]) -> Iterator[Job]:
        for i in wanted:
            yield partial(decode, self.root / self.rows[i].name, self.image)


def decode(path: Path, image: plan.Image) -> Decoded:
    """The image in a file, whatever its name says that it is."""
    try:
        with picture.refusing(), files.reading(path) as file:
            return opened(file, path.name, image)
    except FileMissingError:
        raise FileMissingError(_GONE) from None


def opened(file: BinaryIO, name: str, image: plan.Image) -> Decoded:
    """The image in an open file."""
    suffix = Path(name).suffix.lower()
    head = file.read(132)
    file.seek(0)
    if dicom.is_dicom(head) or suffix in dicom.SUFFIXES:
        return dicom.decode(file, image)
    if picture.is_phone(head) or (suffix in _PHONE and not picture.is_picture(head)):
        return picture.decode_phone(file, image)
    return picture.decode(file, image)


def read(root: Path, image: plan.Image, known: Callable[[str], bool] | None) -> Files:
    """Every image below a folder. `known` tells which names are classes; without it the first folder is one."""
    rows, problems = [], []
    for name, stamp in listing(root):
        try:
            if not is_image(root, name):
                continue
            *folders, _ = name.split("/")
            label, group, split, centre = _place(folders, known)
            rows.append(Row(name, label, stamp, group, split, centre))
        except ImageKindError as fault:
            problems.append(Problem.of(name, fault))
    return Files(root, image, rows, problems)


def listing(root: Path) -> Iterator[tuple[str, str]]:
    """Name and stamp of every file below a folder, in order. Links to folders are followed, each folder once."""
    seen: set[tuple[int, int]] = set()

    def walk(folder: Path, prefix: str) -> Iterator[tuple[str, str]]:
        here = folder.stat()
        if (here.st_dev, here.st_ino) in seen:
            return
        seen.add((here.st_dev, here.st_ino))
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir() and entry.name.casefold() in _NOT_MEANT_FOLDERS:
                continue
            if entry.is_dir():
                yield from walk(Path(entry.path), f"{prefix}{entry.name}/")
            else:
                yield f"{prefix}{entry.name}", _stamp(entry)

    yield from walk(root, "")


def is_image(root: Path, name: str) -> bool:
    """Whether a file is an image; what might be meant as one but cannot be read here is refused."""
    path = root / name
    suffix = path.suffix.lower()
    if suffix in picture.SUFFIXES or suffix in dicom.SUFFIXES:
        return True
    if suffix in _NOT_MEANT or path.name.upper() == "DICOMDIR" or path.name.startswith("~$"):
        return False
    head = _head(path)
    if dicom.is_dicom(head) or picture.is_picture(head):  # often without a suffix, or with what looks like one
        return True
    if picture.is_phone(head) and picture.reads_phone():
        return True
    if picture.is_phone(head) or suffix in _PHONE:
        raise PhonePictureError("it is a phone's picture (HEIC) that cannot be read here")
    if suffix in _ARCHIVES:
        raise ArchiveError("it is an archive, whose pictures are not looked at")
    if suffix in _SHEETS:
        raise ImageKindError("it is a spreadsheet; if it lists the images, save it as CSV")
    if suffix in _DOCUMENTS:
        raise ImageKindError("it is a document, not a picture")
    raise ImageKindError("this kind of file is not read here")


def _head(path: Path) -> bytes:
    try:
        with files.reading(path) as file:
            return file.read(132)
    except OSError:
        return b""


def _stamp(entry: os.DirEntry[str]) -> str:
    try:
        stat = entry.stat()
    except OSError:  # a link to nowhere, or gone already: decoding says so
        return ""
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def _place(folders: Sequence[str], known: Callable[[str], bool] | None) -> tuple[str, str, str, str]:
    """Label, patient, split and centre from the folders that an image stands in."""
    is_class = known or (lambda name: not split_word(name))
    at = next((i for i, name in enumerate(folders) if is_class(name)), None)
    plain = [name for name in folders if not split_word(name)]
    if at is None:
        return (plain[0] if plain else ""), "", "", ""
    split = next(filter(None, map(split_word, folders)), "")
    centre = next((name for name in folders[:at] if not split_word(name)), "")
    below = next((name for name in folders[at + 1 :] if not split_word(name)), "")
    return folders[at], patient(below), split, centre
