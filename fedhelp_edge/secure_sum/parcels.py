"""The parcels of a secure sum: a site's seed, the coordinator's set, and the helper's sum of masks.

A site's signature binds its seed to federation, round, task, base and masked vector. So a coordinator can ask the
helper for no other seed, and nobody can use one twice. The seed travels inside the update: one upload carries both.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhelp_edge.errors import BadBodyError, InnerContextError, ParcelKindError, SetRefusedError
from fedhelp_edge.parcel import parcel, statement
from fedhelp_edge.parcel.parcel import Inspected
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.secure_sum.arithmetic import MASKED, SEED, SEED_BYTES, SumFormat, Words, add_mask, as_array, as_words
from fedhelp_edge.update import Array

HELPER_READS = ("charter", "roster", "task", "set")  # the kinds of parcels that concern a helper
_OF_UPDATE = ("federation", "round", "task", "base", "sender", "sender_key")
_OF_TASK = ("federation", "epoch", "round", "task", "base")


@dataclass(frozen=True)
class SealedSeed:
    """A seed's parcel, of which the signature holds. Only the helper can open it."""

    data: bytes
    inspected: Inspected

    @property
    def statement(self) -> Statement:
        return self.inspected.statement

    @property
    def sender(self) -> str:
        return str(self.statement.context["sender"])


# --- a site ----------------------------------------------------------------------------------------------------------
def masked_update(
    words: Words, context: Mapping[str, Any], helper_key: str, signer: Ed25519PrivateKey, scratch: Path
) -> dict[str, Array]:
    """What an update of this context holds: the masked vector, and its seed, sealed to the helper."""
    seed = os.urandom(SEED_BYTES)
    masked = words.copy()
    add_mask(masked, seed)
    seed_context = statement.new_context(
        "seed", **{name: context[name] for name in _OF_UPDATE}, recipients=[helper_key], masked=hash_of(masked)
    )
    path = scratch / "seed"
    parcel.seal(path, seed_context, seed, signer, [helper_key])
    return {MASKED: as_array(masked), SEED: np.frombuffer(path.read_bytes(), np.uint8)}


def hash_of(masked: Words) -> str:
    """The SHA-256 of a masked vector, word by word in little-endian order."""
    return hashlib.sha256(masked.astype("<u8", copy=False).data).hexdigest()


# --- the coordinator -------------------------------------------------------------------------------------------------
def check_halves(arrays: Mapping[str, Array], update: Statement, signers: tuple[str, ...], helper_key: str) -> None:
    """Refuse an update whose seed is not for this masked vector, this round and this helper, by the same signer."""
    seed = read_seed(arrays[SEED].tobytes())
    expected = {name: update.context[name] for name in _OF_UPDATE}
    expected |= {"recipients": [helper_key], "masked": hash_of(as_words(arrays[MASKED]))}
    if wrong := [name for name, value in expected.items() if seed.statement.context[name] != value]:
        raise InnerContextError(f"the seed for the helper was made for another {wrong[0]}")
    if seed.inspected.keys != signers:
        raise InnerContextError("the seed for the helper is signed by another key")


def read_seed(data: bytes) -> SealedSeed:
    """Check a seed's parcel, all that needs no key."""
    inspected = parcel.inspect_file(io.BytesIO(data), parcel.any_signer)
    if inspected.statement.kind != "seed":
        raise ParcelKindError(f"a {inspected.statement.kind}, where a seed is expected")
    return SealedSeed(data, inspected)


def set_body(seeds: Sequence[bytes]) -> dict[str, Any]:
    """The body of a set: the seeds' parcels, in the order of the sites' ids."""
    return {"seeds": [base64.b64encode(seed).decode() for seed in seeds]}


# --- the helper ------------------------------------------------------------------------------------------------------
def read_set(body: Mapping[str, Any]) -> list[SealedSeed]:
    """The seeds that a set names."""
    seeds = body.get("seeds")
    if body.keys() != {"seeds"} or not isinstance(seeds, list) or not all(isinstance(seed, str) for seed in seeds):
        raise BadBodyError("the set does not list its seeds")
    try:
        return [read_seed(base64.b64decode(seed, validate=True)) for seed in seeds]
    except ValueError as error:  # binascii.Error, or letters beyond ASCII
        raise BadBodyError("a seed of the set is not base64") from error


def open_seed(seed: SealedSeed, identity: str) -> bytes:
    """The 32 bytes of a seed."""
    with parcel.open_inspected(io.BytesIO(seed.data), seed.inspected, [identity]) as opened:
        content = opened.body.read(SEED_BYTES + 1)
    if len(content) != SEED_BYTES:
        raise SetRefusedError(f"the seed of {seed.sender} has {len(content)} bytes, not {SEED_BYTES}")
    return content


def sum_context(set_statement: Statement) -> dict[str, Any]:
    """The context of the answer to a set. It follows from the set alone, so an answer made again has the same bytes."""
    fields = {name: set_statement.context[name] for name in _OF_TASK}
    created = statement.parse_time(set_statement.context["created"])
    return statement.new_context("sum", created, **fields, about=set_statement.hash)


def masks_of(seeds: Sequence[bytes], format_: SumFormat) -> Words:
    """The sum of the masks that follow from these seeds."""
    words = np.zeros(format_.length, np.uint64)
    for seed in seeds:
        add_mask(words, seed)
    return words
