"""An invite as people carry it: a code, a file that holds all that joining takes, and a picture of the code."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhelp_edge import files
from server_ref.hub import Hub


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


def write(path: Path, made: Made) -> None:
    """The file, and beside it the picture: code, URL and federation, for a camera."""
    said = {**made.told, "charters": [base64.b64encode(charter).decode() for charter in made.charters], "v": 1}
    with files.writing(path) as file:
        file.write(json.dumps(said, indent=1).encode() + b"\n")
    with files.writing(path.with_name(f"{path.name}.png")) as file:
        file.write(picture(f"{made.code} {made.url} {made.federation}"))


def picture(text: str) -> bytes:
    import segno

    sink = io.BytesIO()
    segno.make(text, error="m").save(sink, kind="png", scale=6)
    return sink.getvalue()
