"""Requests to join: judge them, show them, and approve a site."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

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
from fedhelp_edge.parcel.keys import Keys, PublicKeys
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.trust import enrol, key_words
from fedhelp_edge.trust.enrol import Invite
from fedhelp_edge.trust.roster import Site
from fedhelp_edge.trust.task import SenderHistory
from server_ref.hub.hub import Hub
from server_ref.intake import receive as intake_receive
from server_ref.intake import shown

_SITES_PER_ROSTER = (
    500  # sites that are let in by one roster: each roster names all sites, and a transaction stops the front
)


_KNEW_THE_CODE = (
    InviteUsedError,
    InviteExpiredError,
    KeyReusedError,
)  # who is refused so knew the code, and is told by a receipt


def check_invite(hub: Hub, statement: Statement, signers: tuple[str, ...], payload: dict[str, Any]) -> None:
    """Whether a request to join comes from somebody who knows an invite's code, be the invite used or over."""
    with suppress(*_KNEW_THE_CODE):
        enrol.judge_request(
            statement, signers, payload, federation=hub.federation, current_roster=hub.roster, now=hub.now,
            invites=hub.invites(str(payload.get("invite"))),
        )  # fmt: skip


# --- requests ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class JoinRequest:
    """A request that proved its invite, and waits."""

    row: sqlite3.Row
    site: str
    keys: PublicKeys
    words: str  # of the keys that would go into the roster, to compare by phone

    @property
    def hash(self) -> str:
        return str(self.row["hash"])


def waiting_requests(hub: Hub, invite: str = "") -> list[JoinRequest]:
    """The requests to join that wait for a person, or for `judge`; those on one invite."""
    query = "SELECT * FROM requests WHERE state = 'waiting' AND kind = 'enrol' AND site != ''"
    clause = ("AND invite = ?", invite) if invite else ("",)
    requests = []
    for row in hub.database.rows(f"{query} {clause[0]} ORDER BY rowid", *clause[1:]):
        payload = hub.plain(row["hash"])[2]
        public = PublicKeys(payload["sign"], payload["recipient"])
        requests.append(JoinRequest(row, row["site"], public, " ".join(key_words.of_keys(hub.federation, public))))
    return requests


def contested_invites(requests: list[JoinRequest]) -> set[str]:
    """The invites on which requests bring different keys: some of them are not the site's, so a person must ask."""
    keys_by_invite: dict[str, set[PublicKeys]] = {}
    for request in requests:
        keys_by_invite.setdefault(request.row["invite"], set()).add(request.keys)
    return {invite for invite, key_sets in keys_by_invite.items() if len(key_sets) > 1}


def judge_request(hub: Hub, coordinator_keys: Keys, row: sqlite3.Row) -> dict[str, str] | None:
    """Change a site's keys; see whether a request to join proves a live invite."""
    try:
        if row["kind"] == "rotate":
            sender, public = enrol.judge_rotation(*hub.plain(row["hash"]), hub.roster, SenderHistory())
            with hub.database.transaction():
                hub.change_sites(
                    coordinator_keys, [replace(sender, sign=public.sign, recipient=public.recipient)], "rotate"
                )
                return _settle(hub, coordinator_keys, row, "approved", sender.id)
        invite, payload = proved_invite(hub, row)
    except (TrustError, ParcelError, AgeError) as error:
        if isinstance(error, InviteUsedError):
            _warn_of_other_keys(hub, row)
        return _settle(hub, coordinator_keys, row, intake_receive.REFUSED, "", error.code, error.cause)
    invite_row = hub.database.only("SELECT site FROM invites WHERE id = ?", invite.id)
    with hub.database.transaction():
        query = "UPDATE requests SET site = ?, name = ?, invite = ? WHERE hash = ?"
        hub.database.run(query, invite_row["site"], payload["name"], invite.id, row["hash"])
        if not row["invite"] and contested_invites(waiting_requests(hub, invite.id)):
            hub.log("alarm", row["hash"], site=invite_row["site"])
    return None


def _warn_of_other_keys(hub: Hub, row: sqlite3.Row) -> None:
    """Somebody else than the site that was let in knows its invite's code: whose keys are in is for a person to ask."""
    payload = hub.plain(row["hash"])[2]
    site = hub.roster.site(hub.database.only("SELECT site FROM invites WHERE id = ?", payload["invite"])["site"])
    if site and (site.sign, site.recipient) != (payload["sign"], payload["recipient"]):
        with hub.database.transaction():
            hub.log("alarm", row["hash"], site=site.id)


def admit_all(hub: Hub, coordinator_keys: Keys) -> list[dict[str, str]]:
    """Let in whoever proved an invite, unless another asks on the same one: which of them is the site, nobody knows."""
    requests = waiting_requests(hub)
    first_by_invite = {request.row["invite"]: request for request in reversed(requests)}
    unclear = contested_invites(requests)
    clear = [entry for invite, entry in first_by_invite.items() if invite not in unclear][::-1]
    return [
        entry
        for start in range(0, len(clear), _SITES_PER_ROSTER)
        for entry in _admit_batch(hub, coordinator_keys, clear[start : start + _SITES_PER_ROSTER])
    ]


def _admit_batch(hub: Hub, coordinator_keys: Keys, requests: Sequence[JoinRequest]) -> list[dict[str, str]]:
    """Let in several by one roster; what cannot come in is refused, and hinders no other."""
    try:
        with hub.database.transaction():
            sites: dict[str, Site] = {}
            refused = []
            for request in requests:
                try:
                    sites[request.hash] = _proved_site(hub, request, sites.values())
                except (TrustError, ParcelError, AgeError) as error:  # its keys came in for another site meanwhile
                    refused.append(
                        _settle(
                            hub,
                            coordinator_keys,
                            request.row,
                            intake_receive.REFUSED,
                            request.site,
                            error.code,
                            error.cause,
                        )
                    )
            return refused + _enter_sites(
                hub, coordinator_keys, [proved for proved in requests if proved.hash in sites], sites
            )
    except FederationFullError as error:
        if len(requests) == 1:
            return [
                _settle(
                    hub,
                    coordinator_keys,
                    requests[0].row,
                    intake_receive.REFUSED,
                    requests[0].site,
                    error.code,
                    error.cause,
                )
            ]
        half = len(requests) // 2
        return _admit_batch(hub, coordinator_keys, requests[:half]) + _admit_batch(
            hub, coordinator_keys, requests[half:]
        )


def proved_invite(hub: Hub, row: sqlite3.Row) -> tuple[Invite, dict[str, Any]]:
    """The live invite that a request proves, and what the request holds."""
    statement, signers, payload = hub.plain(row["hash"])
    invite = enrol.judge_request(
        statement, signers, payload, federation=hub.federation, invites=hub.invites(str(payload.get("invite"))),
        current_roster=hub.roster, now=hub.now,
    )  # fmt: skip
    return invite, payload


def find_request(hub: Hub, name: str) -> JoinRequest:
    """The request that a person means: by its words or hash, or by its site where only one waits, as it was shown."""
    requests = waiting_requests(hub)
    words = " ".join(name.replace("-", " ").split()).casefold()
    if matches := [
        request for request in requests if words == request.words or shown.is_hash_prefix(name, request.hash)
    ]:
        if len({request.keys for request in matches}) == 1:
            return matches[0]
    elif not (matches := [request for request in requests if request.site == name]):
        raise SiteUnknownError(f"no request of {name!r} waits")
    if len({request.keys for request in matches}) > 1:
        listed = ", ".join(request.hash[: shown.SHOWN_DIGITS] for request in matches)
        raise AmbiguousError(f"{len(matches)} requests wait for {matches[0].site}: {listed}", remedy=_AMBIGUOUS_REMEDY)
    shown.check(hub, "requests", matches[0].site, matches[0].hash)
    return matches[0]


_AMBIGUOUS_REMEDY = (
    "see their words with 'fedhelp-coordinator requests' and phone the site; then approve, by its hash, the request"
    " whose words it reads out"
)


def check_request_name(hub: Hub, name: str) -> None:
    """Refuse a name that no request can have, as far as can be seen while some are not judged yet."""
    if not hub.database.row("SELECT 1 FROM requests WHERE state = 'waiting' AND site = ''"):
        find_request(hub, name)


def approve(hub: Hub, coordinator_keys: Keys, name: str) -> dict[str, str]:
    """Enter the site whose request is named, by its words, its hash, or its site where only one waits."""
    return admit_site(hub, coordinator_keys, find_request(hub, name))


def admit_site(hub: Hub, coordinator_keys: Keys, request: JoinRequest) -> dict[str, str]:
    """Enter a site whose request proved its invite. Others who asked on the same invite are refused."""
    with hub.database.transaction():
        return _enter_sites(hub, coordinator_keys, [request], {request.hash: _proved_site(hub, request)})[0]


def _proved_site(hub: Hub, request: JoinRequest, batch: Iterable[Site] = ()) -> Site:
    """The site that a request's invite stands for, with the keys that the request brings; it must be as when judged."""
    proved_by, _ = proved_invite(hub, request.row)  # whose keys another may have brought since it was judged
    invite = hub.database.only("SELECT * FROM invites WHERE id = ?", proved_by.id)
    if (invite["site"], invite["id"]) != (request.site, request.row["invite"]):
        raise HubDamagedError(f"the request for {request.site} proves the invite of {invite['site']}")
    newest = hub.database.only("SELECT max(round) AS last FROM rounds")
    keys = request.keys
    for other in batch:
        if keys.sign == other.sign or keys.recipient == other.recipient:
            raise KeyReusedError(f"this is a key of {other.id}")
    from_round = newest["last"] + 1
    return Site(request.site, invite["name"], invite["tier"], keys.sign, keys.recipient, from_round=from_round)


def _enter_sites(
    hub: Hub, coordinator_keys: Keys, requests: Sequence[JoinRequest], sites: Mapping[str, Site]
) -> list[dict[str, str]]:
    """Write a roster with those sites, within a transaction, and answer all who asked on their invites."""
    if requests:
        hub.change_sites(coordinator_keys, [sites[request.hash] for request in requests], "approve")
    decided = []
    for request in requests:
        hub.database.run("UPDATE invites SET used = ? WHERE id = ?", request.hash, request.row["invite"])
        for other in waiting_requests(hub, request.row["invite"]):
            if other.keys != request.keys:
                cause = "another request on the same invite was approved"
                _settle(
                    hub, coordinator_keys, other.row, intake_receive.REFUSED, request.site, InviteUsedError.code, cause
                )
            elif other.hash != request.hash:
                _settle(hub, coordinator_keys, other.row, "approved", request.site)
        decided.append(_settle(hub, coordinator_keys, request.row, "approved", request.site))
    return decided


def _settle(
    hub: Hub, coordinator_keys: Keys, row: sqlite3.Row, state: str, site: str, code: str = "", cause: str = ""
) -> dict[str, str]:
    with hub.database.transaction():
        query = "UPDATE requests SET state = ?, site = ?, code = ?, cause = ? WHERE hash = ?"
        hub.database.run(query, state, site, code, cause, row["hash"])
        log = hub.log(f"request {state}", row["hash"], site=site, code=code)
        hub.receipt(coordinator_keys, "coordinator", row["hash"], state, log, code=code, cause=cause)
    return {"site": site, "state": state, "code": code, "cause": cause}
