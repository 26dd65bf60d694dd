"""Rounds: opened, closed, merged, and undone where a site turns out to have been false.

A round is `open`, then `merged`, or `failed` where too few shares came: then its model is the one that it began with.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from fedhelp_edge import update
from fedhelp_edge.errors import (
    HubDamagedError,
    QuorumError,
    SignerRevokedError,
)
from fedhelp_edge.merge import early_stopping, outliers, rules
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.parcel.statement import when
from fedhelp_edge.safe_text import shortened
from fedhelp_edge.update import Array
from server_ref.hub.hub import Hub
from server_ref.intake import partial
from server_ref.intake.judge import check_sender, job, opened, round_key, schema_of
from server_ref.intake.receipts import RELEASABLE, decide
from server_ref.intake.receive import ACCEPTED, QUARANTINED, REFUSED
from server_ref.intake.sandbox import Opener
from server_ref.rounds import state, updates

CLAIMS = ("examples", "val", "correct")  # what a site says about itself, and nobody else can check
OPEN, DONE, FAILED = "open", "merged", "failed"


def aggregate(hub: Hub, boss: Keys, *, now: bool = False) -> dict[str, Any]:
    """Close the open round if it is due, and merge what was accepted."""
    forget(hub)  # what a run that was cut off has left
    with hub.store.changing():
        hub.verify()
        row = state.current(hub)
        _refuse_revoked(hub, boss, row)
    accepted, missing = state.standing(hub, row)
    closes = when(row["closes"])
    over = hub.now >= closes and not partial.awaited(hub, row["round"], closes)
    shares = _look_closer(hub, boss, row) if over or now or not missing else None
    accepted, missing = state.standing(hub, row)
    quorum = hub.plan.round.quorum
    if shares is None or len(accepted) < quorum or (missing and not over and not now):
        if over:
            state.call_off(hub, row, "fail")
        who = f"; missing: {shortened(missing)}" if missing else ""
        raise QuorumError(f"{len(accepted)} of {len(accepted) + len(missing)} shares, {quorum} are needed{who}")
    rows = {r["site"]: r for r in _accepted(hub, row)}
    model, inputs = _merge(hub, row, rows, shares.only(rows))
    with hub.store.changing():
        if state.newest(hub) != row or _accepted(hub, row) != list(rows.values()):
            raise HubDamagedError("the round was changed while it was merged")
        name = hub.keep_model(model)
        hub.store.run("UPDATE rounds SET report = ? WHERE round = ?", json.dumps(_report(hub, row)), row["round"])
        hub.store.run("UPDATE shares SET state = 'merged' WHERE counts = ? AND state = 'accepted'", row["round"])
        hub.store.run("UPDATE rounds SET state = 'merged', model = ? WHERE round = ?", name, row["round"])
        hub.publish_model(boss, row["round"], name, inputs, "merge", shares=len(inputs), task=row["task"])
        if _is_tired(hub):
            state.finish(hub)
    forget(hub)
    return state.outcome(hub, row["round"])


def _refuse_revoked(hub: Hub, boss: Keys, row: sqlite3.Row) -> None:
    """A site that was revoked after its share was accepted does not count either."""
    for accepted in _accepted(hub, row):
        try:
            check_sender(hub, accepted)
        except SignerRevokedError as fault:
            decide(hub, boss, accepted, REFUSED, row["round"], fault.code, fault.cause)


def _look_closer(hub: Hub, boss: Keys, row: sqlite3.Row) -> updates.Updates:
    """Statistics over all shares of the round, once it is to close: what is odd waits for a person.

    What waits already is looked at again: a copy is one also when its twin was put aside before.
    """
    query = "SELECT * FROM shares WHERE counts = ? AND state = 'quarantined' ORDER BY seq"
    odd = {r["site"]: r for r in hub.store.rows(query, row["round"]) if r["code"] in RELEASABLE}
    rows = odd | {r["site"]: r for r in _accepted(hub, row)}
    base = hub.model(row["base"])
    facts = {site: json.loads(r["facts"]) for site, r in rows.items()}

    def again(site: str) -> str:
        with Opener() as opener:
            return opener.open(job(hub, round_key(hub, boss, rows[site]["round"]), rows[site], row["base"])).sha256

    plain = {site: (opened(hub, r["hash"]), facts[site].get("sha256", "")) for site, r in rows.items()}
    shares = updates.Updates(plain, schema_of(hub).header, again)
    found = outliers.suspects(base, shares, {site: told["pull"] for site, told in facts.items()})
    if rules.weighs(hub.plan.merge):
        claimed = {site: facts[site]["examples"] for site in facts}
        for site, fault in outliers.inflated(claimed, _released(hub)).items():
            found[site] = type(found[site])(f"{found[site].cause}; {fault.cause}") if site in found else fault
    with hub.store.changing():  # all of them or none: the verdict on each rests on all
        for site, fault in found.items():
            if rows[site]["state"] == ACCEPTED and not rows[site]["released"]:
                decide(hub, boss, rows[site], QUARANTINED, row["round"], fault.code, fault.cause)
    return shares


def _released(hub: Hub) -> dict[str, int]:
    """By site the largest number of images of a share that a person let in."""
    claims: dict[str, int] = {}
    for row in hub.store.rows("SELECT site, facts FROM shares WHERE released AND state IN ('accepted', 'merged')"):
        claims[row["site"]] = max(claims.get(row["site"], 0), json.loads(row["facts"])["examples"])
    return claims


def _accepted(hub: Hub, row: sqlite3.Row) -> list[sqlite3.Row]:
    return hub.store.rows("SELECT * FROM shares WHERE counts = ? AND state = 'accepted' ORDER BY site", row["round"])


def _merge(
    hub: Hub, row: sqlite3.Row, rows: Mapping[str, sqlite3.Row], shares: updates.Updates
) -> tuple[dict[str, Array], list[str]]:
    facts = {site: json.loads(r["facts"]) for site, r in rows.items()}
    examples = {site: found["examples"] for site, found in facts.items()}
    pulls = {site: found["pull"] for site, found in facts.items()}
    merged = rules.merge(hub.model(row["base"]), shares, examples, hub.plan.merge, pulls)
    update.check_numbers(merged)
    return merged, [rows[site]["hash"] for site in sorted(rows)]


def _report(hub: Hub, row: sqlite3.Row) -> dict[str, dict[str, list[int]]]:
    """By site the claimed validation images, and how many the model that this round began with got right."""
    facts = {r["site"]: json.loads(r["facts"]) for r in _accepted(hub, row)}
    return {"sites": {site: [found.get("val", 0), found.get("correct", 0)] for site, found in facts.items()}}


def _is_tired(hub: Hub) -> bool:
    """Whether the merged model has not become better for as many rounds as the plan has patience."""
    rows = hub.store.rows("SELECT report FROM rounds WHERE state = 'merged' AND task != '' ORDER BY round")
    reports = [json.loads(row["report"]).get("sites", {}) for row in rows]
    return early_stopping.is_spent(reports, hub.plan.round.patience)


def forget(hub: Hub) -> None:
    """Destroy the keys of rounds that no share counts for any more, and what was opened of merged and refused ones."""
    round_ = hub.store.only("SELECT max(round) AS merged FROM rounds WHERE state = 'merged'")["merged"]
    for path in (hub.home / "round-keys").glob("*.age"):
        if int(path.stem) <= round_ - hub.plan.round.stale:
            path.unlink()
    for path in (hub.home / "shares").glob("*.safetensors"):
        row = hub.store.row("SELECT state, counts FROM shares WHERE hash = ?", path.stem)
        if row and (row["state"] == REFUSED or (row["counts"] <= round_ and row["state"] != QUARANTINED)):
            path.unlink()
