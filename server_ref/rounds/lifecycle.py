"""Which rounds there are, and how each of them stands."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from fedhelp_edge.errors import (
    NotNowError,
)
from fedhelp_edge.merge import rules
from fedhelp_edge.parcel.statement import format_time
from server_ref.hub.hub import Hub
from server_ref.rounds import close


def newest_round(hub: Hub) -> sqlite3.Row:
    return hub.database.only("SELECT * FROM rounds ORDER BY round DESC LIMIT 1")


def open_round(hub: Hub) -> sqlite3.Row:
    row = newest_round(hub)
    if row["state"] != close.OPEN:
        raise NotNowError("no round is open", remedy="'fedhelp-coordinator open' opens the next one")
    return row


def is_finished(hub: Hub) -> bool:
    last = newest_round(hub)
    return last["state"] != close.OPEN and bool(hub.database.fact("finished") or last["round"] >= hub.plan.rounds)


def accepted_and_missing(hub: Hub, round_row: sqlite3.Row) -> tuple[list[str], list[str]]:
    """Whose share for a round was accepted, and who is missing."""
    accepted = [update_row["site"] for update_row in hub.database.rows(
        "SELECT site FROM shares WHERE counts = ? AND state = 'accepted' ORDER BY site", round_row["round"]
    )]  # fmt: skip
    expected = [site.id for site in hub.roster.active(round_row["round"])]
    accepted_sites = set(accepted)
    return accepted, [site for site in expected if site not in accepted_sites]


def outcome(hub: Hub, round_: int) -> dict[str, Any]:
    """What `aggregate --json` tells of a round."""
    round_row = hub.database.only("SELECT * FROM rounds WHERE round = ?", round_)
    shares = hub.database.rows("SELECT * FROM shares WHERE counts = ? ORDER BY site, round", round_)
    by_state = {
        state: [update_row for update_row in shares if update_row["state"] in state.split()]
        for state in ("accepted merged", "quarantined", "refused")
    }
    claims = {update_row["site"]: json.loads(update_row["facts"]) for update_row in by_state["accepted merged"]}
    parts = rules.site_weights({site: facts["examples"] for site, facts in claims.items()}, hub.plan.merge)
    reasons = {
        state: [{name: update_row[name] for name in ("site", "code", "cause")} for update_row in by_state[state]]
        for state in ("quarantined", "refused")
    }
    return {
        "round": round_, "accepted": [update_row["site"] for update_row in by_state["accepted merged"]], **reasons,
        "merged_sha256": round_row["model"] or None, "published": round_row["state"] == close.DONE,
        "claims": [
            {"site": site, **{name: facts.get(name, 0) for name in close.CLAIMS}, "part": parts.get(site)}
            for site, facts in claims.items()
        ],
    }  # fmt: skip


def cancel_round(hub: Hub, round_row: sqlite3.Row, type_: str = "call off") -> None:
    """End an open round without a merge; what came for it is judged anew in the next one, as late."""
    with hub.database.transaction():
        hub.database.run("UPDATE rounds SET state = 'failed', model = base WHERE round = ?", round_row["round"])
        query = "UPDATE shares SET state = 'received', counts = 0 WHERE counts = ? AND state = 'accepted'"
        hub.database.run(query, round_row["round"])
        hub.log(type_, f"round {round_row['round']}")


def finish(hub: Hub) -> None:
    """No further rounds: the last model stays."""
    if hub.database.fact("finished"):
        return
    with hub.database.transaction():
        hub.database.set_fact("finished", format_time(hub.now))
        hub.log("finish", "coordinator")
