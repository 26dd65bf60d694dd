"""The table of requests: to join ("enrol"), and to change keys ("rotate").

A request to join has no site until it proves its invite. The table notes then the invite, its site and the name that
the sender gave.
"""

from __future__ import annotations

from server_ref.hub.database import HubDatabase, Row
from server_ref.hub.states import State


def add(database: HubDatabase, hash_: str, kind: str, site: str) -> None:
    """Add a request that waits. A request to join comes from no site yet."""
    query = "INSERT INTO requests VALUES (?, ?, ?, ?, '', '', '', '')"
    database.run(query, hash_, kind, State.WAITING, site)


def after(database: HubDatabase, rowid: int) -> list[Row]:
    """The hashes of all requests that came after the one with this `rowid`."""
    return database.rows("SELECT rowid, hash FROM requests WHERE rowid > ? ORDER BY rowid", rowid)


def waiting(database: HubDatabase) -> list[Row]:
    """All requests that wait, in the order of arrival."""
    return database.rows("SELECT * FROM requests WHERE state = ? ORDER BY rowid", State.WAITING)


def waiting_to_join(database: HubDatabase, invite: str = "") -> list[Row]:
    """The waiting requests to join that proved an invite; with `invite`, those that proved this one."""
    query, values = "SELECT * FROM requests WHERE state = ? AND kind = 'enrol' AND site != ''", [str(State.WAITING)]
    if invite:
        query, values = f"{query} AND invite = ?", [*values, invite]
    return database.rows(f"{query} ORDER BY rowid", *values)


def count_waiting(database: HubDatabase) -> int:
    return int(database.require_row("SELECT count(*) AS n FROM requests WHERE state = ?", State.WAITING)["n"])


def count_waiting_from(database: HubDatabase, site: str) -> int:
    """How many requests of a site wait."""
    query = "SELECT count(*) AS n FROM requests WHERE site = ? AND state = ?"
    return int(database.require_row(query, site, State.WAITING)["n"])


def any_unjudged(database: HubDatabase) -> bool:
    """Whether a request waits whose sender is not known yet."""
    return bool(database.row("SELECT 1 FROM requests WHERE state = ? AND site = ''", State.WAITING))


def prove(database: HubDatabase, hash_: str, site: str, name: str, invite: str) -> None:
    """Note that a request to join proved an invite."""
    query = "UPDATE requests SET site = ?, name = ?, invite = ? WHERE hash = ?"
    database.run(query, site, name, invite, hash_)


def decide(database: HubDatabase, hash_: str, state: State, site: str, code: str = "", cause: str = "") -> None:
    """Write a decision on a request."""
    query = "UPDATE requests SET state = ?, site = ?, code = ?, cause = ? WHERE hash = ?"
    database.run(query, state, site, code, cause, hash_)
