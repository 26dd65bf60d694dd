"""Files that are written once, and files that are read without surprises.

A file appears under its name whole or not at all: it is written beside its place, flushed to the disk and renamed; the
folder is flushed too where the system can. Sticks have no modes, links or folder flushes, so none is needed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fedhelp_edge.errors import FileExists, FileKind

_BINARY = getattr(os, "O_BINARY", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # a FIFO must not hold us up before we have seen that it is one
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


@contextmanager
def reading(path: Path, *, follow: bool = True) -> Iterator[BinaryIO]:
    """An ordinary file, opened for reading; a folder, a device, a pipe (or, unless `follow`, a link) is refused."""
    descriptor = os.open(path, os.O_RDONLY | _BINARY | _NO_WAIT | (0 if follow else _NO_LINK))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileKind(f"{path.name} is not an ordinary file")
    with os.fdopen(descriptor, "rb") as file:
        yield file


@contextmanager
def writing(path: Path, *, private: bool = True) -> Iterator[BinaryIO]:
    """A new file that takes its place only when the block ends well. An existing file is never replaced."""
    if os.path.lexists(path):
        raise FileExists(f"{path.name} is there already")
    part = path.with_name(f".{path.name}.{os.urandom(6).hex()}.part")
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o600 if private else 0o644)
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        part.rename(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def digest(file: BinaryIO) -> str:
    """The SHA-256 of all that is still to be read."""
    found = hashlib.sha256()
    while chunk := file.read(1 << 18):
        found.update(chunk)
    return found.hexdigest()


def replace(path: Path, data: bytes) -> None:
    """The next version of a small note: the old one or the new one is there, never a part of it."""
    part = path.with_name(f".{path.name}.{os.urandom(6).hex()}.part")
    with writing(part) as file:
        file.write(data)
    part.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system has a way to say so."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network and stick file systems refuse; the file itself was flushed
        pass
    finally:
        os.close(descriptor)
