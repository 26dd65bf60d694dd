"""Files that are written once, and files that are read without surprises.

A file appears under its name whole or not at all: it is written beside its place, flushed to the disk and renamed; the
folder is flushed too where the system can. Sticks have no modes, links or folder flushes, so none is needed.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fedhelp_edge import safe_text
from fedhelp_edge.errors import CarrierHomeError, FileKindError, TargetExistsError

OWN_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE)  # no odd file brings these about

_BINARY = getattr(os, "O_BINARY", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # a FIFO must not hold us up before we have seen that it is one
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_READ, _NEW = os.O_RDONLY | _BINARY | _NO_WAIT, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY
_FOLDER = os.O_RDONLY | _NO_LINK | getattr(os, "O_DIRECTORY", 0)
_LOOKS_UP = os.open in os.supports_dir_fd and os.scandir in os.supports_fd
_LEADS_ELSEWHERE = 0x20000000  # in the tag of a Windows reparse point: a link or junction, not a file in the cloud


@contextmanager
def reading(path: Path, *, follow: bool = True) -> Iterator[BinaryIO]:
    """An ordinary file, opened for reading; a folder, a device, a pipe (or, unless `follow`, a link) is refused."""
    try:
        descriptor = os.open(path, _READ | (0 if follow else _NO_LINK))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileKindError(f"{path.name} is a link") from error
        raise
    with _ordinary(descriptor, path.name) as file:
        yield file


@contextmanager
def writing(path: Path, *, private: bool = True) -> Iterator[BinaryIO]:
    """A new file that takes its place only when the block ends well. An existing file is never replaced."""
    if os.path.lexists(path):
        raise TargetExistsError(f"{path.name} is there already")
    with _written(path, path.with_name(_part_of(path.name)), 0o600 if private else 0o644) as file:
        yield file
    sync_folder(path.parent)


def clear_parts(path: Path) -> None:
    """Delete what `writing` has left of this file where it was cut off. Nobody else may be writing it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        left.unlink(missing_ok=True)


def digest(file: BinaryIO) -> str:
    """The SHA-256 of all that is still to be read."""
    found = hashlib.sha256()
    while chunk := file.read(1 << 18):
        found.update(chunk)
    return found.hexdigest()


def replace(path: Path, data: bytes) -> None:
    """The next version of a small note: the old one or the new one is there, never a part of it."""
    with _written(path, path.with_name(_part_of(path.name)), 0o600) as file:
        file.write(data)
    sync_folder(path.parent)


def share_with_group(path: Path) -> None:
    """In a folder that hands its group on (setgid), its members read a file as well: a hub's two system users."""
    if os.name != "nt" and path.parent.stat().st_mode & stat.S_ISGID:
        path.chmod(0o640)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system has a way to say so."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush a whole folder whose files were not made by `writing`."""
    for path in (*folder.rglob("*"), folder):
        if path.is_file():
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)


# --- folders that others write to ----------------------------------------------------------------------------------
@contextmanager
def directory(path: Path, *, make: bool = False) -> Iterator[Directory]:
    """Open a folder of a carrier; refused if it is a link. The way to it was named by a person, and may have links."""
    if make:
        with suppress(FileExistsError):
            path.mkdir()
    seen = path.lstat()
    if leads_elsewhere(seen) or not stat.S_ISDIR(seen.st_mode):
        raise FileKindError(f"{shown(path.name)} must be a folder, and is a link or a file")
    if not _LOOKS_UP:
        yield Directory(path, None)
        return
    descriptor = os.open(path, _FOLDER)
    try:
        yield Directory(path, descriptor)
    finally:
        os.close(descriptor)


class Directory:
    """An open folder that others write to. No link in it is followed: neither to read, nor to write, nor to delete.

    Names are looked up in the folder that was opened, so a link that takes its place meanwhile leads nobody away.
    Windows has no such lookup: there a link is noticed unless it appears between the check and the use.
    """

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self._path, self._descriptor = path, descriptor

    def names(self) -> list[str]:
        with os.scandir(self._path if self._descriptor is None else self._descriptor) as entries:
            return sorted(entry.name for entry in entries)

    def stat(self, name: str) -> os.stat_result:
        """What stands under a name, be it a link."""
        return os.stat(self._at(name), dir_fd=self._descriptor, follow_symlinks=False)

    @contextmanager
    def reading(self, name: str) -> Iterator[BinaryIO]:
        """An ordinary file with this one name. Nothing else is opened: a device may act on being opened."""
        try:
            seen = self.stat(name)
            if leads_elsewhere(seen) or not stat.S_ISREG(seen.st_mode) or seen.st_nlink > 1:
                raise FileKindError(f"{shown(name)} is not an ordinary file")
            descriptor = os.open(self._at(name), _READ | _NO_LINK, dir_fd=self._descriptor)
        except OSError as fault:
            fault.filename = shown(name)
            raise
        with _ordinary(descriptor, shown(name)) as file:
            yield file

    def put(self, name: str, source: BinaryIO) -> None:
        """Give a file the content of `source`, unless it has it. What else stands under its name is replaced."""
        if self._holds(name, source):
            return
        source.seek(0)
        with self.writing(name) as sink:
            shutil.copyfileobj(source, sink)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """A file that takes this place, also another file's, only when the block ends well."""
        with _written(self._at(name), self._at(_part_of(name)), 0o644, self._descriptor) as file:
            yield file
        if self._descriptor is not None:
            _sync(self._descriptor)
        self._path.stat()  # on a stick that was pulled meanwhile it does not count

    def remove(self, name: str) -> None:
        os.unlink(self._at(name), dir_fd=self._descriptor)

    def _holds(self, name: str, source: BinaryIO) -> bool:
        try:
            with self.reading(name) as file:
                return _same(file, source)
        except (FileKindError, OSError):
            return False

    def _at(self, name: str) -> str:
        return name if self._descriptor is not None else str(self._path / name)


def leads_elsewhere(seen: os.stat_result) -> bool:
    """Whether what was seen is a link, or a junction of Windows."""
    return stat.S_ISLNK(seen.st_mode) or bool(getattr(seen, "st_reparse_tag", 0) & _LEADS_ELSEWHERE)


def check_apart(carrier: Path, home: Path) -> None:
    """Raise if a carrier is a home, lies in one or around one: others write to carriers, and nobody to a home."""
    one, other = carrier.resolve(), home.resolve()
    if _lies_in(one, other) or _lies_in(other, one):
        raise CarrierHomeError(f"{shown(carrier.name or str(carrier))} and {shown(home.name)} lie one in the other")


def shown(name: str) -> str:
    """A file's name, safe to print."""
    return safe_text.visible(name)[:80]


def _lies_in(inner: Path, outer: Path) -> bool:
    """By what the folders are, not only by their names: names differ in case, and disks are mounted twice."""
    return any(
        path == outer or (path.exists() and outer.exists() and path.samefile(outer)) for path in (inner, *inner.parents)
    )


@contextmanager
def _ordinary(descriptor: int, name: str) -> Iterator[BinaryIO]:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileKindError(f"{name} is not an ordinary file")
    with os.fdopen(descriptor, "rb") as file:
        yield file


@contextmanager
def _written(place: str | Path, part: str | Path, mode: int, folder: int | None = None) -> Iterator[BinaryIO]:
    try:
        descriptor = os.open(part, _NEW, mode, dir_fd=folder)
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.replace(part, place, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(part, dir_fd=folder)
        raise


def _part_of(name: str) -> str:
    return f".{name}.{os.urandom(6).hex()}.part"


def _same(one: BinaryIO, other: BinaryIO) -> bool:
    if one.seek(0, os.SEEK_END) != other.seek(0, os.SEEK_END):
        return False
    one.seek(0)
    other.seek(0)
    while chunk := one.read(1 << 18):
        if chunk != other.read(1 << 18):
            return False
    return True


def _sync(folder: int) -> None:
    with suppress(OSError):  # some network and stick file systems refuse; the file itself was flushed
        os.fsync(folder)
