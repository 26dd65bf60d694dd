"""A carrier folder: a stick, a synced folder or a network share. File names mean nothing, content decides.

`to-coordinator/` is read: ordinary files only, and one that is still being copied waits. `from-coordinator/` is filled
with what sites need now; what was damaged there is written again. Nothing of anybody else's is changed or removed, and
no link is followed.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from fedhelp_edge import files
from fedhelp_edge.errors import (
    BusyError,
    FedhelpError,
    FileKindError,
    HubDamagedError,
    PayloadHashError,
    TruncatedError,
    from_os,
)
from fedhelp_edge.exchange.folder import FROM, TO, VOUCHES
from server_ref.hub import current as hub_current
from server_ref.hub.hub import Hub
from server_ref.intake import receive

_OURS = re.compile(r"\.?([0-9a-f]{64})\.fhx(\.[0-9a-f]{12}\.part)?")  # whole, or what a copy that was cut off has left
_REMEMBERED = 10_000  # files that were refused: a line of the log counts each of them once
_COPYING = (TruncatedError, PayloadHashError)  # what a file looks like that is not all there yet
_OUR_NOTE = re.compile(rf"\.+{re.escape(VOUCHES)}(\.[0-9a-f]{{12}}\.part)+")  # which a kill has left unfinished


@dataclass
class Exchanged:
    taken: list[receive.Answer] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    left: int = 0


def check(hub: Hub, folder: Path) -> None:
    """Raise what is wrong with a carrier before anything is taken in or left."""
    files.check_apart(folder, hub.home)
    for name in (TO, FROM):
        with _opened(folder / name):
            pass


def exchange(hub: Hub, folder: Path) -> Exchanged:
    found = Exchanged()
    take_in(hub, folder / TO, found)
    found.left = leave(hub, folder / FROM, found)
    return found


def take_in(hub: Hub, folder: Path, found: Exchanged) -> None:
    refused: dict[str, FedhelpError] = {}
    with _opened(folder) as there:
        for name in there.names():
            if name.startswith("."):
                continue
            what = name
            try:
                seen = there.stat(name)
                what = f"{name}|{seen.st_size}|{seen.st_mtime_ns}"
                with there.reading(name) as file:
                    found.taken.append(receive.take(hub, file))
            except FileNotFoundError:  # taken away meanwhile
                continue
            except _COPYING:
                found.waiting.append(files.shown(name))
            except (BusyError, HubDamagedError):
                raise
            except (FedhelpError, OSError) as fault:
                if isinstance(fault, OSError) and fault.errno in files.OWN_FAULTS:
                    raise
                known = from_os(fault) if isinstance(fault, OSError) else fault
                found.refused.append({"file": files.shown(name), "code": known.code, "cause": known.cause})
                refused[what] = known
    _log_once(hub, refused)


def leave(hub: Hub, folder: Path, found: Exchanged | None = None) -> int:
    """Everything that sites need now, whole; what we left before and nobody needs any more goes."""
    found = found or Exchanged()
    wanted = {f"{hash_}.fhx": hub.store.path(hash_) for hash_ in hub_current.current(hub)}
    known = {row["hash"] for row in hub.store.rows("SELECT hash FROM parcels")}
    with _opened(folder) as there:
        for name, source in wanted.items():
            with files.reading(source) as file:
                _put(there, name, file, found)
        _put(there, VOUCHES, io.BytesIO(json.dumps(hub.vouches()).encode()), found)
        for name in there.names():
            ours = _OURS.fullmatch(name)
            if name not in wanted and ((ours and ours[1] in known) or _OUR_NOTE.fullmatch(name)):
                with suppress(OSError):  # a folder of this name, or a file of which another was quicker
                    there.remove(name)
    return len(wanted)


def _put(there: files.Directory, name: str, source: BinaryIO, found: Exchanged) -> None:
    """Leave one file. What stands in its way and cannot be replaced is named, and the others are left all the same."""
    try:
        there.put(name, source)
    except (IsADirectoryError, PermissionError):
        with suppress(FileNotFoundError):  # then it is the whole folder that may not be written
            there.stat(name)
            found.refused.append({"file": name, "code": FileKindError.code, "cause": f"{name} cannot be replaced"})
            return
        raise


@contextmanager
def _opened(folder: Path) -> Iterator[files.Directory]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with files.directory(folder, make=True) as there:
        yield there


def _log_once(hub: Hub, refused: Mapping[str, FedhelpError]) -> None:
    """A file that lies there for weeks is refused at each visit, and counted at the first, in one line for all."""
    counts: Counter[str] = Counter()
    with hub.store.changing():
        for what, fault in refused.items():
            key = hashlib.sha256(what.encode("utf-8", "surrogateescape")).hexdigest()
            counts[fault.code] += hub.store.run("INSERT OR IGNORE INTO refusals VALUES (?, ?, '')", key, fault.code)
        if codes := ", ".join(f"{count} {code}" for code, count in sorted(counts.items()) if count):
            hub.log("refused", "carrier", codes=codes)
        hub.store.run("DELETE FROM refusals WHERE rowid <= (SELECT max(rowid) FROM refusals) - ?", _REMEMBERED)
