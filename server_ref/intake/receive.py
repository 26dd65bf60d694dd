"""The one way in, whoever carried a file: `receive` judges what needs no key; `judge_waiting` opens and decides.

The first failure decides. A parcel that is sent twice, by whatever way, gets one answer.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from fedhelp_edge import files
from fedhelp_edge.errors import (
    DuplicateRoundError,
    FederationError,
    FedhelpError,
    ParcelKindError,
    PayloadSizeError,
    QuotaError,
    RoundClosedError,
    SignerRoleError,
    TrustError,
)
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import age, parcel
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.secure_sum.arithmetic import SumFormat
from fedhelp_edge.trust import roster, task
from fedhelp_edge.trust.task import SenderHistory
from server_ref.hub.hub import FRONT, Hub
from server_ref.hub.states import State
from server_ref.hub.tables import parcels_table, requests_table, updates_table
from server_ref.intake import enrolment

QUOTA_UPDATES = 4  # a site may send in one round as many bytes as this many updates have
_REQUEST_BYTES = 64 << 10
_REQUESTS_OF_ONE = 20  # on one invite, ever; or waiting from one site
_REQUESTS_OF_ALL = 10_000  # waiting
_REFUSED_OF_ONE = 20  # updates of one site and round that are refused on receipt, each with a receipt
_ANY_ROUND = 2**53 - 1  # whatever round a site takes part from, it may change its keys


@dataclass(frozen=True)
class IntakeResult:
    """What became of a parcel, as its newest receipt says."""

    hash: str
    state: str
    receipt: str  # the receipt's hash
    new: bool = True


def receive(hub: Hub, source: Path) -> IntakeResult:
    """Receive a file from outside, or refuse it. Nothing of it is decrypted."""
    with files.reading(source, follow=False) as file:
        return receive_open(hub, file)


def receive_open(hub: Hub, file: BinaryIO) -> IntakeResult:
    """`receive` an open file. Judges a copy, which nobody outside can change meanwhile."""
    statement, signers = parcel.read_prologue(file)
    try:
        earlier, limit = preflight(hub, statement, signers)
    except (TrustError, DuplicateRoundError, PayloadSizeError, QuotaError) as error:
        _record_refused(hub, statement, signers, error)
        raise
    if earlier:
        return earlier
    parcel.check_payload(file, statement)
    file.seek(0)
    part = hub.home / f".{os.urandom(8).hex()}.part"
    try:
        _copy_up_to(file, part, limit + parcel.PROLOGUE_LIMIT)
        return store_received(hub, part)
    finally:
        part.unlink(missing_ok=True)


def preflight(hub: Hub, statement: Statement, signers: tuple[str, ...]) -> tuple[IntakeResult | None, int]:
    """The result that a parcel had before; or None, and how many bytes its payload may have."""
    if earlier := earlier_result(hub, statement):
        return earlier, 0
    try:
        return None, admit(hub, statement, signers)
    except FedhelpError:
        if earlier := earlier_result(hub, statement):  # it came another way meanwhile, and is refused as a repetition
            return earlier, 0
        raise


def earlier_result(hub: Hub, statement: Statement) -> IntakeResult | None:
    """The result that this parcel had before."""
    state = parcels_table.state_as_sent(hub.database, statement.hash)
    if not state:
        return None
    receipt = parcels_table.newest_receipt(hub.database, statement.hash)
    return IntakeResult(statement.hash, state, receipt, new=False)


# --- who may send what -----------------------------------------------------------------------------------------------
def admit(hub: Hub, statement: Statement, signers: tuple[str, ...]) -> int:
    """Judge a statement; returns how many bytes its payload may have."""
    if statement.kind == "update":
        return _admit_update(hub, statement, signers)
    if statement.kind == "sum":
        return _admit_sum(hub, statement, signers)
    if statement.kind == "rotate":
        sender = roster.check_sender(statement, signers[:1], hub.roster, _ANY_ROUND)
        seen_updates(hub, sender.id).check_not_replayed(statement)
    elif statement.kind != "enrol":
        raise ParcelKindError(f"a site does not send a {statement.kind}")
    if statement.size > _REQUEST_BYTES:
        raise PayloadSizeError(f"a request is not larger than {_REQUEST_BYTES} bytes")
    return _REQUEST_BYTES


def _admit_update(hub: Hub, statement: Statement, signers: tuple[str, ...]) -> int:
    stale, number = hub.stale_rounds, statement.context["round"]
    newest = hub.newest_round()
    tasks = hub.tasks(newest["round"] - stale)
    seen = seen_updates(hub, statement.context["sender"])
    sender = task.judge_update(statement, signers, hub.roster, tasks, seen, stale_rounds=stale)
    if newest["state"] != State.OPEN and newest["round"] - stale >= number:
        raise RoundClosedError(f"round {number} is over")
    earlier = updates_table.sent_for(hub.database, sender.id, number)
    if any(row["state"] not in (State.REFUSED, State.QUARANTINED) for row in earlier):
        raise DuplicateRoundError(f"{sender.id} sent another update for round {number} before")
    limit = tasks[number].limit
    check_quota(hub, statement, limit)
    return limit


def _admit_sum(hub: Hub, statement: Statement, signers: tuple[str, ...]) -> int:
    """Judge the helper's answer to a set: the first that answers the set that the newest round awaits."""
    plan, number = hub.plan, statement.context["round"]
    if statement.context["federation"] != hub.federation:
        raise FederationError(f"the parcel is for {statement.context['federation']}")
    if signers != (plan.privacy.helper_sign,):
        raise SignerRoleError("signed with another key than the plan's helper has")
    if statement.context["about"] != hub.named_set():
        raise RoundClosedError(f"round {number} does not wait for this sum")
    if parcels_table.sum_of_round(hub.database, number):
        raise DuplicateRoundError(f"the helper answered for round {number} before")
    size = SumFormat.of(plan, METHODS[plan.method].up(plan, hub.public)).masks_schema.size
    if statement.size != size:
        raise PayloadSizeError(f"a sum of {statement.size} bytes, and not of {size}")
    return size


def check_quota(hub: Hub, statement: Statement, limit: int, in_transit: int = 0) -> None:
    """Refuse more than a site may send in one round; `in_transit` counts the bytes of its partial uploads."""
    site, number = statement.context["sender"], statement.context["round"]
    rows = updates_table.sent_for(hub.database, site, number)
    used = in_transit + sum(hub.database.parcel_path(row["hash"]).stat().st_size for row in rows)
    if used + statement.size > QUOTA_UPDATES * limit:
        raise QuotaError(f"{site} has sent {used} bytes for round {number} already")


def seen_updates(hub: Hub, site: str) -> SenderHistory:
    """The numbers and nonces that a site has used: an update that repeats one is a replay."""
    rows = updates_table.used_numbers(hub.database, site)
    last_rotation = int(hub.database.fact(f"seq {site}", "0"))
    return SenderHistory(max([last_rotation, *(row["seq"] for row in rows)]), frozenset(row["nonce"] for row in rows))


def _record_refused(hub: Hub, statement: Statement, signers: tuple[str, ...], error: FedhelpError) -> None:
    """Record why an update was refused: a site that sends by a carrier learns of it only from a receipt."""
    if statement.kind != "update":
        return
    number = statement.context["round"]
    try:
        site = roster.check_sender(statement, signers, hub.roster, number).id
    except TrustError:
        return  # anybody may have written it
    refused = updates_table.count_refused(hub.database, site, number)
    if number <= hub.newest_round()["round"] and refused < _REFUSED_OF_ONE:
        with hub.database.transaction():
            updates_table.add_refused(hub.database, statement.hash, site, number, error.code, error.cause)


# --- taking in -------------------------------------------------------------------------------------------------------
def store_received(hub: Hub, part: Path) -> IntakeResult:
    """Add a complete file of our own: judge it again, now that nobody can change it, and sign its receipt."""
    with files.reading(part) as file:
        os.fsync(file.fileno())
    front_keys = hub.front_keys()
    with hub.database.transaction():  # the roster may have changed since the first byte came
        with files.reading(part) as file:
            statement, _ = parcel.read_prologue(file)
        if earlier := earlier_result(hub, statement):
            return earlier
        inspected = parcel.inspect(part, partial(admit, hub))
        if statement.kind in ("enrol", "rotate"):
            _check_request_quota(hub, part)
        sender, number = statement.context.get("sender", ""), statement.context.get("round", 0)
        hub.add_parcel(part, statement, number, sender)
        _insert_row(hub, inspected.statement)
        log = hub.log("received", statement.hash, kind=statement.kind, site=sender, round=number)
        receipt = hub.publish_receipt(front_keys, FRONT, statement.hash, State.RECEIVED, log)
    return IntakeResult(statement.hash, State.RECEIVED, receipt)


def _check_request_quota(hub: Hub, part: Path) -> None:
    """Refuse a request from whoever neither knows an invite's code nor is a site, and more than a few from one sender.

    Otherwise anybody could fill the hub's disk.
    """
    with parcel.open(part, parcel.any_signer) as opened:
        statement, payload = opened.statement, opened.json()
        if statement.kind == "enrol":
            enrolment.check_invite(hub, statement, opened.keys, payload)
    if statement.kind == "enrol":
        count = int(hub.database.fact(f"asked {payload['invite']}", "0"))
        hub.database.set_fact(f"asked {payload['invite']}", str(count + 1))
    else:
        count = requests_table.count_waiting_from(hub.database, statement.context["sender"])
    if count >= _REQUESTS_OF_ONE:
        remedy = "phone the coordinator, who can issue a new invite"
        raise QuotaError("too many requests came from one sender", remedy=remedy)
    if requests_table.count_waiting(hub.database) >= _REQUESTS_OF_ALL:
        raise QuotaError("too many requests wait for the coordinator")


def _insert_row(hub: Hub, statement: Statement) -> None:
    context = statement.context
    if statement.kind == "update":
        sender_fields = (context[name] for name in ("sender", "round", "seq", "nonce"))
        updates_table.add(hub.database, statement.hash, *sender_fields)
    if statement.kind not in ("enrol", "rotate"):
        return
    requests_table.add(hub.database, statement.hash, statement.kind, context.get("sender", ""))
    if statement.kind == "rotate":
        hub.database.set_fact(f"seq {context['sender']}", str(context["seq"]))


def _copy_up_to(file: BinaryIO, part: Path, limit: int) -> None:
    """Copy at most `limit` bytes: the file may have grown since its statement was judged."""
    with files.writing(part) as copy:
        remaining = limit
        while chunk := file.read(min(remaining, 4 * age.CHUNK_SIZE)):
            copy.write(chunk)
            remaining -= len(chunk)
