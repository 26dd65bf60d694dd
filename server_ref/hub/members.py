"""Who belongs to the federation: invites, the roster, and what changes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from fedhelp_edge import safe_text
from fedhelp_edge.errors import AmbiguousError, FederationFullError, SiteUnknownError
from fedhelp_edge.parcel import canon, statement
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.parcel.statement import Statement, format_time, parse_time
from fedhelp_edge.trust import enrol, roster
from fedhelp_edge.trust.enrol import Invite
from fedhelp_edge.trust.roster import Site
from server_ref.hub import models
from server_ref.hub.hub import Hub, to_json
from server_ref.hub.tables import invites_table, parcels_table

ROSTER_LIMIT = statement.KINDS["roster"].limit
ROSTER_SPARE = ROSTER_LIMIT // 16  # bytes that newcomers and reasons leave free, so that every site can be revoked
_ENTRY_BYTES = 300  # of one site in the roster, besides its name


# --- invites -------------------------------------------------------------------------------------------------------
def invite(hub: Hub, name: str, tier: str, days: int) -> tuple[str, str]:
    """Issue an invite; returns its code, which the hub does not store, and the id of the site that it is for."""
    safe_text.check_name(name)
    code, expires = enrol.new_code(), hub.now + timedelta(days=days)
    issued = enrol.derive_invite(code, tier, expires)
    with hub.database.transaction():
        _check_roster_size(hub, name)
        site = f"site-{invites_table.count(hub.database) + 1:03}"
        invites_table.add(
            hub.database, issued.id, proof=issued.key.hex(), site=site, name=name, tier=tier,
            expires=format_time(expires), vouch=enrol.charter_proof(code, hub.federation),
        )  # fmt: skip
        hub.log("invite", site, tier=tier)
    return code, site


def _check_roster_size(hub: Hub, name: str) -> None:
    """Refuse an invite if the roster has no room for its site, besides the sites whose invites are still out."""
    count, name_bytes = invites_table.outstanding(hub.database, format_time(hub.now))
    size = statement.parse(hub.newest_parcel("roster")["line"].encode()).size + len(name.encode()) + _ENTRY_BYTES
    if size + count * _ENTRY_BYTES + name_bytes > ROSTER_LIMIT - ROSTER_SPARE:
        raise FederationFullError("the roster has no room for another site besides those that are invited")


def find_invite(hub: Hub, invite_id: str) -> Invite | None:
    """An invite, unless it was cancelled."""
    row = invites_table.find(hub.database, invite_id)
    if row is None or row["used"] == invites_table.CANCELLED:
        return None
    return Invite(row["id"], bytes.fromhex(row["proof"]), row["tier"], parse_time(row["expires"]), bool(row["used"]))


def cancel_invite(hub: Hub, site: str) -> None:
    """Cancel the unused invite for a site."""
    with hub.database.transaction():
        invites_table.cancel(hub.database, site)
        hub.log("invite cancelled", site)


def charter_proofs(hub: Hub) -> dict[str, str]:
    """By unused invite, what proves to whoever knows its code that this hub knows it too."""
    return {row["id"]: row["vouch"] for row in invites_table.unused(hub.database)}


def charter_proof(hub: Hub, invite_id: str) -> str:
    """The same for one invite, or ""."""
    row = invites_table.find(hub.database, invite_id)
    return row["vouch"] if row and not row["used"] else ""


# --- the roster ----------------------------------------------------------------------------------------------------
def write_roster(
    hub: Hub, coordinator_keys: Keys, sites: Sequence[Site], front: str = "", archive: str = "", *, spare: int = 0
) -> Statement:
    """Publish the next roster, within a transaction. Without `front` and `archive` it keeps the keys of the last one.

    Refuses a roster that would leave less than `spare` bytes of its limit.
    """
    last = parcels_table.newest(hub.database, "roster")
    version = last["number"] + 1 if last else 1
    expires = hub.now + timedelta(days=hub.plan.round.roster_days)
    body = to_json(roster.body(sites, front or hub.roster.front, archive or hub.roster.archive, expires))
    if len(body) > ROSTER_LIMIT - spare:
        raise FederationFullError(f"a roster of {len(sites)} sites would be too large: {len(body)} bytes")
    return hub.publish(
        "roster", body, coordinator_keys, number=version, federation=hub.federation, epoch=hub.charter.epoch,
        version=version, charter=hub.charter.hash,
    )  # fmt: skip


def change(hub: Hub, coordinator_keys: Keys, sites: Sequence[Site], type_: str, **detail: canon.Value) -> None:
    """Enter or change sites by one roster, and seal the current model again for the groups of the active ones."""
    with hub.database.transaction():
        changed = {site.id: site for site in sites}
        others = [site for site in hub.roster.sites if site.id not in changed]
        grows = any(site.reason or hub.roster.site(site.id) is None for site in sites)
        everybody = sorted([*others, *sites], key=lambda site: site.id)
        write_roster(hub, coordinator_keys, everybody, spare=ROSTER_SPARE if grows else 0)
        for site in sites:
            hub.log(type_, site.id, **detail)
        if active := [site.id for site in sites if site.status == roster.ACTIVE]:
            models.publish_again(hub, coordinator_keys, active)


def find(hub: Hub, name: str) -> Site:
    """The site with this id, or the only one with this name."""
    if site := hub.roster.site(name):
        return site
    matches = [site for site in hub.roster.sites if site.name == name]
    if not matches:
        raise SiteUnknownError(f"there is no site {name!r}")
    if len(matches) > 1:
        listed = ", ".join(f"{site.id} ({site.status})" for site in matches)
        raise AmbiguousError(f"{len(matches)} sites are called {name!r}: {listed}", remedy="name the site by its id")
    return matches[0]


def revoke(hub: Hub, coordinator_keys: Keys, name: str, since_round: int, reason: str) -> Site:
    """Revoke a site: its updates from `since_round` on do not count, and it receives no further model.

    Without this, a stolen key could send updates and open models for as long as the federation lasts.
    """
    safe_text.check_name(reason)
    with hub.database.transaction():
        site = find(hub, name)
        revoked = replace(site, status=roster.REVOKED, since_round=since_round, reason=reason)
        if revoked != site:
            try:
                change(hub, coordinator_keys, [revoked], "revoke", since_round=since_round)
            except FederationFullError as error:
                remedy = "revoke without a --reason, which the log may say"
                raise FederationFullError(error.cause, remedy=remedy) from error
    return site
