"""Who asks to join, who belongs, and how each stands: for the command line and the dashboard."""

from __future__ import annotations

import json
import statistics
from datetime import timedelta
from typing import Any

from fedhelp_edge.parcel.keys import Public
from fedhelp_edge.parcel.statement import iso
from fedhelp_edge.trust import key_words
from fedhelp_edge.trust.roster import ACTIVE
from server_ref.admin import decisions
from server_ref.hub.hub import Hub
from server_ref.intake import enrolment
from server_ref.rounds import close, review, state

_ALARM_DAYS = 30


def requests(hub: Hub) -> list[dict[str, Any]]:
    """Requests that proved their invite and wait for a person; on a contested invite, requests bring different keys."""
    found = enrolment.waiting(hub)
    contested = enrolment.contested(found)
    invites = {row["id"]: row for row in hub.store.rows("SELECT id, name, tier FROM invites")}
    return [
        {
            "site": one.site, "name": invites[one.row["invite"]]["name"], "tier": invites[one.row["invite"]]["tier"],
            "asked_as": one.row["name"], "words": one.words, "hash": one.hash,
            "contested": one.row["invite"] in contested,
        }
        for one in found
    ]  # fmt: skip


def alarms(hub: Hub) -> list[dict[str, Any]]:
    """Sites whose invite somebody else knows too: other keys asked on it, now or in the last weeks."""
    since = iso(hub.now - timedelta(days=_ALARM_DAYS))
    asking = {one["site"] for one in requests(hub) if one["contested"]}
    found: dict[str, dict[str, Any]] = {}
    for row in hub.store.rows("SELECT time, detail FROM log WHERE type = 'alarm' ORDER BY seq"):
        site = json.loads(row["detail"])["site"]
        known = hub.roster.site(site)
        if site in asking or (known and known.status == ACTIVE and row["time"] >= since):
            cause = (
                "different keys ask on one invite: nobody is let in before a person has compared the words"
                if site in asking
                else "other keys asked on this invite too: phone the site, and compare its words with 'roster'"
            )
            found[site] = {"site": site, "time": row["time"], "cause": cause}
    return list(found.values())


def quarantined(hub: Hub) -> list[dict[str, Any]]:
    """The updates that wait for a person, each with what was decided on the dashboard and not carried out yet."""
    decided = decisions.waiting(hub)
    return [
        {name: row[name] for name in ("site", "round", "hash", "code", "cause")}
        | {"examples": _claimed(row["facts"]), "decided": decided.get(row["hash"], "")}
        for row in review.quarantined(hub)
    ]


def status(hub: Hub) -> dict[str, Any]:
    """Where the federation stands: the round, every site's last news, what waits."""
    row = state.newest(hub)
    accepted, missing = state.standing(hub, row) if row["state"] == close.OPEN else ([], [])
    requested = hub.store.row("SELECT count(*) AS n FROM requests WHERE state = 'waiting'")
    received = hub.store.row("SELECT count(*) AS n FROM shares WHERE state = 'received'")
    return {
        "federation": hub.federation, "name": hub.plan.name, "round": row["round"], "rounds": hub.plan.rounds,
        "state": "finished" if state.is_finished(hub) else row["state"], "closes": row["closes"],
        "model": row["model"] or row["base"],
        "accepted": accepted, "missing": missing, "received": received["n"] if received else 0,
        "quarantined": quarantined(hub), "requests": requested["n"] if requested else 0, "alarms": alarms(hub),
        "sites": sites(hub),
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
            "words": " ".join(key_words.of_keys(hub.federation, Public(site.sign, site.recipient))),
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
