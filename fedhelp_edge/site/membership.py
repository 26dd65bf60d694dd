"""Joins a federation, rotates a site's keys, and leaves. No torch."""

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
    NoCarrierError,
    NotYetError,
    PinnedKeyError,
)
from fedhelp_edge.exchange.folder import FolderCarrier
from fedhelp_edge.exchange.http import HttpCarrier
from fedhelp_edge.parcel import keys, parcel, statement
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.site import identity, inbox, layout, outbox, receipts, verified
from fedhelp_edge.trust import charter, enrol
from fedhelp_edge.trust.state import TrustedState

_KEPT_WHEN_LEAVING = {"left", "images", "images.txt", "others", layout.LOCK}


@dataclass(frozen=True)
class InviteFile:
    """What an invite file holds: the code, the coordinator's address, the federation's id, and all charters."""

    code: str
    url: str
    federation: str
    charters: tuple[bytes, ...]


def read_invite_file(path: Path) -> InviteFile:
    """Reads an invite file, which holds everything that joining needs."""
    try:
        with files.reading(path) as file:
            fields = json.loads(file.read(1 << 20))
        return InviteFile(
            enrol.read_code(str(fields["code"])), str(fields["url"]), str(fields["federation"]),
            tuple(base64.b64decode(text, validate=True) for text in fields["charters"]),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, RecursionError, InviteCodeError) as error:
        raise BadInviteError(f"{path.name} is not an invite, or it is damaged") from error


def invite_from_code(code: str, carrier: exchange.Carrier, url: str = "") -> InviteFile:
    """Returns an invite from a typed code, with the charter from a carrier.

    Takes a charter only from somebody who proves the code: others may leave theirs on the same stick.
    """
    listed: list[tuple[int, Path]] = []
    for path in carrier.charters():  # a stick may hold any file
        with suppress(FedhelpError, OSError), inbox.open_prologue(path) as (_, prologue, _):
            if prologue.kind == "charter":
                listed.append((prologue.context["version"], path))
    if not listed:
        raise NotYetError("the carrier holds no charter", remedy="ask the coordinator for the invite as a file")
    proof = carrier.charter_proof(enrol.derive_invite(code, "", datetime.max).id)
    trusted: TrustedState | None = None
    charters = []
    for _, path in sorted(listed):
        with suppress(FedhelpError, OSError), parcel.open(path, parcel.any_signer) as opened:
            if trusted is not None:
                newer = verified.accept(trusted, path)
            else:
                newer = TrustedState(charter.read_first(opened.statement, opened.keys, opened.json()))
                if enrol.charter_proof(code, newer.charter.federation) != proof:
                    continue
            if newer is not trusted:
                trusted = newer
                charters.append(path.read_bytes())
    if trusted is None:
        raise InviteProofError(
            "no charter there was left by somebody who knows the code",
            remedy="take the stick or the address of the coordinator who gave the code",
        )
    return InviteFile(code, url, trusted.charter.federation, tuple(charters))


def join(home: Path, invite: InviteFile, name: str, passphrase: Callable[[], str | None]) -> Path:
    """Pins the charter, makes keys if there are none, and seals the request to join. Returns the request.

    The charter is written last: before that nothing counts, and joining can be repeated.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock.exclusive(home / layout.LOCK), layout.scratch(home) as scratch:
        if verified.state(home) is not None:
            raise JoinedAlreadyError(f"{home.name} belongs to a site that has joined a federation")
        trusted: TrustedState | None = None
        charter_paths = []
        for index, data in enumerate(invite.charters):
            charter_path = scratch / f"{index}.fhx"
            charter_path.write_bytes(data)
            charter_paths.append(charter_path)
            if trusted is None:
                with parcel.open(charter_path, parcel.any_signer) as opened:
                    trusted = TrustedState(
                        charter.read_first(opened.statement, opened.keys, opened.json(), invite.federation)
                    )
            else:
                trusted = verified.accept(trusted, charter_path)
        if trusted is None:
            raise PinnedKeyError("the invite holds no charter")
        safe_text.check_name(trusted.charter.name)
        site_keys = _load_or_create_keys(home, passphrase)
        context = statement.new_context("enrol", federation=invite.federation)
        body = json.dumps(enrol.request_body(invite.code, name, site_keys.public, context), ensure_ascii=False).encode()
        for earlier in (home / "request").glob("*.fhx"):  # of an interrupted attempt
            earlier.unlink()
        sealed = outbox.seal(home, home / "request", context, body, [site_keys.sign])
        files.write_atomic(home / layout.CONNECTION, json.dumps({"url": invite.url, "name": name}).encode())
        for charter_path in reversed(charter_paths):  # version 1 last of all: it marks the home as joined
            verified.save(home, charter_path, parcel.inspect(charter_path, parcel.any_signer).statement)
    return sealed


def check_resumable(home: Path, code: str) -> None:
    """Raises where the home has joined, unless the same invite made its request: then joining resumes."""
    invite_id = enrol.derive_invite(code, "", datetime.max).id
    for path in (home / "request").glob("*.fhx"):
        with suppress(FedhelpError), parcel.open(path, parcel.any_signer) as opened:
            if opened.statement.kind == "enrol" and opened.json()["invite"] == invite_id:
                with lock.exclusive(home / layout.LOCK):
                    verified.repair(home)
                return
    raise JoinedAlreadyError(f"{home.name} belongs to a site that has joined a federation")


def request_new_keys(home: Path, ask_passphrase: Callable[[], str]) -> Path:
    """Makes new keys under the same passphrase, and a request that old and new keys sign. Returns the request."""
    trusted = verified.require_state(home)
    site, next_keys = identity.own_site(home, trusted), home / layout.NEXT_KEYS
    if site is None:
        raise NotYetError("this site is not in the roster yet")
    with lock.exclusive(home / layout.LOCK):
        if outbox.pending_updates(home, trusted):
            raise NotYetError(
                "keys cannot be rotated while an update is in transit", remedy="fedhelp-edge upload, then download"
            )
        site_keys = keys.load(home, ask_passphrase)
        new_keys = _load_or_create_keys(next_keys, ask_passphrase if keys.is_locked(home) else lambda: None)
        for path in (home / "request").glob("*.fhx"):
            if not layout.is_intact_parcel(path):
                path.unlink()
            elif _is_signed_by(path, new_keys) and not receipts.of_parcel(home, path.stem):
                return path
        context = statement.new_context(
            "rotate", federation=trusted.charter.federation, sender=site.id, seq=outbox.next_sequence_number(home)
        )
        body = json.dumps(vars(new_keys.public)).encode()
        return outbox.seal(home, home / "request", context, body, [site_keys.sign, new_keys.sign])


def _is_signed_by(path: Path, signer: Keys) -> bool:
    return signer.public.sign in parcel.inspect(path, parcel.any_signer).keys


def _load_or_create_keys(folder: Path, passphrase: Callable[[], str | None]) -> Keys:
    """Loads the keys of a folder, or makes them."""
    if keys.exist(folder):
        return keys.load(folder, lambda: passphrase() or "")
    created = keys.generate()
    keys.save(folder, created, passphrase())
    return created


def leave(home: Path) -> Path:
    """Puts aside everything that belongs to the federation, keys included. The decoded images stay."""
    verified.require_state(home)
    with lock.exclusive(home / layout.LOCK):
        layout.clear_leftovers(home)
        names = {path.name for path in home.iterdir()} - _KEPT_WHEN_LEAVING
        candidates = (home / "left" / f"{n:03}" for n in itertools.count(1))
        aside = next(path for path in candidates if not any((path / name).exists() for name in names))
        aside.mkdir(parents=True, exist_ok=True)  # it exists where leaving was interrupted
        for parent in (aside.parent, home):  # before anything is moved into it
            files.sync_folder(parent)
        for name in sorted(names, key=lambda name: (name == "charter", name)):  # with a charter the home has joined
            if name == "charter":
                for folder in (aside, home):
                    files.sync_folder(folder)
            (home / name).rename(aside / name)
        files.sync_folder(aside)
        files.sync_folder(home)
    return aside


def resolve_invite(
    home: Path, invite: str, via: Path | None = None, url: str = "", ca_file: Path | None = None
) -> InviteFile:
    """Returns an invite from its file, or from its typed code and a charter in a folder or at an address."""
    if _names_file(invite):
        resolved = read_invite_file(Path(invite))
    else:
        code = enrol.read_code(invite)  # reports a mistyped letter before anything else
        if via is None and not url:
            raise NoCarrierError("a code does not hold the coordinator's address", remedy="add --url URL or --via DIR")
        carrier: exchange.Carrier = FolderCarrier(via) if via else HttpCarrier(
            url, "", lambda: keys.load(home, str), home / layout.INCOMING, ca_file
        )  # fmt: skip
        resolved = invite_from_code(code, carrier, url)
    if via is not None:
        files.check_separate(via, home)
    return resolved


def invite_code(invite: str) -> str:
    """Returns the code of an invite, from its file or as typed."""
    return read_invite_file(Path(invite)).code if _names_file(invite) else enrol.read_code(invite)


def _names_file(invite: str) -> bool:
    return not invite.upper().startswith("FH1") or Path(invite).exists()
