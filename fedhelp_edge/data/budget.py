"""The limits of every decoder of a site's files (docs/spec/limits.md).

A small file can demand many pixels, much memory or much time. What its header states is checked before it is spent; the
rest is measured at each read.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, BinaryIO

from fedhelp_edge.errors import ImageCostError, ImageSizeError

PIXELS = 89_478_485  # of one image
SIDE = 65_535  # pixels
FILE_SIZE = 1 << 30  # bytes of one image file
LARGE_FILE = 32 << 20  # bytes; larger files are opened one at a time, because some decoders read them whole
MEMORY = 1 << 31  # bytes of all images that are decoded at the same time
BYTES_PER_PIXEL = 16  # memory of one pixel at most, in all copies
SECONDS = 20  # of processor time for one image, measured at each read
REREADS = 8  # how many times the file's size plus LARGE_FILE may be read
EXIF_SIZE = 1 << 16  # bytes; a larger EXIF block is ignored
FRAMES = 100  # counted at most; the first is used
SCANS = 100  # of one JPEG
SCANNED_PIXELS = 1 << 30  # pixels x scans of one JPEG
DICOM_READS = 200_000  # reads of one DICOM file: three for each element
DICOM_INFLATED = 128 << 20  # bytes of a deflated DICOM file after inflation
DICOM_ELEMENT = 1 << 18  # bytes; a larger element other than the pixels is ignored
SEGMENTATION_READS = 2_000_000  # reads of a DICOM segmentation, which has elements for each frame
SEGMENTATION_ELEMENT = 1 << 24  # bytes of all that it says of its frames
SLICES = 4096  # of a DICOM series
SERIES_SECONDS = 300  # of processor time for all slices of a series
ROWS = 1_000_000  # of a table or an NPZ
COLUMNS = 1_000  # of a table
CELLS = 24_000_000  # of a table
NPZ_IMAGE = 32 << 20  # bytes of one image in an NPZ
NPZ_VOLUME = 1 << 29  # bytes of one volume in an NPZ
ARRAY_SIZE = 1 << 31  # bytes of an array that is read at once
UNPACKED = 1 << 35  # bytes of an NPZ after unpacking
UNPACK_RATIO = 100  # unpacked to packed size of an NPZ above `ALWAYS_UNPACKED` bytes
ALWAYS_UNPACKED = 1 << 30
READ_SIZE = 1 << 20  # bytes of one read of an NPZ, and so of its list of arrays

_LARGE = threading.Lock()


class MeteredFile:
    """An open file that stops its reader when it has cost too much."""

    def __init__(self, file: BinaryIO, size: int, reads: float = math.inf) -> None:
        self._file, self._reads, self._bytes = file, reads, REREADS * (size + LARGE_FILE)
        self._end = time.thread_time() + SECONDS

    def read(self, size: int = -1) -> bytes:
        """Read, and raise `ImageCostError` if reads, bytes or processor time are used up."""
        data = self._file.read(size)
        self._reads -= 1
        self._bytes -= len(data)
        if self._reads < 0 or self._bytes < 0 or time.thread_time() > self._end:
            raise ImageCostError("it takes too long to decode")
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def metered(file: BinaryIO, reads: float = math.inf) -> Iterator[tuple[Any, int]]:
    """Wrap a file for a decoder; yield it with its size."""
    start = file.tell()
    size = file.seek(0, 2)
    file.seek(start)
    if size > FILE_SIZE:
        raise ImageSizeError(f"its file is larger than {FILE_SIZE >> 20} MiB")
    with _LARGE if size > LARGE_FILE else nullcontext():
        yield MeteredFile(file, size, reads), size


def check_sides(width: int, height: int) -> None:
    """Raise `ImageSizeError` if an image has too many pixels."""
    if width * height > PIXELS:
        raise ImageSizeError(f"it has more than {PIXELS:,} pixels")
    if max(width, height) > SIDE:
        raise ImageSizeError(f"it has more than {SIDE:,} pixels on a side")


def check_scans(scans: int, width: int, height: int) -> None:
    """Raise `ImageCostError` if a JPEG has too many scans; decoding each is a pass over all its pixels."""
    if scans > SCANS or scans * width * height > SCANNED_PIXELS:
        raise ImageCostError(f"it has {scans} scans, which take too long to decode")


class _Memory:
    """Lets threads that decode at the same time wait for memory."""

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
