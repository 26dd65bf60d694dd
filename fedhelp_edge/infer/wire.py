"""The wire format of protobuf, as far as reading an ONNX file without its library takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedhelp_edge.errors import BadBundleError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # how a field says how long it is

Value = int | memoryview


def fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """Each field's number with its value: a whole number, or the bytes of anything else."""
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = varint(message, at)
            yield number, value
            continue
        if kind == BYTES:
            size, at = varint(message, at)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise BadBundleError("it is no ONNX file")
        if at + size > len(message):
            raise BadBundleError("it ends too early")
        yield number, message[at : at + size]
        at += size


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """An unsigned whole number, and where it ends."""
    value = 0
    for place in range(10):
        if at + place >= len(message):
            break
        byte = message[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise BadBundleError("it is no ONNX file")


def signed(value: int) -> int:
    """An int64, which travels as the unsigned number of the same bits."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def integers(values: Sequence[Value]) -> list[int]:
    """A repeated int64: each field holds one, or many packed together."""
    found: list[int] = []
    for value in values:
        if isinstance(value, int):
            found.append(signed(value))
            continue
        at = 0
        while at < len(value):
            number, at = varint(value, at)
            found.append(signed(number))
    return found
