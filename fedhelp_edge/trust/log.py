"""The coordinator's log: a hash chain. Each line's hash covers all lines before it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fedhelp_edge.errors import LogBrokenError
from fedhelp_edge.parcel import canon


def line_hash(head: str, line: Mapping[str, Any]) -> str:
    """Returns the hash of `line` in a log whose last hash is `head`."""
    return hashlib.sha256(head.encode() + b"\n" + canon.encode(dict(line))).hexdigest()


def check_chain(lines: Iterable[tuple[Mapping[str, Any], str]]) -> Log:
    """Returns the log's length and head, or raises with the first line that does not follow from those before it."""
    log = Log()
    for line, recorded_hash in lines:
        if line["seq"] != log.length + 1:
            raise LogBrokenError(f"line {log.length + 1} is missing")
        if line_hash(log.head, line) != recorded_hash:
            raise LogBrokenError(f"line {line['seq']} was changed")
        log = Log(log.length + 1, recorded_hash)
    return log


@dataclass(frozen=True)
class Log:
    """The state of the coordinator's log: its number of lines, and the last hash, which covers them all."""

    length: int = 0
    head: str = ""
