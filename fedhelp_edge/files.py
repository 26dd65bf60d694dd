"""Atomic writes, and reads of ordinary files alone.

A file appears under its name whole or not at all: it is written beside its target, flushed to the disk and renamed. The
folder is flushed too where the system can. USB sticks have no modes, links or folder flushes, so none is required.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import io
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fedhelp_edge import safe_text
from fedhelp_edge.errors import CarrierHomeError, FileKindError, TargetExistsError

LOCAL_ERRNOS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EMFILE,
    errno.ENFILE,
)  # faults of this machine, never of an odd file

_BINARY = getattr(os, "O_BINARY", 0)
_NON_BLOCKING = getattr(os, "O_NONBLOCK", 0)  # opening a FIFO must not block
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_READ_FLAGS, _CREATE_FLAGS = os.O_RDONLY | _BINARY | _NON_BLOCKING, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY
_FOLDER_FLAGS = os.O_RDONLY | _NO_FOLLOW | getattr(os, "O_DIRECTORY", 0)
_HAS_DIR_FD = os.open in os.supports_dir_fd and os.scandir in os.supports_fd
PARTIALS = f".*.{'[0-9a-f]' * 12}.part"  # a pattern of what interrupted `writing` calls leave
_NAME_SURROGATE = 0x20000000  # bit of a Windows reparse tag: a link or junction, not a cloud file


@contextmanager
def reading(path: Path, *, follow: bool = True) -> Iterator[BinaryIO]:
    """Open an ordinary file for reading; a folder, a device, a pipe (or, unless `follow`, a link) is refused."""
    try:
        descriptor = os.open(path, _READ_FLAGS | (0 if follow else _NO_FOLLOW))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileKindError(f"{path.name} is a link") from error
        raise
    with _regular_file(descriptor, path.name) as file:
        yield file


@contextmanager
def reading_content(path: Path, content: bytes | None) -> Iterator[BinaryIO]:
    """Open a file for reading, or `content` in its place, if it came without a disk."""
    if content is None:
        with reading(path) as file:
            yield file
    else:
        yield io.BytesIO(content)


@contextmanager
def writing(path: Path, *, private: bool = True, replace: bool = False) -> Iterator[BinaryIO]:
    """Write a file, which appears only when the block succeeds. An existing one is an error, unless `replace`."""
    if not replace and os.path.lexists(path):
        raise TargetExistsError(f"{path.name} is there already")
    with _atomic_file(path, path.with_name(_partial_name(path.name)), 0o600 if private else 0o644) as file:
        yield file
    sync_folder(path.parent)


def remove_partials(path: Path) -> None:
    """Delete the partial files of interrupted `writing` calls for this file. Nobody else may be writing it."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        partial.unlink(missing_ok=True)


def digest(file: BinaryIO) -> str:
    """The SHA-256 of the rest of a file, in hexadecimal."""
    sha256 = hashlib.sha256()
    while chunk := file.read(1 << 18):
        sha256.update(chunk)
    return sha256.hexdigest()


def write_atomic(path: Path, data: bytes, *, private: bool = True) -> None:
    """Replace a small file: after a crash either the old content or the new one is there, never a part."""
    with writing(path, private=private, replace=True) as file:
        file.write(data)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing. A power cut loses none of them."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def share_with_group(path: Path) -> None:
    """Let the group read a file in a setgid folder: the two system users of a hub share files so."""
    if os.name != "nt" and path.parent.stat().st_mode & stat.S_ISGID:
        path.chmod(0o640)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync_descriptor(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush a whole folder whose files were not written by `writing`."""
    for path in (*folder.rglob("*"), folder):
        if path.is_file():
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)


# --- folders that others write to ----------------------------------------------------------------------------------
@contextmanager
def open_shared(path: Path, *, make: bool = False) -> Iterator[SharedFolder]:
    """Open a folder of a carrier; a link is refused. Links in the path to it are fine: a person named it."""
    if make:
        with suppress(FileExistsError):
            path.mkdir()
    status = path.lstat()
    if is_link(status) or not stat.S_ISDIR(status.st_mode):
        raise FileKindError(f"{printable_name(path.name)} must be a folder, and is a link or a file")
    if not _HAS_DIR_FD:
        yield SharedFolder(path, None)
        return
    descriptor = os.open(path, _FOLDER_FLAGS)
    try:
        yield SharedFolder(path, descriptor)
    finally:
        os.close(descriptor)


class SharedFolder:
    """An open folder that others write to. No link in it is followed: neither to read, nor to write, nor to delete.

    Names are looked up relative to the open folder, so a link that replaces the folder meanwhile has no effect.
    Windows has no such lookup: there a link is noticed unless it appears between the check and the use.
    """

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self._path, self._descriptor = path, descriptor

    def names(self) -> list[str]:
        with os.scandir(self._path if self._descriptor is None else self._descriptor) as entries:
            return sorted(entry.name for entry in entries)

    def stat(self, name: str) -> os.stat_result:
        """The status of an entry; a link is not followed."""
        return os.stat(self._lookup_name(name), dir_fd=self._descriptor, follow_symlinks=False)

    @contextmanager
    def reading(self, name: str) -> Iterator[BinaryIO]:
        """Open an ordinary file with one name. Nothing else is opened: a device may act on being opened."""
        try:
            status = self.stat(name)
            if is_link(status) or not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise FileKindError(f"{printable_name(name)} is not an ordinary file")
            descriptor = os.open(self._lookup_name(name), _READ_FLAGS | _NO_FOLLOW, dir_fd=self._descriptor)
        except OSError as error:
            error.filename = printable_name(name)
            raise
        with _regular_file(descriptor, printable_name(name)) as file:
            yield file

    def put(self, name: str, source: BinaryIO) -> None:
        """Write the content of `source` to a file, unless it has it already. Another entry of this name is replaced."""
        if self._has_content(name, source):
            return
        source.seek(0)
        with self.writing(name) as sink:
            shutil.copyfileobj(source, sink)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Write a file, which replaces any of this name only when the block succeeds."""
        with _atomic_file(
            self._lookup_name(name), self._lookup_name(_partial_name(name)), 0o644, self._descriptor
        ) as file:
            yield file
        if self._descriptor is not None:
            _sync_descriptor(self._descriptor)
        self._path.stat()  # fails if the stick was pulled meanwhile

    def remove(self, name: str) -> None:
        os.unlink(self._lookup_name(name), dir_fd=self._descriptor)

    def _has_content(self, name: str, source: BinaryIO) -> bool:
        try:
            with self.reading(name) as file:
                return _same_content(file, source)
        except (FileKindError, OSError):
            return False

    def _lookup_name(self, name: str) -> str:
        return name if self._descriptor is not None else str(self._path / name)


def is_link(status: os.stat_result) -> bool:
    """Whether an entry is a link, or a junction of Windows."""
    return stat.S_ISLNK(status.st_mode) or bool(getattr(status, "st_reparse_tag", 0) & _NAME_SURROGATE)


def check_separate(carrier: Path, home: Path) -> None:
    """Raise if a carrier is a home, or one lies in the other: others write to carriers, and nobody to a home."""
    carrier_path, home_path = carrier.resolve(), home.resolve()
    if _is_inside(carrier_path, home_path) or _is_inside(home_path, carrier_path):
        raise CarrierHomeError(
            f"{printable_name(carrier.name or str(carrier))} and {printable_name(home.name)} lie one in the other"
        )


def printable_name(name: str) -> str:
    """A file's name, safe to print."""
    return safe_text.visible(name)[:80]


def _is_inside(inner: Path, outer: Path) -> bool:
    """Whether two paths are nested, also where names differ in case or a disk is mounted twice."""
    return any(
        path == outer or (path.exists() and outer.exists() and path.samefile(outer)) for path in (inner, *inner.parents)
    )


@contextmanager
def _regular_file(descriptor: int, name: str) -> Iterator[BinaryIO]:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileKindError(f"{name} is not an ordinary file")
    with os.fdopen(descriptor, "rb") as file:
        yield file


@contextmanager
def _atomic_file(target: str | Path, partial: str | Path, mode: int, folder: int | None = None) -> Iterator[BinaryIO]:
    try:
        descriptor = os.open(partial, _CREATE_FLAGS, mode, dir_fd=folder)
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.replace(partial, target, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(partial, dir_fd=folder)
        raise


def _partial_name(name: str) -> str:
    """A name that `PARTIALS` matches."""
    return f".{name}.{os.urandom(6).hex()}.part"


def _same_content(first: BinaryIO, second: BinaryIO) -> bool:
    if first.seek(0, os.SEEK_END) != second.seek(0, os.SEEK_END):
        return False
    first.seek(0)
    second.seek(0)
    while chunk := first.read(1 << 18):
        if chunk != second.read(1 << 18):
            return False
    return True


def _sync_descriptor(descriptor: int) -> None:
    with suppress(OSError):  # some network and stick file systems refuse; the file itself was flushed
        os.fsync(descriptor)
