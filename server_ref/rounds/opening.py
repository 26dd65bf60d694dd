"""Open a round: publish its task, and seal its key for those who may read updates."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import timedelta

from fedhelp_edge import files
from fedhelp_edge.codec import CODECS
from fedhelp_edge.errors import EncoderError, NotNowError
from fedhelp_edge.methods import registry
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets import spec
from fedhelp_edge.parcel import age, parcel
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.parcel.statement import format_time
from fedhelp_edge.secure_sum.arithmetic import SumFormat
from fedhelp_edge.trust import task
from fedhelp_edge.update import Array
from server_ref.hub import members, models
from server_ref.hub.hub import Hub, to_json
from server_ref.hub.states import State
from server_ref.hub.tables import rounds_table
from server_ref.rounds import lifecycle


def check_open(hub: Hub, *, start: bool = False) -> None:
    """Refuse to open a round where none can be opened; `start` tells that first weights are given."""
    check_ready(hub, start=start)
    registry.merger_of(hub.plan)


def check_ready(hub: Hub, *, start: bool = False) -> None:
    """As `check_open`, for the front: it imports no merger, which may bring torch."""
    newest = hub.newest_round()
    if newest["state"] == State.OPEN:
        raise NotNowError(f"round {newest['round']} is open")
    if lifecycle.held_sum(newest):
        remedy = "see why with 'fedhelp-coordinator review', and decide on the sum"
        raise NotNowError(f"the sum of round {newest['round']} waits for a decision", remedy=remedy)
    if newest["state"] == State.SUMMING:
        remedy = "bring the helper's answer with 'fedhelp-coordinator exchange DIR', then run 'aggregate'"
        raise NotNowError(f"round {newest['round']} waits for the helper", remedy=remedy)
    if lifecycle.is_finished(hub):
        raise NotNowError("the federation is finished")
    if hub.plan.start.source == "pack" and newest["round"] == 0 and not start:
        raise NotNowError(
            "the plan starts from weights that are trained on the pack",
            remedy="make them with 'fedhelp-edge knowledge start PLAN PACK --out start.safetensors'; open with --start",
        )
    nets = hub.plan.nets
    if nets.encoder and hub.database.fact("encoder") != nets.encoder_sha256:
        raise EncoderError(
            f"the plan's encoder {nets.encoder} is not published",
            remedy="publish it with 'fedhelp-coordinator encoder publish FILE.onnx'",
        )
    registry.check_public(hub.plan, hub.public, "publish one with 'fedhelp-coordinator knowledge publish PACK'")
    if start and newest["round"] > 0:
        raise NotNowError("first weights come before the first round")


def open_next(hub: Hub, coordinator_keys: Keys, start: Mapping[str, Array] | None = None) -> task.Task:
    """Open the next round with a key of its own, from the newest model or from the weights `start`."""
    plan, key = hub.plan, age.new_identity(post_quantum=hub.plan.wire.post_quantum)
    schema = METHODS[plan.method].up(plan, hub.public)
    with hub.database.transaction():
        check_open(hub, start=start is not None)
        newest = hub.newest_round()
        number, model = newest["round"] + 1, newest["model"]
        if start is not None:
            model = models.save(hub, spec.warm_start(models.load(hub, model), start)[0])
            rounds_table.replace_first_model(hub.database, model)
            models.publish(hub, coordinator_keys, 0, model, [], "start")
        seal_round_key(hub, [coordinator_keys], number, key)
        opens = hub.now
        closes = opens + timedelta(days=plan.round.days)
        if hub.roster.expires < closes:  # it has not changed for long
            hub.log("renew", "roster")
            members.write_roster(hub, coordinator_keys, hub.roster.sites)
        roster = hub.roster
        is_sum = plan.privacy.is_secure_sum
        wire = SumFormat.of(plan, schema).wire_schema if is_sum else CODECS[plan.wire.up].wire_schema(schema)
        recipients = [age.recipient_of(key), *([roster.archive] if plan.has_archive else ())]
        update_bytes = parcel.INNER_LIMIT + wire.size
        limit = age.encrypted_size(update_bytes, recipients)
        log = hub.log("open", f"round {number}", model=model)
        body = task.body(plan.text, schema, recipients, limit, hub.database.fact("knowledge"), opens, closes, log)
        sealed = hub.publish(
            "task", to_json(body), coordinator_keys, number=number, federation=hub.federation,
            epoch=hub.charter.epoch, round=number, roster=roster.hash, roster_version=roster.version, base=model,
        )  # fmt: skip
        rounds_table.add(hub.database, number, State.OPEN, task=sealed.hash, base=model, closes=format_time(closes))
    return hub.tasks(number)[number]


def seal_round_key(hub: Hub, readers: Sequence[Keys], round_: int, key: str) -> None:
    """Seal the key of a round for the coordinator; while its keys change, for the old and the new ones.

    Replaces a file that is there: it holds the same key, or that of an interrupted command, whose task nobody has.
    """
    sealed = io.BytesIO()
    age.encrypt(io.BytesIO(key.encode()), sealed, [reader.public.recipient for reader in readers])
    files.write_atomic(hub.home / "round-keys" / f"{round_:06}.age", sealed.getvalue())
