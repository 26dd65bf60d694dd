"""One way in, whoever carried the file: `receive` judges what needs no key, `judge` opens and decides.

The first failure decides. What is sent twice, by whatever way, is one parcel with one answer.
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
    FedhelpError,
    ParcelKindError,
    PayloadSizeError,
    QuotaError,
    RoundClosedError,
    TrustError,
)
from fedhelp_edge.parcel import age, parcel
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.trust import roster, task
from fedhelp_edge.trust.task import SenderHistory
from server_ref.hub.hub import FRONT, Hub
from server_ref.intake import enrolment

RECEIVED, ACCEPTED, QUARANTINED, REFUSED, SUPERSEDED, MERGED = (
    "received", "accepted", "quarantined", "refused", "superseded", "merged",
)  # fmt: skip
_REQUEST_BYTES = 64 << 10
_REQUESTS_OF_ONE, _REQUESTS_OF_ALL = 20, 10_000  # by one invite, ever, or one site, at a time; that wait
_UNKEPT_OF_ONE = 20  # updates of one site and round that were refused at the door, each with a receipt
QUOTA_UPDATES = 4  # how many shares' bytes a site may leave in one round


@dataclass(frozen=True)
class IntakeResult:
    """What became of a parcel: the parcel of the receipt says the same."""

    hash: str
    state: str
    receipt: str
    new: bool = True


# --- without a key ------------------------------------------------------------------------------
def receive(hub: Hub, source: Path) -> IntakeResult:
    """Take in a file from outside, or say why not. Nothing of it is decrypted."""
    with files.reading(source, follow=False) as file:
        return receive_open(hub, file)


def receive_open(hub: Hub, file: BinaryIO) -> IntakeResult:
    """`receive` an open file. What is judged is a copy, which nobody outside can change meanwhile."""
    statement, signers = parcel.read_prologue(file)
    try:
        earlier, limit = preflight(hub, statement, signers)
    except (TrustError, DuplicateRoundError, PayloadSizeError, QuotaError) as fault:
        _note_unkept(hub, statement, signers, fault)
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
    """The answer that a parcel had before; or None, and how many bytes of payload it may bring."""
    if earlier := earlier_result(hub, statement):
        return earlier, 0
    try:
        return None, admit(hub, statement, signers)
    except FedhelpError:
        if earlier := earlier_result(
            hub, statement
        ):  # it came another way in this moment, and is refused for having come
            return earlier, 0
        raise


def earlier_result(hub: Hub, statement: Statement) -> IntakeResult | None:
    """The answer that this parcel had before."""
    query = "SELECT state FROM shares WHERE hash = ? UNION ALL SELECT 'received' FROM requests WHERE hash = ?"
    if not (row := hub.database.row(query, statement.hash, statement.hash)):
        return None
    receipt = hub.database.only(
        "SELECT hash FROM parcels WHERE kind = 'receipt' AND site = ? ORDER BY rowid DESC LIMIT 1", statement.hash
    )
    return IntakeResult(statement.hash, row["state"], receipt["hash"], new=False)


def admit(hub: Hub, statement: Statement, signers: tuple[str, ...]) -> int:
    """Judge a statement; how many bytes of payload it may bring."""
    if statement.kind == "update":
        return _admit_update(hub, statement, signers)
    if statement.kind == "rotate":
        sender = roster.check_sender(statement, signers[:1], hub.roster, 10**9)
        seen_updates(hub, sender.id).check_not_replayed(statement)
    elif statement.kind != "enrol":
        raise ParcelKindError(f"a site does not send a {statement.kind}")
    if statement.size > _REQUEST_BYTES:
        raise PayloadSizeError(f"a request is not larger than {_REQUEST_BYTES} bytes")
    return _REQUEST_BYTES


def _admit_update(hub: Hub, statement: Statement, signers: tuple[str, ...]) -> int:
    stale = hub.plan.round.stale
    newest = hub.database.only("SELECT round, state FROM rounds ORDER BY round DESC LIMIT 1")
    tasks = hub.tasks(newest["round"] - stale)
    sender = task.judge_update(
        statement, signers, hub.roster, tasks, seen_updates(hub, statement.context["sender"]), stale_rounds=stale
    )
    if newest["state"] != "open" and newest["round"] - stale >= statement.context["round"]:
        raise RoundClosedError(f"round {statement.context['round']} is over")
    taken = hub.database.row(
        "SELECT 1 FROM shares WHERE site = ? AND round = ? AND state NOT IN ('refused', 'quarantined')",
        sender.id, statement.context["round"],
    )  # fmt: skip
    if taken:
        raise DuplicateRoundError(f"{sender.id} gave a share for round {statement.context['round']} before")
    limit = tasks[statement.context["round"]].limit
    check_quota(hub, statement, limit)
    return limit


def check_quota(hub: Hub, statement: Statement, limit: int, in_transit: int = 0) -> None:
    """Whether a site may leave another share in a round, where `coming` bytes are on their way."""
    site, round_ = statement.context["sender"], statement.context["round"]
    rows = hub.database.rows("SELECT hash FROM shares WHERE site = ? AND round = ?", site, round_)
    used = in_transit + sum(hub.database.path(row["hash"]).stat().st_size for row in rows)
    if used + statement.size > QUOTA_UPDATES * limit:
        raise QuotaError(f"{site} has left {used} bytes for round {round_} already")


def _note_unkept(hub: Hub, statement: Statement, signers: tuple[str, ...], fault: FedhelpError) -> None:
    """Remember why an update was refused at the door: whoever sent it by a carrier hears of it by a receipt only."""
    if statement.kind != "update":
        return
    round_ = statement.context["round"]
    try:
        site = roster.check_sender(statement, signers, hub.roster, round_).id
    except TrustError:
        return  # anybody may have written it
    told = hub.database.row("SELECT count(*) AS n FROM unkept WHERE site = ? AND round = ?", site, round_)
    newest = hub.database.row("SELECT max(round) AS round FROM rounds")
    if newest and round_ <= newest["round"] and told and told["n"] < _UNKEPT_OF_ONE:
        with hub.database.transaction():
            values = statement.hash, site, round_, fault.code, fault.cause
            hub.database.run("INSERT OR IGNORE INTO unkept VALUES (?, ?, ?, ?, ?)", *values)


def seen_updates(hub: Hub, site: str) -> SenderHistory:
    rows = hub.database.rows("SELECT seq, nonce FROM shares WHERE site = ?", site)
    last = int(hub.database.fact(f"seq {site}", "0"))  # of changed keys
    return SenderHistory(max([last, *(row["seq"] for row in rows)]), frozenset(row["nonce"] for row in rows))


def store_received(hub: Hub, part: Path) -> IntakeResult:
    """A whole file of ours: judge it again, now that nobody can change it, keep it, and answer."""
    with files.reading(part) as file:
        os.fsync(file.fileno())
    front = hub.front()
    with hub.database.transaction():  # the roster may have changed since the first byte came
        with files.reading(part) as file:
            statement, _ = parcel.read_prologue(file)
        if earlier := earlier_result(hub, statement):
            return earlier
        inspected = parcel.inspect(part, partial(admit, hub))
        if statement.kind != "update":
            _check_request_quota(hub, part)
        hub.keep(part, statement, statement.context.get("round", 0), statement.context.get("sender", ""))
        _insert_row(hub, inspected)
        sender, round_ = statement.context.get("sender", ""), statement.context.get("round", 0)
        log = hub.log("received", statement.hash, kind=statement.kind, site=sender, round=round_)
        receipt = hub.receipt(front, FRONT, statement.hash, RECEIVED, log)
    return IntakeResult(statement.hash, RECEIVED, receipt)


def _check_request_quota(hub: Hub, part: Path) -> None:
    """Only of who knows an invite's code, or is a site, a request is kept, and not many: nobody fills a hub so."""
    with parcel.open(part, parcel.any_signer) as opened:
        statement, payload = opened.statement, opened.json()
        if statement.kind == "enrol":
            enrolment.check_invite(hub, statement, opened.keys, payload)
    waiting = hub.database.only("SELECT count(*) AS n FROM requests WHERE state = 'waiting'")
    if statement.kind == "enrol":
        count = int(hub.database.fact(f"asked {payload['invite']}", "0"))
        hub.database.set_fact(f"asked {payload['invite']}", str(count + 1))
    else:
        query = "SELECT count(*) AS n FROM requests WHERE site = ? AND state = 'waiting'"
        count = hub.database.only(query, statement.context["sender"])["n"]
    if count >= _REQUESTS_OF_ONE:
        raise QuotaError(
            "too many requests came from one sender", remedy="ask the coordinator by phone, who can invite anew"
        )
    if waiting["n"] >= _REQUESTS_OF_ALL:
        raise QuotaError("too many requests wait for the coordinator")


def _insert_row(hub: Hub, inspected: parcel.Inspected) -> None:
    statement, context = inspected.statement, inspected.statement.context
    if statement.kind == "update":
        values = statement.hash, context["sender"], context["round"], context["seq"], context["nonce"]
        query = (
            "INSERT INTO shares (hash, site, round, seq, nonce, state, counts) VALUES (?, ?, ?, ?, ?, 'received', 0)"
        )
        hub.database.run(query, *values)
        return
    query = "INSERT INTO requests VALUES (?, ?, 'waiting', ?, '', '', '', '')"
    hub.database.run(query, statement.hash, statement.kind, context.get("sender", ""))
    if statement.kind == "rotate":
        hub.database.set_fact(f"seq {context['sender']}", str(context["seq"]))


def _copy_up_to(file: BinaryIO, part: Path, limit: int) -> None:
    """No more than it may have: it was judged before, and is again once nobody outside can change it."""
    with files.writing(part) as copy:
        remaining = limit
        while chunk := file.read(min(remaining, 4 * age.CHUNK_SIZE)):
            copy.write(chunk)
            remaining -= len(chunk)
