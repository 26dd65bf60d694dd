"""Read a folder with a folder of images for each class. Folders above a class may name a split or a centre, the one
below it a patient."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from fedhelp_edge import files, plan
from fedhelp_edge.data import dicom, nifti, picture
from fedhelp_edge.data.images import Problem
from fedhelp_edge.data.source_row import Decoded, DecodeJob, DicomIdentity, SourceRow, parse_patient, parse_split
from fedhelp_edge.errors import (
    ArchiveError,
    FileKindError,
    FileMissingError,
    ImageKindError,
    PhonePictureError,
)

# files beside images that are silently ignored
_IGNORED_SUFFIXES = frozenset(
    (".txt", ".csv", ".tsv", ".json", ".xml", ".md", ".html", ".yaml", ".ini", ".db", ".log", ".lnk", ".url")
)
_IGNORED_FOLDERS = frozenset(("__macosx", "@eadir", "$recycle.bin", "system volume information"))
_ARCHIVE_SUFFIXES = frozenset((".zip", ".7z", ".rar", ".tar", ".gz", ".tgz"))
_DOCUMENT_SUFFIXES = frozenset((".pdf", ".doc", ".docx", ".odt", ".rtf", ".ppt", ".pptx"))
_SPREADSHEETS = frozenset((".xls", ".xlsx", ".ods"))
_PHONE_SUFFIXES = frozenset((".heic", ".heif", ".hif", ".avif"))
_GONE = "it disappeared while the folder was read"


@dataclass(frozen=True)
class ImageFolder:
    """A source whose rows are files below `root`."""

    root: Path
    image: plan.ImageSettings
    rows: Sequence[SourceRow]
    problems: Sequence[Problem]

    def jobs(self, indices: Sequence[int]) -> Iterator[DecodeJob]:
        for i in indices:
            yield partial(decode, self.root / self.rows[i].name, self.image)


def decode(path: Path, image: plan.ImageSettings) -> Decoded:
    """Decode an image file by its content, whatever its suffix."""
    try:
        with picture.translate_errors(), files.reading(path) as file:
            return decode_open(file, path.name, image)
    except FileMissingError as error:
        raise FileMissingError(_GONE) from error


def identify(path: Path) -> DicomIdentity | None:
    """The identity of a DICOM file; None of another file, or of one that cannot be opened."""
    with suppress(OSError, FileKindError), files.reading(path) as file:
        return identify_open(file, path.name)
    return None


def identify_open(file: BinaryIO, name: str) -> DicomIdentity | None:
    """The identity of an open DICOM file; None of another file."""
    file.seek(0)
    return dicom.identify(file) if is_dicom_open(file, name) else None


def is_dicom_open(file: BinaryIO, name: str) -> bool:
    """Whether an open file is DICOM by its content, or by its name."""
    head = file.read(132)
    file.seek(0)
    return dicom.is_dicom(head) or Path(name).suffix.lower() in dicom.SUFFIXES


def decode_open(
    file: BinaryIO, name: str, image: plan.ImageSettings, frame: dicom.Frame | None = None, *, for_screen: bool = False
) -> Decoded:
    """Decode an open image file by its content; `name` decides where the content does not. Only DICOM has frames.

    With `for_screen` also as an image to look at, which has more pixels than the net sees.
    """
    if is_dicom_open(file, name):
        return dicom.decode(file, image, frame, for_screen=for_screen)
    suffix = Path(name).suffix.lower()
    head = file.read(132)
    file.seek(0)
    if picture.is_phone_picture(head) or (suffix in _PHONE_SUFFIXES and not picture.is_picture(head)):
        return picture.decode_phone(file, image, for_screen=for_screen)
    return picture.decode(file, image, for_screen=for_screen)


def read(root: Path, image: plan.ImageSettings, is_class: Callable[[str], bool] | None) -> ImageFolder:
    """Read every image below a folder. `is_class` tells which folders are classes; without it the first one is."""
    rows, problems = [], []
    for name, stamp in list_files(root):
        try:
            if not is_image(root, name):
                continue
            *folders, _ = name.split("/")
            label, group, split, centre = _parse_folders(folders, is_class)
            rows.append(SourceRow(name, label, stamp, group, split, centre))
        except ImageKindError as error:
            problems.append(Problem.from_error(name, error))
    return ImageFolder(root, image, rows, problems)


def list_files(root: Path) -> Iterator[tuple[str, str]]:
    """Yield name and stamp of every file below a folder, in order. Follows links to folders, each folder once."""
    seen: set[tuple[int, int]] = set()

    def walk(folder: Path, prefix: str) -> Iterator[tuple[str, str]]:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir() and entry.name.casefold() in _IGNORED_FOLDERS:
                continue
            if entry.is_dir():
                yield from walk(Path(entry.path), f"{prefix}{entry.name}/")
            else:
                yield f"{prefix}{entry.name}", _stamp(entry)

    yield from walk(root, "")


def is_image(root: Path, name: str) -> bool:
    """Whether a file is an image; raise `ImageKindError` if a person may mean it as one but it cannot be read."""
    path = root / name
    suffix = path.suffix.lower()
    if suffix in picture.SUFFIXES or suffix in dicom.SUFFIXES:
        return True
    if _is_ignored(path):
        return False
    head = read_head(path)
    if dicom.is_dicom(head) or picture.is_picture(head):  # DICOM often has no suffix, or an accidental one
        return True
    if picture.is_phone_picture(head) and picture.can_read_phone():
        return True
    if nifti.is_nifti(name):
        raise ImageKindError("it is a volume, not a picture")
    if picture.is_phone_picture(head) or suffix in _PHONE_SUFFIXES:
        raise PhonePictureError("it is a phone's picture (HEIC) that cannot be read here")
    if suffix in _ARCHIVE_SUFFIXES:
        raise ArchiveError("it is an archive; images in archives are not read")
    if suffix in _SPREADSHEETS:
        raise ImageKindError("it is a spreadsheet; if it lists the images, save it as CSV")
    if suffix in _DOCUMENT_SUFFIXES:
        raise ImageKindError("it is a document, not a picture")
    raise ImageKindError("this file type is not supported")


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its suffix or, where that is none of another kind, by its content."""
    suffix = path.suffix.lower()
    if suffix in picture.SUFFIXES or _is_ignored(path) or nifti.is_nifti(path.name):
        return False
    return suffix in dicom.SUFFIXES or dicom.is_dicom(read_head(path))


def _is_ignored(path: Path) -> bool:
    """Whether a file is none that a person would mean as an image."""
    return path.suffix.lower() in _IGNORED_SUFFIXES or path.name.upper() == "DICOMDIR" or path.name.startswith("~$")


def read_head(path: Path) -> bytes:
    """The first bytes of a file, which tell its kind; none of one that cannot be read."""
    try:
        with files.reading(path) as file:
            return file.read(132)
    except OSError:
        return b""


def _stamp(entry: os.DirEntry[str]) -> str:
    try:
        stat = entry.stat()
    except OSError:  # a dangling link, or deleted: decoding reports it
        return ""
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def _parse_folders(folders: Sequence[str], is_class_name: Callable[[str], bool] | None) -> tuple[str, str, str, str]:
    """Label, patient, split and centre from the names of the folders above an image."""
    is_class = is_class_name or (lambda name: not parse_split(name))
    class_depth = next((i for i, name in enumerate(folders) if is_class(name)), None)
    other_folders = [name for name in folders if not parse_split(name)]
    if class_depth is None:
        return (other_folders[0] if other_folders else ""), "", "", ""
    split = next(filter(None, map(parse_split, folders)), "")
    centre = next((name for name in folders[:class_depth] if not parse_split(name)), "")
    below = next((name for name in folders[class_depth + 1 :] if not parse_split(name)), "")
    return folders[class_depth], parse_patient(below), split, centre
