"""The verified parcels of a site's home, and the trusted state that they give. No torch."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import (
    BadBodyError,
    EquivocationError,
    ExpiredError,
    FedhelpError,
    FileKindError,
    NotJoinedError,
    ParcelKindError,
    RollbackError,
    RootChainError,
    TaskRosterError,
)
from fedhelp_edge.parcel import parcel
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.site import layout
from fedhelp_edge.trust import charter
from fedhelp_edge.trust.log import Log
from fedhelp_edge.trust.state import TrustedState

_KINDS = ("charter", "roster", "task", "global", "receipt")


def state(home: Path) -> TrustedState | None:
    """Returns the trusted state, verified again from the stored files; None before the site has joined.

    Damaged and foreign files do not count. Where the newest roster or task is gone, no older one takes its place:
    otherwise damage on this disk would allow a rollback.
    """
    return _read_home(home)[0]


def repair(home: Path) -> list[dict[str, str]]:
    """Puts aside files that do not verify, so that they are fetched again. Returns each name and reason.

    Also restores a lost copy of the first charter, and the note of the newest parcels after an interrupted download.
    """
    repaired = []
    trusted, rejected = _read_home(home)
    for path, error in rejected.items():
        name = f"{path.parent.name}/{path.name}"
        _put_aside(home, path)
        (home / "charter").mkdir(exist_ok=True)  # without it the home does not count as joined
        repaired.append({"file": name, "code": error.code, "cause": f"{error.cause}; it was put aside"})
    pinned, first = home / layout.PINNED, home / "charter" / "0001.fhx"
    for lost, intact in ((first, pinned), (pinned, first)):
        if intact.exists() and not lost.exists() and (home / "charter").is_dir():
            with files.writing(lost) as sink, files.reading(intact) as file:
                shutil.copyfileobj(file, sink)
    if trusted:
        newest = {"charter": (f"{trusted.charter.version:04}", trusted.charter.hash)}
        if trusted.roster:
            newest["roster"] = f"{trusted.roster.epoch:04}-{trusted.roster.version:04}", trusted.roster.hash
        if trusted.task:
            newest["task"] = f"{trusted.task.epoch:04}-{trusted.task.round:06}", trusted.task.hash
        _note_verified(home, newest)
    return repaired


def _read_home(home: Path) -> tuple[TrustedState | None, dict[Path, FedhelpError]]:
    """Returns the trusted state, and the files that do not verify with the reason."""
    rejected: dict[Path, FedhelpError] = {}
    for kind in _KINDS:
        folder = home / kind
        if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
            rejected[folder] = FileKindError(f"{kind} is no folder")
    trusted = _pinned_state(home, rejected)
    if trusted is None:
        return None, rejected
    for path in _stored_files(home, "charter", rejected):
        trusted = _try_accept(home, trusted, path, rejected) or trusted
    epoch = f"{trusted.charter.epoch:04}-"
    for kind in ("roster", "task"):
        newest_name = newest_verified(home).get(kind, ("", ""))[0]
        for path in reversed(_stored_files(home, kind, rejected)):
            may_count = path.name.startswith(epoch) and path.stem >= newest_name
            if may_count and (newer := _try_accept(home, trusted, path, rejected)):
                trusted = newer
                break
    for kind in ("global", "receipt"):
        for path in _stored_files(home, kind, rejected):
            if path.name.startswith(epoch):
                trusted = _try_accept(home, trusted, path, rejected) or trusted
    return trusted, rejected


def _pinned_state(home: Path, rejected: dict[Path, FedhelpError]) -> TrustedState | None:
    """Returns the state of the pinned charter alone. Either of its two copies is enough."""
    last_error: FedhelpError | None = None
    if not os.path.lexists(home / "charter"):
        return None
    for path in (home / layout.PINNED, home / "charter" / "0001.fhx"):
        if not path.exists():
            continue
        try:
            with parcel.open(path, parcel.any_signer) as opened:
                return TrustedState(charter.read_first(opened.statement, opened.keys, opened.json()))
        except FedhelpError as error:
            last_error = rejected[path] = error
    if last_error:
        raise last_error
    return None


def _stored_files(home: Path, kind: str, rejected: Mapping[Path, FedhelpError]) -> list[Path]:
    return [] if home / kind in rejected else sorted((home / kind).glob("*.fhx"))


def _try_accept(
    home: Path, trusted: TrustedState, path: Path, rejected: dict[Path, FedhelpError]
) -> TrustedState | None:
    """Returns the state with a stored file; None where it does not verify, or needs a file that is missing."""
    try:
        if path.is_symlink() or not path.is_file():
            raise FileKindError(f"{path.name} is not an ordinary file")
        statement = parcel.inspect(path, parcel.any_signer).statement
        if statement.kind != path.parent.name or layout.parcel_path(home, statement) != path:
            raise ParcelKindError(f"a {statement.kind} that does not belong here")
        return accept(trusted, path)
    except (RootChainError, TaskRosterError, ExpiredError):  # it needs a charter or roster that is missing
        return None
    except FedhelpError as error:
        rejected[path] = error
        return None


def _put_aside(home: Path, path: Path) -> None:
    aside = home / "aside"
    aside.mkdir(exist_ok=True)
    path.rename(aside / f"{path.parent.name}-{path.name}.{os.urandom(4).hex()}")


def newest_verified(home: Path) -> dict[str, tuple[str, str]]:
    """Returns the file name and hash of the newest charter, roster and task that were ever verified here."""
    try:
        names = json.loads((home / layout.VERIFIED).read_bytes())
        return {kind: (str(name), str(hash_)) for kind, (name, hash_) in names.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def check_not_older(home: Path, statement: Statement) -> None:
    """Raises on a rollback or an equivocation against all that was ever verified here, deleted files included."""
    if statement.kind not in ("charter", "roster", "task"):
        return
    name, hash_ = newest_verified(home).get(statement.kind, ("", ""))
    stem = layout.parcel_path(home, statement).stem
    if stem < name and statement.kind != "charter":  # older charters may have to be fetched again
        raise RollbackError(f"{statement.kind} {stem}, when {name} was verified here")
    if stem == name and statement.hash != hash_:
        raise EquivocationError(f"two different parcels are {statement.kind} {stem}")


def accept(trusted: TrustedState, path: Path) -> TrustedState:
    """Returns the trusted state with the parcel at `path`, or raises why it is refused."""
    statement = parcel.inspect(path, trusted.check_signers).statement
    if statement.kind == "global":
        return trusted.with_model(statement)
    if statement.kind not in ("charter", "roster", "task", "receipt"):
        return trusted
    with parcel.open(path, trusted.check_signers) as opened:
        payload = opened.json()
        if statement.kind == "receipt":
            if statement.context["sender"] == "front" and payload.get("state") != "received":
                raise BadBodyError("the front may sign receipts that say 'received', and nothing else")
            return trusted.with_log(Log(**payload["log"]))
        by_kind = {"charter": trusted.with_charter, "roster": trusted.with_roster, "task": trusted.with_task}
        return by_kind[statement.kind](opened.statement, opened.keys, payload)


def save(home: Path, path: Path, statement: Statement) -> None:
    """Stores a copy of a verified parcel, and notes it as the newest of its kind."""
    stored = layout.parcel_path(home, statement)
    pinned = [home / layout.PINNED] if statement.kind == "charter" and statement.context["version"] == 1 else []
    for copy in (stored, *pinned):
        if copy.exists() and layout.parcel_hash(copy) != statement.hash:
            _put_aside(home, copy)
        if not copy.exists():
            copy.parent.mkdir(exist_ok=True)
            with files.writing(copy) as sink, files.reading(path) as file:
                shutil.copyfileobj(file, sink)
    if statement.kind in ("charter", "roster", "task"):
        _note_verified(home, {statement.kind: (stored.stem, statement.hash)})


def require_state(home: Path) -> TrustedState:
    """Returns the trusted state of a site that has joined; raises before that."""
    trusted = state(home)
    if trusted is None:
        raise NotJoinedError("this computer has joined no federation")
    return trusted


def _note_verified(home: Path, verified: Mapping[str, tuple[str, str]]) -> None:
    """Notes the file name and hash of verified parcels, by kind, where they are newer than the noted ones."""
    noted = newest_verified(home)
    if newer := {kind: named for kind, named in verified.items() if named[0] > noted.get(kind, ("", ""))[0]}:
        files.write_atomic(home / layout.VERIFIED, json.dumps(noted | newer).encode())
