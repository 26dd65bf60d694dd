"""Requests to join: judge them, show them, and approve a site."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedhelp_edge import files
from fedhelp_edge.errors import (
    AgeError,
    AmbiguousError,
    FederationFullError,
    HubDamagedError,
    InviteExpiredError,
    InviteUsedError,
    KeyReusedError,
    ParcelError,
    SiteUnknownError,
    TrustError,
)
from fedhelp_edge.parcel.keys import Keys, Public
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.trust import enrol, key_words
from fedhelp_edge.trust.enrol import Invite
from fedhelp_edge.trust.roster import Site
from fedhelp_edge.trust.task import Seen
from server_ref.hub.hub import Hub
from server_ref.intake import receive as intake_receive

_TOGETHER = 500  # sites that are let in by one roster: each roster names all sites, and a transaction stops the front


_PROVED = (
    InviteUsedError,
    InviteExpiredError,
    KeyReusedError,
)  # who is refused so knew the code, and is told by a receipt


SHORT = 12  # digits of a hash that people are shown and type


def check_invite(hub: Hub, said: Statement, signers: tuple[str, ...], holds: dict[str, Any]) -> None:
    """Whether a request to join comes from somebody who knows an invite's code, be the invite used or over."""
    with suppress(*_PROVED):
        enrol.judge_request(
            said, signers, holds, federation=hub.federation, known=hub.roster, now=hub.now,
            invites=hub.invites(str(holds.get("invite"))),
        )  # fmt: skip


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


def judge_request(hub: Hub, boss: Keys, row: sqlite3.Row) -> dict[str, str] | None:
    """Change a site's keys; see whether a request to join proves a live invite."""
    try:
        if row["kind"] == "rotate":
            sender, public = enrol.judge_rotation(*hub.plain(row["hash"]), hub.roster, Seen())
            with hub.store.changing():
                hub.change_sites(boss, [replace(sender, sign=public.sign, recipient=public.recipient)], "rotate")
                return _settle(hub, boss, row, "approved", sender.id)
        invite, holds = invite_of(hub, row)
    except (TrustError, ParcelError, AgeError) as fault:
        if isinstance(fault, InviteUsedError):
            _warn_of_second(hub, row)
        return _settle(hub, boss, row, intake_receive.REFUSED, "", fault.code, fault.cause)
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


def admit_all(hub: Hub, boss: Keys) -> list[dict[str, str]]:
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
                    refused.append(
                        _settle(hub, boss, request.row, intake_receive.REFUSED, request.site, fault.code, fault.cause)
                    )
            return refused + _enter_sites(hub, boss, [one for one in requests if one.hash in sites], sites)
    except FederationFullError as fault:
        if len(requests) == 1:
            return [
                _settle(hub, boss, requests[0].row, intake_receive.REFUSED, requests[0].site, fault.code, fault.cause)
            ]
        half = len(requests) // 2
        return _admit(hub, boss, requests[:half]) + _admit(hub, boss, requests[half:])


def invite_of(hub: Hub, row: sqlite3.Row) -> tuple[Invite, dict[str, Any]]:
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
    proved, _ = invite_of(hub, chosen.row)  # whose keys another may have brought since it was judged
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
                _settle(hub, boss, other.row, intake_receive.REFUSED, request.site, InviteUsedError.code, cause)
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
