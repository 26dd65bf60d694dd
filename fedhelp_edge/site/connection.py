"""fedhelp_edge.site.connection"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedhelp_edge import exchange, files
from fedhelp_edge.errors import (
    NoCarrierError,
)
from fedhelp_edge.exchange.folder import FolderCarrier
from fedhelp_edge.exchange.http import HttpCarrier
from fedhelp_edge.parcel import keys
from fedhelp_edge.site import inbox, layout, verified


def read(home: Path) -> dict[str, Any]:
    """What was written down when joining."""
    path = home / layout.CONNECTION
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def save(home: Path, via: Path | None = None, url: str = "", ca_file: Path | None = None) -> None:
    """The way that parcels travel from now on: a folder, or the network at an address."""
    note = dict(read(home))
    if url:
        note.pop("via", None)
    given = {"url": url, "via": via and str(via.absolute()), "ca_file": ca_file and str(ca_file.absolute())}
    note |= {name: value for name, value in given.items() if value}
    if note != read(home):
        files.write_atomic(home / layout.CONNECTION, json.dumps(note).encode())


def carriers(
    home: Path, ask_passphrase: Callable[[], str], via: Path | None = None, url: str = "", ca_file: Path | None = None,
    *, give_up_after: float = 60,
) -> list[exchange.Carrier]:  # fmt: skip
    """The folder or address that is named, and remembered; else what was named last, else the invite's address."""
    trusted = verified.require_state(home)
    if via is not None:
        files.check_separate(via, home)
    save(home, via, url, ca_file)
    note = read(home)
    if folder := note.get("via"):
        return [FolderCarrier(Path(folder))]
    if not note.get("url"):
        raise NoCarrierError("nobody said how parcels travel to the coordinator")
    site_keys = functools.cache(
        lambda: keys.load(home, ask_passphrase)
    )  # asked for once, and only where a read must be signed
    next_keys_folder = home / layout.NEXT_KEYS
    next_keys = (
        functools.cache(lambda: keys.load(next_keys_folder, ask_passphrase)) if next_keys_folder.exists() else None
    )
    ca = note.get("ca_file")
    return [
        HttpCarrier(
            note["url"], trusted.charter.federation, site_keys, home / "incoming", ca and Path(ca), next_keys, give_up_after,
            2 * inbox.model_limit(trusted),
        )
    ]  # fmt: skip
