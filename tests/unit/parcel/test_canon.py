"""Canonical JSON: each value has one spelling, and no other is accepted."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
import rfc8785
from hypothesis import assume, given
from hypothesis import strategies as st

from fedhelp_edge.errors import FedhelpError, StatementCanonError, StatementDepthError, StatementTypeError
from fedhelp_edge.parcel import canon

LEAVES = st.booleans() | st.integers(0, 2**53 - 1) | st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E))
KEYS = st.text(string.ascii_lowercase + string.digits + "_", min_size=1, max_size=32)


def values(depth: int) -> st.SearchStrategy[Any]:
    if not depth:
        return LEAVES
    inner = values(depth - 1)
    return LEAVES | st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4)


VALUES = values(canon.MAX_DEPTH)


def depth_of(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if parts is None else 1 + max(map(depth_of, parts), default=0)


def backwards(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: backwards(value[key]) for key in sorted(value, reverse=True)}
    return [backwards(item) for item in value] if isinstance(value, list) else value


@given(VALUES)
def test_an_encoded_value_is_decoded_again(value: Any) -> None:
    assert canon.decode(canon.encode(value)) == value


@given(VALUES)
def test_rfc_8785_writes_the_same_bytes(value: Any) -> None:
    assert rfc8785.dumps(value) == canon.encode(value)


@given(VALUES, st.data())
def test_an_altered_line_is_refused_or_is_the_canonical_form_of_another_value(value: Any, data: st.DataObject) -> None:
    line = canon.encode(value)
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(line))] * 2)))
    altered = line[:start] + data.draw(st.binary(max_size=3)) + line[end:]
    assume(altered != line)
    try:
        decoded = canon.decode(altered)
    except FedhelpError:
        return
    assert canon.encode(decoded) == altered
    assert (decoded, repr(decoded)) != (value, repr(value))


@given(VALUES, st.sampled_from(["spaces", "order", "escapes", "before", "after"]))
def test_another_encoding_of_the_same_value_is_refused(value: Any, how: str) -> None:
    line = canon.encode(value)
    other = {
        "spaces": json.dumps(value, sort_keys=True).encode(),
        "order": json.dumps(backwards(value), separators=(",", ":")).encode(),
        "escapes": line.replace(b'"a', b'"\\u0061'),
        "before": b" " + line,
        "after": line + b"\n",
    }[how]
    assume(other != line)
    assert json.loads(other) == value
    with pytest.raises(StatementCanonError):
        canon.decode(other)


@given(VALUES)
def test_depth_is_counted_without_parsing(value: Any) -> None:
    assert canon.nesting_depth(canon.encode(value)) == depth_of(value)


@pytest.mark.parametrize(
    "value",
    [1.0, None, b"x", -1, 2**53, "ü", "\n", "\x7f", {"A": 1}, {"": 1}, {"a" * 33: 1}, {1: 1}, {"a-b": 1}, (1,), {2}],
)
def test_a_value_outside_the_subset_is_not_encoded(value: Any) -> None:
    with pytest.raises(StatementTypeError):
        canon.encode([value])


@pytest.mark.parametrize(
    "line",
    [
        b"1.0",
        b"1e1",
        b"NaN",
        b"-Infinity",
        b"null",
        b"-1",
        b"9007199254740992",
        b'"\\u0441"',
        b'"\xd1\x81"',
        b'{"A":1}',
    ],
)
def test_a_value_outside_the_subset_is_not_decoded(line: bytes) -> None:
    with pytest.raises(StatementTypeError):
        canon.decode(line)


@pytest.mark.parametrize(
    "line", [b"", b"{", b"01", b"-0", b"tru", b"1 2", b'{"a":1,"a":1}', b'{"a":1,}', b'"\\ud800', b"9" * 5000]
)
def test_text_that_is_not_canonical_json_is_refused(line: bytes) -> None:
    with pytest.raises(StatementCanonError):
        canon.decode(line)


@pytest.mark.parametrize("line", [b"[" * 5 + b"]" * 5, b'{"a":' * 5 + b"1" + b"}" * 5, b"[" * 100_000])
def test_a_line_nested_too_deeply_is_refused(line: bytes) -> None:
    with pytest.raises(StatementDepthError):
        canon.decode(line)


def test_a_value_nested_too_deeply_is_not_encoded() -> None:
    with pytest.raises(StatementDepthError):
        canon.encode([[[[[]]]]])


def test_brackets_in_a_string_do_not_count_as_depth() -> None:
    assert canon.decode(rb'"[[[[[[\"{{{{{{\\"') == '[[[[[["{{{{{{\\'


def test_an_object_has_at_most_64_members() -> None:
    members = {f"k{number}": number for number in range(64)}
    assert canon.decode(canon.encode(members)) == members
    with pytest.raises(StatementTypeError):
        canon.encode({**members, "one_more": 1})


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ({"n": 1}, True),
        ({"n": True}, False),
        ({"n": "1"}, False),
        ({}, False),
        ({"n": 1, "m": 1}, False),
        ([], False),
        ("n", False),
    ],
)
def test_a_shape_requires_exactly_its_keys_and_types(value: Any, fits: bool) -> None:
    assert (canon.shape_error(value, {"n": int}, "it") == "") is fits
