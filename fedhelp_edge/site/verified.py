"""What a site has verified and keeps: charter, roster, tasks, models, receipts, and the trusted state that follows."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any

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
from fedhelp_edge.parcel import keys, parcel, sshsig
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.site import layout
from fedhelp_edge.site import verified as site_verified
from fedhelp_edge.trust import charter
from fedhelp_edge.trust.log import Log
from fedhelp_edge.trust.roster import Site
from fedhelp_edge.trust.state import Floor

_NEWS = ("charter", "roster", "task", "global", "receipt")


def state(home: Path) -> Floor | None:
    """What this site has verified so far, verified again; None before it has joined.

    A damaged or foreign file counts for nothing. Where the newest roster or task that was ever verified here is gone,
    no older one takes its place: otherwise damage on this disk would open the way for a rollback.
    """
    return _read(home)[0]


def repair(home: Path) -> list[dict[str, str]]:
    """Put aside what does not belong into this folder, so that it can be fetched again; what it was, and why.

    Also notes the newest news that are here, where whoever kept them was cut off before the note.
    """
    told = []
    known, bad = _read(home)
    for path, fault in bad.items():
        name = f"{path.parent.name}/{path.name}"
        _put_aside(home, path)
        (home / "charter").mkdir(exist_ok=True)  # it says that this site has joined
        told.append({"file": name, "code": fault.code, "cause": f"{fault.cause}; it was put aside"})
    pinned, first = home / layout.PINNED, home / "charter" / "0001.fhx"
    for lost, whole in ((first, pinned), (pinned, first)):
        if whole.exists() and not lost.exists() and (home / "charter").is_dir():
            with files.writing(lost) as sink, files.reading(whole) as file:
                shutil.copyfileobj(file, sink)
    if known:
        newest = {"charter": (f"{known.charter.version:04}", known.charter.hash)}
        if known.roster:
            newest["roster"] = f"{known.roster.epoch:04}-{known.roster.version:04}", known.roster.hash
        if known.task:
            newest["task"] = f"{known.task.epoch:04}-{known.task.round:06}", known.task.hash
        note_verified(home, newest)
    return told


def _read(home: Path) -> tuple[Floor | None, dict[Path, FedhelpError]]:
    """The floor, and the files that do not verify."""
    bad: dict[Path, FedhelpError] = {}
    for kind in _NEWS:
        folder = home / kind
        if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
            bad[folder] = FileKindError(f"{kind} is no folder")
    found = _first(home, bad)
    if found is None:
        return None, bad
    for path in _files(home, "charter", bad):
        found = _taken(home, found, path, bad) or found
    epoch = f"{found.charter.epoch:04}-"
    for kind in ("roster", "task"):
        newest = verified_files(home).get(kind, ("", ""))[0]
        for path in reversed(_files(home, kind, bad)):
            if path.name.startswith(epoch) and path.stem >= newest and (news := _taken(home, found, path, bad)):
                found = news
                break
    for kind in ("global", "receipt"):
        for path in _files(home, kind, bad):
            if path.name.startswith(epoch):
                found = _taken(home, found, path, bad) or found
    return found, bad


def _first(home: Path, bad: dict[Path, FedhelpError]) -> Floor | None:
    """The charter that was pinned when joining; the copy beside it counts, whatever became of the other."""
    fault: FedhelpError | None = None
    if not os.path.lexists(home / "charter"):
        return None
    for path in (home / layout.PINNED, home / "charter" / "0001.fhx"):
        if not path.exists():
            continue
        try:
            with parcel.open(path, parcel.anyone) as seen:
                return Floor(charter.first(seen.statement, seen.keys, seen.json()))
        except FedhelpError as found:
            fault = bad[path] = found
    if fault:
        raise fault
    return None


def _files(home: Path, kind: str, bad: Mapping[Path, FedhelpError]) -> list[Path]:
    return [] if home / kind in bad else sorted((home / kind).glob("*.fhx"))


def _taken(home: Path, known: Floor, path: Path, bad: dict[Path, FedhelpError]) -> Floor | None:
    """The floor with a file of ours; None where it cannot count, for now or for good."""
    try:
        if path.is_symlink() or not path.is_file():
            raise FileKindError(f"{path.name} is not an ordinary file")
        said = parcel.look(path, parcel.anyone).statement
        if said.kind != path.parent.name or layout.place(home, said) != path:
            raise ParcelKindError(f"a {said.kind} that does not belong here")
        return accept(known, path)
    except (RootChainError, TaskRosterError, ExpiredError):  # it rests on what is not here
        return None
    except FedhelpError as fault:
        bad[path] = fault
        return None


def _put_aside(home: Path, path: Path) -> None:
    aside = home / "aside"
    aside.mkdir(exist_ok=True)
    path.rename(aside / f"{path.parent.name}-{path.name}.{os.urandom(4).hex()}")


def verified_files(home: Path) -> dict[str, tuple[str, str]]:
    """The newest charter, roster and task that were ever verified here: the name of each, and its hash."""
    try:
        noted = json.loads((home / layout.VERIFIED).read_bytes())
        return {kind: (str(name), str(hash_)) for kind, (name, hash_) in noted.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def check_not_older(home: Path, said: Statement) -> None:
    """Refuse what is older than news that were verified here, or another of the same number, even if those are gone."""
    if said.kind not in ("charter", "roster", "task"):
        return
    name, hash_ = verified_files(home).get(said.kind, ("", ""))
    here = layout.place(home, said).stem
    if here < name and said.kind != "charter":  # a charter rests on those before it, which may have to be fetched again
        raise RollbackError(f"{said.kind} {here}, when {name} was verified here")
    if here == name and said.hash != hash_:
        raise EquivocationError(f"two different parcels are {said.kind} {here}")


def accept(known: Floor, path: Path) -> Floor:
    """The floor with the news in a parcel, or why it is refused."""
    said = parcel.look(path, known.trust).statement
    if said.kind == "global":
        return known.with_model(said)
    if said.kind not in ("charter", "roster", "task", "receipt"):
        return known
    with parcel.open(path, known.trust) as seen:
        holds = seen.json()
        if said.kind == "receipt":
            if said.context["sender"] == "front" and holds.get("state") != "received":
                raise BadBodyError("the front may say that it received something, and nothing else")
            return known.with_log(Log(**holds["log"]))
        grow = {"charter": known.with_charter, "roster": known.with_roster, "task": known.with_task}[said.kind]
        return grow(seen.statement, seen.keys, holds)


def store(home: Path, path: Path, said: Statement) -> None:
    """Keep a copy of news that were verified."""
    kept = layout.place(home, said)
    pinned = [home / layout.PINNED] if said.kind == "charter" and said.context["version"] == 1 else []
    for copy in (kept, *pinned):
        if copy.exists() and layout.parcel_hash(copy) != said.hash:
            _put_aside(home, copy)
        if not copy.exists():
            copy.parent.mkdir(exist_ok=True)
            with files.writing(copy) as sink, files.reading(path) as file:
                shutil.copyfileobj(file, sink)
    if said.kind in ("charter", "roster", "task"):
        note_verified(home, {said.kind: (kept.stem, said.hash)})


def state_of_member(home: Path) -> Floor:
    """The floor of a site that has joined."""
    found = state(home)
    if found is None:
        raise NotJoinedError("this computer has joined no federation")
    return found


def me(home: Path, known: Floor) -> Site | None:
    """This site as the roster has it; None while its request waits."""
    return known.roster.owner(own_keys_line(home)) if known.roster else None


def take_up_new_keys(home: Path, known: Floor) -> None:
    """The keys that this site asked for are its own from the roster on that names them."""
    made = home / layout.NEXT_KEYS
    if (made / "keys.pub").exists() and known.roster and known.roster.owner(_line(keys.public_half(made))):
        keys.take_over(home, made)
    elif made.exists() and not (made / "keys.pub").exists() and not keys.are_in(made):
        # taken over, all but the folder's removal; or not made yet
        shutil.rmtree(made)


def receipts(home: Path, about: str, epoch: int | None = None) -> list[dict[str, Any]]:
    """What the coordinator said of a parcel, in the order in which its log has it; in every epoch, or in one."""
    found = []
    for path in (home / "receipt").glob(f"{'*' if epoch is None else f'{epoch:04}'}-{about}-*.fhx"):
        with suppress(FedhelpError), parcel.open(path, parcel.anyone) as seen:  # a damaged one is fetched again
            said = seen.json()
            found.append((seen.statement.context["epoch"], int(said["log"]["length"]), said))
    return [said for *_, said in sorted(found, key=itemgetter(0, 1))]


def last_receipts(home: Path, at: Path) -> list[dict[str, Any]]:
    """The last word on the share of a round, if there is one."""
    return [receipt for sealed in at.glob("*.fhx") for receipt in receipts(home, sealed.stem)[-1:]]


def own_keys_line(home: Path) -> str:
    try:
        return _line(keys.public(home))
    except FedhelpError:
        return ""


def _line(own: keys.Public) -> str:
    return sshsig.public_line(sshsig.public_raw(own.sign))


def note_verified(home: Path, news: Mapping[str, tuple[str, str]]) -> None:
    """Note the newest that was verified; an older one is no news."""
    noted = site_verified.verified_files(home)
    if newer := {kind: news_ for kind, news_ in news.items() if news_[0] > noted.get(kind, ("", ""))[0]}:
        files.replace(home / layout.VERIFIED, json.dumps(noted | newer).encode())
