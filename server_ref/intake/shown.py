"""server_ref.intake.shown"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedhelp_edge import files
from fedhelp_edge.errors import (
    AmbiguousError,
)
from server_ref.hub.hub import Hub

SHOWN_DIGITS = 12  # digits of a hash that people are shown and type


def is_hash_prefix(name: str, hash_: str) -> bool:
    """Whether somebody names a parcel by its hash, or by so much of it as is shown."""
    return len(name) >= SHOWN_DIGITS and hash_.startswith(name.lower())


def record(hub: Hub, kind: str, listed: Sequence[Mapping[str, Any]]) -> None:
    """Remember what a person was shown of each site: a decision that names a site is about this, and nothing newer."""
    hashes: dict[str, list[str]] = {}
    for item in listed:
        hashes.setdefault(item["site"], []).append(item["hash"])
    files.write_atomic(_path(hub, kind), json.dumps(hashes).encode())


def _path(hub: Hub, kind: str) -> Path:
    return hub.memory.with_name(f"shown-{kind}.json")  # where the front cannot write


def check(hub: Hub, kind: str, site: str, hash_: str) -> None:
    path = _path(hub, kind)
    shown = json.loads(path.read_bytes()) if path.exists() else {}
    if hash_ not in shown.get(site, [hash_]):
        remedy = f"see with 'fedhelp-coordinator {'requests' if kind == 'requests' else 'review'}' what waits now"
        raise AmbiguousError(f"what waits of {site} now is not what was shown", remedy=remedy)
