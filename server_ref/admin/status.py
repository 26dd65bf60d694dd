"""Who asks to join, who belongs, and how each stands: for the command line and the dashboard."""

from __future__ import annotations

import json
import statistics
from datetime import timedelta
from typing import Any

from fedhelp_edge.parcel.keys import PublicKeys
from fedhelp_edge.parcel.statement import format_time
from fedhelp_edge.trust import key_words
from fedhelp_edge.trust.roster import ACTIVE
from server_ref.admin import decisions
from server_ref.hub.hub import Hub
from server_ref.intake import enrolment
from server_ref.rounds import close, lifecycle, review

_ALARM_DAYS = 30


def join_requests(hub: Hub) -> list[dict[str, Any]]:
    """Requests that proved their invite and wait for a person; on a contested invite, requests bring different keys."""
    requests = enrolment.waiting_requests(hub)
    contested = enrolment.contested_invites(requests)
    invites = {row["id"]: row for row in hub.database.rows("SELECT id, name, tier FROM invites")}
    return [
        {
            "site": request.site, "name": invites[request.row["invite"]]["name"], "tier": invites[request.row["invite"]]["tier"],
            "asked_as": request.row["name"], "words": request.words, "hash": request.hash,
            "contested": request.row["invite"] in contested,
        }
        for request in requests
    ]  # fmt: skip


def alarms(hub: Hub) -> list[dict[str, Any]]:
    """Sites whose invite somebody else knows too: other keys asked on it, now or in the last weeks."""
    since = format_time(hub.now - timedelta(days=_ALARM_DAYS))
    asking = {request["site"] for request in join_requests(hub) if request["contested"]}
    alarm_of: dict[str, dict[str, Any]] = {}
    for row in hub.database.rows("SELECT time, detail FROM log WHERE type = 'alarm' ORDER BY seq"):
        site = json.loads(row["detail"])["site"]
        member = hub.roster.site(site)
        if site in asking or (member and member.status == ACTIVE and row["time"] >= since):
            cause = (
                "different keys ask on one invite: nobody is let in before a person has compared the words"
                if site in asking
                else "other keys asked on this invite too: phone the site, and compare its words with 'roster'"
            )
            alarm_of[site] = {"site": site, "time": row["time"], "cause": cause}
    return list(alarm_of.values())


def quarantined_updates(hub: Hub) -> list[dict[str, Any]]:
    """The updates that wait for a person, each with what was decided on the dashboard and not carried out yet."""
    decision_of = decisions.pending(hub)
    return [
        {name: row[name] for name in ("site", "round", "hash", "code", "cause")}
        | {"examples": _claimed_examples(row["facts"]), "decided": decision_of.get(row["hash"], "")}
        for row in review.quarantined_updates(hub)
    ]


def summary(hub: Hub) -> dict[str, Any]:
    """Where the federation stands: the round, every site's last news, what waits."""
    row = lifecycle.newest_round(hub)
    accepted, missing = lifecycle.accepted_and_missing(hub, row) if row["state"] == close.OPEN else ([], [])
    request_count = hub.database.row("SELECT count(*) AS n FROM requests WHERE state = 'waiting'")
    received_count = hub.database.row("SELECT count(*) AS n FROM shares WHERE state = 'received'")
    return {
        "federation": hub.federation, "name": hub.plan.name, "round": row["round"], "rounds": hub.plan.rounds,
        "state": "finished" if lifecycle.is_finished(hub) else row["state"], "closes": row["closes"],
        "model": row["model"] or row["base"],
        "accepted": accepted, "missing": missing, "received": received_count["n"] if received_count else 0,
        "quarantined": quarantined_updates(hub), "requests": request_count["n"] if request_count else 0, "alarms": alarms(hub),
        "sites": sites(hub),
        "roster_expires": format_time(hub.roster.expires), "log": {"length": hub.database.head().length},
    }  # fmt: skip


def sites(hub: Hub) -> list[dict[str, Any]]:
    """Every site of the roster, and when it was last heard of."""
    last_received = {
        json.loads(row["detail"]).get("site"): row["time"]
        for row in hub.database.rows("SELECT time, detail FROM log WHERE type = 'received' ORDER BY seq")
    }
    query = "SELECT site, facts, max(round) FROM shares WHERE facts != '{}' GROUP BY site"
    claimed_examples = {row["site"]: _claimed_examples(row["facts"]) for row in hub.database.rows(query)}
    return [
        {
            "id": site.id, "name": site.name, "tier": site.tier, "status": site.status, "from_round": site.from_round,
            "last_news": last_received.get(site.id), "reason": site.reason, "examples": claimed_examples.get(site.id),
            "words": " ".join(key_words.of_keys(hub.federation, PublicKeys(site.sign, site.recipient))),
        }
        for site in hub.roster.sites
    ]  # fmt: skip


def _claimed_examples(facts: str) -> int | None:
    """How many training images a site claims in a share, once that was opened."""
    examples: int | None = json.loads(facts).get("examples")
    return examples


def accuracy_by_round(hub: Hub) -> list[dict[str, Any]]:
    """How good each round's merged model was, by what the sites of the round after it claim to have measured.

    One false claim cannot move the middle one of many far; the sums of all would follow it anywhere.
    """
    figures = []
    for row in hub.database.rows(
        "SELECT round, report FROM rounds WHERE state = 'merged' AND task != '' ORDER BY round"
    ):
        claims = json.loads(row["report"]).get("sites", {}).values()
        if rates := [correct / val for val, correct in claims if val]:
            median = statistics.median(rates)
            figures.append(
                {
                    "round": row["round"] - 1, "accuracy": median, "lowest": min(rates), "highest": max(rates),
                    "sites": len(rates),
                }
            )  # fmt: skip
    return figures
