"""Who asks to join, who belongs, and how each stands: for the command line and the dashboard."""

from __future__ import annotations

import json
import statistics
from typing import Any

from fedhelp_edge.parcel.keys import Public
from fedhelp_edge.parcel.statement import iso
from fedhelp_edge.trust import words
from server_ref import rounds
from server_ref.hub import Hub


def requests(hub: Hub) -> list[dict[str, str]]:
    """Requests that proved their invite and wait for a person."""
    found = []
    query = (
        "SELECT r.hash, r.site, r.name AS asked_as, i.name, i.tier FROM requests r JOIN invites i ON i.id = r.invite"
        " WHERE r.state = 'waiting' AND r.kind = 'enrol' ORDER BY r.rowid"
    )
    for row in hub.store.rows(query):
        _, _, holds = hub.plain(row["hash"])
        spoken = " ".join(words.of_keys(hub.federation, Public(holds["sign"], holds["recipient"])))
        found.append({**{name: row[name] for name in ("site", "name", "tier", "asked_as")}, "words": spoken})
    return found


def status(hub: Hub) -> dict[str, Any]:
    """Where the federation stands: the round, every site's last news, what waits."""
    row = rounds.newest(hub)
    accepted, missing = rounds.standing(hub, row) if row["state"] == rounds.OPEN else ([], [])
    query = "SELECT site, round, code, cause, facts FROM shares WHERE state = 'quarantined' ORDER BY site"
    waiting = [
        {**{name: one[name] for name in ("site", "round", "code", "cause")}, "examples": _claimed(one["facts"])}
        for one in hub.store.rows(query)
    ]
    received = hub.store.row("SELECT count(*) AS n FROM shares WHERE state = 'received'")
    return {
        "federation": hub.federation, "name": hub.plan.name, "round": row["round"], "rounds": hub.plan.rounds,
        "state": "finished" if rounds.is_finished(hub) else row["state"], "closes": row["closes"],
        "model": row["model"] or row["base"],
        "accepted": accepted, "missing": missing, "received": received["n"] if received else 0,
        "quarantined": waiting, "requests": len(requests(hub)), "sites": sites(hub),
        "roster_expires": iso(hub.roster.expires), "log": {"length": hub.store.head().length},
    }  # fmt: skip


def sites(hub: Hub) -> list[dict[str, Any]]:
    """Every site of the roster, and when it was last heard of."""
    last = {
        json.loads(row["detail"]).get("site"): row["time"]
        for row in hub.store.rows("SELECT time, detail FROM log WHERE type = 'received' ORDER BY seq")
    }
    query = "SELECT site, facts, max(round) FROM shares WHERE facts != '{}' GROUP BY site"
    claimed = {row["site"]: _claimed(row["facts"]) for row in hub.store.rows(query)}
    return [
        {
            "id": site.id, "name": site.name, "tier": site.tier, "status": site.status, "from_round": site.from_round,
            "last_news": last.get(site.id), "reason": site.reason, "examples": claimed.get(site.id),
        }
        for site in hub.roster.sites
    ]  # fmt: skip


def _claimed(facts: str) -> int | None:
    """How many training images a site claims in a share, once that was opened."""
    examples: int | None = json.loads(facts).get("examples")
    return examples


def accuracy(hub: Hub) -> list[dict[str, Any]]:
    """How good each round's merged model was, by what the sites of the round after it claim to have measured.

    One false claim cannot move the middle one of many far; the sums of all would follow it anywhere.
    """
    found = []
    for row in hub.store.rows("SELECT round, report FROM rounds WHERE state = 'merged' AND task != '' ORDER BY round"):
        claims = json.loads(row["report"]).get("sites", {}).values()
        if rates := [correct / val for val, correct in claims if val]:
            middle = statistics.median(rates)
            found.append(
                {
                    "round": row["round"] - 1, "accuracy": middle, "lowest": min(rates), "highest": max(rates),
                    "sites": len(rates),
                }
            )  # fmt: skip
    return found
