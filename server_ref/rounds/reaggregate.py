"""Aggregate all rounds again without the updates of one site."""

from __future__ import annotations

import json
from typing import Any

from fedhelp_edge.errors import NotNowError
from fedhelp_edge.methods import registry
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel.keys import Keys
from server_ref.hub import models
from server_ref.hub.database import Row
from server_ref.hub.hub import Hub
from server_ref.hub.states import State
from server_ref.hub.tables import log_table, rounds_table, updates_table
from server_ref.intake import sandbox, tags
from server_ref.intake.judge import opened_path, opening_job, update_schema
from server_ref.rounds import lifecycle, updates


def contributed(hub: Hub, site: str) -> bool:
    """Whether a site's updates are part of a merged model."""
    return updates_table.first_merged_round(hub.database, site) is not None


def check_contributed(hub: Hub, site: str) -> None:
    """Refuse to aggregate again without a site that contributed nothing to the newest model."""
    method = hub.plan.method
    if not METHODS[method].exchanges:
        raise NotNowError(f"{method} merges nothing")
    if hub.plan.privacy.is_secure_sum:
        remedy = f"'fedhelp-coordinator revoke {site}': the next rounds are made without it"
        raise NotNowError("in a secure sum nobody has a single update that could be left out", remedy=remedy)
    if not hub.plan.has_archive:
        remedy = f"'fedhelp-coordinator revoke {site}': the next rounds are made without it"
        raise NotNowError("post-quantum updates open with their round's key alone, which is destroyed", remedy=remedy)
    schema = update_schema(hub)
    if not schema.averaged and not schema.adds:
        remedy = f"'fedhelp-coordinator revoke {site}': the next round's model is made without it"
        raise NotNowError(f"{method} makes each model anew from the updates of one round", remedy=remedy)
    if not contributed(hub, site):
        raise NotNowError(f"no merged round has an update of {site}")
    newest = f"round {hub.newest_round()['round']}"
    undone = {row["subject"]: json.loads(row["detail"])["without"] for row in log_table.of_type(hub.database, "undo")}
    if undone.get(newest) == site:
        raise NotNowError(f"{newest} was merged again without {site} already")


def without_site(hub: Hub, coordinator_keys: Keys, site: str, archive: Keys) -> dict[str, Any]:
    """Aggregate all rounds again without a site: G'_t = G'_{t-1} + merge(update_i,t - G_{t-1}) over the others.

    `archive` opens the updates, whose round keys are destroyed. The result is the model of a new round, from which the
    next one begins. An open round is cancelled.
    """
    check_contributed(hub, site)
    newest = hub.newest_round()
    if newest["state"] == State.OPEN:
        lifecycle.cancel_round(hub, newest)
        newest = hub.newest_round()
    first = updates_table.first_merged_round(hub.database, site) or 0
    model = ""  # the newest one that differs
    with sandbox.Sandbox() as process:
        for round_row in rounds_table.merged(hub.database, first):
            model = _merge_round(hub, round_row, site, model or round_row["base"], archive, process)
    with hub.database.transaction():
        number = newest["round"] + 1
        rounds_table.add(hub.database, number, State.MERGED, base=newest["model"], model=model)
        models.publish(hub, coordinator_keys, number, model, [], "undo", without=site)
    return {"round": number, "without": site, "merged_sha256": model}


def _open(hub: Hub, archive: Keys, row: Row, base: str, process: sandbox.Sandbox) -> sandbox.OpenedUpdate:
    """Open an update again. A site can have sealed it for the round's key alone, which nobody sees before."""
    try:
        return process.open(opening_job(hub, archive.identity, row, base))
    except sandbox.SandboxRefusalError as error:
        site = row["site"]
        cause = f"the update of {site} in round {row['round']} cannot be opened again: {error.code}: {error.cause}"
        raise NotNowError(cause, remedy=f"'fedhelp-coordinator revoke {site}', then open the next round") from error


def _merge_round(hub: Hub, round_row: Row, site: str, base: str, archive: Keys, process: sandbox.Sandbox) -> str:
    """Merge the other sites' updates of one round upon another base model."""
    merged = updates_table.counting(hub.database, round_row["round"], State.MERGED)
    rows = {row["site"]: row for row in merged if row["site"] != site}
    if not rows:
        return base
    try:
        opened = {other: _open(hub, archive, row, base, process) for other, row in rows.items()}
        paths = {other: (opened_path(hub, row["hash"]), opened[other].tag) for other, row in rows.items()}
        round_updates = updates.RoundUpdates(
            paths, update_schema(hub).header,
            lambda other, tag, content: tags.fits(tag, archive.identity, rows[other]["hash"], content),
            lambda other: opened[other].tag,
        )  # fmt: skip
        examples = {other: result.facts["examples"] for other, result in opened.items()}
        norms = {other: result.norm for other, result in opened.items()}
        model = registry.merge(
            hub.plan, round_row["round"], models.load(hub, base), round_updates, examples, norms, hub.public
        )
        return models.save(hub, model)
    finally:
        for row in rows.values():
            opened_path(hub, row["hash"]).unlink(missing_ok=True)
