"""The coordinator's log: a chain of lines, in which each line's hash covers all lines before it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fedhelp_edge.errors import (
    LogBrokenError,
)
from fedhelp_edge.parcel import canon


def line_hash(head: str, line: Mapping[str, Any]) -> str:
    """The hash of a log that ended in `head` and goes on with `line`."""
    return hashlib.sha256(head.encode() + b"\n" + canon.encode(dict(line))).hexdigest()


def check_chain(lines: Iterable[tuple[Mapping[str, Any], str]]) -> Log:
    """The log, if every line follows from those before it; else which one does not."""
    log = Log()
    for line, recorded_hash in lines:
        if line["seq"] != log.length + 1:
            raise LogBrokenError(f"line {log.length + 1} is missing")
        if line_hash(log.head, line) != recorded_hash:
            raise LogBrokenError(f"line {line['seq']} is not the one that was written")
        log = Log(log.length + 1, recorded_hash)
    return log


@dataclass(frozen=True)
class Log:
    """The coordinator's log as it stood: how many lines, and the hash that stands for all of them."""

    length: int = 0
    head: str = ""
