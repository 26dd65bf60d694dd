"""Seals a site's updates once, and sends parcels until their receipts arrive. No torch."""

from __future__ import annotations

import io
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhelp_edge import exchange, files, lock, update
from fedhelp_edge.codec import update_codec
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
from fedhelp_edge.plan import Plan
from fedhelp_edge.privacy import noise
from fedhelp_edge.secure_sum import parcels
from fedhelp_edge.secure_sum.arithmetic import SumFormat
from fedhelp_edge.site import identity, inbox, layout, privacy_pin, receipts, verified
from fedhelp_edge.trust.state import TrustedState
from fedhelp_edge.trust.task import Task
from fedhelp_edge.update import Array

_NEW_KEYS_FIRST = "run 'fedhelp-edge upload', wait for the coordinator, then 'download' and 'upload' again"
_MEMORY = "memory.safetensors"
_FINAL_CODES = {  # after these the coordinator accepts no other update of the round
    kind.code for kind in (DuplicateRoundError, QuotaError, RoundClosedError, RoundKeyGoneError, SignerRevokedError)
}


def seal_current(home: Path, ask_passphrase: Callable[[], str]) -> Path:
    """Seals the update of the current task's round."""
    trusted = verified.require_state(home)
    if trusted.task is None:
        raise NotYetError("the coordinator has opened no round yet")
    with lock.exclusive(home / layout.LOCK):
        return seal_update(home, trusted, trusted.task, ask_passphrase)


def seal_update(home: Path, trusted: TrustedState, task: Task, ask_passphrase: Callable[[], str]) -> Path:
    """Seals the update of a finished round once, into the round's folder, and returns its path."""
    round_dir = layout.round_dir(home, task)
    for sealed in round_dir.glob("*.fhx"):
        if layout.is_intact_parcel(sealed):
            return sealed
        sealed.unlink()
    if not (round_dir / "report.json").exists():
        raise NotYetError(
            f"round {task.round} has not been trained yet", remedy="'fedhelp-edge train' or 'distill' first"
        )
    site = identity.own_site(home, trusted)
    if site is None:
        raise NotYetError("this site is not in the roster yet")
    if (home / layout.NEXT_KEYS).exists():
        raise NotYetError("the new keys that were requested are not in the roster yet", remedy=_NEW_KEYS_FIRST)
    plan, report = inbox.plan_of(task), json.loads((round_dir / "report.json").read_text(encoding="utf-8"))
    try:
        arrays = update.load(round_dir / "share.safetensors")
    except (UpdateError, FileNotFoundError) as error:
        (round_dir / "share.safetensors").unlink(missing_ok=True)
        (round_dir / "report.json").unlink()
        remedy = "'fedhelp-edge train' or 'distill' makes it again from the checkpoint in seconds"
        raise NotYetError(f"the update of round {task.round} is damaged on this disk", remedy=remedy) from error
    privacy_pin.check_helper(plan.privacy, trusted.charter.coordinator, task.recipients)
    privacy_pin.check(home, plan.privacy)
    base = inbox.base_model(home, task, plan)
    site_keys = keys.load(home, ask_passphrase)
    context = statement.new_context(
        "update", federation=task.federation, round=task.round, task=task.hash, base=task.base, sender=site.id,
        sender_key=sshsig.fingerprint(site_keys.public.sign), recipients=list(task.recipients),
        seq=next_sequence_number(home),
    )  # fmt: skip
    facts = {"examples": min(report["examples"], plan.merge.max_examples), **report["base"]}
    if plan.privacy.has_budget:
        facts = {"examples": 1}  # the number of images, and how many a net got right, would travel without noise
    wire: Mapping[str, Array]
    if plan.privacy.is_secure_sum:
        noise_key = noise.new_key() if plan.privacy.hides_sites else b""
        words = SumFormat.of(plan, task.schema).quantise(base, arrays, facts, noise_key)
        with layout.scratch(home) as scratch:
            wire = parcels.masked_update(words, context, plan.privacy.helper_key, site_keys.sign, scratch)
        facts = {}
    else:
        wire = _encode(round_dir, plan, task.round, arrays, base)
    body = io.BytesIO()
    update.write(body, wire)
    return seal(home, round_dir, context, body.getvalue(), [site_keys.sign], task.recipients, facts)


def _encode(
    round_dir: Path, plan: Plan, round_: int, arrays: Mapping[str, Array], base: Mapping[str, Array]
) -> Mapping[str, Array]:
    """Encodes an update for the wire. What the codec remembers of it lies beside it, for the round after.

    A damaged memory counts as none: its loss costs some accuracy of one update. Memories of older rounds are removed.
    """
    memories = sorted(path for path in round_dir.parent.glob(f"*/{_MEMORY}") if path.parent.name < round_dir.name)
    memory: Mapping[str, Array] = {}
    if memories and privacy_pin.may_go_on_from(memories[-1].parent, plan):
        with suppress(UpdateError):
            memory = update.load(memories[-1])
    wire, memory = update_codec(plan, round_).encode(arrays, base, memory)
    for path in memories[:-1]:
        path.unlink()
    if memory:
        body = io.BytesIO()
        update.write(body, memory)
        files.write_atomic(round_dir / _MEMORY, body.getvalue())
    return wire


def put_refused_aside(home: Path, task: Task) -> None:
    """Puts aside a round whose update was refused, so that it can be trained again."""
    round_dir = layout.round_dir(home, task)
    with lock.exclusive(home / layout.LOCK):
        if may_retrain(home, round_dir):
            (home / "refused").mkdir(exist_ok=True)
            names = (home / "refused" / f"{round_dir.name}-{number}" for number in itertools.count(1))
            round_dir.rename(next(path for path in names if not path.exists()))


def may_retrain(home: Path, round_dir: Path) -> bool:
    """Whether the coordinator refused the round's update for a reason that training again can remove."""
    refused = [receipt for receipt in receipts.latest(home, round_dir) if receipt["state"] == "refused"]
    return any(receipt["code"] not in _FINAL_CODES for receipt in refused)


def upload(home: Path, carriers: Sequence[exchange.Carrier]) -> list[str]:
    """Sends all pending parcels by every carrier, and stores the receipts that arrive at once. Returns their hashes."""
    with lock.exclusive(home / layout.LOCK):
        parcels = pending(home)
        for carrier in carriers if parcels else ():
            for path in parcels:
                carrier.put(path)
            inbox.import_files(home, carrier.receipts(inbox.held_hashes(home)), inbox.DownloadResult())
    return [path.stem for path in parcels]


def pending(home: Path, trusted: TrustedState | None = None) -> list[Path]:
    """Returns the sealed parcels that have no receipt."""
    trusted = trusted or verified.require_state(home)
    return sorted([*pending_updates(home, trusted), *_pending_requests(home, trusted)], key=lambda path: path.name)


def pending_updates(home: Path, trusted: TrustedState) -> list[Path]:
    """Returns the sealed updates without a receipt, except those of closed rounds, which no hub accepts."""
    oldest_round = max(0, trusted.task.round - inbox.stale_rounds(trusted.task)) if trusted.task else 0
    oldest_folder = f"{trusted.charter.epoch:04}-{oldest_round:06}"
    sealed = (path for path in (home / "rounds").glob("*/*.fhx") if path.parent.name >= oldest_folder)
    return [path for path in sealed if not receipts.of_parcel(home, path.stem)]


def _pending_requests(home: Path, trusted: TrustedState) -> Iterator[Path]:
    """Yields the requests that were not granted.

    A receipt counts in its epoch only: a restored hub may not know the request.
    """
    in_roster, epoch = identity.own_site(home, trusted) is not None, trusted.charter.epoch
    if in_roster and not (home / layout.NEXT_KEYS).exists():
        return
    for path in (home / "request").glob("*.fhx"):
        if not layout.is_intact_parcel(path):
            command = "'fedhelp-edge keys rotate'" if in_roster else "'fedhelp-edge leave', then 'join' with an invite,"
            raise NotYetError("a request is damaged on this disk", remedy=f"{command} makes it again")
        kind = parcel.inspect(path, parcel.any_signer).statement.kind
        if kind == ("rotate" if in_roster else "enrol") and not receipts.of_parcel(home, path.stem, epoch):
            yield path


def seal(
    home: Path, folder: Path, context: dict[str, Any], body: bytes, signers: Sequence[Ed25519PrivateKey],
    recipients: Sequence[str] = (), facts: dict[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Seals a parcel into a folder, under the hash of its statement."""
    with layout.scratch(home) as scratch:
        part = scratch / "sealed"
        sealed = parcel.seal(part, context, body, signers, recipients, facts=facts)
        folder.mkdir(exist_ok=True)
        path = folder / f"{sealed.hash}.fhx"
        part.rename(path)
        files.sync_folder(folder)
    return path


def next_sequence_number(home: Path) -> int:
    """Returns a number above all that this site has used, and stores it before a parcel uses it.

    It is at least the time in milliseconds, so it also rises where a backup restored the site's keys alone.
    """
    path = home / "number.txt"
    number = max(int(1000 * time.time()), int(path.read_text()) + 1 if path.exists() else 1)
    files.write_atomic(path, str(number).encode())
    return number
