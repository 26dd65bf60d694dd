"""The table of the log: a chain of lines, where each line's hash covers all lines before it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedhelp_edge.parcel import canon
from fedhelp_edge.trust.log import Log, check_chain, line_hash
from server_ref.hub.database import HubDatabase, Row


def add(database: HubDatabase, now: str, type_: str, subject: str, detail: Mapping[str, canon.Value]) -> Log:
    """Add a line, within a transaction; returns the log as it then stands."""
    before = head(database)
    line = {"detail": dict(detail), "seq": before.length + 1, "subject": subject, "time": now, "type": type_}
    after = Log(before.length + 1, line_hash(before.head, line))
    text = json.dumps(detail, sort_keys=True)
    database.run("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)", after.length, now, type_, subject, text, after.head)
    return after


def head(database: HubDatabase, length: int | None = None) -> Log:
    """The log as it stands, or as it stood when it had `length` lines."""
    up_to = 2**53 if length is None else length
    last = database.row("SELECT seq, hash FROM log WHERE seq <= ? ORDER BY seq DESC LIMIT 1", up_to)
    return Log(last["seq"], last["hash"]) if last else Log()


def lines(database: HubDatabase) -> Iterator[tuple[dict[str, Any], str]]:
    """Each line of the log, and its stored hash."""
    for row in database.rows("SELECT * FROM log ORDER BY seq"):
        line = {name: row[name] for name in ("seq", "subject", "time", "type")}
        yield {**line, "detail": json.loads(row["detail"])}, row["hash"]


def verify(database: HubDatabase) -> Log:
    """The log, if each line's hash follows from the lines before it."""
    return check_chain(lines(database))


def last_time(database: HubDatabase) -> str:
    """The time of the last line, or ""."""
    row = database.row("SELECT time FROM log ORDER BY seq DESC LIMIT 1")
    return row["time"] if row else ""


def newest(database: HubDatabase, count: int) -> list[Row]:
    """The newest lines, the last one first."""
    return database.rows("SELECT seq, time, type, subject, detail FROM log ORDER BY seq DESC LIMIT ?", count)


def has_type(database: HubDatabase, type_: str) -> bool:
    """Whether the log has a line of this type."""
    return bool(database.row("SELECT 1 FROM log WHERE type = ?", type_))


def of_type(database: HubDatabase, type_: str) -> list[Row]:
    """The time, the subject and the detail of all lines of a type, the first one first."""
    return database.rows("SELECT time, subject, detail FROM log WHERE type = ? ORDER BY seq", type_)


def newest_of_types(database: HubDatabase, types: Sequence[str]) -> Row | None:
    """The newest line of one of these types, or None."""
    query = f"SELECT * FROM log WHERE type IN ({', '.join('?' * len(types))}) ORDER BY seq DESC LIMIT 1"  # noqa: S608
    return database.row(query, *types)
