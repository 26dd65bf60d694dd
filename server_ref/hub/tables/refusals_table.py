"""The table of refused files of carriers, so that the log counts each of them once, however long it lies there."""

from __future__ import annotations

from server_ref.hub.database import HubDatabase


def add(database: HubDatabase, file: str, code: str) -> bool:
    """Note a refused file by a hash that tells it apart; returns whether it is new."""
    return bool(database.run("INSERT OR IGNORE INTO refusals VALUES (?, ?, '')", file, code))


def trim(database: HubDatabase, newest: int) -> None:
    """Forget all but so many of the newest files."""
    database.run("DELETE FROM refusals WHERE rowid <= (SELECT max(rowid) FROM refusals) - ?", newest)
