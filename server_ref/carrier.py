"""A carrier folder: a stick, a synced folder or a network share. File names mean nothing, content decides.

`to-coordinator/` is read: ordinary files only, and one that is still being copied waits. `from-coordinator/` is filled
with what sites need now. Nothing of anybody else's is changed or removed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import Busy, FedhelpError, FileKind, HubDamaged, PayloadHash, Truncated, from_os
from fedhelp_edge.exchange.folder import FROM, TO, VOUCHES
from server_ref import intake
from server_ref.hub import Hub

_OURS = re.compile(r"\.?([0-9a-f]{64})\.fhx(\.[0-9a-f]{12}\.part)?")  # whole, or what a copy that was cut off has left
_ROUNDS = 2  # whose receipts are left
_COPYING = (Truncated, PayloadHash)  # what a file looks like that is not all there yet
_NO_FILES_FAULT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE)  # the hub's own trouble


@dataclass
class Exchanged:
    taken: list[intake.Answer] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    left: int = 0


def exchange(hub: Hub, folder: Path) -> Exchanged:
    found = Exchanged()
    take_in(hub, folder / TO, found)
    found.left = leave(hub, folder / FROM)
    return found


def take_in(hub: Hub, folder: Path, found: Exchanged) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    refused: dict[str, FedhelpError] = {}
    for name in names:
        path = folder / name
        try:
            seen = path.lstat()
        except FileNotFoundError:  # taken away meanwhile
            continue
        try:
            if not stat.S_ISREG(seen.st_mode) or seen.st_nlink > 1:
                raise FileKind(f"{_shown(name)} is not an ordinary file")
            found.taken.append(intake.receive(hub, path))
        except _COPYING:
            found.waiting.append(_shown(name))
        except (FedhelpError, OSError) as fault:
            if isinstance(fault, (Busy, HubDamaged)) or (isinstance(fault, OSError) and fault.errno in _NO_FILES_FAULT):
                raise
            known = from_os(fault) if isinstance(fault, OSError) else fault
            found.refused.append({"file": _shown(name), "code": known.code, "cause": known.cause})
            refused[f"{name}|{seen.st_size}|{seen.st_mtime_ns}"] = known
    with hub.store.changing():
        for what, known in refused.items():
            _log_once(hub, what, known)


def leave(hub: Hub, folder: Path) -> int:
    """Everything that sites need now; what we left before and nobody needs any more goes."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {f"{hash_}.fhx": hub.store.path(hash_) for hash_ in current(hub)}
    for name, source in wanted.items():
        if not (folder / name).exists():
            with files.writing(folder / name, private=False) as sink, files.reading(source) as file:
                shutil.copyfileobj(file, sink)
    files.replace(folder / VOUCHES, json.dumps(hub.vouches()).encode())
    known = {row["hash"] for row in hub.store.rows("SELECT hash FROM parcels")}
    for path in folder.iterdir():
        ours = _OURS.fullmatch(path.name)
        if ours and path.name not in wanted and ours[1] in known:
            path.unlink(missing_ok=True)
    return len(wanted)


def current(hub: Hub) -> list[str]:
    """The parcels that a site may need now: orders, the newest model, the knowledge, recent receipts."""
    found = [row["hash"] for row in hub.store.rows("SELECT hash FROM parcels WHERE kind = 'charter' ORDER BY number")]
    for kind in ("roster", "task", "global", "knowledge"):
        query = "SELECT hash FROM parcels WHERE kind = ? ORDER BY number DESC, rowid DESC LIMIT 1"
        found += [row["hash"] for row in hub.store.rows(query, kind)]
    newest = hub.store.row("SELECT max(round) AS round FROM rounds")
    since = newest["round"] - _ROUNDS if newest else 0
    rows = hub.store.rows(
        "SELECT hash FROM parcels WHERE kind = 'receipt' AND site IN"
        " (SELECT hash FROM shares WHERE round >= ? UNION SELECT hash FROM requests) ORDER BY rowid", since,
    )  # fmt: skip
    return found + [row["hash"] for row in rows]


def _log_once(hub: Hub, what: str, fault: FedhelpError) -> None:
    """A file that lies there for weeks is refused at each visit, and logged at the first."""
    key = hashlib.sha256(what.encode("utf-8", "surrogateescape")).hexdigest()
    if hub.store.run("INSERT OR IGNORE INTO refusals VALUES (?, ?, ?)", key, fault.code, fault.cause):
        hub.log("refused", key[:16], code=fault.code)


def _shown(name: str) -> str:
    """A file's name, safe to print."""
    return re.sub(r"[^\w.,+@ ()-]", "?", name)[:80]
