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
from fedhelp_edge.exchange.folder import CHARTER_PROOFS, FROM_COORDINATOR, TO_COORDINATOR
from server_ref.hub import current as hub_current
from server_ref.hub.hub import Hub
from server_ref.intake import receive

_PARCEL_NAME = re.compile(
    r"\.?([0-9a-f]{64})\.fhx(\.[0-9a-f]{12}\.part)?"
)  # whole, or what a copy that was cut off has left
_MAX_REFUSALS = 10_000  # files that were refused: a line of the log counts each of them once
_INCOMPLETE = (TruncatedError, PayloadHashError)  # what a file looks like that is not all there yet
_PROOFS_PART = re.compile(
    rf"\.+{re.escape(CHARTER_PROOFS)}(\.[0-9a-f]{{12}}\.part)+"
)  # which a kill has left unfinished


@dataclass
class ExchangeResult:
    taken: list[receive.IntakeResult] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    left: int = 0


def check_carrier(hub: Hub, folder: Path) -> None:
    """Raise what is wrong with a carrier before anything is taken in or left."""
    files.check_separate(folder, hub.home)
    for name in (TO_COORDINATOR, FROM_COORDINATOR):
        with _open_directory(folder / name):
            pass


def exchange(hub: Hub, folder: Path) -> ExchangeResult:
    result = ExchangeResult()
    collect(hub, folder / TO_COORDINATOR, result)
    result.left = deliver(hub, folder / FROM_COORDINATOR, result)
    return result


def collect(hub: Hub, folder: Path, result: ExchangeResult) -> None:
    refused: dict[str, FedhelpError] = {}
    with _open_directory(folder) as directory:
        for name in directory.names():
            if name.startswith("."):
                continue
            identity = name
            try:
                info = directory.stat(name)
                identity = f"{name}|{info.st_size}|{info.st_mtime_ns}"
                with directory.reading(name) as file:
                    result.taken.append(receive.receive_open(hub, file))
            except FileNotFoundError:  # taken away meanwhile
                continue
            except _INCOMPLETE:
                result.waiting.append(files.printable_name(name))
            except (BusyError, HubDamagedError):
                raise
            except (FedhelpError, OSError) as error:
                if isinstance(error, OSError) and error.errno in files.LOCAL_ERRNOS:
                    raise
                refusal = from_os(error) if isinstance(error, OSError) else error
                result.refused.append(
                    {"file": files.printable_name(name), "code": refusal.code, "cause": refusal.cause}
                )
                refused[identity] = refusal
    _log_refusals(hub, refused)


def deliver(hub: Hub, folder: Path, result: ExchangeResult | None = None) -> int:
    """Everything that sites need now, whole; what we left before and nobody needs any more goes."""
    result = result or ExchangeResult()
    sources = {f"{hash_}.fhx": hub.database.path(hash_) for hash_ in hub_current.all_parcels(hub)}
    hub_hashes = {row["hash"] for row in hub.database.rows("SELECT hash FROM parcels")}
    with _open_directory(folder) as directory:
        for name, source in sources.items():
            with files.reading(source) as file:
                _write_file(directory, name, file, result)
        _write_file(directory, CHARTER_PROOFS, io.BytesIO(json.dumps(hub.vouches()).encode()), result)
        for name in directory.names():
            match = _PARCEL_NAME.fullmatch(name)
            if name not in sources and ((match and match[1] in hub_hashes) or _PROOFS_PART.fullmatch(name)):
                with suppress(OSError):  # a folder of this name, or a file of which another was quicker
                    directory.remove(name)
    return len(sources)


def _write_file(directory: files.SharedFolder, name: str, source: BinaryIO, result: ExchangeResult) -> None:
    """Leave one file. What stands in its way and cannot be replaced is named, and the others are left all the same."""
    try:
        directory.put(name, source)
    except (IsADirectoryError, PermissionError):
        with suppress(FileNotFoundError):  # then it is the whole folder that may not be written
            directory.stat(name)
            result.refused.append({"file": name, "code": FileKindError.code, "cause": f"{name} cannot be replaced"})
            return
        raise


@contextmanager
def _open_directory(folder: Path) -> Iterator[files.SharedFolder]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with files.open_shared(folder, make=True) as directory:
        yield directory


def _log_refusals(hub: Hub, refused: Mapping[str, FedhelpError]) -> None:
    """A file that lies there for weeks is refused at each visit, and counted at the first, in one line for all."""
    counts: Counter[str] = Counter()
    with hub.database.transaction():
        for identity, error in refused.items():
            key = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()
            counts[error.code] += hub.database.run("INSERT OR IGNORE INTO refusals VALUES (?, ?, '')", key, error.code)
        if codes := ", ".join(f"{count} {code}" for code, count in sorted(counts.items()) if count):
            hub.log("refused", "carrier", codes=codes)
        hub.database.run("DELETE FROM refusals WHERE rowid <= (SELECT max(rowid) FROM refusals) - ?", _MAX_REFUSALS)
