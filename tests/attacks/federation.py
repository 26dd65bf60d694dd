"""A federation in memory with all keys and real signatures, so a test changes one thing and sees who refuses.

A `SignedParcel` is what a reader of a parcel knows: the statement, the keys with valid signatures, and the payload.
`signed` makes one from a context, a body and the signers; the methods of `Federation` fill in an honest coordinator's.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhelp_edge import update
from fedhelp_edge.parcel import age, keys, parcel, sshsig, statement
from fedhelp_edge.parcel.statement import ZERO_HASH, Statement
from fedhelp_edge.trust import charter, enrol, roster, task
from fedhelp_edge.trust.charter import Charter
from fedhelp_edge.trust.log import Log
from fedhelp_edge.trust.roster import Roster, Site
from fedhelp_edge.trust.state import TrustedState
from fedhelp_edge.trust.task import Task
from fedhelp_edge.update import Schema

START = datetime(2026, 3, 1, 8, tzinfo=timezone.utc)
DAY = timedelta(days=1)
SCHEMA = Schema.parse(["linear.weight F32 2x4", "linear.bias F32 2"])
BASE = hashlib.sha256(b"the first weights").hexdigest()
LAST = 2**53 - 1  # the largest number that a statement can hold


class SignedParcel(NamedTuple):
    statement: Statement
    signers: tuple[str, ...]
    payload: dict[str, Any]


def signed(context: dict[str, Any], body: dict[str, Any] | bytes, *signers: Ed25519PrivateKey) -> SignedParcel:
    """What a reader knows once the statement is parsed and each signature verified."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    statement_ = statement.parse(statement.create(context, hashlib.sha256(data).hexdigest(), len(data)).line)
    signatures = [sshsig.parse(sshsig.sign(statement_.line, signer, statement_.namespace)) for signer in signers]
    for signature in signatures:
        signature.verify(statement_.line)
    payload = {} if isinstance(body, bytes) else parcel.read_json(data)
    return SignedParcel(statement_, tuple(sshsig.public_line(signature.key) for signature in signatures), payload)


def line(key: Ed25519PrivateKey) -> str:
    """The public half, as a charter or roster names it."""
    return sshsig.public_line(key.public_key())


def weights(seed: int = 0) -> dict[str, update.Array]:
    """An update that fits `SCHEMA`."""
    draw = np.random.default_rng(seed)
    return {tensor.name: draw.standard_normal(tensor.shape).astype(np.float32) for tensor in SCHEMA.tensors}


def string(data: bytes) -> bytes:
    """A field as SSH writes it."""
    return struct.pack(">I", len(data)) + data


def tuple_of(value: Site | Sequence[Site]) -> tuple[Site, ...]:
    return (value,) if isinstance(value, Site) else tuple(value)


@dataclass(frozen=True)
class Federation:
    """Roots, coordinator, front, archive and three sites: two small clinics and a large hospital."""

    threshold: int = 1
    roots: tuple[Ed25519PrivateKey, ...] = field(
        default_factory=lambda: tuple(Ed25519PrivateKey.generate() for _ in range(3))
    )
    coordinator: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    front: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    archive: str = field(default_factory=age.new_identity)
    round_key: str = field(default_factory=age.new_identity)
    site_keys: dict[str, keys.Keys] = field(
        default_factory=lambda: {name: keys.generate() for name in ("site-001", "site-002", "site-003")}
    )

    # --- parcels of the coordinator -----------------------------------------------------------------------------------
    def charter(
        self,
        after: Charter | None = None,
        *,
        roots: Sequence[Ed25519PrivateKey] | None = None,
        coordinator: Ed25519PrivateKey | None = None,
        threshold: int | None = None,
        signers: Sequence[Ed25519PrivateKey] | None = None,
        created: datetime = START,
        **context: Any,
    ) -> SignedParcel:
        """Version 1, or the version that follows `after`."""
        roots = self.roots if roots is None else tuple(roots)
        fields = {
            "epoch": after.epoch if after else 1,
            "version": after.version + 1 if after else 1,
            "previous": after.hash if after else ZERO_HASH,
            **context,
        }
        payload = charter.body(
            "Clinics of the valley",
            tuple(line(root) for root in roots),
            line(coordinator or self.coordinator),
            self.threshold if threshold is None else threshold,
        )
        return signed(
            statement.new_context("charter", created, **fields), payload, *(roots if signers is None else signers)
        )

    @cached_property
    def pinned(self) -> Charter:
        return charter.read_first(*self.charter())

    @property
    def id(self) -> str:
        return self.pinned.federation

    def site(self, name: str, **changes: Any) -> Site:
        public = self.site_keys[name].public
        tier = "large" if name == "site-003" else "small"
        return replace(Site(name, f"Clinic {name[-1]}", tier, public.sign, public.recipient), **changes)

    def roster(
        self,
        version: int = 1,
        *,
        sites: Site | Sequence[Site] = (),
        under: Charter | None = None,
        expires: datetime = START + 90 * DAY,
        created: datetime = START,
        signer: Ed25519PrivateKey | None = None,
        **context: Any,
    ) -> SignedParcel:
        """The roster of the three sites; `sites` replaces or adds some."""
        changed = {site.id: site for site in tuple_of(sites)}
        listed = [changed.pop(name, self.site(name)) for name in self.site_keys] + list(changed.values())
        under = under or self.pinned
        fields = {"federation": self.id, "epoch": under.epoch, "version": version, "charter": under.hash, **context}
        payload = roster.body(listed, line(self.front), age.recipient_of(self.archive), expires)
        return signed(statement.new_context("roster", created, **fields), payload, signer or self.coordinator)

    def task(
        self,
        rests_on: SignedParcel,
        round_: int = 1,
        *,
        log: Log | None = None,
        closes: datetime = START + 14 * DAY,
        created: datetime = START,
        signer: Ed25519PrivateKey | None = None,
        **context: Any,
    ) -> SignedParcel:
        fields = {
            "federation": self.id,
            "epoch": rests_on.statement.context["epoch"],
            "round": round_,
            "roster": rests_on.statement.hash,
            "roster_version": rests_on.statement.context["version"],
            "base": BASE,
            **context,
        }
        payload = task.body(
            "[plan]\n", SCHEMA, self.recipients, 1 << 20, "", created, closes, log or Log(round_, f"{round_:064x}")
        )
        return signed(statement.new_context("task", created, **fields), payload, signer or self.coordinator)

    def model(self, round_: int, base: str = BASE, **context: Any) -> Statement:
        """The statement of a merged model."""
        counted = {"count": 3, "sha256": "0" * 64}
        fields = {
            "federation": self.id,
            "epoch": 1,
            "round": round_,
            "base": base,
            "readers": counted,
            "inputs": counted,
        }
        return signed(
            statement.new_context("global", START, **{**fields, **context}), b"sealed", self.coordinator
        ).statement

    def receipt(self, sender: str, signer: Ed25519PrivateKey, **context: Any) -> SignedParcel:
        fields = {"federation": self.id, "epoch": 1, "sender": sender, "about": BASE, **context}
        return signed(statement.new_context("receipt", START, **fields), {}, signer)

    # --- parcels of a site --------------------------------------------------------------------------------------------
    @property
    def recipients(self) -> list[str]:
        return [age.recipient_of(self.round_key), age.recipient_of(self.archive)]

    def update_context(
        self, name: str, round_task: SignedParcel, created: datetime = START, **context: Any
    ) -> dict[str, Any]:
        """The context of a site's update for a task."""
        fields = {
            "federation": self.id,
            "round": round_task.statement.context["round"],
            "task": round_task.statement.hash,
            "base": round_task.statement.context["base"],
            "sender": name,
            "sender_key": sshsig.fingerprint(self.site_keys[name].public.sign),
            "recipients": self.recipients,
            "seq": 1,
        }
        return statement.new_context("update", created, **{**fields, **context})

    def update(self, name: str, round_task: SignedParcel, *signers: Ed25519PrivateKey, **context: Any) -> SignedParcel:
        context = self.update_context(name, round_task, **context)
        return signed(context, b"sealed", *(signers or (self.site_keys[name].sign,)))

    def enrol(self, code: str, who: keys.Keys, *signers: Ed25519PrivateKey, name: str = "Clinic 4") -> SignedParcel:
        """A request to join with an invite's code."""
        context = statement.new_context("enrol", START, federation=self.id)
        return signed(context, enrol.request_body(code, name, who.public, context), *(signers or (who.sign,)))

    def rotate(self, name: str, new: keys.PublicKeys, *signers: Ed25519PrivateKey, **context: Any) -> SignedParcel:
        fields = {"federation": self.id, "sender": name, "seq": 2, **context}
        return signed(
            statement.new_context("rotate", START, **fields), {"sign": new.sign, "recipient": new.recipient}, *signers
        )

    # --- the reader's side -----------------------------------------------------------------------------------
    def trusted(self, *parcels: SignedParcel) -> TrustedState:
        """The state of a site that pinned the charter and then read these parcels."""
        state = TrustedState(self.pinned)
        for each in parcels:
            by_kind = {"charter": state.with_charter, "roster": state.with_roster, "task": state.with_task}
            state = by_kind[each.statement.kind](*each)
        return state

    def read_roster(self, signed_roster: SignedParcel) -> Roster:
        return roster.read(*signed_roster, self.pinned)

    def read_task(self, signed_task: SignedParcel, current_roster: Roster) -> Task:
        return task.read(*signed_task, self.pinned, current_roster)


def write_parcel(path: Path, statement_: Statement, armors: Sequence[str], payload: bytes) -> Path:
    """Writes a parcel with any signatures."""
    path.write_bytes(parcel.MAGIC + statement_.line + b"\n" + "".join(armors).encode() + payload)
    return path
