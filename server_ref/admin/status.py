"""The state of requests, sites and rounds, as the command line and the dashboard show it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from fedhelp_edge.parcel.keys import PublicKeys
from fedhelp_edge.parcel.statement import format_time
from fedhelp_edge.trust import key_words
from fedhelp_edge.trust.roster import ACTIVE
from server_ref.admin import decisions
from server_ref.hub.hub import Hub
from server_ref.hub.states import State
from server_ref.hub.tables import decisions_table, invites_table, log_table, requests_table, rounds_table, updates_table
from server_ref.intake import enrolment
from server_ref.rounds import close, lifecycle, review

_ALARM_DAYS = 30


def join_requests(hub: Hub) -> list[dict[str, Any]]:
    """Requests that proved their invite and wait for a person. A contested invite has requests with different keys."""
    requests = enrolment.waiting_requests(hub)
    contested = enrolment.contested_invites(requests)
    invites = {row["id"]: row for row in invites_table.every(hub.database)}
    return [
        {
            "site": request.site, "name": invite["name"], "tier": invite["tier"], "asked_as": request.row["name"],
            "words": request.words, "hash": request.hash, "contested": invite["id"] in contested,
        }
        for request in requests
        for invite in [invites[request.row["invite"]]]
    ]  # fmt: skip


def alarms(hub: Hub) -> list[dict[str, Any]]:
    """Sites whose invite somebody else knows too: other keys used it, now or in the last 30 days."""
    since = format_time(hub.now - timedelta(days=_ALARM_DAYS))
    asking = {request["site"] for request in join_requests(hub) if request["contested"]}
    alarm_of: dict[str, dict[str, Any]] = {}
    for row in log_table.of_type(hub.database, "alarm"):
        site = json.loads(row["detail"])["site"]
        member = hub.roster.site(site)
        if site in asking or (member and member.status == ACTIVE and row["time"] >= since):
            cause = (
                "requests with different keys use one invite: compare the words by phone before you approve one"
                if site in asking
                else "other keys used this invite too: phone the site and compare its words with 'roster'"
            )
            alarm_of[site] = {"site": site, "time": row["time"], "cause": cause}
    return list(alarm_of.values())


def quarantined_updates(hub: Hub) -> list[dict[str, Any]]:
    """The updates in quarantine, each with the dashboard's decision that no command has applied yet."""
    decision_of = decisions_table.every(hub.database)
    return [
        {name: row[name] for name in ("site", "round", "hash", "code", "cause")}
        | {"examples": _claimed_examples(row["facts"]), "decided": decision_of.get(row["hash"], "")}
        for row in review.quarantined_updates(hub)
    ]


def held_sum(hub: Hub) -> dict[str, Any] | None:
    """The round whose sum waits for a person, and why; None: no sum does."""
    newest = hub.newest_round()
    held = lifecycle.held_sum(newest)
    return {"round": newest["round"], **held} if held else None


def summary(hub: Hub) -> dict[str, Any]:
    """The state of the federation: the round, every site, and what waits."""
    row = hub.newest_round()
    accepted, missing = lifecycle.accepted_and_missing(hub, row) if lifecycle.is_under_way(row) else ([], [])
    return {
        "federation": hub.federation, "name": hub.plan.name, "round": row["round"], "rounds": hub.plan.rounds,
        "state": "finished" if lifecycle.is_finished(hub) else row["state"], "closes": row["closes"],
        "model": row["model"] or row["base"], "best_round": close.best_round(hub),
        "accepted": accepted, "missing": missing, "received": updates_table.count_received(hub.database),
        "quarantined": quarantined_updates(hub), "held": held_sum(hub), "decided": decisions.decided_round(hub),
        "requests": requests_table.count_waiting(hub.database), "alarms": alarms(hub), "sites": sites(hub),
        "roster_expires": format_time(hub.roster.expires), "log": {"length": log_table.head(hub.database).length},
    }  # fmt: skip


def round_text(state: Mapping[str, Any]) -> str:
    """The round of a `summary`, for people."""
    if not state["round"]:
        return "no round was opened yet"
    return f"round {state['round']} of {state['rounds']}, {state['state']}"


def best_round_text(best: int) -> str:
    """What sites should do once patience has ended the federation, for people."""
    return f"round {best}, by the sites' validation images: tell the sites to use 'fedhelp-edge export --round {best}'"


def sites(hub: Hub) -> list[dict[str, Any]]:
    """Every site of the roster, with the time of its last message and the number of images that it claims."""
    last_received = {
        json.loads(row["detail"]).get("site"): row["time"] for row in log_table.of_type(hub.database, "received")
    }
    facts_of = updates_table.newest_facts(hub.database)
    claimed_examples = {site: _claimed_examples(facts) for site, facts in facts_of.items()}
    return [
        {
            "id": site.id, "name": site.name, "tier": site.tier, "status": site.status, "from_round": site.from_round,
            "last_news": last_received.get(site.id), "reason": site.reason, "examples": claimed_examples.get(site.id),
            "words": " ".join(key_words.of_keys(hub.federation, PublicKeys(site.sign, site.recipient))),
        }
        for site in hub.roster.sites
    ]  # fmt: skip


def _claimed_examples(facts: str) -> int | None:
    """The number of training images that an opened update claims."""
    examples: int | None = json.loads(facts).get("examples")
    return examples


def accuracy_by_round(hub: Hub) -> list[dict[str, Any]]:
    """The accuracy of each round's merged model, as the sites of the next round claim to have measured it.

    For the newest model these are the sites whose updates the open round has accepted so far. The median of the sites
    counts: one false claim cannot move it far, but could move a mean anywhere.
    """
    figures = []
    rows = rounds_table.merged(hub.database)
    reports = [(row["round"], json.loads(row["report"]).get("sites", {})) for row in rows]
    newest = hub.newest_round()
    if newest["state"] == State.OPEN:
        reports.append((newest["round"], close.validation_report(hub, newest)["sites"]))
    for number, sites_report in reports:
        if rates := [correct / val for val, correct in sites_report.values() if val]:
            median = statistics.median(rates)
            figures.append(
                {
                    "round": number - 1, "accuracy": median, "lowest": min(rates), "highest": max(rates),
                    "sites": len(rates),
                }
            )  # fmt: skip
    return figures
