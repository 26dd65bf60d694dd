"""What a person was shown last: a decision that names a site applies to this, and to nothing newer.

Otherwise a front could bring a second request or update between the list that a person reads and the command.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedhelp_edge import files
from fedhelp_edge.errors import AmbiguousError
from server_ref.hub.hub import Hub

SHOWN_DIGITS = 12  # of a hash: people read and type no more


def is_hash_prefix(name: str, hash_: str) -> bool:
    """Whether a name is a parcel's hash, or at least as many of its first digits as people are shown."""
    return len(name) >= SHOWN_DIGITS and hash_.startswith(name.lower())


def record(hub: Hub, kind: str, listed: Sequence[Mapping[str, Any]]) -> None:
    """Remember the hashes of the "requests" or "updates" that a person is shown, by site."""
    hashes: dict[str, list[str]] = {}
    for item in listed:
        hashes.setdefault(item["site"], []).append(item["hash"])
    files.write_atomic(_path(hub, kind), json.dumps(hashes).encode())


def check(hub: Hub, kind: str, site: str, hash_: str) -> None:
    """Refuse to decide on a site's parcel if the person was last shown others of that site."""
    path = _path(hub, kind)
    hashes = json.loads(path.read_bytes()) if path.exists() else {}
    if hash_ not in hashes.get(site, [hash_]):
        what, command = ("request", "requests") if kind == "requests" else ("update", "review")
        remedy = f"see with 'fedhelp-coordinator {command}' what waits now"
        raise AmbiguousError(f"another {what} of {site} waits than the one that was shown", remedy=remedy)


def _path(hub: Hub, kind: str) -> Path:
    return hub.memory_path.with_name(f"shown-{kind}.json")  # where the front cannot write
