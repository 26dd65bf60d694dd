"""An invite as people carry it: a code, a file that holds all that joining takes, and a picture of the code."""

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
    FedhelpError,
    FileMissingError,
    NotNowError,
    SiteUnknownError,
    TargetExistsError,
)
from fedhelp_edge.parcel.statement import format_time
from fedhelp_edge.trust import enrol
from server_ref.hub.hub import CANCELLED, Hub

_MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class IssuedInvite:
    site: str
    code: str
    url: str
    federation: str
    charters: tuple[bytes, ...]  # the parcels, first version first

    @property
    def told(self) -> dict[str, Any]:
        return {"site": self.site, "code": self.code, "url": self.url, "federation": self.federation}


def issue(hub: Hub, name: str, tier: str, days: int) -> IssuedInvite:
    code, site = hub.invite(name, tier, days)
    charter_rows = hub.database.rows("SELECT hash FROM parcels WHERE kind = 'charter' ORDER BY number")
    return IssuedInvite(
        site, code, hub.url, hub.federation, tuple(hub.database.path(row["hash"]).read_bytes() for row in charter_rows)
    )


def check_target(hub: Hub, path: Path) -> None:
    """Refuse a place where the files cannot be written, before there is an invite."""
    if not path.parent.is_dir():
        raise FileMissingError(f"the folder {path.parent.name} is not there")
    if _is_abandoned(hub, path):
        return
    for target in (path, _qr_path(path)):
        if os.path.lexists(target):
            raise TargetExistsError(f"{target.name} is there already")


def clear_target(hub: Hub, path: Path) -> None:
    """Make room for the files, where an attempt that was cut off left some."""
    check_target(hub, path)
    for target in (_qr_path(path), path):
        target.unlink(missing_ok=True)
        files.remove_partials(target)


def _is_abandoned(hub: Hub, path: Path) -> bool:
    """Whether a file holds an invite of this hub that the hub never came to know: nobody can join by it."""
    try:
        with files.reading(path, follow=False) as file:
            fields = json.loads(file.read(_MAX_FILE_BYTES))
        invite_id = enrol.derive_invite(enrol.read_code(fields["code"]), "", hub.now).id
        return fields["federation"] == hub.federation and not hub.database.row(
            "SELECT 1 FROM invites WHERE id = ?", invite_id
        )
    except (FedhelpError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False


def write_files(path: Path, invite: IssuedInvite) -> Path | None:
    """The file, and beside it the picture: code, URL and federation, for a camera. None where nothing here can draw it.

    Both are written, or nothing.
    """
    qr_image = draw_qr(f"{invite.code} {invite.url} {invite.federation}") if find_spec("segno") else b""
    fields = {**invite.told, "charters": [base64.b64encode(charter).decode() for charter in invite.charters], "v": 1}
    with files.writing(path) as file:
        file.write(json.dumps(fields, indent=1).encode() + b"\n")
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
    import segno

    buffer = io.BytesIO()
    segno.make(text, error="m").save(buffer, kind="png", scale=6)
    return buffer.getvalue()


def list_all(hub: Hub) -> list[dict[str, str]]:
    """Every invite, and whether somebody can still come in by it."""
    requested = {row["invite"] for row in hub.database.rows("SELECT invite FROM requests WHERE state = 'waiting'")}
    invites = []
    for row in hub.database.rows("SELECT * FROM invites ORDER BY site"):
        if row["used"]:
            state = "cancelled" if row["used"] == CANCELLED else "used"
        else:
            state = (
                "expired" if row["expires"] < format_time(hub.now) else "asked" if row["id"] in requested else "open"
            )
        invites.append(
            {**{name: row[name] for name in ("site", "name", "tier")}, "until": row["expires"], "state": state}
        )
    return invites


def cancel(hub: Hub, name: str) -> dict[str, str]:
    """Let nobody in any more by an invite, which is named by its site's id, or by a name that only one has."""
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
        remedy = f"'fedhelp-coordinator revoke {row['site']}' shuts a site out" if row["state"] == "used" else ""
        raise NotNowError(f"the invite of {row['site']} is {row['state']}", remedy=remedy)
    hub.cancel_invite(row["site"])
    return {**row, "state": "cancelled"}
