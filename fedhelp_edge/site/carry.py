"""What a site sends and fetches: joining, orders and models in, shares out. No torch."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhelp_edge import exchange, files, lock, share
from fedhelp_edge import plan as plans
from fedhelp_edge.codec import CODECS
from fedhelp_edge.errors import (
    AgeError,
    BadInvite,
    DuplicateRound,
    FedhelpError,
    InviteCode,
    InviteProof,
    JoinedAlready,
    NoMatch,
    NotYet,
    ParcelError,
    Pin,
    RoundClosed,
    RoundKeyGone,
    ShareError,
    SignerRevoked,
)
from fedhelp_edge.methods.registry import TABLES
from fedhelp_edge.parcel import keys, parcel, sshsig, statement
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.plan import Plan
from fedhelp_edge.share import Array
from fedhelp_edge.site import folder
from fedhelp_edge.trust import charter, enrol
from fedhelp_edge.trust.floor import Floor
from fedhelp_edge.trust.task import Task

LOCK = "carry.lock"
_FIRST_NEW_KEYS = "'fedhelp-edge upload' asks for them; after the coordinator's answer 'download', then 'upload' again"
_NOT_THE_FEDERATIONS = {"left", "images", "images.txt", "others", LOCK}
_FINAL = {kind.code for kind in (DuplicateRound, RoundClosed, RoundKeyGone, SignerRevoked)}  # no other share is taken
_ORDER = ("charter", "roster", "task", "knowledge", "global", "receipt")  # each rests on those before it


# --- joining ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Invite:
    code: str
    url: str
    federation: str
    charters: tuple[bytes, ...]


def read_invite(path: Path) -> Invite:
    """An invite file holds all that joining takes."""
    try:
        with files.reading(path) as file:
            said = json.loads(file.read(1 << 20))
        return Invite(
            enrol.read_code(str(said["code"])), str(said["url"]), str(said["federation"]),
            tuple(base64.b64decode(text, validate=True) for text in said["charters"]),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, RecursionError, InviteCode):
        raise BadInvite(f"{path.name} is no invite, or it is damaged") from None


def typed_invite(code: str, way: exchange.Carrier, url: str = "") -> Invite:
    """A code, with a charter from a carrier: taken only if whoever left it knows the code."""
    parcels = [path for path in way.charters() if _kind(path) == "charter"]
    parcels.sort(key=lambda path: int(parcel.look(path, parcel.anyone).statement.context["version"]))
    if not parcels:
        raise NotYet("the carrier holds no charter", remedy="ask the coordinator for the invite as a file")
    with parcel.open(parcels[0], parcel.anyone) as seen:
        federation = charter.first(seen.statement, seen.keys, seen.json()).federation
    if way.vouch(enrol.invite_of(code, "", datetime.max).id) != enrol.vouch(code, federation):
        raise InviteProof(
            "whoever left this charter does not know the code",
            remedy="take the stick or the address of the coordinator who gave the code",
        )
    return Invite(code, url, federation, tuple(path.read_bytes() for path in parcels))


def join(home: Path, invite: Invite, name: str, passphrase: Callable[[], str | None]) -> Path:
    """Pin the charter, make keys if there are none, and put the request into the outbox."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock.held(home / LOCK), scratch(home) as work:
        if folder.floor(home) is not None:
            raise JoinedAlready(f"{home.name} belongs to a site that has joined a federation")
        known: Floor | None = None
        parts = []
        for place, data in enumerate(invite.charters):
            part = work / f"{place}.fhx"
            part.write_bytes(data)
            parts.append(part)
            if known is None:
                with parcel.open(part, parcel.anyone) as seen:
                    known = Floor(charter.first(seen.statement, seen.keys, seen.json(), invite.federation))
            else:
                known = folder.take(known, part)
        if known is None:
            raise Pin("the invite holds no charter")
        own = _keys_in(home, passphrase)
        context = statement.stamped("enrol", federation=invite.federation)
        body = json.dumps(enrol.request(invite.code, name, own.public, context), ensure_ascii=False).encode()
        for earlier in (home / "request").glob("*.fhx"):  # of an attempt that was cut off
            earlier.unlink()
        sealed = _seal(home, home / "request", context, body, [own.sign])
        files.replace(home / folder.NOTE, json.dumps({"url": invite.url, "name": name}).encode())
        for part in parts:  # last, for they make it joined
            folder.keep(home, part, parcel.look(part, parcel.anyone).statement)
    return sealed


def _keys_in(place: Path, passphrase: Callable[[], str | None]) -> Keys:
    """The keys of a folder, made if there are none."""
    try:
        keys.check_none(place)
    except FedhelpError:
        return keys.load(place, lambda: passphrase() or "")
    made = keys.new()
    keys.save(place, made, passphrase())
    return made


# --- in --------------------------------------------------------------------------------------------------------------
@dataclass
class Taken:
    new: list[str] = field(default_factory=list)  # what came, in words
    refused: list[dict[str, str]] = field(default_factory=list)


def download(home: Path, carriers: Sequence[exchange.Carrier], ask: Callable[[], str]) -> Taken:
    """Fetch what is there, verify it, keep it; open the model that the order names."""
    taken = Taken()
    with lock.held(home / LOCK):
        folder.take_up_new_keys(home, folder.joined(home))  # where that was cut off
        known = _take_in(home, (path for carrier in carriers for path in carrier.fetch(_have(home))), taken)
        folder.take_up_new_keys(home, known)
        _open_base(home, known, ask)
    return taken


def _take_in(home: Path, found: Iterable[Path], taken: Taken) -> Floor:
    """Judge what a carrier brought, and keep what is news."""
    known = folder.joined(home)
    with scratch(home) as work:
        copies: dict[str, Path] = {}
        for path in found:
            copy = work / os.urandom(8).hex()
            shutil.copyfile(path, copy)  # what is judged must not change meanwhile
            try:
                copies[parcel.look(copy, parcel.anyone).statement.hash] = copy
            except FedhelpError as fault:
                taken.refused.append({"file": path.name[:80], "code": fault.code, "cause": fault.cause})
                if path.parent == home / "incoming":
                    path.unlink()  # damaged here: the next download fetches it again
        rows = [(parcel.look(copy, parcel.anyone).statement, copy) for copy in copies.values()]
        for said, copy in sorted(rows, key=lambda row: _rank(row[0])):
            if said.kind in _ORDER and not _is_kept(home, said):
                try:
                    known = _take(home, known, copy, said, taken)
                except FedhelpError as fault:
                    taken.refused.append(
                        {"file": f"{said.kind} {said.hash[:12]}", "code": fault.code, "cause": fault.cause}
                    )
    return known


def _take(home: Path, known: Floor, copy: Path, said: statement.Statement, taken: Taken) -> Floor:
    if said.kind == "knowledge":
        parcel.look(copy, known.trust)
        _keep_pack(home, copy, said)
        taken.new.append(f"knowledge, {said.size / 1e6:.1f} MB")
        return known
    context = said.context
    if said.kind == "receipt" and not (_is_mine(home, context["about"]) and context["epoch"] >= known.charter.epoch):
        return known
    known = folder.take(known, copy)
    folder.keep(home, copy, said)
    taken.new.append(_in_words(said))
    return known


def _in_words(said: statement.Statement) -> str:
    if said.kind == "global":
        return f"model after round {said.context['round']}" if said.context["round"] else "the first model"
    if said.kind == "task":
        return f"task for round {said.context['round']}"
    return f"{said.kind} {said.context['version']}" if "version" in said.context else said.kind


def _keep_pack(home: Path, copy: Path, said: statement.Statement) -> None:
    path = home / "pack" / f"{said.sha256}.safetensors"
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)  # a damaged one
    with parcel.open(copy, parcel.anyone) as seen, files.writing(path) as sink:
        shutil.copyfileobj(seen.body, sink)


def _open_base(home: Path, known: Floor, ask: Callable[[], str]) -> None:
    """The model that the newest order names, opened once."""
    if known.task is None or is_whole(base_of(home, known.task)):
        return
    sealed = sorted((home / "global").glob(f"{known.charter.epoch:04}-*.fhx"))
    named = [path for path in sealed if parcel.look(path, parcel.anyone).statement.context["base"] == known.task.base]
    if not named:
        return
    own = keys.load(home, ask)
    fault: FedhelpError = NoMatch("the model that this round begins with is not sealed for this site's keys")
    for path in named:
        try:
            with parcel.open(path, known.trust, [own.identity]) as seen:
                base_of(home, known.task).parent.mkdir(exist_ok=True)
                base_of(home, known.task).unlink(missing_ok=True)  # a damaged one
                with files.writing(base_of(home, known.task)) as sink:
                    shutil.copyfileobj(seen.body, sink)
                return
        except NoMatch:
            continue
        except (AgeError, ParcelError) as found:  # sealed badly; it may have been sealed again
            fault = found
    raise fault


def is_whole(path: Path) -> bool:
    """What is named by its hash is here, as it came."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        return files.digest(file) == path.stem


def base_of(home: Path, order: Task) -> Path:
    return home / "base" / f"{order.base}.safetensors"


def pack_of(home: Path, order: Task) -> Path | None:
    return home / "pack" / f"{order.knowledge}.safetensors" if order.knowledge else None


def lacks_pack(home: Path, order: Task) -> bool:
    path = pack_of(home, order)
    return path is not None and not is_whole(path)


def base(home: Path, order: Task, plan: Plan) -> dict[str, Array]:
    """The model that a round begins with, as numbers."""
    path = base_of(home, order)
    if not is_whole(path):
        raise NotYet(f"the model that round {order.round} begins with is {'damaged' if path.exists() else 'not'} here")
    with files.reading(path) as file:
        return dict(CODECS[plan.wire.down].decode(dict(share.Arrays(file, share.read_header(file))), {}))


def plan_of(order: Task) -> Plan:
    return plans.read(order.plan, TABLES)


# --- out -------------------------------------------------------------------------------------------------------------
def round_folder(home: Path, order: Task) -> Path:
    return home / "rounds" / f"{order.epoch:04}-{order.round:06}"


def put_aside(home: Path, order: Task) -> None:
    """Make room to train a round again whose share the coordinator refused."""
    at = round_folder(home, order)
    with lock.held(home / LOCK):
        if may_be_made_again(home, at):
            aside = home / "refused"
            aside.mkdir(exist_ok=True)
            at.rename(next(path for n in itertools.count(1) if not (path := aside / f"{at.name}-{n}").exists()))


def may_be_made_again(home: Path, at: Path) -> bool:
    """Whether the share of a round was refused for what another training would put right."""
    return any(one["state"] == "refused" and one["code"] not in _FINAL for one in last_receipts(home, at))


def last_receipts(home: Path, at: Path) -> list[dict[str, Any]]:
    """The last word on the share of a round, if there is one."""
    return [receipt for sealed in at.glob("*.fhx") for receipt in folder.receipts(home, sealed.stem)[-1:]]


def seal_share(home: Path, known: Floor, order: Task, ask: Callable[[], str]) -> Path:
    """The share of a finished round, sealed once: it lies beside the round, by the hash of its statement."""
    at = round_folder(home, order)
    if done := next(at.glob("*.fhx"), None):
        return done
    if not (at / "report.json").exists():
        raise NotYet(f"round {order.round} has not been trained yet", remedy="'fedhelp-edge train' or 'distill' first")
    site = folder.me(home, known)
    if site is None:
        raise NotYet("this site is not in the roster yet")
    if (home / folder.NEXT_KEYS).exists():
        raise NotYet("new keys were asked for, and the roster does not name them yet", remedy=_FIRST_NEW_KEYS)
    plan, report = plan_of(order), json.loads((at / "report.json").read_text(encoding="utf-8"))
    try:
        with files.reading(at / "share.safetensors") as file:
            arrays = dict(share.Arrays(file, share.read_header(file)))
    except (ShareError, FileNotFoundError) as fault:
        (at / "share.safetensors").unlink(missing_ok=True)
        (at / "report.json").unlink()
        learn = "'fedhelp-edge train' or 'distill' makes it again from what is kept, in no time"
        raise NotYet(f"the share of round {order.round} was damaged on this disk", remedy=learn) from fault
    wire, _ = CODECS[plan.wire.up].encode(arrays, base(home, order, plan), {})
    body = io.BytesIO()
    share.write(body, wire)
    own = keys.load(home, ask)
    context = statement.stamped(
        "update", federation=order.federation, round=order.round, task=order.hash, base=order.base, sender=site.id,
        sender_key=sshsig.fingerprint(own.public.sign), recipients=list(order.recipients), seq=_next_number(home),
    )  # fmt: skip
    facts = {"examples": report["examples"], **report["base"]}
    return _seal(home, at, context, body.getvalue(), [own.sign], order.recipients, facts)


def seal_newest(home: Path, ask: Callable[[], str]) -> Path:
    """The share of the round that is ordered now."""
    known = folder.joined(home)
    if known.task is None:
        raise NotYet("no round has been ordered yet")
    with lock.held(home / LOCK):
        return seal_share(home, known, known.task, ask)


def ask_for_new_keys(home: Path, ask: Callable[[], str]) -> Path:
    """Make new keys under the same passphrase, and a request that the old and the new ones sign."""
    known = folder.joined(home)
    site, made = folder.me(home, known), home / folder.NEXT_KEYS
    if site is None:
        raise NotYet("this site is not in the roster yet")
    with lock.held(home / LOCK):
        if any(path.parent.parent.name == "rounds" for path in outbox(home, known)):
            raise NotYet("a share of the old keys has no receipt yet", remedy="fedhelp-edge upload, then download")
        own = keys.load(home, ask)
        new = _keys_in(made, ask if keys.is_locked(home) else lambda: None)
        for path in (home / "request").glob("*.fhx"):
            if new.public.sign in parcel.look(path, parcel.anyone).keys and not folder.receipts(home, path.stem):
                return path
        context = statement.stamped(
            "rotate", federation=known.charter.federation, sender=site.id, seq=_next_number(home)
        )
        return _seal(home, home / "request", context, json.dumps(vars(new.public)).encode(), [own.sign, new.sign])


def _next_number(home: Path) -> int:
    """Above all that this site has used, also where only its keys came back from a backup: at least the time.

    It is used up before the parcel that has it is made.
    """
    path = home / "number.txt"
    number = max(int(1000 * time.time()), int(path.read_text()) + 1 if path.exists() else 1)
    files.replace(path, str(number).encode())
    return number


def upload(home: Path, carriers: Sequence[exchange.Carrier]) -> list[str]:
    """Send what was sealed and not yet received, by every carrier, and keep the receipts that come at once."""
    with lock.held(home / LOCK):
        waiting = outbox(home)
        for carrier in carriers if waiting else ():
            for path in waiting:
                carrier.put(path)
            _take_in(home, carrier.receipts(_have(home)), Taken())
    return [path.stem for path in waiting]


def outbox(home: Path, known: Floor | None = None) -> list[Path]:
    """What was sealed here and has no receipt; without shares of rounds that are over, which nobody takes any more, and
    requests that were granted. A receipt for a request holds in its epoch: a restored hub may not know of it."""
    known = known or folder.joined(home)
    granted = {"enrol": folder.me(home, known) is not None, "rotate": not (home / folder.NEXT_KEYS).exists()}
    least = max(0, known.task.round - plan_of(known.task).round.stale) if known.task else 0
    open_ = f"{known.charter.epoch:04}-{least:06}"
    shares = (path for path in (home / "rounds").glob("*/*.fhx") if path.parent.name >= open_)
    waiting = [path for path in shares if not folder.receipts(home, path.stem)]
    for path in (home / "request").glob("*.fhx"):
        if not granted[_kind(path)] and not folder.receipts(home, path.stem, known.charter.epoch):
            waiting.append(path)
    return sorted(waiting, key=lambda path: path.name)


def _seal(
    home: Path, place: Path, context: dict[str, Any], body: bytes, signers: Sequence[Ed25519PrivateKey],
    recipients: Sequence[str] = (), facts: dict[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Seal a parcel into a folder, under the hash of its statement."""
    with scratch(home) as work:
        part = work / "sealed"
        said = parcel.seal(part, context, body, signers, recipients, facts=facts)
        place.mkdir(exist_ok=True)
        path = place / f"{said.hash}.fhx"
        part.rename(path)
        files.sync_folder(place)
    return path


def remember(home: Path, via: Path | None = None, url: str = "", ca_file: Path | None = None) -> None:
    """The way that parcels travel from now on: a folder, or the network at an address."""
    note = dict(folder.note(home))
    if url:
        note.pop("via", None)
    told = {"url": url, "via": via and str(via.absolute()), "ca_file": ca_file and str(ca_file.absolute())}
    note |= {name: value for name, value in told.items() if value}
    if note != folder.note(home):
        files.replace(home / folder.NOTE, json.dumps(note).encode())


def leave(home: Path) -> Path:
    """Put aside all that belongs to the federation, the keys too; the decoded images stay."""
    folder.joined(home)
    with lock.held(home / LOCK):
        aside = next(
            path for n in itertools.count(1) if not (path := home / "left" / f"{n:03}").joinpath("charter").exists()
        )
        aside.mkdir(parents=True, exist_ok=True)  # or there already, where leaving was cut off
        names = sorted({path.name for path in home.iterdir()} - _NOT_THE_FEDERATIONS)
        for name in sorted(names, key="charter".__eq__):  # the charter last: until then it is joined
            (home / name).rename(aside / name)
    return aside


@contextmanager
def scratch(home: Path) -> Iterator[Path]:
    """A folder for the length of a step, on the same disk."""
    with tempfile.TemporaryDirectory(prefix=".", dir=home) as name:
        yield Path(name)


# --- helpers -----------------------------------------------------------------------------------------------------
def _is_mine(home: Path, about: str) -> bool:
    return (home / "request" / f"{about}.fhx").exists() or any((home / "rounds").glob(f"*/{about}.fhx"))


def _have(home: Path) -> frozenset[str]:
    """What need not be fetched again."""
    names = [path.stem.rsplit("-", 1)[-1] for kind in ("global", "receipt") for path in (home / kind).glob("*.fhx")]
    return frozenset(names)


def _is_kept(home: Path, said: statement.Statement) -> bool:
    if said.kind == "knowledge":
        return is_whole(home / "pack" / f"{said.sha256}.safetensors")
    path = folder.place(home, said)
    return path.exists() and parcel.look(path, parcel.anyone).statement.hash == said.hash


def _rank(said: statement.Statement) -> tuple[int, int, int]:
    place = _ORDER.index(said.kind) if said.kind in _ORDER else len(_ORDER)
    context = said.context
    return place, context.get("epoch", 0), context.get("version", context.get("round", 0))


def _kind(path: Path) -> str:
    try:
        return parcel.look(path, parcel.anyone).statement.kind
    except FedhelpError:
        return ""
