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
from server_ref.intake.judge import job, opened, schema_of
from server_ref.intake.sandbox import Opener
from server_ref.rounds import close, state, updates


def gave(hub: Hub, site: str) -> bool:
    """Whether a merged model rests on a site's updates."""
    return bool(hub.store.row("SELECT 1 FROM shares WHERE site = ? AND state = 'merged'", site))


def check_undo(hub: Hub, site: str) -> None:
    """Refuse to merge again what holds nothing of a site."""
    plan = hub.plan
    if not METHODS[plan.method].exchanges:
        raise NotNowError(f"{plan.method} merges nothing")
    if not gave(hub, site):
        raise NotNowError(f"no merged round holds a share of {site}")
    last = state.newest(hub)
    query = "SELECT detail FROM log WHERE type = 'undo' AND subject = ?"
    undone = hub.store.row(query, f"round {last['round']}")
    if undone and json.loads(undone["detail"])["without"] == site:
        raise NotNowError(f"round {last['round']} was merged again without {site} already")


def undo(hub: Hub, boss: Keys, site: str, archive: Keys) -> dict[str, Any]:
    """Merge all rounds again without a site's shares: G'_t = G'_{t-1} + merge(share_i,t - G_{t-1}) over the others.

    The result is a model of a new number, from which the next round begins. An open round is called off.
    """
    check_undo(hub, site)
    last = state.newest(hub)
    if last["state"] == close.OPEN:
        state.call_off(hub, last)
        last = state.newest(hub)
    rounds = hub.store.rows("SELECT * FROM rounds WHERE state = 'merged' AND task != '' ORDER BY round")
    first = hub.store.only("SELECT min(counts) AS round FROM shares WHERE site = ? AND state = 'merged'", site)
    new = ""  # the model so far, once it differs
    with Opener() as opener:
        for row in rounds:
            if row["round"] >= first["round"]:
                new = _merge_again(hub, row, site, new or row["base"], archive, opener)
    with hub.store.changing():
        number = last["round"] + 1
        values = number, close.DONE, "", last["model"], new, ""
        hub.store.run("INSERT INTO rounds (round, state, task, base, model, closes) VALUES (?, ?, ?, ?, ?, ?)", *values)
        hub.publish_model(boss, number, new, [], "undo", without=site)
    return {"round": number, "without": site, "merged_sha256": new}


def _merge_again(hub: Hub, row: sqlite3.Row, site: str, new: str, archive: Keys, opener: Opener) -> str:
    """One round's merge without a site, upon another base."""
    query = "SELECT * FROM shares WHERE counts = ? AND state = 'merged' AND site != ? ORDER BY site"
    rows = {r["site"]: r for r in hub.store.rows(query, row["round"], site)}
    if not rows:
        return new
    try:
        found = {who: opener.open(job(hub, archive.identity, r, new)) for who, r in rows.items()}
        plain = {who: (opened(hub, r["hash"]), found[who].sha256) for who, r in rows.items()}
        shares = updates.Updates(plain, schema_of(hub).header, lambda who: found[who].sha256)
        examples = {who: one.facts["examples"] for who, one in found.items()}
        pulls = {who: one.pull for who, one in found.items()}
        base = hub.model(new)
        return hub.keep_model(rules.merge(base, shares, examples, hub.plan.merge, pulls))
    finally:
        for r in rows.values():
            opened(hub, r["hash"]).unlink(missing_ok=True)
