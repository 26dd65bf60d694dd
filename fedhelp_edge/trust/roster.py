"""The roster: every site with its tier, keys and status. The coordinator signs it; it has a version and expires."""

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
from fedhelp_edge.parcel.canon import shape_error
from fedhelp_edge.parcel.statement import Statement, format_time, parse_time
from fedhelp_edge.trust.charter import Charter

ACTIVE, REVOKED = "active", "revoked"
_SITE_SHAPE = {
    "id": re.compile(r"[a-z0-9][a-z0-9-]{0,31}"), "name": str, "tier": re.compile("small|large"),
    "sign": str, "recipient": str, "status": re.compile("active|suspended|left|revoked"),
    "from_round": int, "since_round": int, "reason": str,
}  # fmt: skip
_SHAPE = {"expires": str, "front": str, "archive": str, "sites": [_SITE_SHAPE]}
_RESERVED_IDS = ("coordinator", "front")  # a receipt names its sender by one of these


@dataclass(frozen=True)
class Site:
    """A site's entry in the roster. `sign` is its public signing key, `recipient` its public encryption key."""

    id: str
    name: str
    tier: str
    sign: str
    recipient: str
    status: str = ACTIVE
    from_round: int = 1
    since_round: int = 0  # of a revoked site: its updates from this round on are not trusted
    reason: str = ""


@dataclass(frozen=True)
class Roster:
    """A verified version of the roster."""

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
        """Orders versions: by epoch, then by version."""
        return self.epoch, self.version

    def site(self, site_id: str) -> Site | None:
        """Returns the site with this id, whatever its status."""
        return self._by_id.get(site_id)

    def owner(self, key: str) -> Site | None:
        """Returns the site whose signing key or recipient this is."""
        return self._by_key.get(key)

    @cached_property
    def _by_id(self) -> dict[str, Site]:
        return {site.id: site for site in self.sites}

    @cached_property
    def _by_key(self) -> dict[str, Site]:
        return {key: site for site in reversed(self.sites) for key in (site.recipient, site.sign)}

    def active(self, round_: int) -> list[Site]:
        """Returns the sites that take part in a round."""
        return [site for site in self.sites if site.status == ACTIVE and site.from_round <= round_]


def body(sites: Sequence[Site], front: str, archive: str, expires: datetime) -> dict[str, Any]:
    """Returns the payload of a roster."""
    return {
        "expires": format_time(expires),
        "front": front,
        "archive": archive,
        "sites": [asdict(site) for site in sites],
    }


def read(statement: Statement, signers: tuple[str, ...], payload: dict[str, Any], charter: Charter) -> Roster:
    """Reads a roster that the charter's coordinator signed."""
    if statement.kind != "roster":
        raise ParcelKindError(f"a {statement.kind}, where a roster is expected")
    check_coordinator(statement, signers, charter, None)
    if complaint := shape_error(payload, _SHAPE, "the roster"):
        raise BadBodyError(complaint)
    sites = tuple(Site(**site) for site in payload["sites"])
    for key in (payload["front"], *(site.sign for site in sites)):
        sshsig.public_raw(key)
    for recipient in (payload["archive"], *(site.recipient for site in sites)):
        age.check_recipient(recipient)
    ids = {site.id for site in sites}
    if len(ids) < len(sites) or ids & set(_RESERVED_IDS):
        raise BadBodyError("the roster names a site twice, or gives one a reserved id")
    context = statement.context
    return Roster(
        context["federation"], context["epoch"], context["version"], context["charter"], parse_time(payload["expires"]),
        payload["front"], payload["archive"], sites, statement.hash, parse_time(context["created"]),
    )  # fmt: skip


def check_coordinator(statement: Statement, signers: tuple[str, ...], charter: Charter, roster: Roster | None) -> None:
    """Raises unless the coordinator alone signed this, for this federation."""
    _check_federation(statement, charter.federation)
    if signers == (charter.coordinator,):
        return
    refuse_signer(statement, signers, charter, roster)


def refuse_signer(statement: Statement, signers: tuple[str, ...], charter: Charter, roster: Roster | None) -> NoReturn:
    """Raises: a known key signed what it may not sign, or the key is unknown."""
    office_keys = {roster.front, *(site.sign for site in roster.sites)} if roster else set()
    if set(signers) & {*charter.roots, charter.coordinator, *office_keys}:
        raise SignerRoleError(f"the owner of this key may not sign a {statement.kind}")
    raise SignerUnknownError(f"signed by {sshsig.fingerprint(signers[0])}, which is nobody's key here")


def check_front(statement: Statement, signers: tuple[str, ...], charter: Charter, roster: Roster) -> None:
    """Raises unless the front signed this. It may sign receipts that say `received`, and nothing else."""
    _check_federation(statement, charter.federation)
    if signers != (roster.front,):
        raise SignerRoleError("another key signed a receipt in the name of the front")


def check_sender(statement: Statement, signers: tuple[str, ...], roster: Roster, round_: int) -> Site:
    """Returns the sender, if the key is its own and it takes part in this round.

    This stops updates in another site's name, of revoked sites, and of sites admitted for a later round.
    """
    _check_federation(statement, roster.federation)
    sender, owner = roster.site(statement.context["sender"]), roster.owner(signers[0])
    if owner is None and sender is None:
        raise SignerUnknownError("neither the sender nor the key is in the roster")
    if sender is None or owner != sender or len(signers) > 1:
        if owner is None:
            raise SignerUnknownError(f"signed by {sshsig.fingerprint(signers[0])}, which is nobody's key")
        raise SignerMismatchError(f"signed with the key of {owner.id}")
    if statement.context.get("sender_key", sshsig.fingerprint(signers[0])) != sshsig.fingerprint(signers[0]):
        raise SignerMismatchError("the statement names another key than the one that signed")
    if sender.status == REVOKED:
        raise SignerRevokedError(f"the key of {sender.id} was revoked")
    if sender.status != ACTIVE or round_ < sender.from_round:
        raise SignerWindowError(f"{sender.id} does not take part in round {round_}")
    return sender


def _check_federation(statement: Statement, federation: str) -> None:
    if statement.context.get("federation", federation) != federation:
        raise FederationError(f"made for {statement.context['federation']}")
