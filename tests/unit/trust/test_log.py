"""A log in which each line covers all previous ones."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from fedhelp_edge.errors import LogBrokenError
from fedhelp_edge.trust.log import Log, check_chain, line_hash

Written = list[tuple[dict[str, Any], str]]


def sample_lines(count: int) -> Written:
    lines: Written = []
    head = ""
    for seq in range(1, count + 1):
        line = {"seq": seq, "type": "open"}
        head = line_hash(head, line)
        lines.append((line, head))
    return lines


def test_a_line_covers_itself_and_the_previous_head() -> None:
    assert line_hash("aa", {"b": 1, "a": 2}) == hashlib.sha256(b'aa\n{"a":2,"b":1}').hexdigest()


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_whole_log_is_as_long_as_its_lines_and_ends_in_the_last_hash(count: int) -> None:
    lines = sample_lines(count)
    assert check_chain(lines) == Log(count, lines[-1][1] if lines else "")


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_missing_line_is_named(gone: int) -> None:
    lines = sample_lines(4)
    with pytest.raises(LogBrokenError, match=f"line {gone + 1} is missing"):
        check_chain(lines[:gone] + lines[gone + 1 :])


@pytest.mark.parametrize("index", [0, 1, 3])
def test_a_changed_line_is_named(index: int) -> None:
    lines = sample_lines(4)
    line, recorded = lines[index]
    for changed in (({**line, "type": "merge"}, recorded), (line, "0" * 64)):
        with pytest.raises(LogBrokenError, match=f"line {index + 1} was changed"):
            check_chain([*lines[:index], changed, *lines[index + 1 :]])
