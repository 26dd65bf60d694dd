"""The roster: every site, its tier, its keys and its standing. Signed by the coordinator, versioned, expiring."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn

from fedhelp_edge.errors import (
    BadBodyError,
    FederationError,
    ParcelKindError,
    SignerMismatchError,
    SignerRevokedError,
    SignerRoleError,
    SignerUnknownError,
    SignerWindowError,
)
from fedhelp_edge.parcel import age, sshsig
from fedhelp_edge.parcel.canon import misfit
from fedhelp_edge.parcel.statement import Statement, iso, when
from fedhelp_edge.trust.charter import Charter

ACTIVE, SUSPENDED, LEFT, REVOKED = "active", "suspended", "left", "revoked"
_SITE = {
    "id": re.compile(r"[a-z0-9][a-z0-9-]{0,31}"), "name": str, "tier": re.compile("small|large"),
    "sign": str, "recipient": str, "status": re.compile("active|suspended|left|revoked"),
    "from_round": int, "since_round": int, "reason": str,
}  # fmt: skip
_SHAPE = {"expires": str, "front": str, "archive": str, "sites": [_SITE]}
_OFFICES = ("coordinator", "front")  # ids that no site may have


@dataclass(frozen=True)
class Site:
    id: str
    name: str
    tier: str
    sign: str
    recipient: str
    status: str = ACTIVE
    from_round: int = 1
    since_round: int = 0  # revoked: shares from this round on are not to be trusted
    reason: str = ""


@dataclass(frozen=True)
class Roster:
    federation: str
    epoch: int
    version: int
    charter: str
    expires: datetime
    front: str
    archive: str
    sites: tuple[Site, ...]
    hash: str
    created: datetime

    @property
    def rank(self) -> tuple[int, int]:
        return self.epoch, self.version

    def site(self, site_id: str) -> Site | None:
        return self._by_id.get(site_id)

    def owner(self, key: str) -> Site | None:
        """The site whose signing key or recipient this is."""
        return self._by_key.get(key)

    @cached_property
    def _by_id(self) -> dict[str, Site]:
        return {site.id: site for site in self.sites}

    @cached_property
    def _by_key(self) -> dict[str, Site]:
        return {key: site for site in reversed(self.sites) for key in (site.recipient, site.sign)}

    def active(self, round_: int) -> list[Site]:
        return [site for site in self.sites if site.status == ACTIVE and site.from_round <= round_]


def body(sites: Sequence[Site], front: str, archive: str, expires: datetime) -> dict[str, Any]:
    return {"expires": iso(expires), "front": front, "archive": archive, "sites": [asdict(site) for site in sites]}


def read(said: Statement, keys: tuple[str, ...], holds: dict[str, Any], charter: Charter) -> Roster:
    """A roster that the charter's coordinator signed."""
    if said.kind != "roster":
        raise ParcelKindError(f"a {said.kind}, where a roster is wanted")
    of_coordinator(said, keys, charter, None)
    if complaint := misfit(holds, _SHAPE, "the roster"):
        raise BadBodyError(complaint)
    sites = tuple(Site(**site) for site in holds["sites"])
    for key in (holds["front"], *(site.sign for site in sites)):
        sshsig.public_raw(key)
    for recipient in (holds["archive"], *(site.recipient for site in sites)):
        age.check_recipient(recipient)
    names = {site.id for site in sites}
    if len(names) < len(sites) or names & set(_OFFICES):
        raise BadBodyError("a site stands twice in the roster, or has a name that is taken")
    context = said.context
    return Roster(
        context["federation"], context["epoch"], context["version"], context["charter"], when(holds["expires"]),
        holds["front"], holds["archive"], sites, said.hash, when(context["created"]),
    )  # fmt: skip


def of_coordinator(said: Statement, keys: tuple[str, ...], charter: Charter, roster: Roster | None) -> None:
    """Raise unless the coordinator, and nobody else, signed this for this federation."""
    _same_federation(said, charter.federation)
    if keys == (charter.coordinator,):
        return
    refuse(said, keys, charter, roster)


def refuse(said: Statement, keys: tuple[str, ...], charter: Charter, roster: Roster | None) -> NoReturn:
    """Say whether a known key was used for what it may not sign, or an unknown one."""
    sites = {roster.front, *(site.sign for site in roster.sites)} if roster else set()
    if set(keys) & {*charter.roots, charter.coordinator, *sites}:
        raise SignerRoleError(f"the owner of this key may not sign a {said.kind}")
    raise SignerUnknownError(f"signed by {sshsig.fingerprint(keys[0])}, which is nobody's key here")


def of_front(said: Statement, keys: tuple[str, ...], charter: Charter, roster: Roster) -> None:
    """Raise unless the front signed this: it may say that it received something, and nothing else."""
    _same_federation(said, charter.federation)
    if keys != (roster.front,):
        raise SignerRoleError("a receipt in the name of the front, signed by another key")


def of_site(said: Statement, keys: tuple[str, ...], roster: Roster, round_: int) -> Site:
    """The site that is named as sender, if the key is its own and it takes part in this round."""
    _same_federation(said, roster.federation)
    sender, owner = roster.site(said.context["sender"]), roster.owner(keys[0])
    if owner is None and sender is None:
        raise SignerUnknownError("neither the sender nor the key is in the roster")
    if sender is None or owner != sender or len(keys) > 1:
        if owner is None:
            raise SignerUnknownError(f"signed by {sshsig.fingerprint(keys[0])}, which is nobody's key")
        raise SignerMismatchError(f"signed with the key of {owner.id}")
    if said.context.get("sender_key", sshsig.fingerprint(keys[0])) != sshsig.fingerprint(keys[0]):
        raise SignerMismatchError("the statement names another key than the one that signed")
    if sender.status == REVOKED:
        raise SignerRevokedError(f"the key of {sender.id} was revoked")
    if sender.status != ACTIVE or round_ < sender.from_round:
        raise SignerWindowError(f"{sender.id} does not take part in round {round_}")
    return sender


def _same_federation(said: Statement, federation: str) -> None:
    if said.context.get("federation", federation) != federation:
        raise FederationError(f"made for {said.context['federation']}")
