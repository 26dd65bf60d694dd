"""Read the arrays of an NPZ. Sizes are checked before anything is unpacked; nothing is unpickled."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files
from fedhelp_edge.data import budget
from fedhelp_edge.errors import BadNpzError

_MAGIC = b"\x93NUMPY"
_HEADER_LIMIT = 1 << 13  # bytes
# what zipfile and numpy raise on a damaged file
_DAMAGE = (ValueError, EOFError, KeyError, TypeError, RuntimeError, SyntaxError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class NpyHeader:
    """The shape and type that an array claims to have."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


class NpzArchive:
    """An open NPZ: a mapping of names to arrays."""

    def __init__(self, file: BinaryIO) -> None:
        self._zip = zipfile.ZipFile(_BoundedReader(file))
        self._members = {member.filename.removesuffix(".npy"): member for member in self._zip.infolist()}
        unpacked = sum(member.file_size for member in self._members.values())
        if unpacked > budget.UNPACKED:
            raise BadNpzError(f"it unpacks to more than {budget.UNPACKED >> 30} GiB")
        if unpacked > max(budget.ALWAYS_UNPACKED, budget.UNPACK_RATIO * file.seek(0, 2)):
            raise BadNpzError(f"it unpacks to more than {budget.UNPACK_RATIO} times its size")

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def header(self, name: str) -> NpyHeader:
        """Read the header of an array."""
        with self._open_member(name) as (_, header):
            return header

    def array(self, name: str, limit: int = budget.ARRAY_SIZE) -> NDArray[Any]:
        """Read a whole array of at most `limit` bytes."""
        with self._open_member(name) as (file, header):
            if header.size > limit:
                raise BadNpzError(f"'{name}' is larger than {limit:,} bytes")
            return _as_array(_read_exactly(file, header.size), header)

    def rows(self, name: str) -> Iterator[NDArray[Any]]:
        """Yield the entries of an array one by one."""
        with self._open_member(name) as (file, header):
            if not header.fortran_order:
                row = NpyHeader(header.shape[1:], header.dtype, False)
                for _ in range(header.shape[0]):
                    yield _as_array(_read_exactly(file, row.size), row)
                return
        yield from self.array(name)

    @contextmanager
    def _open_member(self, name: str) -> Iterator[tuple[IO[bytes], NpyHeader]]:
        """Open an array; the file stands at its first value."""
        member = self._members[name]
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadNpzError("it uses a compression that NPZ files do not have")
        with self._zip.open(member) as file:
            preamble = _read_exactly(file, len(_MAGIC) + 2)
            is_version_1 = preamble[len(_MAGIC)] == 1
            length = _read_exactly(file, 2 if is_version_1 else 4)
            size = int.from_bytes(length, "little")
            if preamble[: len(_MAGIC)] != _MAGIC or size > _HEADER_LIMIT:
                raise BadNpzError(f"'{name}' is not an array")
            read = np.lib.format.read_array_header_1_0 if is_version_1 else np.lib.format.read_array_header_2_0
            shape, fortran_order, dtype = read(io.BytesIO(length + _read_exactly(file, size)))
            if dtype.hasobject:
                raise BadNpzError("it holds pickled objects, which are never read")
            header = NpyHeader(shape, dtype, fortran_order)
            if min(shape, default=0) < 0 or len(preamble) + len(length) + size + header.size != member.file_size:
                raise BadNpzError(f"the size of '{name}' differs from its header")
            yield file, header


@contextmanager
def open_archive(path: Path) -> Iterator[NpzArchive]:
    """Open an NPZ; whatever is wrong with it raises `BadNpzError`."""
    try:
        with files.reading(path) as file:
            if file.read(len(_MAGIC)) == _MAGIC:
                raise BadNpzError("it holds one array, not several with names")
            yield NpzArchive(file)
    except _DAMAGE as error:
        raise BadNpzError(f"{path.name} is damaged", remedy="copy the file again from where it came from") from error
    except BadNpzError as error:
        error.cause = f"{path.name}: {error.cause}"
        raise


class _BoundedReader:
    """A file that refuses a read larger than the list of arrays of a genuine NPZ."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._end = file, file.seek(0, 2)

    def read(self, size: int = -1) -> bytes:
        size = size if size >= 0 else self._end - self._file.tell()
        if size > budget.READ_SIZE:
            raise BadNpzError("its list of arrays is too long")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0 and offset < 0:
            raise BadNpzError("it is damaged")
        return self._file.seek(offset, whence)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _as_array(data: bytearray, header: NpyHeader) -> NDArray[Any]:
    order: Literal["F", "C"] = "F" if header.fortran_order else "C"
    values: NDArray[Any] = np.ndarray(header.shape, header.dtype, data, order=order)
    return values


def _read_exactly(file: IO[bytes], size: int) -> bytearray:
    """Read exactly `size` bytes; memory grows only as they arrive."""
    data = bytearray()
    while len(data) < size:
        part = file.read(min(size - len(data), budget.READ_SIZE))
        if not part:
            raise BadNpzError("it ends too early")
        data += part
    return data
