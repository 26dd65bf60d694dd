"""An update: named arrays and facts, as safetensors in one canonical form.

This bounded parser alone reads untrusted bytes. It checks the header's length and encoding, the layout, the names,
shapes and number formats before it makes an array. It checks the values before the array is used.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import mmap
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files
from fedhelp_edge.errors import (
    NonFiniteError,
    NormStatisticsError,
    NotSafetensorsError,
    NumberRangeError,
    ProbabilitiesError,
    SchemaDtypeError,
    SchemaNamesError,
    SchemaShapeError,
    TensorHeaderError,
    TensorLayoutError,
    TensorMetadataError,
)
from fedhelp_edge.safe_text import shortened

Array = NDArray[Any]

HEADER_LIMIT = 64 << 10  # of an update; a pack's is allowed more
_ROW_TOLERANCE = 2e-3  # of a row's sum: half precision rounds each probability by up to 0.05 %
MAX_MAGNITUDE = 1e4  # no trained weight or statistic comes near; a larger value is an accident or an attack
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "F64": np.dtype("<f8"),
    "U8": np.dtype("u1"), "I8": np.dtype("i1"), "I32": np.dtype("<i4"), "I64": np.dtype("<i8"),
}  # fmt: skip
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_OTHER_MAGICS = (
    b"\x80\x02",
    b"\x80\x03",
    b"\x80\x04",
    b"\x80\x05",
    b"PK\x03\x04",
    b"\x93NUMPY",
    b"\x1f\x8b",
    b"\x89PNG",
)
# What merging does with a tensor. Weights, norm layers and their running statistics are averaged by the plan's rule,
# limited and watched; so are control variates. Norm layers and statistics stay at the site where the plan says so. Of
# "even" tensors the plain mean is taken. A "table" is for the method's own merger; "probabilities" are a table whose
# rows each sum to 1. A "sum" is a table that the merger adds.
Role = Literal["weight", "norm", "stat", "control", "even", "table", "probabilities", "sum"]
RoleOf = Callable[[str], Role]
LIMITED_ROLES = frozenset({"weight", "norm"})  # whose change the norm limit of a secure sum counts
TABLE_ROLES = ("table", "probabilities", "sum")

_SCHEMA_LINE = re.compile(
    r"([A-Za-z0-9_.\-]{1,200}) ([A-Z][0-9]{1,2}) ([1-9][0-9]{0,9}(?:x[1-9][0-9]{0,9})*|scalar)"
    rf"(?: ({'|'.join(get_args(Role))}))?"
)


def role_by_name(name: str) -> Role:
    """The role of a tensor whose schema names none: PyTorch's ResNets call their norm layers bn1, bn2, …"""
    if ".running_" in f".{name}":
        return "stat"
    return "norm" if ".bn" in f".{name}" else "weight"


@dataclass(frozen=True)
class TensorSpec:
    """Name, number format, shape and role of one tensor."""

    name: str
    dtype: str  # as safetensors names it: F32, F16, …
    shape: tuple[int, ...]
    role: Role = ""  # type: ignore[assignment]  # none named: by its name
    free: bool = False  # on the wire: the first side is a bound

    def __post_init__(self) -> None:
        if not self.role:
            object.__setattr__(self, "role", role_by_name(self.name))

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * _DTYPES[self.dtype].itemsize

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape is one of these."""
        return shape == self.shape or (self.free and shape[1:] == self.shape[1:] and 0 < shape[0] <= self.shape[0])

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "scalar"
        return f"{self.name} {self.dtype} {shape}" + (f" {self.role}" if self.role != role_by_name(self.name) else "")


@dataclass(frozen=True)
class Schema:
    """Exactly the tensors of an update, in this order."""

    tensors: tuple[TensorSpec, ...]

    def lines(self) -> list[str]:
        """One line for each tensor, as a task has it: `name dtype 64x16x3x3`, and its role where no name tells it."""
        return [str(tensor) for tensor in self.tensors]

    @property
    def averaged(self) -> bool:
        """Whether any tensor is averaged: one that is no table."""
        return any(tensor.role not in TABLE_ROLES for tensor in self.tensors)

    @property
    def adds(self) -> bool:
        """Whether all tensors are sums, so that a model without a site is the sum of the others."""
        return bool(self.tensors) and all(tensor.role == "sum" for tensor in self.tensors)

    def role_of(self, name: str) -> Role:
        """The role of the tensor of this name."""
        return self._roles[name]

    @cached_property
    def _roles(self) -> dict[str, Role]:
        return {tensor.name: tensor.role for tensor in self.tensors}

    @cached_property
    def header_bytes(self) -> bytes:
        """The first bytes of every file of this schema."""
        return _format_header(self.tensors)

    @cached_property
    def header(self) -> TensorHeader:
        """The parsed header of every file of this schema."""
        ends = list(itertools.accumulate((tensor.size for tensor in self.tensors), initial=0))
        return TensorHeader(tuple(zip(self.tensors, ends[:-1], strict=True)), len(self.header_bytes), {}, True)

    @cached_property
    def size(self) -> int:
        """The length of the safetensors file in bytes, known before it is written and equal for all sites."""
        return len(self.header_bytes) + sum(tensor.size for tensor in self.tensors)

    @classmethod
    def parse(cls, lines: Iterable[str]) -> Schema:
        """Parse the lines of a task; raise if one does not describe a tensor."""
        tensors = []
        for line in lines:
            match = _SCHEMA_LINE.fullmatch(line)
            if not match or match[2] not in _DTYPES:
                raise SchemaNamesError(f"{line[:60]!r} does not describe a tensor")
            shape = () if match[3] == "scalar" else tuple(map(int, match[3].split("x")))
            tensors.append(TensorSpec(match[1], match[2], shape, cast(Role, match[4] or "")))
        if len({tensor.name for tensor in tensors}) < len(tensors):
            raise SchemaNamesError("a name is repeated")
        return cls(tuple(tensors))


def schema_of(arrays: Mapping[str, Array]) -> Schema:
    """The schema of arrays, with the roles that their names tell."""
    return Schema(tuple(TensorSpec(name, _DTYPE_NAMES[array.dtype], array.shape) for name, array in arrays.items()))


def write(file: BinaryIO, arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays as canonical safetensors, in their order, one at a time in memory. An update has no metadata."""
    file.write(_format_header(schema_of(arrays).tensors, metadata))
    for array in arrays.values():
        file.write(array.tobytes())


class FileArrays(Mapping[str, Array]):
    """The arrays of a safetensors file, each read on access; from bytes or a memory map nothing is copied."""

    def __init__(self, file: BinaryIO | bytes | mmap.mmap, header: TensorHeader) -> None:
        self._file, self._places = file, header.locations

    def __getitem__(self, name: str) -> Array:
        dtype, shape, count, offset = self._places[name]
        if isinstance(self._file, bytes | mmap.mmap):
            return np.frombuffer(self._file, dtype, count, offset).reshape(shape)
        self._file.seek(offset)
        return np.frombuffer(self._file.read(count * dtype.itemsize), dtype).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True)
class TensorHeader:
    """The header of a safetensors file: each tensor and its offset, counted from `start`."""

    entries: tuple[tuple[TensorSpec, int], ...]
    start: int
    metadata: Mapping[str, str]
    canonical: bool

    @cached_property
    def locations(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...], int, int]]:
        """Of each array: dtype, shape, number of elements, and offset in the file."""
        return {
            tensor.name: (_DTYPES[tensor.dtype], tensor.shape, math.prod(tensor.shape), self.start + begin)
            for tensor, begin in self.entries
        }


def read_header(file: BinaryIO, *, limit: int = HEADER_LIMIT, metadata: Sequence[str] | None = ()) -> TensorHeader:
    """Read and check the header of a whole safetensors file; only the given metadata keys are allowed, None: any."""
    end = file.seek(0, 2)
    file.seek(0)
    prefix = file.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    if not 2 <= length <= min(limit, end - 8):
        if prefix.startswith(_OTHER_MAGICS):
            raise NotSafetensorsError("this is another kind of file, and it is never opened")
        raise TensorHeaderError("the header has an impossible or forbidden length")
    header = file.read(length)
    entries, found_metadata = _parse_header(header, metadata)
    expected = 0
    for tensor, begin, stop in entries:
        if begin != expected or stop - begin != tensor.size:
            raise TensorLayoutError("the tensors do not follow one another without gaps")
        expected = stop
    if expected != end - 8 - length:
        raise TensorLayoutError("the tensors do not fill the file")
    tensors = tuple(tensor for tensor, _, _ in entries)
    return TensorHeader(
        tuple((tensor, begin) for tensor, begin, _ in entries),
        8 + length,
        found_metadata,
        prefix + header == _format_header(tensors, found_metadata),
    )


def load(
    source: Path | BinaryIO | bytes, *, limit: int = HEADER_LIMIT, metadata: Sequence[str] | None = ()
) -> dict[str, Array]:
    """Load all arrays of a whole safetensors file whose schema is not known; of bytes nothing is copied."""
    if isinstance(source, Path):
        with files.reading(source) as file:
            return load(file, limit=limit, metadata=metadata)
    header = read_header(io.BytesIO(source) if isinstance(source, bytes) else source, limit=limit, metadata=metadata)
    return dict(FileArrays(source, header))


def read(file: BinaryIO, schema: Schema) -> FileArrays:
    """Read the arrays of an untrusted file that must match `schema` in canonical form. All are in memory.

    A header is accepted only if it matches byte for byte; any other one is parsed just to say what is wrong with it.
    """
    if file.seek(0, 2) == schema.size:
        file.seek(0)
        if (data := file.read(schema.size)).startswith(schema.header_bytes):
            return FileArrays(data, schema.header)
    header = read_header(file)
    check_schema([tensor for tensor, _ in header.entries], schema)
    if not header.canonical or not any(tensor.free for tensor in schema.tensors):
        raise TensorLayoutError("not in canonical form")
    file.seek(0)
    return FileArrays(file.read(), header)


def check_schema(tensors: Sequence[TensorSpec], schema: Schema) -> None:
    """Raise unless the tensors are those of the schema, in its order."""
    expected = {tensor.name: tensor for tensor in schema.tensors}
    names = [tensor.name for tensor in tensors]
    if set(names) != set(expected):
        differing = sorted(set(names) ^ set(expected))
        raise SchemaNamesError(f"names that differ: {shortened((repr(name[:60]) for name in differing), 1)}")
    for tensor in tensors:
        if tensor.dtype != expected[tensor.name].dtype:
            raise SchemaDtypeError(f"{tensor.name} is {tensor.dtype}, not {expected[tensor.name].dtype}")
        if not expected[tensor.name].fits(tensor.shape):
            raise SchemaShapeError(f"{tensor.name} has another shape")
    if names != list(expected):
        raise TensorLayoutError("the tensors have another order")


def check_values(arrays: Mapping[str, Array], *, largest: float = MAX_MAGNITUDE) -> None:
    """Refuse values that training never gives: NaN, infinite or huge ones. One array is in memory at a time."""
    for name in arrays:
        array = arrays[name]
        if array.dtype.kind != "f":
            continue
        low, high = array.min(initial=0), array.max(initial=0)
        in_range = -largest <= low <= high <= largest  # false for NaN, which is then both low and high
        if not in_range and not np.isfinite(array).all():
            raise NonFiniteError(f"{name}: {int((~np.isfinite(array)).sum())} of {array.size} are NaN or infinite")
        if name.endswith("running_var") and (low < 0 or not high):
            raise NormStatisticsError(f"{name}: a variance below zero, or none above")
        if not in_range:
            raise NumberRangeError(f"{name}: a value beyond {largest:g}")


def check_probabilities(arrays: Mapping[str, Array], schema: Schema) -> None:
    """Refuse rows that are no probabilities, in the tensors that have this role."""
    for tensor in schema.tensors:
        if tensor.role != "probabilities":
            continue
        rows = arrays[tensor.name]
        errors = np.abs(rows.sum(-1, dtype=np.float64) - 1)
        wrong = ~((errors <= _ROW_TOLERANCE) & (rows.min(-1) >= 0))  # true for NaN
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ProbabilitiesError(f"{tensor.name}: {int(wrong.sum())} of {len(rows)} rows; the first is row {row}")


def _format_header(tensors: Sequence[TensorSpec], metadata: Mapping[str, str] | None = None) -> bytes:
    """The canonical header: the tensors in their order, padded with spaces to a multiple of 8 bytes."""
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, offset + tensor.size],
        }  # fmt: skip
        offset += tensor.size
    text = json.dumps(entries, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _parse_header(
    text: bytes, allowed: Sequence[str] | None
) -> tuple[list[tuple[TensorSpec, int, int]], dict[str, str]]:
    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise TensorLayoutError("a name is repeated")
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=members)
    except (ValueError, RecursionError) as error:
        raise NotSafetensorsError("the header is not JSON") from error
    if not isinstance(value, dict):
        raise NotSafetensorsError("the header is not a JSON object")
    metadata = value.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(text_value, str) and (allowed is None or key in allowed) for key, text_value in metadata.items()
    ):
        raise TensorMetadataError("metadata that is not allowed")
    return sorted((_parse_entry(name, entry) for name, entry in value.items()), key=lambda entry: entry[1]), metadata


def _parse_entry(name: str, entry: Any) -> tuple[TensorSpec, int, int]:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(stop)]} if len(entry) == 3:
            if dtype not in _DTYPES:
                raise SchemaDtypeError(f"{name[:60]!r} is {dtype[:8]!r}, which is not a known number format")
            if not all(type(side) is int and 0 < side < 2**31 for side in shape) or len(shape) > 8:
                raise SchemaShapeError(f"{name[:60]!r} has an impossible side")
            return TensorSpec(name, dtype, tuple(shape)), begin, stop
    raise TensorLayoutError(f"{name[:60]!r} is not described as a tensor")
