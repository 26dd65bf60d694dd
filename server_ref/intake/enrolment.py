"""Requests to join and to change keys: judge them, find the one that a person names, and admit sites."""

from __future__ import annotations

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
from server_ref.hub import members
from server_ref.hub.database import Row
from server_ref.hub.hub import Hub
from server_ref.hub.states import State
from server_ref.hub.tables import invites_table, requests_table
from server_ref.intake import shown
from server_ref.intake.receipts import Decision, decide_request, refusal

_SITES_PER_ROSTER = 500  # admitted by one roster: each roster names all sites, and a transaction stops the front
_KNEW_THE_CODE = (InviteUsedError, InviteExpiredError, KeyReusedError)  # a sender so refused gets a receipt


def check_invite(hub: Hub, statement: Statement, signers: tuple[str, ...], payload: dict[str, Any]) -> None:
    """Refuse a request to join whose sender does not know an invite's code, even of a used or expired invite."""
    with suppress(*_KNEW_THE_CODE):
        _judge(hub, statement, signers, payload)


def _judge(hub: Hub, statement: Statement, signers: tuple[str, ...], payload: dict[str, Any]) -> Invite:
    invite = members.find_invite(hub, str(payload.get("invite")))
    return enrol.judge_request(
        statement, signers, payload, federation=hub.federation, current_roster=hub.roster, now=hub.now,
        invites={invite.id: invite} if invite else {},
    )  # fmt: skip


# --- requests ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class JoinRequest:
    """A waiting request that proved its invite."""

    row: Row
    site: str
    keys: PublicKeys
    words: str  # of the keys that would enter the roster, to compare by phone

    @property
    def hash(self) -> str:
        return str(self.row["hash"])


def waiting_requests(hub: Hub, invite: str = "") -> list[JoinRequest]:
    """The requests to join that wait for a person or for `judge_waiting`; with `invite`, those on one invite."""
    requests = []
    for row in requests_table.waiting_to_join(hub.database, invite):
        payload = hub.read_json(row["hash"])[2]
        public = PublicKeys(payload["sign"], payload["recipient"])
        requests.append(JoinRequest(row, row["site"], public, " ".join(key_words.of_keys(hub.federation, public))))
    return requests


def contested_invites(requests: Iterable[JoinRequest]) -> set[str]:
    """The invites on which requests bring different keys: not all are the site's, so a person must ask the site."""
    keys_by_invite: dict[str, set[PublicKeys]] = {}
    for request in requests:
        keys_by_invite.setdefault(request.row["invite"], set()).add(request.keys)
    return {invite for invite, keys in keys_by_invite.items() if len(keys) > 1}


def judge_request(hub: Hub, coordinator_keys: Keys, row: Row) -> dict[str, str] | None:
    """Decide on a change of keys; verify that a request to join proves a live invite, and let it wait."""
    try:
        if row["kind"] == "rotate":
            sender, public = enrol.judge_rotation(*hub.read_json(row["hash"]), hub.roster, SenderHistory())
            with hub.database.transaction():
                changed = replace(sender, sign=public.sign, recipient=public.recipient)
                members.change(hub, coordinator_keys, [changed], "rotate")
                return decide_request(hub, coordinator_keys, row, Decision(State.APPROVED), sender.id)
        invite, payload = proved_invite(hub, row)
    except (TrustError, ParcelError, AgeError) as error:
        if isinstance(error, InviteUsedError):
            _warn_of_other_keys(hub, row)
        return decide_request(hub, coordinator_keys, row, refusal(error), "")
    site = invites_table.require(hub.database, invite.id)["site"]
    with hub.database.transaction():
        requests_table.prove(hub.database, row["hash"], site, payload["name"], invite.id)
        if not row["invite"] and contested_invites(waiting_requests(hub, invite.id)):
            hub.log("alarm", row["hash"], site=site)
    return None


def _warn_of_other_keys(hub: Hub, row: Row) -> None:
    """Log an alarm if a second sender with other keys knows the code of a used invite: one of the two is a thief."""
    payload = hub.read_json(row["hash"])[2]
    invite = invites_table.require(hub.database, payload["invite"])
    site = hub.roster.site(invite["site"])
    if site and (site.sign, site.recipient) != (payload["sign"], payload["recipient"]):
        with hub.database.transaction():
            hub.log("alarm", row["hash"], site=site.id)


def proved_invite(hub: Hub, row: Row) -> tuple[Invite, dict[str, Any]]:
    """The live invite that a request proves, and the request's payload."""
    statement, signers, payload = hub.read_json(row["hash"])
    return _judge(hub, statement, signers, payload), payload


# --- what a person names -------------------------------------------------------------------------------------------
def find_request(hub: Hub, name: str) -> JoinRequest:
    """The request with these words or this hash; or a site's only one, as the person was shown it."""
    requests = waiting_requests(hub)
    words = " ".join(name.replace("-", " ").split()).casefold()
    named = [request for request in requests if words == request.words or shown.is_hash_prefix(name, request.hash)]
    matches = named or [request for request in requests if request.site == name]
    if not matches:
        raise SiteUnknownError(f"no request of {name!r} waits")
    if len({request.keys for request in matches}) > 1:
        listed = ", ".join(request.hash[: shown.SHOWN_DIGITS] for request in matches)
        raise AmbiguousError(
            f"{len(matches)} requests wait for {matches[0].site}: {listed}",
            remedy="phone the site, and compare its words with those of 'fedhelp-coordinator requests';"
            " then approve the request that matches, by its hash",
        )
    if not named:
        shown.check(hub, "requests", matches[0].site, matches[0].hash)
    return matches[0]


def check_request_name(hub: Hub, name: str) -> None:
    """Refuse a name that no request has, once all requests are judged."""
    if not requests_table.any_unjudged(hub.database):
        find_request(hub, name)


# --- admission -----------------------------------------------------------------------------------------------------
def approve(hub: Hub, coordinator_keys: Keys, name: str) -> dict[str, str]:
    """Admit the site whose request a person names."""
    return admit_site(hub, coordinator_keys, find_request(hub, name))


def admit_site(hub: Hub, coordinator_keys: Keys, request: JoinRequest) -> dict[str, str]:
    """Admit a site whose request proved its invite, and refuse other requests on the same invite."""
    with hub.database.transaction():
        return _enter_sites(hub, coordinator_keys, [request], {request.hash: _proved_site(hub, request)})[0]


def admit_all(hub: Hub, coordinator_keys: Keys) -> list[dict[str, str]]:
    """Admit each site that proved an invite, unless requests with different keys contest it."""
    requests = waiting_requests(hub)
    first_by_invite = {request.row["invite"]: request for request in reversed(requests)}
    contested = contested_invites(requests)
    clear = [request for invite, request in first_by_invite.items() if invite not in contested][::-1]
    decided = []
    for start in range(0, len(clear), _SITES_PER_ROSTER):
        decided += _admit_batch(hub, coordinator_keys, clear[start : start + _SITES_PER_ROSTER])
    return decided


def _admit_batch(hub: Hub, coordinator_keys: Keys, requests: Sequence[JoinRequest]) -> list[dict[str, str]]:
    """Admit several sites by one roster. A site that cannot enter it is refused, and stops no other."""
    try:
        with hub.database.transaction():
            sites: dict[str, Site] = {}
            refused = []
            for request in requests:
                try:
                    sites[request.hash] = _proved_site(hub, request, sites.values())
                except (TrustError, ParcelError, AgeError) as error:  # its keys entered for another site meanwhile
                    refused.append(decide_request(hub, coordinator_keys, request.row, refusal(error), request.site))
            proved = [request for request in requests if request.hash in sites]
            return refused + _enter_sites(hub, coordinator_keys, proved, sites)
    except FederationFullError as error:
        if len(requests) == 1:
            return [decide_request(hub, coordinator_keys, requests[0].row, refusal(error), requests[0].site)]
        half = len(requests) // 2
        first, second = requests[:half], requests[half:]
        return _admit_batch(hub, coordinator_keys, first) + _admit_batch(hub, coordinator_keys, second)


def _proved_site(hub: Hub, request: JoinRequest, batch: Iterable[Site] = ()) -> Site:
    """The site of a request's invite, with the request's keys, verified again as when it was judged.

    Another site may have entered with these keys meanwhile, and the front may have changed the request's row.
    """
    proved, _ = proved_invite(hub, request.row)
    invite = invites_table.require(hub.database, proved.id)
    if (invite["site"], invite["id"]) != (request.site, request.row["invite"]):
        raise HubDamagedError(f"the request for {request.site} proves the invite of {invite['site']}")
    keys = request.keys
    for other in batch:
        if keys.sign == other.sign or keys.recipient == other.recipient:
            raise KeyReusedError(f"this is a key of {other.id}")
    from_round = hub.newest_round()["round"] + 1
    return Site(request.site, invite["name"], invite["tier"], keys.sign, keys.recipient, from_round=from_round)


def _enter_sites(
    hub: Hub, coordinator_keys: Keys, requests: Sequence[JoinRequest], sites: Mapping[str, Site]
) -> list[dict[str, str]]:
    """Write a roster with those sites, within a transaction, and decide on all requests on their invites."""
    if requests:
        members.change(hub, coordinator_keys, [sites[request.hash] for request in requests], "approve")
    approved = Decision(State.APPROVED)
    other_approved = Decision(State.REFUSED, InviteUsedError.code, "another request on the same invite was approved")
    decided = []
    for request in requests:
        invites_table.use(hub.database, request.row["invite"], request.hash)
        for other in waiting_requests(hub, request.row["invite"]):
            if other.hash != request.hash:
                decision = approved if other.keys == request.keys else other_approved
                decide_request(hub, coordinator_keys, other.row, decision, request.site)
        decided.append(decide_request(hub, coordinator_keys, request.row, approved, request.site))
    return decided
