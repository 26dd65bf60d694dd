"""Canonical JSON: each value has one encoding, and every other encoding is refused.

Values are printable-ASCII strings, integers from 0 to 2^53 - 1, booleans, arrays and objects with keys of
`[a-z0-9_]{1,32}`. For these RFC 8785 and `json.dumps` with sorted keys and no spaces agree, so each checks the other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from fedhelp_edge.errors import StatementCanonError, StatementDepthError, StatementTypeError

Value = str | int | bool | Sequence["Value"] | Mapping[str, "Value"]

MAX_DEPTH = 4  # an object in an object in an object in an object
MAX_MEMBERS = 64  # of one object; arrays are bounded by the length of the line
_KEY_PATTERN = re.compile(r"[a-z0-9_]{1,32}")
_STRING_PATTERN = re.compile(r"[\x20-\x7e]*")
_OUTSIDE_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"?')


def encode(value: Value) -> bytes:
    """Encode a value, without a line end."""
    _check(value, MAX_DEPTH)
    return _dump(value)


def decode(line: bytes) -> Value:
    """Decode a line (without its line end), which must be exactly what `encode` gives for its value."""
    if nesting_depth(line) > MAX_DEPTH:
        raise StatementDepthError(f"nested more than {MAX_DEPTH} deep")
    try:
        value: Value = json.loads(
            line.decode("ascii"),
            object_pairs_hook=_unique_members,
            parse_float=_refuse_fraction,
            parse_constant=_refuse_fraction,
        )
    except UnicodeDecodeError as error:
        raise StatementTypeError("a character outside ASCII") from error
    except ValueError as error:  # covers JSONDecodeError and integers of more digits than Python reads
        raise StatementCanonError("not JSON") from error
    _check(value, MAX_DEPTH)
    if _dump(value) != line:
        raise StatementCanonError("not in canonical form")
    return value


def shape_error(value: Any, shape: Any, what: str) -> str:
    """Why a value does not have a shape, or "".

    A shape is a type, a pattern for a whole string, a list of one shape, or an object of shapes with exactly its keys.
    """
    match shape:
        case dict():
            if not isinstance(value, Mapping) or value.keys() != shape.keys():
                return f"{what} should hold exactly {', '.join(sorted(shape))}"
            return next(
                filter(None, (shape_error(value[name], part_shape, name) for name, part_shape in shape.items())), ""
            )
        case list():
            if not isinstance(value, list):
                return f"{what} should be a list"
            return next(filter(None, (shape_error(item, shape[0], what) for item in value)), "")
        case re.Pattern():
            return "" if isinstance(value, str) and shape.fullmatch(value) else f"{what} is malformed"
        case _:
            return "" if type(value) is shape else f"{what} is malformed"


def _dump(value: Value) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def nesting_depth(line: bytes) -> int:
    """The depth of the brackets, counted without recursion before any parser recurses: a deep line crashes nothing."""
    depth = deepest = 0
    for byte in _OUTSIDE_STRINGS.sub(b"", line):
        depth += (byte in b"{[") - (byte in b"}]")
        deepest = max(deepest, depth)
    return deepest


def _unique_members(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise StatementCanonError("a key is repeated")
    return members


def _refuse_fraction(text: str) -> NoReturn:
    raise StatementTypeError(f"{text[:20]} is not a whole number")


def _check(value: Any, depth: int) -> None:
    match value:
        case bool():
            pass
        case int():
            if not 0 <= value < 2**53:
                raise StatementTypeError("a whole number below 0 or above 2^53 - 1")
        case str():
            if not _STRING_PATTERN.fullmatch(value):
                raise StatementTypeError("a string with a character outside printable ASCII")
        case list() | dict() if depth == 0:
            raise StatementDepthError(f"nested more than {MAX_DEPTH} deep")
        case list():
            for item in value:
                _check(item, depth - 1)
        case dict():
            if len(value) > MAX_MEMBERS:
                raise StatementTypeError(f"an object of more than {MAX_MEMBERS} members")
            for key, item in value.items():
                if not isinstance(key, str) or not _KEY_PATTERN.fullmatch(key):
                    raise StatementTypeError("a key outside [a-z0-9_], empty or longer than 32 letters")
                _check(item, depth - 1)
        case _:
            raise StatementTypeError(f"a value of kind {type(value).__name__}")
