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
from fedhelp_edge.parcel.statement import iso
from fedhelp_edge.trust import enrol
from server_ref.hub.hub import CANCELLED, Hub

_LIMIT = 1 << 20


@dataclass(frozen=True)
class Made:
    site: str
    code: str
    url: str
    federation: str
    charters: tuple[bytes, ...]  # the parcels, first version first

    @property
    def told(self) -> dict[str, Any]:
        return {"site": self.site, "code": self.code, "url": self.url, "federation": self.federation}


def make(hub: Hub, name: str, tier: str, days: int) -> Made:
    code, site = hub.invite(name, tier, days)
    chain = hub.store.rows("SELECT hash FROM parcels WHERE kind = 'charter' ORDER BY number")
    return Made(site, code, hub.url, hub.federation, tuple(hub.store.path(row["hash"]).read_bytes() for row in chain))


def check_free(hub: Hub, path: Path) -> None:
    """Refuse a place where the files cannot be written, before there is an invite."""
    if not path.parent.is_dir():
        raise FileMissingError(f"the folder {path.parent.name} is not there")
    if _was_cut_off(hub, path):
        return
    for each in (path, _picture_of(path)):
        if os.path.lexists(each):
            raise TargetExistsError(f"{each.name} is there already")


def clear(hub: Hub, path: Path) -> None:
    """Make room for the files, where an attempt that was cut off left some."""
    check_free(hub, path)
    for left in (_picture_of(path), path):
        left.unlink(missing_ok=True)
        files.clear_parts(left)


def _was_cut_off(hub: Hub, path: Path) -> bool:
    """Whether a file holds an invite of this hub that the hub never came to know: nobody can join by it."""
    try:
        with files.reading(path, follow=False) as file:
            said = json.loads(file.read(_LIMIT))
        id_ = enrol.invite_of(enrol.read_code(said["code"]), "", hub.now).id
        return said["federation"] == hub.federation and not hub.store.row("SELECT 1 FROM invites WHERE id = ?", id_)
    except (FedhelpError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False


def write(path: Path, made: Made) -> Path | None:
    """The file, and beside it the picture: code, URL and federation, for a camera. None where nothing here can draw it.

    Both are written, or nothing.
    """
    drawn = picture(f"{made.code} {made.url} {made.federation}") if find_spec("segno") else b""
    said = {**made.told, "charters": [base64.b64encode(charter).decode() for charter in made.charters], "v": 1}
    with files.writing(path) as file:
        file.write(json.dumps(said, indent=1).encode() + b"\n")
    if not drawn:
        return None
    try:
        with files.writing(_picture_of(path)) as file:
            file.write(drawn)
    except BaseException:
        path.unlink()
        raise
    return _picture_of(path)


def _picture_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.png")


def picture(text: str) -> bytes:
    import segno

    sink = io.BytesIO()
    segno.make(text, error="m").save(sink, kind="png", scale=6)
    return sink.getvalue()


def listed(hub: Hub) -> list[dict[str, str]]:
    """Every invite, and whether somebody can still come in by it."""
    asked = {row["invite"] for row in hub.store.rows("SELECT invite FROM requests WHERE state = 'waiting'")}
    found = []
    for row in hub.store.rows("SELECT * FROM invites ORDER BY site"):
        if row["used"]:
            state = "cancelled" if row["used"] == CANCELLED else "used"
        else:
            state = "expired" if row["expires"] < iso(hub.now) else "asked" if row["id"] in asked else "open"
        found.append(
            {**{name: row[name] for name in ("site", "name", "tier")}, "until": row["expires"], "state": state}
        )
    return found


def cancel(hub: Hub, name: str) -> dict[str, str]:
    """Let nobody in any more by an invite, which is named by its site's id, or by a name that only one has."""
    rows = listed(hub)
    meant = [row for row in rows if row["site"] == name] or [
        row for row in rows if row["name"] == name and row["state"] in ("open", "asked", "expired")
    ]
    if not meant:
        raise SiteUnknownError(f"there is no invite for {name!r}", remedy="see them with 'fedhelp-coordinator invites'")
    if len(meant) > 1:
        raise AmbiguousError(f"{len(meant)} invites are for {name!r}: {', '.join(row['site'] for row in meant)}")
    (row,) = meant
    if row["state"] in ("used", "cancelled"):
        remedy = f"'fedhelp-coordinator revoke {row['site']}' shuts a site out" if row["state"] == "used" else ""
        raise NotNowError(f"the invite of {row['site']} is {row['state']}", remedy=remedy)
    hub.cancel_invite(row["site"])
    return {**row, "state": "cancelled"}
