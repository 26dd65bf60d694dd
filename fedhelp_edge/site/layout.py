"""The folder where a site lives: its keys, and the news that it has verified, as files that are written once.

keys.age, keys.pub       its two keys
next-keys/               those that it asked to be known by, until the roster names them
joined.json              where its coordinator is reached
number.txt               the number of its last parcel that counts; exchange.lock is held while parcels come and go
incoming/                downloads from the network as they grow
pinned.fhx               the first version of the charter, as it was pinned when joining
verified.json            the newest charter, roster and task that were verified; what is older is a rollback
aside/…                  files that did not belong here or were damaged
charter/0001.fhx, …      every version of the charter, the first one pinned when joining
roster/0001-0007.fhx, …  rosters, by epoch and version; task/0001-000003.fhx orders, by epoch and round
global/…, receipt/…      merged models and receipts as they came, by epoch and what they are about
base/…, pack/…           models and knowledge, opened, by the hash of what they hold
rounds/0001-000003/      a round that was trained here, with its share
refused/0001-000003-1/   the same, put aside because its share was refused and it is trained again
request/…                what it asked of the coordinator: to join, or to be known by new keys
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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
    NoImagesNamedError,
    NotJoinedError,
    ParcelKindError,
    RollbackError,
    RootChainError,
    SignerMismatchError,
    SignerRevokedError,
    SignerUnknownError,
    SignerWindowError,
    TaskRosterError,
)
from fedhelp_edge.parcel import keys, parcel, sshsig
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.trust import charter
from fedhelp_edge.trust.roster import ACTIVE, REVOKED, Site
from fedhelp_edge.trust.state import Floor
from fedhelp_edge.trust.task import Log, Task

NOTE, NEXT_KEYS, LOCK, IMAGES = "joined.json", "next-keys", "exchange.lock", "images.txt"
PINNED, VERIFIED = "pinned.fhx", "verified.json"
_WORK, _GRACE = ".work-", 3600.0  # begins the names of folders for a step; seconds after which none is at work
_NEWS = ("charter", "roster", "task", "global", "receipt")


def floor(home: Path) -> Floor | None:
    """What this site has verified so far, verified again; None before it has joined.

    A damaged or foreign file counts for nothing. Where the newest roster or task that was ever verified here is gone,
    no older one takes its place: otherwise damage on this disk would open the way for a rollback.
    """
    return _read(home)[0]


def mend(home: Path) -> list[dict[str, str]]:
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
    pinned, first = home / PINNED, home / "charter" / "0001.fhx"
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
        _note(home, newest)
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
        newest = verified(home).get(kind, ("", ""))[0]
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
    for path in (home / PINNED, home / "charter" / "0001.fhx"):
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
        if said.kind != path.parent.name or place(home, said) != path:
            raise ParcelKindError(f"a {said.kind} that does not belong here")
        return take(known, path)
    except (RootChainError, TaskRosterError, ExpiredError):  # it rests on what is not here
        return None
    except FedhelpError as fault:
        bad[path] = fault
        return None


def _put_aside(home: Path, path: Path) -> None:
    aside = home / "aside"
    aside.mkdir(exist_ok=True)
    path.rename(aside / f"{path.parent.name}-{path.name}.{os.urandom(4).hex()}")


def verified(home: Path) -> dict[str, tuple[str, str]]:
    """The newest charter, roster and task that were ever verified here: the name of each, and its hash."""
    try:
        noted = json.loads((home / VERIFIED).read_bytes())
        return {kind: (str(name), str(hash_)) for kind, (name, hash_) in noted.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def check_not_older(home: Path, said: Statement) -> None:
    """Refuse what is older than news that were verified here, or another of the same number, even if those are gone."""
    if said.kind not in ("charter", "roster", "task"):
        return
    name, hash_ = verified(home).get(said.kind, ("", ""))
    here = place(home, said).stem
    if here < name and said.kind != "charter":  # a charter rests on those before it, which may have to be fetched again
        raise RollbackError(f"{said.kind} {here}, when {name} was verified here")
    if here == name and said.hash != hash_:
        raise EquivocationError(f"two different parcels are {said.kind} {here}")


def take(known: Floor, path: Path) -> Floor:
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


def place(home: Path, said: Statement) -> Path:
    """Where news of this kind is kept."""
    context = said.context
    name = {
        "charter": lambda: f"{context['version']:04}",
        "roster": lambda: f"{context['epoch']:04}-{context['version']:04}",
        "task": lambda: f"{context['epoch']:04}-{context['round']:06}",
        "global": lambda: f"{context['epoch']:04}-{context['round']:06}-{said.hash}",
        "receipt": lambda: f"{context['epoch']:04}-{context['about']}-{said.hash}",
    }[said.kind]()
    return home / said.kind / f"{name}.fhx"


def keep(home: Path, path: Path, said: Statement) -> None:
    """Keep a copy of news that were verified."""
    kept = place(home, said)
    pinned = [home / PINNED] if said.kind == "charter" and said.context["version"] == 1 else []
    for copy in (kept, *pinned):
        if copy.exists() and parcel_hash(copy) != said.hash:
            _put_aside(home, copy)
        if not copy.exists():
            copy.parent.mkdir(exist_ok=True)
            with files.writing(copy) as sink, files.reading(path) as file:
                shutil.copyfileobj(file, sink)
    if said.kind in ("charter", "roster", "task"):
        _note(home, {said.kind: (kept.stem, said.hash)})


def _note(home: Path, news: Mapping[str, tuple[str, str]]) -> None:
    """Note the newest that was verified; an older one is no news."""
    noted = verified(home)
    if newer := {kind: news_ for kind, news_ in news.items() if news_[0] > noted.get(kind, ("", ""))[0]}:
        files.replace(home / VERIFIED, json.dumps(noted | newer).encode())


def parcel_hash(path: Path) -> str:
    """The hash of a whole parcel's statement, or ""."""
    try:
        return parcel.look(path, parcel.anyone).statement.hash
    except FedhelpError:
        return ""


def joined(home: Path) -> Floor:
    """The floor of a site that has joined."""
    found = floor(home)
    if found is None:
        raise NotJoinedError("this computer has joined no federation")
    return found


def me(home: Path, known: Floor) -> Site | None:
    """This site as the roster has it; None while its request waits."""
    return known.roster.owner(_own(home)) if known.roster else None


def take_up_new_keys(home: Path, known: Floor) -> None:
    """The keys that this site asked for are its own from the roster on that names them."""
    made = home / NEXT_KEYS
    if (made / "keys.pub").exists() and known.roster and known.roster.owner(_line(keys.public_half(made))):
        keys.take_over(home, made)
    elif made.exists() and not (made / "keys.pub").exists() and not keys.are_in(made):
        # taken over, all but the folder's removal; or not made yet
        shutil.rmtree(made)


def note(home: Path) -> dict[str, Any]:
    """What was written down when joining."""
    path = home / NOTE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def remembered(home: Path, images: Path | None) -> Path:
    """The images that are named, or those that were named last."""
    kept = home / IMAGES
    if images is not None:
        home.mkdir(parents=True, exist_ok=True)
        files.replace(kept, os.fsencode(images.absolute()))
        return images
    if not kept.exists():
        raise NoImagesNamedError("no images were named yet")
    return Path(os.fsdecode(kept.read_bytes()))


def receipts(home: Path, about: str, epoch: int | None = None) -> list[dict[str, Any]]:
    """What the coordinator said of a parcel, in the order in which its log has it; in every epoch, or in one."""
    found = []
    for path in (home / "receipt").glob(f"{'*' if epoch is None else f'{epoch:04}'}-{about}-*.fhx"):
        with suppress(FedhelpError), parcel.open(path, parcel.anyone) as seen:  # a damaged one is fetched again
            said = seen.json()
            found.append((seen.statement.context["epoch"], int(said["log"]["length"]), said))
    return [said for *_, said in sorted(found, key=itemgetter(0, 1))]


def judge(home: Path, said: Statement, signers: tuple[str, ...]) -> str:
    """Why a whole parcel should not be trusted here, or "" if it may be."""
    if said.kind != "charter" and _own(home) in signers:
        return ""
    known = floor(home)
    if known is None:
        return "this computer has joined no federation, so it cannot say whose key signed"
    try:
        known.trust(said, signers)
    except FedhelpError as fault:
        return f"{fault.code}: {fault.cause}"
    return ""


def vouch(home: Path, key: str, wanted: str | None) -> str:
    """Why the signer of a model is not vouched for here, or ""; refused where a home says that it is a stranger.

    `wanted` is the fingerprint that a person asks for. With keys or a federation in the home the signer must be this
    site or one that takes part; without, the signature alone counts, and the answer says so.
    """
    if wanted and sshsig.fingerprint(key) != wanted:
        raise SignerMismatchError(f"signed by {sshsig.fingerprint(key)}")
    own = _own(home)
    if key == own:
        return ""
    known = floor(home)
    site = known.roster.owner(key) if known and known.roster else None
    if site and site.status == REVOKED:
        raise SignerRevokedError(f"the key of {site.id} was revoked")
    if wanted or (site and site.status == ACTIVE):
        return ""
    trust = "export it again here, or name the key that you trust with --signer"
    if site:
        raise SignerWindowError(f"{site.id} takes part no more", remedy=trust)
    if own or known:
        raise SignerUnknownError(f"signed by {sshsig.fingerprint(key)}, which is nobody's key here", remedy=trust)
    return "there is no home here that could say whose key signed"


def round_folder(home: Path, order: Task) -> Path:
    return home / "rounds" / f"{order.epoch:04}-{order.round:06}"


def base_of(home: Path, order: Task) -> Path:
    return home / "base" / f"{order.base}.safetensors"


def pack_of(home: Path, order: Task) -> Path | None:
    return home / "pack" / f"{order.knowledge}.safetensors" if order.knowledge else None


def is_whole(path: Path) -> bool:
    """What is named by its hash is here, as it came."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        return files.digest(file) == path.stem


def is_parcel(path: Path) -> bool:
    """A parcel is here, whole and signed; by whom, is not asked."""
    try:
        parcel.look(path, parcel.anyone)
    except FedhelpError:
        return False
    return True


def last_receipts(home: Path, at: Path) -> list[dict[str, Any]]:
    """The last word on the share of a round, if there is one."""
    return [receipt for sealed in at.glob("*.fhx") for receipt in receipts(home, sealed.stem)[-1:]]


def clear_left(home: Path) -> None:
    """Delete what commands that were killed have left unfinished, once nobody can be at work on it."""
    for pattern in (f"{_WORK}*", ".*.part", "*/.*.part"):
        for left in home.glob(pattern):
            if left.lstat().st_mtime < time.time() - _GRACE:
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)


@contextmanager
def scratch(home: Path) -> Iterator[Path]:
    """A folder for the length of a step, on the same disk."""
    clear_left(home)
    with tempfile.TemporaryDirectory(prefix=_WORK, dir=home) as name:
        yield Path(name)


def _own(home: Path) -> str:
    try:
        return _line(keys.public(home))
    except FedhelpError:
        return ""


def _line(own: keys.Public) -> str:
    return sshsig.public_line(sshsig.public_raw(own.sign))
