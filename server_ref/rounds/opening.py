"""Open a round: write its task, and its key for those who may read updates."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import timedelta

from fedhelp_edge import files
from fedhelp_edge.codec import CODECS
from fedhelp_edge.errors import (
    NotNowError,
)
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets import spec
from fedhelp_edge.parcel import age, parcel
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.parcel.statement import format_time
from fedhelp_edge.trust import task
from fedhelp_edge.update import Array
from server_ref.hub.hub import Hub, to_json
from server_ref.rounds import close, lifecycle


# --- open ------------------------------------------------------------------------------
def check_open(hub: Hub, *, start: bool = False) -> None:
    """Refuse to open a round where none can be opened."""
    last, plan = lifecycle.newest_round(hub), hub.plan
    if last["state"] == close.OPEN:
        raise NotNowError(f"round {last['round']} is open")
    if lifecycle.is_finished(hub):
        raise NotNowError("the federation is finished")
    if plan.start.source == "pack" and last["round"] == 0 and not start:
        raise NotNowError(
            "the plan begins from weights that were trained on the pack",
            remedy="'fedhelp-edge knowledge start PLAN PACK --out start.safetensors' makes them; then open --start",
        )
    if start and last["round"] > 0:
        raise NotNowError("first weights come before the first round")


def open_next(hub: Hub, coordinator_keys: Keys, start: Mapping[str, Array] | None = None) -> task.Task:
    """Open the next round: a key of its own, and the order that everybody may follow."""
    plan, key = hub.plan, age.new_identity()
    schema = METHODS[plan.method].schema(plan)
    wire = CODECS[plan.wire.up].wire(schema)
    with hub.database.transaction():
        check_open(hub, start=start is not None)
        last = lifecycle.newest_round(hub)
        number = last["round"] + 1
        model = last["model"]
        if start is not None:
            model = hub.save_model(spec.warm_start(hub.model(model), start)[0])
            hub.database.run("UPDATE rounds SET model = ? WHERE round = 0", model)
            hub.publish_model(coordinator_keys, 0, model, [], "start")
        seal_round_key(hub, [coordinator_keys], number, key)
        opens = hub.now
        closes = opens + timedelta(days=plan.round.days)
        if hub.roster.expires < closes:  # nobody came or left for long
            hub.log("renew", "roster")
            hub.write_roster(coordinator_keys, hub.roster.sites)
        roster = hub.roster
        recipients = [age.recipient_of(key), roster.archive]
        log = hub.log("open", f"round {number}", model=model)
        body = task.body(
            plan.text, schema, recipients, age.encrypted_size(parcel.INNER_LIMIT + wire.size, len(recipients)),
            hub.database.fact("knowledge"), opens, closes, log,
        )  # fmt: skip
        sealed = hub.publish(
            "task", to_json(body), coordinator_keys, number=number, federation=hub.federation, epoch=hub.charter.epoch,
            round=number, roster=roster.hash, roster_version=roster.version, base=model,
        )  # fmt: skip
        values = number, close.OPEN, sealed.hash, model, "", format_time(closes)
        hub.database.run(
            "INSERT INTO rounds (round, state, task, base, model, closes) VALUES (?, ?, ?, ?, ?, ?)", *values
        )
    return hub.tasks(number)[number]


def seal_round_key(hub: Hub, readers: Sequence[Keys], round_: int, key: str) -> None:
    """Seal the key of a round under the coordinator's; while that changes, under the old and the new one.

    What is there is replaced: the same key, or that of an attempt that was cut off, whose task nobody has seen.
    """
    sink = io.BytesIO()
    age.encrypt(io.BytesIO(key.encode()), sink, [reader.public.recipient for reader in readers])
    files.write_atomic(hub.home / "round-keys" / f"{round_:06}.age", sink.getvalue())
