"""Invites as people carry them: a code, a file with everything that joining needs, and a QR code."""

from __future__ import annotations

import base64
import io
import json
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedhelp_edge import files
from fedhelp_edge.errors import (
    AmbiguousError,
    BadInviteError,
    FedhelpError,
    FileMissingError,
    InviteCodeError,
    NotNowError,
    SiteUnknownError,
    TargetExistsError,
)
from fedhelp_edge.methods.registry import check_tier
from fedhelp_edge.parcel.statement import format_time
from fedhelp_edge.trust import enrol
from server_ref.hub import members
from server_ref.hub.hub import Hub
from server_ref.hub.tables import invites_table, parcels_table, requests_table

_MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class IssuedInvite:
    """An invite for one site, as its site receives it."""

    site: str
    code: str
    url: str
    federation: str
    charters: tuple[bytes, ...]  # the parcels, first version first

    @property
    def fields(self) -> dict[str, Any]:
        return {"site": self.site, "code": self.code, "url": self.url, "federation": self.federation}


def issue(hub: Hub, name: str, tier: str, days: int) -> IssuedInvite:
    """Create an invite for a new site, valid for so many days."""
    check_tier(hub.plan, tier, name)
    code, site = members.invite(hub, name, tier, days)
    charters = parcels_table.hashes(hub.database, "charter")
    parcels = tuple(hub.database.parcel_path(hash_).read_bytes() for hash_ in charters)
    return IssuedInvite(site, code, hub.url, hub.federation, parcels)


def check_target(hub: Hub, path: Path) -> None:
    """Raise if the invite's files cannot be written to this path. Call it before the invite exists."""
    if not path.parent.is_dir():
        raise FileMissingError(f"the folder {path.parent.name} does not exist")
    if _is_abandoned(hub, path):
        return
    for target in (path, _qr_path(path)):
        if os.path.lexists(target):
            raise TargetExistsError(f"{target.name} exists already")


def clear_target(hub: Hub, path: Path) -> None:
    """Remove the files of an interrupted attempt, so that the path is free."""
    check_target(hub, path)
    for target in (_qr_path(path), path):
        target.unlink(missing_ok=True)
        files.remove_partials(target)


def _is_abandoned(hub: Hub, path: Path) -> bool:
    """Whether a file holds an invite of this hub that the hub never stored: nobody can join with it."""
    try:
        code, federation = _read_file(path, follow=False)
    except (FedhelpError, OSError):
        return False
    invite_id = enrol.derive_invite(code, "", hub.now).id
    return federation == hub.federation and invites_table.find(hub.database, invite_id) is None


def check_file(path: Path) -> None:
    """Raise unless a file is an invite, of whatever hub."""
    _read_file(path)


def _read_file(path: Path, *, follow: bool = True) -> tuple[str, str]:
    """The code and the federation in an invite file."""
    try:
        with files.reading(path, follow=follow) as file:
            fields = json.loads(file.read(_MAX_FILE_BYTES))
        return enrol.read_code(str(fields["code"])), str(fields["federation"])
    except (ValueError, TypeError, KeyError, RecursionError, InviteCodeError) as error:
        remedy = "'fedhelp-coordinator invite NAME --tier small --out FILE' writes one"
        raise BadInviteError(f"{path.name} is not an invite, or it is damaged", remedy=remedy) from error


def write_files(path: Path, invite: IssuedInvite) -> Path | None:
    """Write the invite file and beside it a QR code with the invite's code, URL and federation.

    Both are written, or nothing. Returns the QR code's path, or None where the package that draws it is missing.
    """
    qr_image = draw_qr(f"{invite.code} {invite.url} {invite.federation}") if find_spec("segno") else b""
    content = {**invite.fields, "charters": [base64.b64encode(charter).decode() for charter in invite.charters], "v": 1}
    with files.writing(path) as file:
        file.write(json.dumps(content, indent=1).encode() + b"\n")
    if not qr_image:
        return None
    try:
        with files.writing(_qr_path(path)) as file:
            file.write(qr_image)
    except BaseException:
        path.unlink()
        raise
    return _qr_path(path)


def _qr_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.png")


def draw_qr(text: str) -> bytes:
    """A QR code as a PNG file."""
    import segno

    buffer = io.BytesIO()
    segno.make(text, error="m").save(buffer, kind="png", scale=6)
    return buffer.getvalue()


def list_all(hub: Hub) -> list[dict[str, str]]:
    """Every invite with its state, sorted by site."""
    requested = {row["invite"] for row in requests_table.waiting(hub.database)}
    invites = []
    for row in invites_table.every(hub.database):
        if row["used"]:
            state = "cancelled" if row["used"] == invites_table.CANCELLED else "used"
        else:
            state = (
                "expired" if row["expires"] < format_time(hub.now) else "asked" if row["id"] in requested else "open"
            )
        invites.append(
            {**{name: row[name] for name in ("site", "name", "tier")}, "until": row["expires"], "state": state}
        )
    return invites


def cancel(hub: Hub, name: str) -> dict[str, str]:
    """Cancel an invite. It is named by its site's id, or by a site name that only one open invite has."""
    invites = list_all(hub)
    matches = [row for row in invites if row["site"] == name] or [
        row for row in invites if row["name"] == name and row["state"] in ("open", "asked", "expired")
    ]
    if not matches:
        raise SiteUnknownError(f"there is no invite for {name!r}", remedy="see them with 'fedhelp-coordinator invites'")
    if len(matches) > 1:
        raise AmbiguousError(f"{len(matches)} invites are for {name!r}: {', '.join(row['site'] for row in matches)}")
    (row,) = matches
    if row["state"] in ("used", "cancelled"):
        remedy = f"'fedhelp-coordinator revoke {row['site']}' excludes a site" if row["state"] == "used" else ""
        raise NotNowError(f"the invite of {row['site']} is {row['state']}", remedy=remedy)
    members.cancel_invite(hub, row["site"])
    return {**row, "state": "cancelled"}
