"""What opening one file may cost: the bounds that every decoder of a site's files keeps (docs/spec/limits.md).

A small file can ask for much: for pixels, for memory, for time. What it asks for is read from its header and refused
before it is spent. What no header tells is measured while it is spent, at each read.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, BinaryIO

from fedhelp_edge.errors import ImageCostError, ImageSizeError

PIXELS = 89_478_485  # of one picture
SIDE = 65_535  # pixels
FILE_SIZE = 1 << 30  # bytes of one picture's file
LARGE_FILE = 32 << 20  # bytes; larger files are opened one at a time, for some decoders read them whole
MEMORY = 1 << 31  # bytes of all pictures that are decoded at a time
BYTES_PER_PIXEL = 16  # bytes of memory that a picture's pixel takes at most, all copies together
SECONDS = 20  # of the processor, for one picture; what is measured at each read
REREADS = 8  # times that a file, and 32 MiB, may be read
EXIF_SIZE = 1 << 16  # bytes; in more of them nobody looks for which way is up
FRAMES = 100  # that are counted; the first is used
SCANS = 100  # of one JPEG
SCANNED_PIXELS = 1 << 30  # pixels x scans of one JPEG
DICOM_READS = 200_000  # of one DICOM file: three for each of its elements
DICOM_INFLATED = 128 << 20  # bytes that a deflated DICOM file becomes
DICOM_ELEMENT = 1 << 18  # bytes of a DICOM element, other than its pixels, that is looked at
ROWS = 1_000_000  # of a table or an NPZ
COLUMNS = 1_000  # of a table
CELLS = 24_000_000  # of a table
NPZ_IMAGE = 32 << 20  # bytes of one image in an NPZ
ARRAY_SIZE = 1 << 31  # bytes of an array that is read whole
UNPACKED = 1 << 35  # bytes of all that an NPZ unpacks to
UNPACK_RATIO = 100  # to which an NPZ may unpack; up to `FREE` bytes, to any
ALWAYS_UNPACKED = 1 << 30
READ_SIZE = 1 << 20  # bytes that are read at once of an NPZ, and so of its list of arrays

_LARGE = threading.Lock()


class MeteredFile:
    """An open file whose reader is stopped when it has cost too much."""

    def __init__(self, file: BinaryIO, size: int, reads: float = math.inf) -> None:
        self._file, self._reads, self._bytes = file, reads, REREADS * (size + LARGE_FILE)
        self._end = time.thread_time() + SECONDS

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._reads -= 1
        self._bytes -= len(data)
        if self._reads < 0 or self._bytes < 0 or time.thread_time() > self._end:
            raise ImageCostError("it takes more work to open than any ordinary image")
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def metered(file: BinaryIO, reads: float = math.inf) -> Iterator[tuple[Any, int]]:
    """The file as a decoder gets it, and its size."""
    start = file.tell()
    size = file.seek(0, 2)
    file.seek(start)
    if size > FILE_SIZE:
        raise ImageSizeError(f"its file is larger than {FILE_SIZE >> 20} MiB")
    with _LARGE if size > LARGE_FILE else nullcontext():
        yield MeteredFile(file, size, reads), size


def check_sides(width: int, height: int) -> None:
    """Raise if a picture has more pixels than any single one should."""
    if width * height > PIXELS:
        raise ImageSizeError(f"it has more than {PIXELS:,} pixels")
    if max(width, height) > SIDE:
        raise ImageSizeError(f"it has more than {SIDE:,} pixels on a side")


def check_passes(scans: int, width: int, height: int) -> None:
    """Raise if a JPEG, or a part of one size of another file, is drawn in too many passes."""
    if scans > SCANS or scans * width * height > SCANNED_PIXELS:
        raise ImageCostError(f"it is drawn in {scans} passes")


class _Memory:
    """Threads that decode at the same time wait until there is room for all of them."""

    def __init__(self) -> None:
        self._used, self._changed = 0, threading.Condition()

    @contextmanager
    def __call__(self, size: int) -> Iterator[None]:
        if size > MEMORY:
            raise ImageSizeError(f"it takes more than {MEMORY >> 20} MiB to open")
        with self._changed:
            self._changed.wait_for(lambda: self._used + size <= MEMORY)
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


memory = _Memory()
