"""A share: named arrays and facts, as safetensors in one canonical form.

Bytes from outside are read by the bounded parser here and by nothing else: the header's length, its spelling, the
layout, the names, shapes and number formats are all judged before an array is made, and the numbers before it is used.
"""

from __future__ import annotations

import itertools
import json
import math
import mmap
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.errors import (
    NonFiniteError,
    NormStatisticsError,
    NotSafetensorsError,
    NumberRangeError,
    SchemaDtypeError,
    SchemaNamesError,
    SchemaShapeError,
    TensorHeaderError,
    TensorLayoutError,
    TensorMetadataError,
)

Array = NDArray[Any]

HEADER_LIMIT = 64 << 10  # of an update; a pack's is allowed more
LARGEST = 1e4  # no trained weight or statistic comes near; what does is an accident or an attack
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "F64": np.dtype("<f8"),
    "U8": np.dtype("u1"), "I8": np.dtype("i1"), "I32": np.dtype("<i4"), "I64": np.dtype("<i8"),
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_OTHERS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04", b"\x93NUMPY", b"\x1f\x8b", b"\x89PNG")
_LINE = re.compile(r"([A-Za-z0-9_.\-]{1,200}) ([A-Z][0-9]{1,2}) ([1-9][0-9]{0,9}(?:x[1-9][0-9]{0,9})*|scalar)")


@dataclass(frozen=True)
class Tensor:
    """What may travel under a name."""

    name: str
    dtype: str  # as safetensors names it: F32, F16, …
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * _DTYPES[self.dtype].itemsize

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {'x'.join(map(str, self.shape)) or 'scalar'}"


@dataclass(frozen=True)
class Schema:
    """Exactly what travels, in this order. `table` is for logits and prototypes, `weights` for what is averaged."""

    tensors: tuple[Tensor, ...]
    holds: str = "weights"

    def lines(self) -> list[str]:
        """As a task carries it: `name dtype 64x16x3x3`."""
        return [str(tensor) for tensor in self.tensors]

    @cached_property
    def spelled(self) -> bytes:
        """How every file that holds exactly this begins."""
        return _header(self.tensors)

    @cached_property
    def header(self) -> Header:
        """The header of every file that was found to be exactly this."""
        ends = list(itertools.accumulate((tensor.size for tensor in self.tensors), initial=0))
        return Header(tuple(zip(self.tensors, ends[:-1], strict=True)), len(self.spelled), {}, True)

    @cached_property
    def size(self) -> int:
        """The length of the safetensors file, known before it is written: every site's has the same."""
        return len(self.spelled) + sum(tensor.size for tensor in self.tensors)

    @classmethod
    def parse(cls, lines: Iterable[str], holds: str = "weights") -> Schema:
        tensors = []
        for line in lines:
            found = _LINE.fullmatch(line)
            if not found or found[2] not in _DTYPES:
                raise SchemaNamesError(f"{line[:60]!r} does not describe a tensor")
            shape = () if found[3] == "scalar" else tuple(map(int, found[3].split("x")))
            tensors.append(Tensor(found[1], found[2], shape))
        if len({tensor.name for tensor in tensors}) < len(tensors):
            raise SchemaNamesError("a name stands twice")
        return cls(tuple(tensors), holds)


@dataclass(frozen=True)
class Share:
    """Named arrays and facts (examples, metrics)."""

    arrays: Mapping[str, Array]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def schema(self, holds: str = "weights") -> Schema:
        return Schema(tuple(Tensor(name, _NAMES[a.dtype], a.shape) for name, a in self.arrays.items()), holds)


def write(file: BinaryIO, arrays: Mapping[str, Array], notes: Mapping[str, str] | None = None) -> None:
    """The canonical safetensors of arrays, in the order in which they stand, tensor by tensor. A share has no notes."""
    file.write(_header(Share(arrays).schema().tensors, notes))
    for array in arrays.values():
        file.write(array.tobytes())


class Arrays(Mapping[str, Array]):
    """The arrays of a safetensors file, each read when it is asked for; out of memory or a map, nothing is copied."""

    def __init__(self, file: BinaryIO | bytes | mmap.mmap, header: Header) -> None:
        self._file, self._places = file, header.places

    def __getitem__(self, name: str) -> Array:
        dtype, shape, count, at = self._places[name]
        if isinstance(self._file, bytes | mmap.mmap):
            return np.frombuffer(self._file, dtype, count, at).reshape(shape)
        self._file.seek(at)
        return np.frombuffer(self._file.read(count * dtype.itemsize), dtype).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True)
class Header:
    """What a safetensors file says it holds: each tensor and where it begins, counted from `start`."""

    entries: tuple[tuple[Tensor, int], ...]
    start: int
    metadata: Mapping[str, str]
    canonical: bool

    @cached_property
    def places(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...], int, int]]:
        """Of each array: its numbers' format, its shape, how many they are, and where in the file they begin."""
        return {
            tensor.name: (_DTYPES[tensor.dtype], tensor.shape, math.prod(tensor.shape), self.start + begin)
            for tensor, begin in self.entries
        }


def read_header(file: BinaryIO, *, limit: int = HEADER_LIMIT, metadata: Sequence[str] = ()) -> Header:
    """Read and judge the header of a whole safetensors file; only the named keys of metadata are allowed in it."""
    end = file.seek(0, 2)
    file.seek(0)
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= min(limit, end - 8):
        if start.startswith(_OTHERS):
            raise NotSafetensorsError("this is another kind of file, which is never opened")
        raise TensorHeaderError("an impossible or forbidden length")
    text = file.read(length)
    entries, notes = _read_text(text, metadata)
    at = 0
    for tensor, begin, stop in entries:
        if begin != at or stop - begin != tensor.size:
            raise TensorLayoutError("the tensors do not follow one another without gaps")
        at = stop
    if at != end - 8 - length:
        raise TensorLayoutError("the tensors do not fill the file")
    tensors = tuple(tensor for tensor, _, _ in entries)
    return Header(
        tuple((tensor, begin) for tensor, begin, _ in entries),
        8 + length,
        notes,
        start + text == _header(tensors, notes),
    )


def read(file: BinaryIO, schema: Schema) -> Arrays:
    """The arrays of an untrusted file that must be exactly what `schema` says, in its one spelling: all in memory.

    Only a header that is that spelling to the byte is taken; any other is read to say what is wrong with it.
    """
    if file.seek(0, 2) == schema.size:
        file.seek(0)
        if (data := file.read(schema.size)).startswith(schema.spelled):
            return Arrays(data, schema.header)
    check_schema([tensor for tensor, _ in read_header(file).entries], schema)
    raise TensorLayoutError("not in the one canonical spelling")


def check_schema(found: Sequence[Tensor], schema: Schema) -> None:
    wanted = {tensor.name: tensor for tensor in schema.tensors}
    names = [tensor.name for tensor in found]
    if set(names) != set(wanted):
        odd = sorted(set(names) ^ set(wanted))
        raise SchemaNamesError(f"{len(odd)} names differ, the first is {odd[0][:60]!r}")
    for tensor in found:
        if tensor.dtype != wanted[tensor.name].dtype:
            raise SchemaDtypeError(f"{tensor.name} is {tensor.dtype}, not {wanted[tensor.name].dtype}")
        if tensor.shape != wanted[tensor.name].shape:
            raise SchemaShapeError(f"{tensor.name} has another shape")
    if names != list(wanted):
        raise TensorLayoutError("the tensors stand in another order")


def check_numbers(arrays: Mapping[str, Array], *, largest: float = LARGEST) -> None:
    """Refuse numbers that training does not give. One array is in memory at a time."""
    for name in arrays:
        array = arrays[name]
        if array.dtype.kind != "f":
            continue
        low, high = array.min(initial=0), array.max(initial=0)
        near = -largest <= low <= high <= largest  # not so where one is no number: then that is both low and high
        if not near and not np.isfinite(array).all():
            raise NonFiniteError(f"{name}: {int((~np.isfinite(array)).sum())} of {array.size} are no numbers")
        if name.endswith("running_var") and (low < 0 or not high):
            raise NormStatisticsError(f"{name}: a variance below zero, or none above")
        if not near:
            raise NumberRangeError(f"{name}: a number beyond {largest:g}")


def _header(tensors: Sequence[Tensor], notes: Mapping[str, str] | None = None) -> bytes:
    """The one spelling: the order of the tensors, no spaces but those that bring the data to a multiple of 8."""
    entries: dict[str, Any] = {"__metadata__": dict(sorted(notes.items()))} if notes else {}
    at = 0
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [at, at + tensor.size],
        }  # fmt: skip
        at += tensor.size
    text = json.dumps(entries, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _read_text(text: bytes, allowed: Sequence[str]) -> tuple[list[tuple[Tensor, int, int]], dict[str, str]]:
    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise TensorLayoutError("a name stands twice")
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=members)
    except (ValueError, RecursionError):
        raise NotSafetensorsError("the header is not JSON") from None
    if not isinstance(value, dict):
        raise NotSafetensorsError("the header is not a JSON object")
    notes = value.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(n, str) and k in allowed for k, n in notes.items()):
        raise TensorMetadataError("notes that are not allowed")
    return sorted((_entry(name, entry) for name, entry in value.items()), key=lambda entry: entry[1]), notes


def _entry(name: str, entry: Any) -> tuple[Tensor, int, int]:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(stop)]} if len(entry) == 3:
            if dtype not in _DTYPES:
                raise SchemaDtypeError(f"{name[:60]!r} is {dtype[:8]!r}, which does not travel")
            if not all(type(side) is int and 0 < side < 2**31 for side in shape) or len(shape) > 8:
                raise SchemaShapeError(f"{name[:60]!r} has a side that cannot be")
            return Tensor(name, dtype, tuple(shape)), begin, stop
    raise TensorLayoutError(f"{name[:60]!r} is not described as a tensor")
