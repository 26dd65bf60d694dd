"""Read the wire format of protobuf, as far as an ONNX file needs it, without a library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedhelp_edge.errors import BadBundleError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types

Value = int | memoryview
Message = dict[int, list[Value]]
_MAX_FIELDS = 1 << 20  # of one message: more would take a reader minutes


def read_fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """Yield each field's number and value: an integer, or the bytes of anything else."""
    offset = 0
    while offset < len(message):
        key, offset = read_varint(message, offset)
        number, wire_type = key >> 3, key & 7
        if wire_type == VARINT:
            value, offset = read_varint(message, offset)
            yield number, value
            continue
        if wire_type == BYTES:
            size, offset = read_varint(message, offset)
        elif wire_type in (FIXED32, FIXED64):
            size = 4 if wire_type == FIXED32 else 8
        else:
            raise BadBundleError("it is not an ONNX file")
        if offset + size > len(message):
            raise BadBundleError("it ends too early")
        yield number, message[offset : offset + size]
        offset += size


def read_varint(message: memoryview, offset: int) -> tuple[int, int]:
    """Read an unsigned integer; return it and the offset behind it."""
    value = 0
    for index in range(10):
        if offset + index >= len(message):
            break
        byte = message[offset + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, offset + index + 1
    raise BadBundleError("it is not an ONNX file")


def to_int64(value: int) -> int:
    """Convert the unsigned number of the same bits to an int64."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def unpack_int64s(values: Sequence[Value]) -> list[int]:
    """Read a repeated int64: each field holds one number, or many packed together."""
    numbers: list[int] = []
    for value in values:
        if isinstance(value, int):
            numbers.append(to_int64(value))
            continue
        offset = 0
        while offset < len(value):
            number, offset = read_varint(value, offset)
            numbers.append(to_int64(number))
    return numbers


def read_message(
    data: Value, allowed: set[int] | None, what: str, once: frozenset[int] | set[int] = frozenset()
) -> Message:
    """Read a whole message: the values of each field. Fields that are not allowed, or come again, are refused."""
    message: Message = {}
    for count, (number, value) in enumerate(read_fields(as_bytes(data))):
        if count == _MAX_FIELDS:
            raise BadBundleError(f"{what} has more than {_MAX_FIELDS} fields")
        if allowed is not None and number not in allowed:
            raise BadBundleError(f"{what} holds something that no model of this kit has (field {number})")
        message.setdefault(number, []).append(value)
        if number in once and len(message[number]) > 1:
            raise BadBundleError("it has a field twice")
    return message


def text_field(message: Message, number: int) -> str:
    """The text of a field; "" if there is none."""
    return decode_text(message[number][-1]) if number in message else ""


def decode_text(value: Value) -> str:
    """A value as text."""
    return bytes(as_bytes(value)).decode("utf-8", "replace")


def as_bytes(value: Value) -> memoryview:
    """A value that is no number."""
    if isinstance(value, int):
        raise BadBundleError("it is not an ONNX file")
    return value
