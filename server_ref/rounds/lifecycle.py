"""Which rounds there are, what became of each, and how one ends without a merge."""

from __future__ import annotations

import json
from typing import Any

from fedhelp_edge.errors import NotNowError
from fedhelp_edge.merge import rules
from fedhelp_edge.methods.registry import merge_settings
from fedhelp_edge.parcel.statement import format_time
from server_ref.hub.database import Row
from server_ref.hub.hub import COORDINATOR, Hub
from server_ref.hub.states import State
from server_ref.hub.tables import rounds_table, updates_table
from server_ref.intake.judge import update_schema

_CLAIMS = ("examples", "val", "correct")  # what a site says about itself, and nobody else can check


def open_round(hub: Hub) -> Row:
    """The open round; refuses where none is open."""
    newest = hub.newest_round()
    if newest["state"] != State.OPEN:
        raise NotNowError("no round is open", remedy="'fedhelp-coordinator open' opens the next one")
    return newest


def unmerged_round(hub: Hub) -> Row:
    """The round that is open or awaits the helper's sum; refuses where there is none."""
    newest = hub.newest_round()
    return newest if newest["state"] == State.SUMMING else open_round(hub)


def is_under_way(round_row: Row) -> bool:
    """Whether a round may still get a model of its own."""
    return round_row["state"] in (State.OPEN, State.SUMMING)


def held_sum(round_row: Row) -> dict[str, str] | None:
    """Why the sum of a round waits for a person; None: it does not."""
    held: dict[str, str] | None = None
    if round_row["state"] == State.SUMMING:
        held = json.loads(round_row["report"]).get("held")
    return held


def awaited(round_row: Row) -> str | None:
    """Who has to act before a summing round can be merged."""
    if round_row["state"] != State.SUMMING:
        return None
    return "review" if held_sum(round_row) else "helper"


def is_finished(hub: Hub) -> bool:
    """Whether no round is under way, and none will be."""
    newest = hub.newest_round()
    is_last = hub.database.fact("finished") or newest["round"] >= hub.plan.rounds
    return not is_under_way(newest) and bool(is_last)


def accepted_and_missing(hub: Hub, round_row: Row) -> tuple[list[str], list[str]]:
    """The sites whose updates are accepted for a round, and the active sites that are not among them."""
    rows = updates_table.counting(hub.database, round_row["round"], State.ACCEPTED)
    accepted = [row["site"] for row in rows]
    present = set(accepted)
    return accepted, [site.id for site in hub.roster.active(round_row["round"]) if site.id not in present]


def outcome(hub: Hub, round_: int) -> dict[str, Any]:
    """What became of a round and of each update in it, as `aggregate --json` prints it."""
    round_row = rounds_table.require(hub.database, round_)
    rows = updates_table.judged(hub.database, round_)
    accepted = [row for row in rows if row["state"] in (State.ACCEPTED, State.MERGED)]
    if is_secure := hub.plan.privacy.is_secure_sum:  # nobody knows what a single site claims
        claims: dict[str, Any] = {}
    else:
        claims = {row["site"]: json.loads(row["facts"]) for row in accepted}
    weighed = claims if update_schema(hub).averaged else {}
    parts = rules.site_weights({site: facts["examples"] for site, facts in weighed.items()}, merge_settings(hub.plan))
    reasons = {
        str(state): [{name: row[name] for name in ("site", "code", "cause")} for row in rows if row["state"] == state]
        for state in (State.QUARANTINED, State.REFUSED)
    }
    return {
        "round": round_, "accepted": [row["site"] for row in accepted], **reasons,
        "merged_sha256": round_row["model"] or None, "published": round_row["state"] == State.MERGED,
        "claims": [
            {"site": site, **{name: facts.get(name, 0) for name in _CLAIMS}, "part": parts.get(site)}
            for site, facts in claims.items()
        ],
        "sum": json.loads(round_row["report"]).get("sum") if is_secure else None,
        "waiting": awaited(round_row), "held": held_sum(round_row),
    }  # fmt: skip


def cancel_round(hub: Hub, round_row: Row, type_: str = "call off") -> None:
    """End an open round without a merge; its accepted updates are judged again in the next one, as late ones."""
    number = round_row["round"]
    with hub.database.transaction():
        rounds_table.fail(hub.database, number)
        updates_table.return_accepted(hub.database, number)
        hub.log(type_, f"round {number}")


def finish(hub: Hub) -> None:
    """End the federation: no further round opens, and the newest model stays."""
    if hub.database.fact("finished"):
        return
    with hub.database.transaction():
        hub.database.set_fact("finished", format_time(hub.now))
        hub.log("finish", COORDINATOR)
