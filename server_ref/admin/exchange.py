"""Exchanges parcels through a carrier folder: a stick, a synced folder or a network share.

File names mean nothing; the content decides. The hub reads ordinary files from `to-coordinator/` and skips a file that
is still being copied. It writes what sites need now to `from-coordinator/`, and again where a file was damaged. It
changes and removes nothing of anybody else's, and follows no link.
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
from server_ref.hub import members
from server_ref.hub.hub import Hub
from server_ref.hub.tables import refusals_table
from server_ref.intake import receive

_PARCEL_NAME = re.compile(r"\.?([0-9a-f]{64})\.fhx(\.[0-9a-f]{12}\.part)?")  # whole, or the rest of an interrupted copy
_MAX_REFUSALS = 10_000  # refused files that the hub remembers, so that the log counts each of them once
_INCOMPLETE = (TruncatedError, PayloadHashError)  # the errors of a file that is still being copied
_PROOFS_PART = re.compile(rf"\.+{re.escape(CHARTER_PROOFS)}(\.[0-9a-f]{{12}}\.part)+")  # unfinished, after a kill


@dataclass
class ExchangeResult:
    """What an exchange received, what it left for sites, and what it could not read. Printed as JSON."""

    taken: list[receive.IntakeResult] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)  # files that are still being copied
    refused: list[dict[str, str]] = field(default_factory=list)
    left: int = 0  # parcels for sites


def check_carrier(hub: Hub, folder: Path) -> None:
    """Raise if a carrier folder cannot be used, before anything is received or left."""
    files.check_separate(folder, hub.home)
    for name in (TO_COORDINATOR, FROM_COORDINATOR):
        with _open_directory(folder / name):
            pass


def exchange(hub: Hub, folder: Path) -> ExchangeResult:
    """Receive what sites left in a carrier folder, then leave what they need."""
    result = ExchangeResult()
    collect(hub, folder / TO_COORDINATOR, result)
    result.left = deliver(hub, folder / FROM_COORDINATOR, result)
    return result


def collect(hub: Hub, folder: Path, result: ExchangeResult) -> None:
    """Receive every file of a folder. A refused file is noted in the result and hinders no other."""
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
            except FileNotFoundError:  # removed meanwhile
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
    """Leave every parcel that sites need now, and remove those of ours that nobody needs any more.

    Returns how many parcels lie there for sites.
    """
    result = result or ExchangeResult()
    sources = {f"{hash_}.fhx": hub.database.parcel_path(hash_) for hash_ in hub_current.all_parcels(hub)}
    hub_hashes = hub.database.parcel_hashes()
    with _open_directory(folder) as directory:
        for name, source in sources.items():
            with files.reading(source) as file:
                _write_file(directory, name, file, result)
        _write_file(directory, CHARTER_PROOFS, io.BytesIO(json.dumps(members.charter_proofs(hub)).encode()), result)
        for name in directory.names():
            match = _PARCEL_NAME.fullmatch(name)
            if name not in sources and ((match and match[1] in hub_hashes) or _PROOFS_PART.fullmatch(name)):
                with suppress(OSError):  # a folder of this name, or somebody else was quicker
                    directory.remove(name)
    return len(sources)


def _write_file(directory: files.SharedFolder, name: str, source: BinaryIO, result: ExchangeResult) -> None:
    """Write one file. One that cannot be replaced is noted in the result, and hinders no other."""
    try:
        directory.put(name, source)
    except (IsADirectoryError, PermissionError):
        with suppress(FileNotFoundError):  # missing: the whole folder cannot be written
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
    """Log refused files, in one line for all. A file that stays for weeks is refused each time, but logged once."""
    counts: Counter[str] = Counter()
    with hub.database.transaction():
        for identity, error in refused.items():
            key = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()
            counts[error.code] += refusals_table.add(hub.database, key, error.code)
        if codes := ", ".join(f"{count} {code}" for code, count in sorted(counts.items()) if count):
            hub.log("refused", "carrier", codes=codes)
        refusals_table.trim(hub.database, _MAX_REFUSALS)
