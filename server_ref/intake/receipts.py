"""Receipts: what the coordinator decided about a parcel, signed for the site that sent it."""

from __future__ import annotations

import sqlite3

from fedhelp_edge.parcel.keys import Keys
from server_ref.hub.hub import Hub

RELEASABLE_CODES = (
    "E_LAZY",
    "E_COPY",
    "E_OPPOSED",
    "E_TOO_FAR",
    "E_CLAIM",
)  # opened and well-formed: a person may let them in


def decide_update(
    hub: Hub,
    coordinator_keys: Keys,
    row: sqlite3.Row,
    state: str,
    counts: int,
    code: str = "",
    cause: str = "",
    facts: str = "",
) -> dict[str, str]:
    """Write a decision on a share, its line in the log and its receipt."""
    with hub.database.transaction():
        hub.database.run(
            "UPDATE shares SET state = ?, counts = ?, code = ?, cause = ?, facts = CASE ? WHEN '' THEN facts ELSE ? END"
            " WHERE hash = ?", state, counts, code, cause, facts, facts, row["hash"],
        )  # fmt: skip
        log = hub.log(state, row["hash"], site=row["site"], round=row["round"], code=code)
        hub.receipt(coordinator_keys, "coordinator", row["hash"], state, log, code=code, cause=cause)
    return {"site": row["site"], "state": state, "code": code, "cause": cause}
