"""Taking part in a federation: invited, joined, known by new keys, reached by this way, gone. No torch."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fedhelp_edge import exchange, files, lock, safe_text
from fedhelp_edge.errors import (
    BadInviteError,
    FedhelpError,
    InviteCodeError,
    InviteProofError,
    JoinedAlreadyError,
    NotYetError,
    PinnedKeyError,
)
from fedhelp_edge.parcel import keys, parcel, statement
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.site import inbox, layout, outbox, verified
from fedhelp_edge.trust import charter, enrol
from fedhelp_edge.trust.state import Floor

_NOT_THE_FEDERATIONS = {"left", "images", "images.txt", "others", layout.LOCK}


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
    except (ValueError, KeyError, TypeError, RecursionError, InviteCodeError):
        raise BadInviteError(f"{path.name} is no invite, or it is damaged") from None


def typed_invite(code: str, way: exchange.Carrier, url: str = "") -> Invite:
    """A code, with a charter from a carrier: taken only if whoever left it knows the code. Others may lie beside it."""
    listed: list[tuple[int, Path]] = []
    for path in way.charters():
        with suppress(FedhelpError, OSError), inbox.prologue(path) as (_, said, _):  # anything may lie on a stick
            if said.kind == "charter":
                listed.append((said.context["version"], path))
    if not listed:
        raise NotYetError("the carrier holds no charter", remedy="ask the coordinator for the invite as a file")
    vouched = way.vouch(enrol.invite_of(code, "", datetime.max).id)
    known: Floor | None = None
    charters = []
    for _, path in sorted(listed):
        with suppress(FedhelpError, OSError), parcel.open(path, parcel.anyone) as seen:
            if known is not None:
                newer = verified.accept(known, path)
            else:
                newer = Floor(charter.first(seen.statement, seen.keys, seen.json()))
                if enrol.vouch(code, newer.charter.federation) != vouched:
                    continue
            if newer is not known:
                known = newer
                charters.append(path.read_bytes())
    if known is None:
        raise InviteProofError(
            "whoever left this charter does not know the code",
            remedy="take the stick or the address of the coordinator who gave the code",
        )
    return Invite(code, url, known.charter.federation, tuple(charters))


def join(home: Path, invite: Invite, name: str, passphrase: Callable[[], str | None]) -> Path:
    """Pin the charter, make keys if there are none, and put the request into the outbox."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock.held(home / layout.LOCK), layout.scratch(home) as work:
        if verified.state(home) is not None:
            raise JoinedAlreadyError(f"{home.name} belongs to a site that has joined a federation")
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
                known = verified.accept(known, part)
        if known is None:
            raise PinnedKeyError("the invite holds no charter")
        safe_text.check_name(known.charter.name)
        own = _keys_in(home, passphrase)
        context = statement.stamped("enrol", federation=invite.federation)
        body = json.dumps(enrol.request(invite.code, name, own.public, context), ensure_ascii=False).encode()
        for earlier in (home / "request").glob("*.fhx"):  # of an attempt that was cut off
            earlier.unlink()
        sealed = outbox.seal(home, home / "request", context, body, [own.sign])
        files.replace(home / layout.NOTE, json.dumps({"url": invite.url, "name": name}).encode())
        for part in reversed(parts):  # last, and the first version last of all: it makes it joined
            verified.store(home, part, parcel.look(part, parcel.anyone).statement)
    return sealed


def check_goes_on(home: Path, code: str) -> None:
    """Refuse to join again, unless this invite made the request that is here: then joining goes on where it stopped."""
    invite = enrol.invite_of(code, "", datetime.max).id
    for path in (home / "request").glob("*.fhx"):
        with suppress(FedhelpError), parcel.open(path, parcel.anyone) as seen:
            if seen.statement.kind == "enrol" and seen.json()["invite"] == invite:
                with lock.held(home / layout.LOCK):
                    verified.repair(home)
                return
    raise JoinedAlreadyError(f"{home.name} belongs to a site that has joined a federation")


def ask_for_new_keys(home: Path, ask: Callable[[], str]) -> Path:
    """Make new keys under the same passphrase, and a request that the old and the new ones sign."""
    known = verified.state_of_member(home)
    site, made = verified.me(home, known), home / layout.NEXT_KEYS
    if site is None:
        raise NotYetError("this site is not in the roster yet")
    with lock.held(home / layout.LOCK):
        if outbox.shares(home, known):
            raise NotYetError("a share of the old keys has no receipt yet", remedy="fedhelp-edge upload, then download")
        own = keys.load(home, ask)
        new = _keys_in(made, ask if keys.is_locked(home) else lambda: None)
        for path in (home / "request").glob("*.fhx"):
            if not layout.is_parcel(path):
                path.unlink()
            elif new.public.sign in parcel.look(path, parcel.anyone).keys and not verified.receipts(home, path.stem):
                return path
        context = statement.stamped(
            "rotate", federation=known.charter.federation, sender=site.id, seq=outbox.next_number(home)
        )
        return outbox.seal(home, home / "request", context, json.dumps(vars(new.public)).encode(), [own.sign, new.sign])


def _keys_in(place: Path, passphrase: Callable[[], str | None]) -> Keys:
    """The keys of a folder, made if there are none."""
    if keys.are_in(place):
        return keys.load(place, lambda: passphrase() or "")
    made = keys.new()
    keys.save(place, made, passphrase())
    return made


def remember(home: Path, via: Path | None = None, url: str = "", ca_file: Path | None = None) -> None:
    """The way that parcels travel from now on: a folder, or the network at an address."""
    note = dict(layout.note(home))
    if url:
        note.pop("via", None)
    told = {"url": url, "via": via and str(via.absolute()), "ca_file": ca_file and str(ca_file.absolute())}
    note |= {name: value for name, value in told.items() if value}
    if note != layout.note(home):
        files.replace(home / layout.NOTE, json.dumps(note).encode())


def leave(home: Path) -> Path:
    """Put aside all that belongs to the federation, the keys too; the decoded images stay."""
    verified.state_of_member(home)
    with lock.held(home / layout.LOCK):
        layout.clear_left(home)
        names = {path.name for path in home.iterdir()} - _NOT_THE_FEDERATIONS
        asides = (home / "left" / f"{n:03}" for n in itertools.count(1))
        aside = next(path for path in asides if not any((path / name).exists() for name in names))
        aside.mkdir(parents=True, exist_ok=True)  # or there already, where leaving was cut off
        for made in (aside.parent, home):  # before anything is moved into it
            files.sync_folder(made)
        for name in sorted(names, key=lambda name: (name == "charter", name)):  # until the charter goes it is joined
            if name == "charter":
                for changed in (aside, home):
                    files.sync_folder(changed)
            (home / name).rename(aside / name)
        files.sync_folder(aside)
        files.sync_folder(home)
    return aside
