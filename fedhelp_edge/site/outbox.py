"""What leaves a site: shares, sealed once, sent until they are received. No torch."""

from __future__ import annotations

import io
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhelp_edge import exchange, files, lock, update
from fedhelp_edge.codec import CODECS
from fedhelp_edge.errors import (
    DuplicateRoundError,
    NotYetError,
    QuotaError,
    RoundClosedError,
    RoundKeyGoneError,
    SignerRevokedError,
    UpdateError,
)
from fedhelp_edge.parcel import keys, parcel, sshsig, statement
from fedhelp_edge.site import inbox, layout, verified
from fedhelp_edge.trust.state import Floor
from fedhelp_edge.trust.task import Task

_FIRST_NEW_KEYS = "'fedhelp-edge upload' asks for them; after the coordinator's answer 'download', then 'upload' again"
_FINAL = {
    kind.code for kind in (DuplicateRoundError, QuotaError, RoundClosedError, RoundKeyGoneError, SignerRevokedError)
}  # no other share is taken


def seal_newest(home: Path, ask: Callable[[], str]) -> Path:
    """The share of the round that is ordered now."""
    known = verified.state_of_member(home)
    if known.task is None:
        raise NotYetError("no round has been ordered yet")
    with lock.held(home / layout.LOCK):
        return seal_share(home, known, known.task, ask)


def seal_share(home: Path, known: Floor, order: Task, ask: Callable[[], str]) -> Path:
    """The share of a finished round, sealed once: it lies beside the round, by the hash of its statement."""
    at = layout.round_folder(home, order)
    for done in at.glob("*.fhx"):
        if layout.is_parcel(done):
            return done
        done.unlink()
    if not (at / "report.json").exists():
        raise NotYetError(
            f"round {order.round} has not been trained yet", remedy="'fedhelp-edge train' or 'distill' first"
        )
    site = verified.me(home, known)
    if site is None:
        raise NotYetError("this site is not in the roster yet")
    if (home / layout.NEXT_KEYS).exists():
        raise NotYetError("new keys were asked for, and the roster does not name them yet", remedy=_FIRST_NEW_KEYS)
    plan, report = inbox.plan_of(order), json.loads((at / "report.json").read_text(encoding="utf-8"))
    try:
        with files.reading(at / "share.safetensors") as file:
            arrays = dict(update.Arrays(file, update.read_header(file)))
    except (UpdateError, FileNotFoundError) as fault:
        (at / "share.safetensors").unlink(missing_ok=True)
        (at / "report.json").unlink()
        learn = "'fedhelp-edge train' or 'distill' makes it again from what is kept, in no time"
        raise NotYetError(f"the share of round {order.round} was damaged on this disk", remedy=learn) from fault
    wire, _ = CODECS[plan.wire.up].encode(arrays, inbox.base(home, order, plan), {})
    body = io.BytesIO()
    update.write(body, wire)
    own = keys.load(home, ask)
    context = statement.stamped(
        "update", federation=order.federation, round=order.round, task=order.hash, base=order.base, sender=site.id,
        sender_key=sshsig.fingerprint(own.public.sign), recipients=list(order.recipients), seq=next_number(home),
    )  # fmt: skip
    facts = {"examples": min(report["examples"], plan.merge.max_examples), **report["base"]}
    return seal(home, at, context, body.getvalue(), [own.sign], order.recipients, facts)


def put_aside(home: Path, order: Task) -> None:
    """Make room to train a round again whose share the coordinator refused."""
    at = layout.round_folder(home, order)
    with lock.held(home / layout.LOCK):
        if may_be_made_again(home, at):
            aside = home / "refused"
            aside.mkdir(exist_ok=True)
            at.rename(next(path for n in itertools.count(1) if not (path := aside / f"{at.name}-{n}").exists()))


def may_be_made_again(home: Path, at: Path) -> bool:
    """Whether the share of a round was refused for what another training would put right."""
    return any(one["state"] == "refused" and one["code"] not in _FINAL for one in verified.last_receipts(home, at))


def upload(home: Path, carriers: Sequence[exchange.Carrier]) -> list[str]:
    """Send what was sealed and not yet received, by every carrier, and keep the receipts that come at once."""
    with lock.held(home / layout.LOCK):
        ready = waiting(home)
        for carrier in carriers if ready else ():
            for path in ready:
                carrier.put(path)
            inbox.take_in(home, carrier.receipts(inbox.have(home)), inbox.Taken())
    return [path.stem for path in ready]


def waiting(home: Path, known: Floor | None = None) -> list[Path]:
    """What was sealed here and has no receipt."""
    known = known or verified.state_of_member(home)
    return sorted([*shares(home, known), *_requests(home, known)], key=lambda path: path.name)


def shares(home: Path, known: Floor) -> list[Path]:
    """Those without a receipt; not those of rounds that are over, which nobody takes any more."""
    least = max(0, known.task.round - inbox.plan_of(known.task).round.stale) if known.task else 0
    open_ = f"{known.charter.epoch:04}-{least:06}"
    made = (path for path in (home / "rounds").glob("*/*.fhx") if path.parent.name >= open_)
    return [path for path in made if not verified.receipts(home, path.stem)]


def _requests(home: Path, known: Floor) -> Iterator[Path]:
    """Those not granted yet. A receipt for one holds in its epoch: a restored hub may not know of it."""
    in_roster, new_keys = verified.me(home, known) is not None, (home / layout.NEXT_KEYS).exists()
    if in_roster and not new_keys:
        return
    for path in (home / "request").glob("*.fhx"):
        if not layout.is_parcel(path):
            again = "'fedhelp-edge keys rotate'" if in_roster else "'fedhelp-edge leave', then 'join' with an invite,"
            raise NotYetError("a request was damaged on this disk", remedy=f"{again} makes it again")
        kind = parcel.look(path, parcel.anyone).statement.kind
        if kind == ("rotate" if in_roster else "enrol") and not verified.receipts(home, path.stem, known.charter.epoch):
            yield path


def seal(
    home: Path, place: Path, context: dict[str, Any], body: bytes, signers: Sequence[Ed25519PrivateKey],
    recipients: Sequence[str] = (), facts: dict[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Seal a parcel into a folder, under the hash of its statement."""
    with layout.scratch(home) as work:
        part = work / "sealed"
        said = parcel.seal(part, context, body, signers, recipients, facts=facts)
        place.mkdir(exist_ok=True)
        path = place / f"{said.hash}.fhx"
        part.rename(path)
        files.sync_folder(place)
    return path


def next_number(home: Path) -> int:
    """Above all that this site has used, also where only its keys came back from a backup: at least the time.

    It is used up before the parcel that has it is made.
    """
    path = home / "number.txt"
    number = max(int(1000 * time.time()), int(path.read_text()) + 1 if path.exists() else 1)
    files.replace(path, str(number).encode())
    return number
