"""Close a round whose updates are masked: name the set of updates, and take the masks' sum that the helper answers.

The set never changes once it is named: the helper answers one set a round. Until its answer is here the round is
summing, and no update is judged. A sum that is unlike those before is held until a person decides on it. A refused sum
fails its round: another set can only come in another round, and the helper allows few from the same model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress

from fedhelp_edge import files, update
from fedhelp_edge.errors import (
    FileKindError,
    HubDamagedError,
    NotNowError,
    ParcelError,
    SetAnsweredError,
    SignerRoleError,
    UnusualSumError,
)
from fedhelp_edge.merge import rules, sum_outliers
from fedhelp_edge.merge.sum_outliers import SummedRound
from fedhelp_edge.methods import registry
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import parcel
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.safe_text import shortened
from fedhelp_edge.secure_sum import arithmetic, parcels
from fedhelp_edge.secure_sum.arithmetic import MASKED, MASKS, SEED, SUM, SumFormat, Words
from fedhelp_edge.secure_sum.sets import fewest_sites, smallest_group
from fedhelp_edge.update import Array
from server_ref.hub import models
from server_ref.hub.database import Row
from server_ref.hub.hub import Hub, to_json
from server_ref.hub.states import State
from server_ref.hub.tables import parcels_table, rounds_table, updates_table
from server_ref.intake import sandbox, tags
from server_ref.intake.judge import opened_path, opening_job, round_key, update_schema
from server_ref.rounds import lifecycle


def name_set(hub: Hub, coordinator_keys: Keys, round_row: Row, rows: Mapping[str, Row]) -> None:
    """Ask the helper for the masks of these updates together. From here on the round has these and no others."""
    number = round_row["round"]
    key = round_key(hub, coordinator_keys, number)
    seeds = [bytes(_opened(hub, key, row, round_row)[SEED]) for row in rows.values()]
    with hub.database.transaction():
        accepted = updates_table.counting(hub.database, number, State.ACCEPTED)
        if hub.newest_round() != round_row or accepted != list(rows.values()):
            raise HubDamagedError("the round was changed while its set was named")
        _check_allowed(hub, round_row, list(rows))
        log = hub.log("set", f"round {number}", shares=len(rows))
        sealed = hub.publish(
            "set", to_json(parcels.set_body(seeds)), coordinator_keys, number=number, federation=hub.federation,
            epoch=hub.charter.epoch, round=number, task=round_row["task"], base=round_row["base"],
        )  # fmt: skip
        report = {"set": sealed.hash, "line": log.length, "named": list(rows)}
        rounds_table.begin_sum(hub.database, number, json.dumps(report))


def _check_allowed(hub: Hub, round_row: Row, sites: list[str]) -> None:
    """Refuse a set that the helper would refuse, because of sums from the same model that failed."""
    sums = {}
    for failed in rounds_table.failed_from(hub.database, round_row["base"]):
        named = json.loads(failed["report"]).get("named")
        if named and answer_hash(hub, failed):
            sums[failed["round"]] = named
    group = smallest_group([*sums.values(), sites])
    if len(group) < fewest_sites(hub.plan):
        raise SetAnsweredError(
            f"the sums of rounds {shortened(map(str, sums))} are from the same model: with this one they would show "
            f"{shortened(group)} alone",
            remedy=f"wait for the same sites as before ({shortened(next(iter(sums.values())), 6)}), then aggregate",
        )


def merge(
    hub: Hub, coordinator_keys: Keys, round_row: Row, rows: Mapping[str, Row], answer: str
) -> tuple[dict[str, Array], dict[str, int]]:
    """The model that follows from the sum of these updates, and their counts together."""
    plan, base, number = hub.plan, models.load(hub, round_row["base"]), round_row["round"]
    format_ = SumFormat.of(plan, update_schema(hub))
    key = round_key(hub, coordinator_keys, number)
    masked = (arithmetic.as_words(_opened(hub, key, row, round_row)[MASKED]) for row in rows.values())
    total = arithmetic.total(masked, format_.length) - _masks(hub, answer, format_)
    arrays, counts = format_.decode(base, total, len(rows))
    update.check_values(arrays)
    if METHODS[plan.method].verify:
        registry.named_object(METHODS[plan.method].verify)(arrays, counts)
    merged = registry.merge(plan, number, base, {SUM: arrays}, {SUM: counts["examples"]}, public=hub.public)
    return merged, counts


# --- unusual sums ----------------------------------------------------------------------------------------------------
def suspicion(
    hub: Hub, round_row: Row, model: Mapping[str, Array], counts: Mapping[str, int]
) -> UnusualSumError | None:
    """Why a person should decide on this sum, compared with the rounds before; None: nothing is unusual."""
    schema, base = update_schema(hub), models.load(hub, round_row["base"])
    names = {tensor.name for tensor in schema.tensors} & base.keys() & model.keys()
    merged = [row for row in rounds_table.merged(hub.database) if "sum" in json.loads(row["report"])]

    def summed(start: Mapping[str, Array], end: Mapping[str, Array], sums: Mapping[str, int]) -> SummedRound:
        return SummedRound({name: start[name] for name in names}, {name: end[name] for name in names}, sums)

    before = (
        summed(models.load(hub, row["base"]), models.load(hub, row["model"]), json.loads(row["report"])["sum"])
        for row in merged[-sum_outliers.ROUNDS_BEFORE :]
    )  # fmt: skip
    weighs = rules.weights_by_examples(registry.merge_settings(hub.plan))
    reasons = sum_outliers.unusual(
        summed(base, model, counts), before, schema.role_of, weighs_examples=weighs and not hub.plan.privacy.has_budget
    )
    return UnusualSumError("; ".join(reasons)) if reasons else None


def hold(hub: Hub, round_row: Row, error: UnusualSumError) -> None:
    """Let the sum of a round wait for a person."""
    number, held = round_row["round"], {"code": error.code, "cause": error.cause}
    with hub.database.transaction():
        if hub.newest_round() != round_row:
            raise HubDamagedError("the round was changed while its sum was judged")
        hub.log("hold sum", f"round {number}", **held)
        _update_report(hub, round_row, held=held)


def is_released(round_row: Row) -> bool:
    """Whether a person released the sum of a round."""
    return bool(json.loads(round_row["report"]).get("released"))


def check_decision(hub: Hub, *, release: bool) -> Row:
    """The round whose sum a person can decide on. One that the helper still has to answer can be refused."""
    round_row = hub.newest_round()
    if round_row["state"] != State.SUMMING or (release and not lifecycle.held_sum(round_row)):
        remedy = "see what waits with 'fedhelp-coordinator review'"
        raise NotNowError("no sum waits for a decision", remedy=remedy)
    return round_row


def decide(hub: Hub, *, release: bool) -> dict[str, str]:
    """Release the sum of a round, so that the next step merges it; or refuse it: the round ends, the model stays."""
    with hub.database.transaction():
        hub.check_rows()
        round_row = check_decision(hub, release=release)
        held = lifecycle.held_sum(round_row) or {"code": "", "cause": "the helper's answer is awaited"}
        if release:
            _update_report(hub, round_row, held=None, released=True)
        else:
            lifecycle.cancel_round(hub, round_row, "fail")
        hub.log("release sum" if release else "refuse sum", f"round {round_row['round']}", **held)
    return {"site": SUM, "state": "released" if release else State.REFUSED.value, **held}


def _update_report(hub: Hub, round_row: Row, **changes: object) -> None:
    report = json.dumps({**json.loads(round_row["report"]), **changes})
    rounds_table.set_report(hub.database, round_row["round"], report)


# --- the sum ---------------------------------------------------------------------------------------------------------
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


def _opened(hub: Hub, key: str, row: Row, round_row: Row) -> dict[str, Array]:
    """The masked vector and the sealed seed of an accepted update; opened again if its file is gone or changed."""
    path, tag = opened_path(hub, row["hash"]), json.loads(row["facts"])["tag"]
    for _ in _once_more(hub, key, row, round_row):
        with suppress(FileNotFoundError, FileKindError), files.reading(path, follow=False) as file:
            data = file.read()
            if tags.fits(tag, key, row["hash"], data):
                return update.load(data)
    raise HubDamagedError(f"the update of {row['site']} does not open to what was judged")


def _once_more(hub: Hub, key: str, row: Row, round_row: Row) -> Iterator[None]:
    yield
    with suppress(ParcelError), sandbox.Sandbox() as process:
        process.open(opening_job(hub, key, row, round_row["base"]))
    yield
