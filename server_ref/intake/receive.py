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
from fedhelp_edge.trust.task import Seen
from server_ref.hub.hub import FRONT, Hub
from server_ref.intake import enrolment

RECEIVED, ACCEPTED, QUARANTINED, REFUSED, SUPERSEDED, MERGED = (
    "received", "accepted", "quarantined", "refused", "superseded", "merged",
)  # fmt: skip
_REQUEST_LIMIT = 64 << 10
_REQUESTS_OF_ONE, _REQUESTS_OF_ALL = 20, 10_000  # by one invite, ever, or one site, at a time; that wait
_UNKEPT_OF_ONE = 20  # updates of one site and round that were refused at the door, each with a receipt
ROUNDS_WORTH = 4  # how many shares' bytes a site may leave in one round


@dataclass(frozen=True)
class Answer:
    """What became of a parcel: the parcel of the receipt says the same."""

    hash: str
    state: str
    receipt: str
    new: bool = True


# --- without a key ------------------------------------------------------------------------------
def receive(hub: Hub, source: Path) -> Answer:
    """Take in a file from outside, or say why not. Nothing of it is decrypted."""
    with files.reading(source, follow=False) as file:
        return take(hub, file)


def take(hub: Hub, file: BinaryIO) -> Answer:
    """`receive` an open file. What is judged is a copy, which nobody outside can change meanwhile."""
    said, signers = parcel.read_prologue(file)
    try:
        known, limit = greet(hub, said, signers)
    except (TrustError, DuplicateRoundError, PayloadSizeError, QuotaError) as fault:
        _note_unkept(hub, said, signers, fault)
        raise
    if known:
        return known
    parcel.check_payload(file, said)
    file.seek(0)
    part = hub.home / f".{os.urandom(8).hex()}.part"
    try:
        _copy(file, part, limit + parcel.PROLOGUE_LIMIT)
        return keep(hub, part)
    finally:
        part.unlink(missing_ok=True)


def greet(hub: Hub, said: Statement, signers: tuple[str, ...]) -> tuple[Answer | None, int]:
    """The answer that a parcel had before; or None, and how many bytes of payload it may bring."""
    if known := already(hub, said):
        return known, 0
    try:
        return None, admit(hub, said, signers)
    except FedhelpError:
        if known := already(hub, said):  # it came another way in this moment, and is refused for having come
            return known, 0
        raise


def already(hub: Hub, said: Statement) -> Answer | None:
    """The answer that this parcel had before."""
    query = "SELECT state FROM shares WHERE hash = ? UNION ALL SELECT 'received' FROM requests WHERE hash = ?"
    if not (found := hub.store.row(query, said.hash, said.hash)):
        return None
    receipt = hub.store.only(
        "SELECT hash FROM parcels WHERE kind = 'receipt' AND site = ? ORDER BY rowid DESC LIMIT 1", said.hash
    )
    return Answer(said.hash, found["state"], receipt["hash"], new=False)


def admit(hub: Hub, said: Statement, signers: tuple[str, ...]) -> int:
    """Judge a statement; how many bytes of payload it may bring."""
    if said.kind == "update":
        return _admit_share(hub, said, signers)
    if said.kind == "rotate":
        sender = roster.of_site(said, signers[:1], hub.roster, 10**9)
        seen(hub, sender.id).check_new(said)
    elif said.kind != "enrol":
        raise ParcelKindError(f"a site does not send a {said.kind}")
    if said.size > _REQUEST_LIMIT:
        raise PayloadSizeError(f"a request is not larger than {_REQUEST_LIMIT} bytes")
    return _REQUEST_LIMIT


def _admit_share(hub: Hub, said: Statement, signers: tuple[str, ...]) -> int:
    stale = hub.plan.round.stale
    newest = hub.store.only("SELECT round, state FROM rounds ORDER BY round DESC LIMIT 1")
    tasks = hub.tasks(newest["round"] - stale)
    sender = task.judge_update(said, signers, hub.roster, tasks, seen(hub, said.context["sender"]), stale=stale)
    if newest["state"] != "open" and newest["round"] - stale >= said.context["round"]:
        raise RoundClosedError(f"round {said.context['round']} is over")
    taken = hub.store.row(
        "SELECT 1 FROM shares WHERE site = ? AND round = ? AND state NOT IN ('refused', 'quarantined')",
        sender.id, said.context["round"],
    )  # fmt: skip
    if taken:
        raise DuplicateRoundError(f"{sender.id} gave a share for round {said.context['round']} before")
    limit = tasks[said.context["round"]].limit
    check_room(hub, said, limit)
    return limit


def check_room(hub: Hub, said: Statement, limit: int, coming: int = 0) -> None:
    """Whether a site may leave another share in a round, where `coming` bytes are on their way."""
    site, round_ = said.context["sender"], said.context["round"]
    rows = hub.store.rows("SELECT hash FROM shares WHERE site = ? AND round = ?", site, round_)
    used = coming + sum(hub.store.path(row["hash"]).stat().st_size for row in rows)
    if used + said.size > ROUNDS_WORTH * limit:
        raise QuotaError(f"{site} has left {used} bytes for round {round_} already")


def _note_unkept(hub: Hub, said: Statement, signers: tuple[str, ...], fault: FedhelpError) -> None:
    """Remember why an update was refused at the door: whoever sent it by a carrier hears of it by a receipt only."""
    if said.kind != "update":
        return
    round_ = said.context["round"]
    try:
        site = roster.of_site(said, signers, hub.roster, round_).id
    except TrustError:
        return  # anybody may have written it
    told = hub.store.row("SELECT count(*) AS n FROM unkept WHERE site = ? AND round = ?", site, round_)
    newest = hub.store.row("SELECT max(round) AS round FROM rounds")
    if newest and round_ <= newest["round"] and told and told["n"] < _UNKEPT_OF_ONE:
        with hub.store.changing():
            values = said.hash, site, round_, fault.code, fault.cause
            hub.store.run("INSERT OR IGNORE INTO unkept VALUES (?, ?, ?, ?, ?)", *values)


def seen(hub: Hub, site: str) -> Seen:
    rows = hub.store.rows("SELECT seq, nonce FROM shares WHERE site = ?", site)
    last = int(hub.store.fact(f"seq {site}", "0"))  # of changed keys
    return Seen(max([last, *(row["seq"] for row in rows)]), frozenset(row["nonce"] for row in rows))


def keep(hub: Hub, part: Path) -> Answer:
    """A whole file of ours: judge it again, now that nobody can change it, keep it, and answer."""
    with files.reading(part) as file:
        os.fsync(file.fileno())
    front = hub.front()
    with hub.store.changing():  # the roster may have changed since the first byte came
        with files.reading(part) as file:
            said, _ = parcel.read_prologue(file)
        if known := already(hub, said):
            return known
        looked = parcel.look(part, partial(admit, hub))
        if said.kind != "update":
            _check_request(hub, part)
        hub.keep(part, said, said.context.get("round", 0), said.context.get("sender", ""))
        _enter(hub, looked)
        sender, round_ = said.context.get("sender", ""), said.context.get("round", 0)
        log = hub.log("received", said.hash, kind=said.kind, site=sender, round=round_)
        receipt = hub.receipt(front, FRONT, said.hash, RECEIVED, log)
    return Answer(said.hash, RECEIVED, receipt)


def _check_request(hub: Hub, part: Path) -> None:
    """Only of who knows an invite's code, or is a site, a request is kept, and not many: nobody fills a hub so."""
    with parcel.open(part, parcel.anyone) as opened:
        said, holds = opened.statement, opened.json()
        if said.kind == "enrol":
            enrolment.check_invite(hub, said, opened.keys, holds)
    waiting = hub.store.only("SELECT count(*) AS n FROM requests WHERE state = 'waiting'")
    if said.kind == "enrol":
        asked = int(hub.store.fact(f"asked {holds['invite']}", "0"))
        hub.store.keep_fact(f"asked {holds['invite']}", str(asked + 1))
    else:
        query = "SELECT count(*) AS n FROM requests WHERE site = ? AND state = 'waiting'"
        asked = hub.store.only(query, said.context["sender"])["n"]
    if asked >= _REQUESTS_OF_ONE:
        raise QuotaError(
            "too many requests came from one sender", remedy="ask the coordinator by phone, who can invite anew"
        )
    if waiting["n"] >= _REQUESTS_OF_ALL:
        raise QuotaError("too many requests wait for the coordinator")


def _enter(hub: Hub, looked: parcel.Look) -> None:
    said, context = looked.statement, looked.statement.context
    if said.kind == "update":
        values = said.hash, context["sender"], context["round"], context["seq"], context["nonce"]
        query = (
            "INSERT INTO shares (hash, site, round, seq, nonce, state, counts) VALUES (?, ?, ?, ?, ?, 'received', 0)"
        )
        hub.store.run(query, *values)
        return
    query = "INSERT INTO requests VALUES (?, ?, 'waiting', ?, '', '', '', '')"
    hub.store.run(query, said.hash, said.kind, context.get("sender", ""))
    if said.kind == "rotate":
        hub.store.keep_fact(f"seq {context['sender']}", str(context["seq"]))


def _copy(file: BinaryIO, part: Path, limit: int) -> None:
    """No more than it may have: it was judged before, and is again once nobody outside can change it."""
    with files.writing(part) as sink:
        left = limit
        while chunk := file.read(min(left, 4 * age.CHUNK)):
            sink.write(chunk)
            left -= len(chunk)
