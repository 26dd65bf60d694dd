"""Close a round: quarantine suspicious updates, merge the others, and publish the model."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping
from mmap import mmap
from typing import Any

from fedhelp_edge import update
from fedhelp_edge.errors import (
    FedhelpError,
    HubDamagedError,
    QuorumError,
    SetAnsweredError,
    SignerRevokedError,
    UpdateError,
)
from fedhelp_edge.merge import early_stopping, outliers, rules
from fedhelp_edge.methods import registry
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.parcel.statement import parse_time
from fedhelp_edge.safe_text import counted, shortened
from fedhelp_edge.secure_sum import arithmetic
from fedhelp_edge.update import Array
from server_ref.hub import models
from server_ref.hub.database import Row
from server_ref.hub.hub import Hub
from server_ref.hub.states import State
from server_ref.hub.tables import rounds_table, updates_table
from server_ref.intake import sandbox, tags
from server_ref.intake.judge import check_sender, opened_path, opening_job, round_key, update_schema
from server_ref.intake.receipts import RELEASABLE_CODES, decide_update, refusal
from server_ref.rounds import lifecycle, secure_sum, updates


def aggregate(
    hub: Hub, coordinator_keys: Keys, *, now: bool = False, in_transit: Collection[str] = ()
) -> dict[str, Any]:
    """Close the open round if it is due, and merge its accepted updates.

    It is due when each site's update is there, or after its deadline, unless updates are still `in_transit`. With `now`
    it is due as soon as there is a quorum.
    """
    destroy_obsolete(hub)  # what an interrupted command left
    with hub.database.transaction():
        hub.check_rows()
        round_row = lifecycle.unmerged_round(hub)
        if round_row["state"] == State.OPEN:
            _refuse_revoked(hub, coordinator_keys, round_row)
    if round_row["state"] == State.SUMMING:
        return _merge_sum(hub, coordinator_keys, round_row)
    number, quorum = round_row["round"], hub.plan.round.quorum
    _, missing = lifecycle.accepted_and_missing(hub, round_row)
    is_over = hub.now >= parse_time(round_row["closes"]) and not in_transit
    is_due, is_secure = is_over or now or not missing, hub.plan.privacy.is_secure_sum
    opened = _quarantine_outliers(hub, coordinator_keys, round_row) if is_due and not is_secure else None
    accepted, missing = lifecycle.accepted_and_missing(hub, round_row)
    if not is_due or len(accepted) < quorum or (missing and not is_over and not now):
        if is_over:
            lifecycle.cancel_round(hub, round_row, "fail")
        who = f"; missing: {shortened(missing)}" if missing else ""
        needed = counted(quorum, "is", "are")
        raise QuorumError(f"{len(accepted)} of {counted(len(accepted) + len(missing), 'update')}, {needed} needed{who}")
    rows = {row["site"]: row for row in _accepted_rows(hub, round_row)}
    if opened is None:
        try:
            secure_sum.name_set(hub, coordinator_keys, round_row, rows)
        except SetAnsweredError:
            if is_over:
                lifecycle.cancel_round(hub, round_row, "fail")
            raise
        return {**lifecycle.outcome(hub, number), "best_round": None}
    model = _merge(hub, round_row, rows, opened.subset(rows))
    return _publish(hub, coordinator_keys, round_row, rows, model, validation_report(hub, round_row))


def _merge_sum(hub: Hub, coordinator_keys: Keys, round_row: Row) -> dict[str, Any]:
    """Merge a round whose set was named, once the helper has answered. A sum that is none fails the round.

    An unusual sum waits until a person releases it.
    """
    answer = secure_sum.answer_hash(hub, round_row)
    if not answer or lifecycle.held_sum(round_row):
        return {**lifecycle.outcome(hub, round_row["round"]), "best_round": None}
    rows = {row["site"]: row for row in _accepted_rows(hub, round_row)}
    try:
        model, counts = secure_sum.merge(hub, coordinator_keys, round_row, rows, answer)
        update.check_values(model)
    except UpdateError:
        lifecycle.cancel_round(hub, round_row, "fail")
        raise
    counts = {"updates": len(rows), **counts}
    if not secure_sum.is_released(round_row) and (error := secure_sum.suspicion(hub, round_row, model, counts)):
        secure_sum.hold(hub, round_row, error)
        return {**lifecycle.outcome(hub, round_row["round"]), "best_round": None}
    report = {"sites": {arithmetic.SUM: [counts["val"], counts["correct"]]}, "sum": counts}
    return _publish(hub, coordinator_keys, round_row, rows, model, report)


def _publish(
    hub: Hub, coordinator_keys: Keys, round_row: Row, rows: Mapping[str, Row], model: Mapping[str, Array],
    report: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """End a round with its model."""
    number = round_row["round"]
    with hub.database.transaction():
        if hub.newest_round() != round_row or _accepted_rows(hub, round_row) != list(rows.values()):
            raise HubDamagedError("the round was changed while it was merged")
        name = models.save(hub, model)
        rounds_table.merge(hub.database, number, name, json.dumps(report))
        updates_table.merge_accepted(hub.database, number)
        inputs = [row["hash"] for row in rows.values()]
        detail = {"shares": len(inputs), "task": round_row["task"]}
        models.publish(hub, coordinator_keys, number, name, inputs, "merge", **detail)
        if _patience_is_spent(hub):
            lifecycle.finish(hub)
    destroy_obsolete(hub)
    return {**lifecycle.outcome(hub, number), "best_round": best_round(hub)}


def _accepted_rows(hub: Hub, round_row: Row) -> list[Row]:
    return updates_table.counting(hub.database, round_row["round"], State.ACCEPTED)


def _refuse_revoked(hub: Hub, coordinator_keys: Keys, round_row: Row) -> None:
    """Refuse accepted updates of sites that were revoked afterwards."""
    for row in _accepted_rows(hub, round_row):
        try:
            check_sender(hub, row)
        except SignerRevokedError as error:
            decide_update(hub, coordinator_keys, row, refusal(error), round_row["round"])


# --- outliers ------------------------------------------------------------------------------------------------------
def _quarantine_outliers(hub: Hub, coordinator_keys: Keys, round_row: Row) -> updates.RoundUpdates:
    """Compare all updates of a round that is to close; a person decides on those that are suspicious.

    Updates in quarantine are compared too: an update that copies one of them is a copy all the same.
    """
    quarantined = updates_table.quarantined(hub.database, round_row["round"])
    rows = {row["site"]: row for row in quarantined if row["code"] in RELEASABLE_CODES}
    rows |= {row["site"]: row for row in _accepted_rows(hub, round_row)}
    facts = {site: json.loads(row["facts"]) for site, row in rows.items()}

    key_of = functools.cache(functools.partial(round_key, hub, coordinator_keys))

    def fits(site: str, tag: str, content: mmap) -> bool:
        return tags.fits(tag, key_of(rows[site]["round"]), rows[site]["hash"], content)

    def reopen(site: str) -> str:
        with sandbox.Sandbox() as process:
            return process.open(opening_job(hub, key_of(rows[site]["round"]), rows[site], round_row["base"])).tag

    paths = {site: (opened_path(hub, row["hash"]), facts[site].get("tag", "")) for site, row in rows.items()}
    opened = updates.RoundUpdates(paths, update_schema(hub).header, fits, reopen)
    suspects = _suspects(hub, round_row, facts, opened)
    with hub.database.transaction():  # all of them or none: the verdict on each rests on all
        for site, error in suspects.items():
            if rows[site]["state"] == State.ACCEPTED and not rows[site]["released"]:
                decision = refusal(error, State.QUARANTINED)
                decide_update(hub, coordinator_keys, rows[site], decision, round_row["round"])
    return opened


def _suspects(
    hub: Hub, round_row: Row, facts: Mapping[str, Mapping[str, Any]], opened: updates.RoundUpdates
) -> dict[str, FedhelpError]:
    """By site, why its update is suspicious: its tensors, its claimed number of images, or both."""
    base, norms = models.load(hub, round_row["base"]), {site: claims["pull"] for site, claims in facts.items()}
    suspects: dict[str, FedhelpError] = dict(
        outliers.suspicious_updates(base, opened, norms, update_schema(hub).role_of)
    )
    if rules.weights_by_examples(registry.merge_settings(hub.plan)):
        claimed = {site: claims["examples"] for site, claims in facts.items()}
        for site, error in outliers.inflated_claims(claimed, _released_claims(hub)).items():
            first = suspects.get(site)
            suspects[site] = type(first)(f"{first.cause}; {error.cause}") if first else error
    return suspects


def _released_claims(hub: Hub) -> dict[str, int]:
    """By site, the largest number of images that it claimed in an update that a person released."""
    claims: dict[str, int] = {}
    for row in updates_table.released(hub.database):
        claims[row["site"]] = max(claims.get(row["site"], 0), json.loads(row["facts"])["examples"])
    return claims


# --- the merge -----------------------------------------------------------------------------------------------------
def _merge(hub: Hub, round_row: Row, rows: Mapping[str, Row], opened: updates.RoundUpdates) -> dict[str, Array]:
    facts = {site: json.loads(row["facts"]) for site, row in rows.items()}
    examples = {site: claims["examples"] for site, claims in facts.items()}
    norms = {site: claims["pull"] for site, claims in facts.items()}
    merged = registry.merge(
        hub.plan, round_row["round"], models.load(hub, round_row["base"]), opened, examples, norms, hub.public
    )
    try:
        update.check_values(merged)
    except UpdateError as error:  # it would be the same again
        lifecycle.cancel_round(hub, round_row, "fail")
        error.cause = f"the merged model: {error.cause}"
        error.remedy = (
            "the model before stays: open the next round; if that fails too, the plan's rates or step are too large"
        )
        raise
    return merged


def validation_report(hub: Hub, round_row: Row) -> dict[str, dict[str, list[int]]]:
    """By accepted site, how many validation images it claims, and how many of them the round's base model got right."""
    facts = {row["site"]: json.loads(row["facts"]) for row in _accepted_rows(hub, round_row)}
    return {"sites": {site: [claims.get("val", 0), claims.get("correct", 0)] for site, claims in facts.items()}}


def _patience_is_spent(hub: Hub) -> bool:
    """Whether the merged model has not improved for as many rounds as the plan has patience."""
    reports = [json.loads(row["report"]).get("sites", {}) for row in rounds_table.merged(hub.database)]
    return early_stopping.has_plateaued(reports, hub.plan.round.patience)


def best_round(hub: Hub) -> int | None:
    """The round whose model sites should use, once patience has ended the federation; None: it did not.

    A round's updates report on the model before, so the last model is not among those compared.
    """
    if not _patience_is_spent(hub):
        return None
    merged = rounds_table.merged(hub.database)
    reports = [json.loads(row["report"]).get("sites", {}) for row in merged[1:]]  # the first ones are about round 0
    return int(merged[early_stopping.best(reports)]["round"])


def destroy_obsolete(hub: Hub) -> None:
    """Delete the keys of rounds whose updates cannot count any more, and opened updates that were merged or refused.

    Whoever breaks into the hub later can open no older update.
    """
    newest = rounds_table.newest_merged(hub.database)
    for path in (hub.home / "round-keys").glob("*.age"):
        if int(path.stem) <= newest - hub.stale_rounds:
            path.unlink()
    for path in (hub.home / "shares").glob("*.safetensors"):
        row = updates_table.find(hub.database, path.stem)
        is_done = row and row["counts"] <= newest and row["state"] != State.QUARANTINED
        if row and (row["state"] == State.REFUSED or is_done):
            path.unlink()
