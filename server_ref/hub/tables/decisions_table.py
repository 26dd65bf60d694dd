"""The table of decisions on quarantined updates that a person made on the dashboard, and no command applied yet."""

from __future__ import annotations

from server_ref.hub.database import HubDatabase


def record(database: HubDatabase, update: str, decision: str) -> None:
    """Record a decision on an update, in place of an earlier one."""
    database.run("INSERT OR REPLACE INTO decisions VALUES (?, ?)", update, decision)


def every(database: HubDatabase) -> dict[str, str]:
    """All decisions by the update's hash, in their order."""
    return {row["hash"]: row["what"] for row in database.rows("SELECT * FROM decisions ORDER BY rowid")}


def remove(database: HubDatabase, update: str) -> None:
    """Remove the decision on an update, once it is applied."""
    database.run("DELETE FROM decisions WHERE hash = ?", update)
