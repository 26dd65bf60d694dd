"""Aggregate a round again without the updates of one site."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from fedhelp_edge.errors import (
    NotNowError,
)
from fedhelp_edge.merge import rules
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel.keys import Keys
from server_ref.hub.hub import Hub
from server_ref.intake.judge import opened_path, opening_job, update_schema
from server_ref.intake.sandbox import Sandbox
from server_ref.rounds import close, lifecycle, updates


def contributed(hub: Hub, site: str) -> bool:
    """Whether a merged model rests on a site's updates."""
    return bool(hub.database.row("SELECT 1 FROM shares WHERE site = ? AND state = 'merged'", site))


def check_contributed(hub: Hub, site: str) -> None:
    """Refuse to merge again what holds nothing of a site."""
    plan = hub.plan
    if not METHODS[plan.method].exchanges:
        raise NotNowError(f"{plan.method} merges nothing")
    if not contributed(hub, site):
        raise NotNowError(f"no merged round holds a share of {site}")
    last = lifecycle.newest_round(hub)
    query = "SELECT detail FROM log WHERE type = 'undo' AND subject = ?"
    undone = hub.database.row(query, f"round {last['round']}")
    if undone and json.loads(undone["detail"])["without"] == site:
        raise NotNowError(f"round {last['round']} was merged again without {site} already")


def without_site(hub: Hub, coordinator_keys: Keys, site: str, archive: Keys) -> dict[str, Any]:
    """Merge all rounds again without a site's shares: G'_t = G'_{t-1} + merge(share_i,t - G_{t-1}) over the others.

    The result is a model of a new number, from which the next round begins. An open round is called off.
    """
    check_contributed(hub, site)
    last = lifecycle.newest_round(hub)
    if last["state"] == close.OPEN:
        lifecycle.cancel_round(hub, last)
        last = lifecycle.newest_round(hub)
    rounds = hub.database.rows("SELECT * FROM rounds WHERE state = 'merged' AND task != '' ORDER BY round")
    first = hub.database.only("SELECT min(counts) AS round FROM shares WHERE site = ? AND state = 'merged'", site)
    model = ""  # the model so far, once it differs
    with Sandbox() as opener:
        for round_row in rounds:
            if round_row["round"] >= first["round"]:
                model = _merge_round(hub, round_row, site, model or round_row["base"], archive, opener)
    with hub.database.transaction():
        number = last["round"] + 1
        values = number, close.DONE, "", last["model"], model, ""
        hub.database.run(
            "INSERT INTO rounds (round, state, task, base, model, closes) VALUES (?, ?, ?, ?, ?, ?)", *values
        )
        hub.publish_model(coordinator_keys, number, model, [], "undo", without=site)
    return {"round": number, "without": site, "merged_sha256": model}


def _merge_round(hub: Hub, round_row: sqlite3.Row, site: str, model: str, archive: Keys, sandbox: Sandbox) -> str:
    """One round's merge without a site, upon another base."""
    query = "SELECT * FROM shares WHERE counts = ? AND state = 'merged' AND site != ? ORDER BY site"
    rows = {update_row["site"]: update_row for update_row in hub.database.rows(query, round_row["round"], site)}
    if not rows:
        return model
    try:
        opened_updates = {
            other: sandbox.open(opening_job(hub, archive.identity, update_row, model))
            for other, update_row in rows.items()
        }
        opened_files = {
            other: (opened_path(hub, update_row["hash"]), opened_updates[other].sha256)
            for other, update_row in rows.items()
        }
        round_updates = updates.RoundUpdates(
            opened_files, update_schema(hub).header, lambda other: opened_updates[other].sha256
        )
        examples = {other: opened_update.facts["examples"] for other, opened_update in opened_updates.items()}
        norms = {other: opened_update.norm for other, opened_update in opened_updates.items()}
        base = hub.model(model)
        return hub.save_model(rules.merge(base, round_updates, examples, hub.plan.merge, norms))
    finally:
        for update_row in rows.values():
            opened_path(hub, update_row["hash"]).unlink(missing_ok=True)
