"""One way in, whoever carried the file: `receive` judges what needs no key, `judge` opens and decides.

The first failure decides. What is sent twice, by whatever way, is one parcel with one answer.
"""

from __future__ import annotations

import io
import json
import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from fedhelp_edge import files
from fedhelp_edge.errors import (
    AgeError,
    AmbiguousError,
    DuplicateRoundError,
    FederationFullError,
    FedhelpError,
    HubDamagedError,
    InnerContextError,
    InviteExpiredError,
    InviteUsedError,
    KeyReusedError,
    ParcelError,
    ParcelKindError,
    PayloadSizeError,
    QuotaError,
    ResourceError,
    RoundClosedError,
    RoundKeyGoneError,
    SignerMismatchError,
    SignerRevokedError,
    SiteUnknownError,
    TrustError,
)
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import age, parcel
from fedhelp_edge.parcel.keys import Keys, Public
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.trust import enrol, key_words, roster, task
from fedhelp_edge.trust.enrol import Invite
from fedhelp_edge.trust.roster import Site
from fedhelp_edge.trust.task import Seen
from fedhelp_edge.update import Schema
from server_ref.hub.hub import FRONT, Hub
from server_ref.intake.sandbox import Job, Opener, Refused

RECEIVED, ACCEPTED, QUARANTINED, REFUSED, SUPERSEDED, MERGED = (
    "received", "accepted", "quarantined", "refused", "superseded", "merged",
)  # fmt: skip
RELEASABLE = (
    "E_LAZY",
    "E_COPY",
    "E_OPPOSED",
    "E_TOO_FAR",
    "E_CLAIM",
)  # opened and well-formed: a person may let them in
_REQUEST_LIMIT = 64 << 10
_TOGETHER = 500  # sites that are let in by one roster: each roster names all sites, and a transaction stops the front
_REQUESTS_OF_ONE, _REQUESTS_OF_ALL = 20, 10_000  # by one invite, ever, or one site, at a time; that wait
_UNKEPT_OF_ONE = 20  # updates of one site and round that were refused at the door, each with a receipt
ROUNDS_WORTH = 4  # how many shares' bytes a site may leave in one round
_PROVED = (
    InviteUsedError,
    InviteExpiredError,
    KeyReusedError,
)  # who is refused so knew the code, and is told by a receipt
_ALARMS = (InnerContextError.code, ResourceError.code)  # for a person to look at, not only for the sender
SHORT = 12  # digits of a hash that people are shown and type


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
            check_invite(hub, said, opened.keys, holds)
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


def check_invite(hub: Hub, said: Statement, signers: tuple[str, ...], holds: dict[str, Any]) -> None:
    """Whether a request to join comes from somebody who knows an invite's code, be the invite used or over."""
    with suppress(*_PROVED):
        enrol.judge_request(
            said, signers, holds, federation=hub.federation, known=hub.roster, now=hub.now,
            invites=hub.invites(str(holds.get("invite"))),
        )  # fmt: skip


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


# --- with the coordinator's key ------------------------------------------------------------------------------
def judge(hub: Hub, boss: Keys) -> list[dict[str, str]]:
    """Decide on every request and share that waits."""
    _answer_unkept(hub, boss)
    decided = [_judge_request(hub, boss, row) for row in hub.store.rows(
        "SELECT * FROM requests WHERE state = 'waiting' ORDER BY rowid"
    )]  # fmt: skip
    if hub.plan.round.enrolment != "manual":
        decided += _admit_all(hub, boss)
    with hub.store.changing():
        hub.verify()
        # accepted by an older program, which bound no hash of what it opened: judged again
        hub.store.run(
            "UPDATE shares SET state = 'received' WHERE state = 'accepted' AND instr(facts, '\"sha256\"') = 0"
        )  # fmt: skip
        current = hub.store.only("SELECT * FROM rounds ORDER BY round DESC LIMIT 1")
    waiting = hub.store.rows("SELECT * FROM shares WHERE state = 'received' ORDER BY site, round, seq")
    if not waiting or current["state"] != "open":
        return [one for one in decided if one]
    with Opener() as opener:
        for row in waiting:
            decided.append(_judge_share(hub, boss, row, current, opener))
    return [one for one in decided if one]


def _answer_unkept(hub: Hub, boss: Keys) -> None:
    """A receipt for each update that was refused at the door. No round is in its line of the log: none had it."""
    query = (
        "SELECT * FROM unkept AS u WHERE NOT EXISTS"
        " (SELECT 1 FROM parcels WHERE kind = 'receipt' AND site = u.hash) ORDER BY rowid"
    )
    with hub.store.changing():
        if rows := hub.store.rows(query):
            hub.verify()  # what is signed here rests on them
        for row in rows:
            log = hub.log(REFUSED, row["hash"], site=row["site"], code=row["code"])
            hub.receipt(boss, "coordinator", row["hash"], REFUSED, log, code=row["code"], cause=row["cause"])


def _judge_share(hub: Hub, boss: Keys, row: sqlite3.Row, current: sqlite3.Row, opener: Opener) -> dict[str, str]:
    counts = current["round"]
    earlier = hub.store.row(
        "SELECT * FROM shares WHERE site = ? AND counts = ? AND state = 'accepted'", row["site"], counts
    )
    query = "SELECT count(*) AS n FROM rounds WHERE task != '' AND round > ? AND round <= ?"
    since = hub.store.only(query, row["round"], counts)
    try:
        check_statement(hub, row)
        check_sender(hub, row)
        if earlier and earlier["round"] >= row["round"]:
            raise DuplicateRoundError(f"{row['site']} gave a share for round {counts} before")
        if since["n"] > hub.plan.round.stale:
            raise RoundClosedError(f"round {row['round']} is over; this is round {counts}")
        found = opener.open(job(hub, round_key(hub, boss, row["round"]), row, current["base"]))
    except (
        SignerMismatchError,
        SignerRevokedError,
        DuplicateRoundError,
        RoundClosedError,
        RoundKeyGoneError,
        Refused,
        ResourceError,
    ) as fault:
        state = QUARANTINED if fault.code in _ALARMS else REFUSED
        return decide(hub, boss, row, state, counts, fault.code, fault.cause)
    with hub.store.changing():
        if earlier:
            decide(hub, boss, earlier, SUPERSEDED, counts)
        return decide(hub, boss, row, ACCEPTED, counts, facts=found.told())


def check_statement(hub: Hub, row: sqlite3.Row) -> None:
    """Raise unless the site signed what the front says that it sent, for the task of its round."""
    with files.reading(hub.store.path(row["hash"])) as file:
        said, signers = parcel.read_prologue(file)
    order = hub.store.row("SELECT task, base FROM rounds WHERE round = ?", row["round"])
    context = said.context
    signed = said.kind, said.hash, *(context.get(name) for name in ("sender", "round", "seq", "nonce", "task", "base"))
    wanted = "update", *(row[name] for name in ("hash", "site", "round", "seq", "nonce")), *(order or ())
    if signed != wanted:
        raise SignerMismatchError("the site's statement is not what the front took it for")
    if len(signers) != 1 or not any(signers[0] == key for key in hub.keys_of(row["site"])):
        raise SignerMismatchError(f"not signed with a key of {row['site']}")


def check_sender(hub: Hub, row: sqlite3.Row) -> None:
    """Raise where a site was revoked after it sent a share, and that share is not to be trusted."""
    site = hub.roster.site(row["site"])
    if site and site.status == roster.REVOKED and row["round"] >= site.since_round:
        raise SignerRevokedError(f"the key of {site.id} was revoked")


def job(hub: Hub, identity: str, row: sqlite3.Row, base: str) -> Job:
    """What opening a share takes: a key, the model that it was made from, and the one against which it shall count."""
    then = hub.store.only("SELECT base FROM rounds WHERE round = ?", row["round"])
    first, now = (str(hub.store.model(name)) for name in (then["base"], base))
    wire = hub.plan.wire
    return Job(
        row["hash"], str(hub.store.path(row["hash"])), (identity,), tuple(schema_of(hub).lines()), wire.up, first, now,
        wire.down, str(opened(hub, row["hash"])), hub.plan.merge.max_examples,
    )  # fmt: skip


def schema_of(hub: Hub) -> Schema:
    """What a share holds, once it is decoded."""
    return METHODS[hub.plan.method].schema(hub.plan)


def opened(hub: Hub, hash_: str) -> Path:
    """Where the plain numbers of a share lie until its round is merged."""
    return hub.home / "shares" / f"{hash_}.safetensors"


def round_key(hub: Hub, boss: Keys, round_: int) -> str:
    path = hub.home / "round-keys" / f"{round_:06}.age"
    kept: dict[int, str] = {}
    if path.exists():
        sink = io.BytesIO()
        with files.reading(path) as file:
            age.decrypt(file, sink, [boss.identity])
        kept[round_] = sink.getvalue().decode()
    return task.key_of(round_, kept)


def decide(
    hub: Hub, boss: Keys, row: sqlite3.Row, state: str, counts: int, code: str = "", cause: str = "", facts: str = ""
) -> dict[str, str]:
    """Write a decision on a share, its line in the log and its receipt."""
    with hub.store.changing():
        hub.store.run(
            "UPDATE shares SET state = ?, counts = ?, code = ?, cause = ?, facts = CASE ? WHEN '' THEN facts ELSE ? END"
            " WHERE hash = ?", state, counts, code, cause, facts, facts, row["hash"],
        )  # fmt: skip
        log = hub.log(state, row["hash"], site=row["site"], round=row["round"], code=code)
        hub.receipt(boss, "coordinator", row["hash"], state, log, code=code, cause=cause)
    return {"site": row["site"], "state": state, "code": code, "cause": cause}


# --- requests ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Request:
    """A request that proved its invite, and waits."""

    row: sqlite3.Row
    site: str
    keys: Public
    words: str  # of the keys that would go into the roster, to compare by phone

    @property
    def hash(self) -> str:
        return str(self.row["hash"])


def waiting(hub: Hub, invite: str = "") -> list[Request]:
    """The requests to join that wait for a person, or for `judge`; those on one invite."""
    query = "SELECT * FROM requests WHERE state = 'waiting' AND kind = 'enrol' AND site != ''"
    only = ("AND invite = ?", invite) if invite else ("",)
    found = []
    for row in hub.store.rows(f"{query} {only[0]} ORDER BY rowid", *only[1:]):
        holds = hub.plain(row["hash"])[2]
        public = Public(holds["sign"], holds["recipient"])
        found.append(Request(row, row["site"], public, " ".join(key_words.of_keys(hub.federation, public))))
    return found


def contested(requests: list[Request]) -> set[str]:
    """The invites on which requests bring different keys: some of them are not the site's, so a person must ask."""
    keys: dict[str, set[Public]] = {}
    for request in requests:
        keys.setdefault(request.row["invite"], set()).add(request.keys)
    return {invite for invite, brought in keys.items() if len(brought) > 1}


def _judge_request(hub: Hub, boss: Keys, row: sqlite3.Row) -> dict[str, str] | None:
    """Change a site's keys; see whether a request to join proves a live invite."""
    try:
        if row["kind"] == "rotate":
            sender, public = enrol.judge_rotation(*hub.plain(row["hash"]), hub.roster, Seen())
            with hub.store.changing():
                hub.change_sites(boss, [replace(sender, sign=public.sign, recipient=public.recipient)], "rotate")
                return _settle(hub, boss, row, "approved", sender.id)
        invite, holds = _invited(hub, row)
    except (TrustError, ParcelError, AgeError) as fault:
        if isinstance(fault, InviteUsedError):
            _warn_of_second(hub, row)
        return _settle(hub, boss, row, REFUSED, "", fault.code, fault.cause)
    given = hub.store.only("SELECT site FROM invites WHERE id = ?", invite.id)
    with hub.store.changing():
        query = "UPDATE requests SET site = ?, name = ?, invite = ? WHERE hash = ?"
        hub.store.run(query, given["site"], holds["name"], invite.id, row["hash"])
        if not row["invite"] and contested(waiting(hub, invite.id)):
            hub.log("alarm", row["hash"], site=given["site"])
    return None


def _warn_of_second(hub: Hub, row: sqlite3.Row) -> None:
    """Somebody else than the site that was let in knows its invite's code: whose keys are in is for a person to ask."""
    holds = hub.plain(row["hash"])[2]
    known = hub.site(hub.store.only("SELECT site FROM invites WHERE id = ?", holds["invite"])["site"])
    if (known.sign, known.recipient) != (holds["sign"], holds["recipient"]):
        with hub.store.changing():
            hub.log("alarm", row["hash"], site=known.id)


def _admit_all(hub: Hub, boss: Keys) -> list[dict[str, str]]:
    """Let in whoever proved an invite, unless another asks on the same one: which of them is the site, nobody knows."""
    requests = waiting(hub)
    first = {request.row["invite"]: request for request in reversed(requests)}
    unclear = contested(requests)
    clear = [one for invite, one in first.items() if invite not in unclear][::-1]
    return [one for at in range(0, len(clear), _TOGETHER) for one in _admit(hub, boss, clear[at : at + _TOGETHER])]


def _admit(hub: Hub, boss: Keys, requests: Sequence[Request]) -> list[dict[str, str]]:
    """Let in several by one roster; what cannot come in is refused, and hinders no other."""
    try:
        with hub.store.changing():
            sites: dict[str, Site] = {}
            refused = []
            for request in requests:
                try:
                    sites[request.hash] = _proved(hub, request, sites.values())
                except (TrustError, ParcelError, AgeError) as fault:  # its keys came in for another site meanwhile
                    refused.append(_settle(hub, boss, request.row, REFUSED, request.site, fault.code, fault.cause))
            return refused + _enter_sites(hub, boss, [one for one in requests if one.hash in sites], sites)
    except FederationFullError as fault:
        if len(requests) == 1:
            return [_settle(hub, boss, requests[0].row, REFUSED, requests[0].site, fault.code, fault.cause)]
        half = len(requests) // 2
        return _admit(hub, boss, requests[:half]) + _admit(hub, boss, requests[half:])


def _invited(hub: Hub, row: sqlite3.Row) -> tuple[Invite, dict[str, Any]]:
    """The live invite that a request proves, and what the request holds."""
    said, signers, holds = hub.plain(row["hash"])
    invite = enrol.judge_request(
        said, signers, holds, federation=hub.federation, invites=hub.invites(str(holds.get("invite"))),
        known=hub.roster, now=hub.now,
    )  # fmt: skip
    return invite, holds


def request_of(hub: Hub, name: str) -> Request:
    """The request that a person means: by its words or hash, or by its site where only one waits, as it was shown."""
    everybody = waiting(hub)
    spoken = " ".join(name.replace("-", " ").split()).casefold()
    if found := [one for one in everybody if spoken == one.words or is_short(name, one.hash)]:
        if len({one.keys for one in found}) == 1:
            return found[0]
    elif not (found := [one for one in everybody if one.site == name]):
        raise SiteUnknownError(f"no request of {name!r} waits")
    if len({one.keys for one in found}) > 1:
        listed = ", ".join(one.hash[:SHORT] for one in found)
        raise AmbiguousError(f"{len(found)} requests wait for {found[0].site}: {listed}", remedy=_WHICH)
    check_shown(hub, "requests", found[0].site, found[0].hash)
    return found[0]


_WHICH = (
    "see their words with 'fedhelp-coordinator requests' and phone the site; then approve, by its hash, the request"
    " whose words it reads out"
)


def check_asked(hub: Hub, name: str) -> None:
    """Refuse a name that no request can have, as far as can be seen while some are not judged yet."""
    if not hub.store.row("SELECT 1 FROM requests WHERE state = 'waiting' AND site = ''"):
        request_of(hub, name)


def is_short(name: str, hash_: str) -> bool:
    """Whether somebody names a parcel by its hash, or by so much of it as is shown."""
    return len(name) >= SHORT and hash_.startswith(name.lower())


def note_shown(hub: Hub, what: str, listed: Sequence[Mapping[str, Any]]) -> None:
    """Remember what a person was shown of each site: a decision that names a site is about this, and nothing newer."""
    hashes: dict[str, list[str]] = {}
    for one in listed:
        hashes.setdefault(one["site"], []).append(one["hash"])
    files.replace(_shown(hub, what), json.dumps(hashes).encode())


def _shown(hub: Hub, what: str) -> Path:
    return hub.memory.with_name(f"shown-{what}.json")  # where the front cannot write


def check_shown(hub: Hub, what: str, site: str, hash_: str) -> None:
    path = _shown(hub, what)
    shown = json.loads(path.read_bytes()) if path.exists() else {}
    if hash_ not in shown.get(site, [hash_]):
        remedy = f"see with 'fedhelp-coordinator {'requests' if what == 'requests' else 'review'}' what waits now"
        raise AmbiguousError(f"what waits of {site} now is not what was shown", remedy=remedy)


def approve(hub: Hub, boss: Keys, name: str) -> dict[str, str]:
    """Enter the site whose request is named, by its words, its hash, or its site where only one waits."""
    return admit_site(hub, boss, request_of(hub, name))


def admit_site(hub: Hub, boss: Keys, chosen: Request) -> dict[str, str]:
    """Enter a site whose request proved its invite. Others who asked on the same invite are refused."""
    with hub.store.changing():
        return _enter_sites(hub, boss, [chosen], {chosen.hash: _proved(hub, chosen)})[0]


def _proved(hub: Hub, chosen: Request, with_it: Iterable[Site] = ()) -> Site:
    """The site that a request's invite stands for, with the keys that the request brings; it must be as when judged."""
    proved, _ = _invited(hub, chosen.row)  # whose keys another may have brought since it was judged
    invite = hub.store.only("SELECT * FROM invites WHERE id = ?", proved.id)
    if (invite["site"], invite["id"]) != (chosen.site, chosen.row["invite"]):
        raise HubDamagedError(f"the request for {chosen.site} proves the invite of {invite['site']}")
    newest = hub.store.only("SELECT max(round) AS last FROM rounds")
    keys = chosen.keys
    for other in with_it:
        if keys.sign == other.sign or keys.recipient == other.recipient:
            raise KeyReusedError(f"this is a key of {other.id}")
    first = newest["last"] + 1
    return Site(chosen.site, invite["name"], invite["tier"], keys.sign, keys.recipient, from_round=first)


def _enter_sites(hub: Hub, boss: Keys, chosen: Sequence[Request], sites: Mapping[str, Site]) -> list[dict[str, str]]:
    """Write a roster with those sites, within a transaction, and answer all who asked on their invites."""
    if chosen:
        hub.change_sites(boss, [sites[request.hash] for request in chosen], "approve")
    decided = []
    for request in chosen:
        hub.store.run("UPDATE invites SET used = ? WHERE id = ?", request.hash, request.row["invite"])
        for other in waiting(hub, request.row["invite"]):
            if other.keys != request.keys:
                cause = "another request on the same invite was approved"
                _settle(hub, boss, other.row, REFUSED, request.site, InviteUsedError.code, cause)
            elif other.hash != request.hash:
                _settle(hub, boss, other.row, "approved", request.site)
        decided.append(_settle(hub, boss, request.row, "approved", request.site))
    return decided


def _settle(
    hub: Hub, boss: Keys, row: sqlite3.Row, state: str, site: str, code: str = "", cause: str = ""
) -> dict[str, str]:
    with hub.store.changing():
        query = "UPDATE requests SET state = ?, site = ?, code = ?, cause = ? WHERE hash = ?"
        hub.store.run(query, state, site, code, cause, row["hash"])
        log = hub.log(f"request {state}", row["hash"], site=site, code=code)
        hub.receipt(boss, "coordinator", row["hash"], state, log, code=code, cause=cause)
    return {"site": site, "state": state, "code": code, "cause": cause}
