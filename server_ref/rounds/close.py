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
from fedhelp_edge.parcel.statement import parse_time
from fedhelp_edge.safe_text import shortened
from fedhelp_edge.update import Array
from server_ref.hub.hub import Hub
from server_ref.intake import partial
from server_ref.intake.judge import check_sender, opened_path, opening_job, round_key, update_schema
from server_ref.intake.receipts import RELEASABLE_CODES, decide_update
from server_ref.intake.receive import ACCEPTED, QUARANTINED, REFUSED
from server_ref.intake.sandbox import Sandbox
from server_ref.rounds import lifecycle, updates

CLAIMS = ("examples", "val", "correct")  # what a site says about itself, and nobody else can check
OPEN, DONE, FAILED = "open", "merged", "failed"


def aggregate(hub: Hub, coordinator_keys: Keys, *, now: bool = False) -> dict[str, Any]:
    """Close the open round if it is due, and merge what was accepted."""
    destroy_obsolete(hub)  # what a run that was cut off has left
    with hub.database.transaction():
        hub.verify()
        round_row = lifecycle.open_round(hub)
        _refuse_revoked(hub, coordinator_keys, round_row)
    accepted, missing = lifecycle.accepted_and_missing(hub, round_row)
    closes = parse_time(round_row["closes"])
    is_due = hub.now >= closes and not partial.awaited_senders(hub, round_row["round"], closes)
    round_updates = _quarantine_outliers(hub, coordinator_keys, round_row) if is_due or now or not missing else None
    accepted, missing = lifecycle.accepted_and_missing(hub, round_row)
    quorum = hub.plan.round.quorum
    if round_updates is None or len(accepted) < quorum or (missing and not is_due and not now):
        if is_due:
            lifecycle.cancel_round(hub, round_row, "fail")
        missing_text = f"; missing: {shortened(missing)}" if missing else ""
        raise QuorumError(
            f"{len(accepted)} of {len(accepted) + len(missing)} shares, {quorum} are needed{missing_text}"
        )
    rows = {update_row["site"]: update_row for update_row in _accepted_rows(hub, round_row)}
    model, inputs = _merge(hub, round_row, rows, round_updates.only(rows))
    with hub.database.transaction():
        if lifecycle.newest_round(hub) != round_row or _accepted_rows(hub, round_row) != list(rows.values()):
            raise HubDamagedError("the round was changed while it was merged")
        name = hub.save_model(model)
        hub.database.run(
            "UPDATE rounds SET report = ? WHERE round = ?",
            json.dumps(_validation_report(hub, round_row)),
            round_row["round"],
        )
        hub.database.run(
            "UPDATE shares SET state = 'merged' WHERE counts = ? AND state = 'accepted'", round_row["round"]
        )
        hub.database.run("UPDATE rounds SET state = 'merged', model = ? WHERE round = ?", name, round_row["round"])
        hub.publish_model(
            coordinator_keys, round_row["round"], name, inputs, "merge", shares=len(inputs), task=round_row["task"]
        )
        if _patience_is_spent(hub):
            lifecycle.finish(hub)
    destroy_obsolete(hub)
    return lifecycle.outcome(hub, round_row["round"])


def _refuse_revoked(hub: Hub, coordinator_keys: Keys, round_row: sqlite3.Row) -> None:
    """A site that was revoked after its share was accepted does not count either."""
    for update_row in _accepted_rows(hub, round_row):
        try:
            check_sender(hub, update_row)
        except SignerRevokedError as error:
            decide_update(hub, coordinator_keys, update_row, REFUSED, round_row["round"], error.code, error.cause)


def _quarantine_outliers(hub: Hub, coordinator_keys: Keys, round_row: sqlite3.Row) -> updates.RoundUpdates:
    """Statistics over all shares of the round, once it is to close: what is odd waits for a person.

    What waits already is looked at again: a copy is one also when its twin was put aside before.
    """
    query = "SELECT * FROM shares WHERE counts = ? AND state = 'quarantined' ORDER BY seq"
    quarantined = {
        update_row["site"]: update_row
        for update_row in hub.database.rows(query, round_row["round"])
        if update_row["code"] in RELEASABLE_CODES
    }
    rows = quarantined | {update_row["site"]: update_row for update_row in _accepted_rows(hub, round_row)}
    base = hub.model(round_row["base"])
    facts = {site: json.loads(update_row["facts"]) for site, update_row in rows.items()}

    def again(site: str) -> str:
        with Sandbox() as opener:
            return opener.open(
                opening_job(hub, round_key(hub, coordinator_keys, rows[site]["round"]), rows[site], round_row["base"])
            ).sha256

    opened_files = {
        site: (opened_path(hub, update_row["hash"]), facts[site].get("sha256", "")) for site, update_row in rows.items()
    }
    round_updates = updates.RoundUpdates(opened_files, update_schema(hub).header, again)
    suspects = outliers.suspicious_updates(
        base, round_updates, {site: claims["pull"] for site, claims in facts.items()}
    )
    if rules.weights_by_examples(hub.plan.merge):
        claimed = {site: facts[site]["examples"] for site in facts}
        for site, error in outliers.inflated_claims(claimed, _released_claims(hub)).items():
            suspects[site] = (
                type(suspects[site])(f"{suspects[site].cause}; {error.cause}") if site in suspects else error
            )
    with hub.database.transaction():  # all of them or none: the verdict on each rests on all
        for site, error in suspects.items():
            if rows[site]["state"] == ACCEPTED and not rows[site]["released"]:
                decide_update(
                    hub, coordinator_keys, rows[site], QUARANTINED, round_row["round"], error.code, error.cause
                )
    return round_updates


def _released_claims(hub: Hub) -> dict[str, int]:
    """By site the largest number of images of a share that a person let in."""
    claims: dict[str, int] = {}
    for row in hub.database.rows("SELECT site, facts FROM shares WHERE released AND state IN ('accepted', 'merged')"):
        claims[row["site"]] = max(claims.get(row["site"], 0), json.loads(row["facts"])["examples"])
    return claims


def _accepted_rows(hub: Hub, round_row: sqlite3.Row) -> list[sqlite3.Row]:
    return hub.database.rows(
        "SELECT * FROM shares WHERE counts = ? AND state = 'accepted' ORDER BY site", round_row["round"]
    )


def _merge(
    hub: Hub, round_row: sqlite3.Row, rows: Mapping[str, sqlite3.Row], round_updates: updates.RoundUpdates
) -> tuple[dict[str, Array], list[str]]:
    facts = {site: json.loads(update_row["facts"]) for site, update_row in rows.items()}
    examples = {site: claims["examples"] for site, claims in facts.items()}
    norms = {site: claims["pull"] for site, claims in facts.items()}
    merged = rules.merge(hub.model(round_row["base"]), round_updates, examples, hub.plan.merge, norms)
    update.check_values(merged)
    return merged, [rows[site]["hash"] for site in sorted(rows)]


def _validation_report(hub: Hub, round_row: sqlite3.Row) -> dict[str, dict[str, list[int]]]:
    """By site the claimed validation images, and how many the model that this round began with got right."""
    facts = {update_row["site"]: json.loads(update_row["facts"]) for update_row in _accepted_rows(hub, round_row)}
    return {"sites": {site: [claims.get("val", 0), claims.get("correct", 0)] for site, claims in facts.items()}}


def _patience_is_spent(hub: Hub) -> bool:
    """Whether the merged model has not become better for as many rounds as the plan has patience."""
    rows = hub.database.rows("SELECT report FROM rounds WHERE state = 'merged' AND task != '' ORDER BY round")
    reports = [json.loads(row["report"]).get("sites", {}) for row in rows]
    return early_stopping.has_plateaued(reports, hub.plan.round.patience)


def destroy_obsolete(hub: Hub) -> None:
    """Destroy the keys of rounds that no share counts for any more, and what was opened of merged and refused ones."""
    last_merged = hub.database.only("SELECT max(round) AS merged FROM rounds WHERE state = 'merged'")["merged"]
    for path in (hub.home / "round-keys").glob("*.age"):
        if int(path.stem) <= last_merged - hub.plan.round.stale:
            path.unlink()
    for path in (hub.home / "shares").glob("*.safetensors"):
        row = hub.database.row("SELECT state, counts FROM shares WHERE hash = ?", path.stem)
        if row and (row["state"] == REFUSED or (row["counts"] <= last_merged and row["state"] != QUARANTINED)):
            path.unlink()
