"""Which rounds there are, and how each of them stands."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from fedhelp_edge.errors import (
    NotNowError,
)
from fedhelp_edge.merge import rules
from fedhelp_edge.parcel.statement import iso
from server_ref.hub.hub import Hub
from server_ref.rounds import close


def newest(hub: Hub) -> sqlite3.Row:
    return hub.store.only("SELECT * FROM rounds ORDER BY round DESC LIMIT 1")


def current(hub: Hub) -> sqlite3.Row:
    found = newest(hub)
    if found["state"] != close.OPEN:
        raise NotNowError("no round is open", remedy="'fedhelp-coordinator open' opens the next one")
    return found


def is_finished(hub: Hub) -> bool:
    last = newest(hub)
    return last["state"] != close.OPEN and bool(hub.store.fact("finished") or last["round"] >= hub.plan.rounds)


def standing(hub: Hub, row: sqlite3.Row) -> tuple[list[str], list[str]]:
    """Whose share for a round was accepted, and who is missing."""
    accepted = [r["site"] for r in hub.store.rows(
        "SELECT site FROM shares WHERE counts = ? AND state = 'accepted' ORDER BY site", row["round"]
    )]  # fmt: skip
    expected = [site.id for site in hub.roster.active(row["round"])]
    here = set(accepted)
    return accepted, [site for site in expected if site not in here]


def outcome(hub: Hub, round_: int) -> dict[str, Any]:
    """What `aggregate --json` tells of a round."""
    row = hub.store.only("SELECT * FROM rounds WHERE round = ?", round_)
    shares = hub.store.rows("SELECT * FROM shares WHERE counts = ? ORDER BY site, round", round_)
    of = {
        state: [s for s in shares if s["state"] in state.split()]
        for state in ("accepted merged", "quarantined", "refused")
    }
    claims = {s["site"]: json.loads(s["facts"]) for s in of["accepted merged"]}
    parts = rules.parts({site: facts["examples"] for site, facts in claims.items()}, hub.plan.merge)
    why = {
        state: [{name: s[name] for name in ("site", "code", "cause")} for s in of[state]]
        for state in ("quarantined", "refused")
    }
    return {
        "round": round_, "accepted": [s["site"] for s in of["accepted merged"]], **why,
        "merged_sha256": row["model"] or None, "published": row["state"] == close.DONE,
        "claims": [
            {"site": site, **{name: facts.get(name, 0) for name in close.CLAIMS}, "part": parts.get(site)}
            for site, facts in claims.items()
        ],
    }  # fmt: skip


def call_off(hub: Hub, row: sqlite3.Row, type_: str = "call off") -> None:
    """End an open round without a merge; what came for it is judged anew in the next one, as late."""
    with hub.store.changing():
        hub.store.run("UPDATE rounds SET state = 'failed', model = base WHERE round = ?", row["round"])
        query = "UPDATE shares SET state = 'received', counts = 0 WHERE counts = ? AND state = 'accepted'"
        hub.store.run(query, row["round"])
        hub.log(type_, f"round {row['round']}")


def finish(hub: Hub) -> None:
    """No further rounds: the last model stays."""
    if hub.store.fact("finished"):
        return
    with hub.store.changing():
        hub.store.keep_fact("finished", iso(hub.now))
        hub.log("finish", "coordinator")
