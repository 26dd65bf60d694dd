"""How a site reaches its coordinator: the remembered folder or address, and the carriers for it. No torch."""

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
    """Returns the saved connection: `url`, `via`, `ca_file` and the site's name, as far as they are known."""
    path = home / layout.CONNECTION
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def save(home: Path, via: Path | None = None, url: str = "", ca_file: Path | None = None) -> None:
    """Remembers how parcels travel from now on: by a folder, or over the network to an address."""
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
    """Returns the carrier for the folder or address that is named, and remembers it.

    Without a name it uses the one named last, or the invite's address.
    """
    trusted = verified.require_state(home)
    if via is not None:
        files.check_separate(via, home)
    save(home, via, url, ca_file)
    note = read(home)
    if folder := note.get("via"):
        return [FolderCarrier(Path(folder))]
    if not note.get("url"):
        raise NoCarrierError("no carrier folder and no address of the coordinator is known")
    ca_path, next_keys = note.get("ca_file"), home / layout.NEXT_KEYS
    load = functools.cache(lambda folder: keys.load(folder, ask_passphrase))  # asks once, when a request must be signed
    return [
        HttpCarrier(
            note["url"], trusted.charter.federation, lambda: load(home), home / layout.INCOMING,
            ca_file=ca_path and Path(ca_path), next_keys=(lambda: load(next_keys)) if next_keys.exists() else None,
            give_up_after=give_up_after, max_model_bytes=2 * inbox.model_limit(trusted),
        )
    ]  # fmt: skip
