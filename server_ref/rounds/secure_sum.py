"""Close a round whose updates are masked: name the set of updates, and take the masks' sum that the helper answers.

The set never changes once it is named: the helper answers one set a round. Until its answer is here the round is
summing, and no update is judged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress

from fedhelp_edge import files, update
from fedhelp_edge.errors import FileKindError, HubDamagedError, ParcelError, SignerRoleError
from fedhelp_edge.methods import registry
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import parcel
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.secure_sum import arithmetic, parcels
from fedhelp_edge.secure_sum.arithmetic import MASKED, MASKS, SEED, SUM, SumFormat, Words
from fedhelp_edge.update import Array
from server_ref.hub import models
from server_ref.hub.database import Row
from server_ref.hub.hub import Hub, to_json
from server_ref.hub.states import State
from server_ref.hub.tables import parcels_table, rounds_table, updates_table
from server_ref.intake import sandbox
from server_ref.intake.judge import opened_path, opening_job, round_key, update_schema


def name_set(hub: Hub, coordinator_keys: Keys, round_row: Row, rows: Mapping[str, Row]) -> None:
    """Ask the helper for the masks of these updates together. From here on the round has these and no others."""
    number = round_row["round"]
    seeds = [bytes(_opened(hub, coordinator_keys, row, round_row)[SEED]) for row in rows.values()]
    with hub.database.transaction():
        accepted = updates_table.counting(hub.database, number, State.ACCEPTED)
        if hub.newest_round() != round_row or accepted != list(rows.values()):
            raise HubDamagedError("the round was changed while its set was named")
        log = hub.log("set", f"round {number}", shares=len(rows))
        sealed = hub.publish(
            "set", to_json(parcels.set_body(seeds)), coordinator_keys, number=number, federation=hub.federation,
            epoch=hub.charter.epoch, round=number, task=round_row["task"], base=round_row["base"],
        )  # fmt: skip
        rounds_table.begin_sum(hub.database, number, json.dumps({"set": sealed.hash, "line": log.length}))


def merge(
    hub: Hub, coordinator_keys: Keys, round_row: Row, rows: Mapping[str, Row], answer: str
) -> tuple[dict[str, Array], dict[str, int]]:
    """The model that follows from the sum of these updates, and their counts together."""
    plan, base, number = hub.plan, models.load(hub, round_row["base"]), round_row["round"]
    format_ = SumFormat.of(plan, update_schema(hub))
    masked = (
        arithmetic.as_words(_opened(hub, coordinator_keys, row, round_row)[MASKED]) for row in rows.values()
    )  # fmt: skip
    total = arithmetic.total(masked, format_.length) - _masks(hub, answer, format_)
    arrays, counts = format_.decode(base, total, len(rows))
    update.check_values(arrays)
    if METHODS[plan.method].verify:
        registry.named_object(METHODS[plan.method].verify)(arrays, counts)
    merged = registry.merge(plan, number, base, {SUM: arrays}, {SUM: counts["examples"]}, public=hub.public)
    return merged, counts


def answer_hash(hub: Hub, round_row: Row) -> str:
    """The helper's answer to the named set, or "" while it is awaited."""
    return parcels_table.sum_of_round(hub.database, round_row["round"])


def _masks(hub: Hub, answer: str, format_: SumFormat) -> Words:
    """The sum of masks in an answer, judged again: the front, which received it, could have exchanged it."""

    def check(statement: Statement, signers: tuple[str, ...]) -> None:
        if signers != (hub.plan.privacy.helper_sign,) or statement.context.get("about") != hub.named_set():
            raise SignerRoleError("the sum is not the helper's answer to the set that was named")

    with parcel.open(hub.database.parcel_path(answer), check) as opened:
        return arithmetic.as_words(update.read(opened.body, format_.masks_schema)[MASKS])


def _opened(hub: Hub, coordinator_keys: Keys, row: Row, round_row: Row) -> dict[str, Array]:
    """The masked vector and the sealed seed of an accepted update; opened again if its file is gone or changed."""
    path, sha256 = opened_path(hub, row["hash"]), json.loads(row["facts"])["sha256"]
    for _ in _once_more(hub, coordinator_keys, row, round_row):
        with suppress(FileNotFoundError, FileKindError), files.reading(path, follow=False) as file:
            data = file.read()
            if hashlib.sha256(data).hexdigest() == sha256:
                return update.load(data)
    raise HubDamagedError(f"the update of {row['site']} does not open to what was judged")


def _once_more(hub: Hub, coordinator_keys: Keys, row: Row, round_row: Row) -> Iterator[None]:
    yield
    key = round_key(hub, coordinator_keys, row["round"])
    with suppress(ParcelError), sandbox.Sandbox() as process:
        process.open(opening_job(hub, key, row, round_row["base"]))
    yield
