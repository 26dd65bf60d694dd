"""Updates as whole numbers modulo 2^64, their masks, and the model that follows from their sum.

A number of an update becomes round(weight x change x 2^bits), where `change` is its distance from the base model. Of a
method that adds sums, the whole numbers stay as they are. All bounds are known before a round begins, and `bits`
follows from them: no sum of allowed numbers reaches 2^63. Numbers beyond a bound are refused. So nothing wraps around
except masks, which cancel exactly. Noise that hides a site is part of `change`, and counts towards the bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from fedhelp_edge.errors import SumRangeError
from fedhelp_edge.merge.norm_limit import Arrays
from fedhelp_edge.methods.registry import merge_settings
from fedhelp_edge.plan import Plan
from fedhelp_edge.privacy import accountant, noise
from fedhelp_edge.update import LIMITED_ROLES, MAX_MAGNITUDE, Array, Schema, TensorSpec

Words = NDArray[np.uint64]

SEED_BYTES = 32
SEED_LIMIT = 8192  # bytes of a seed's parcel; for a post-quantum key it has some 4,900
MASKED, SEED, MASKS = "masked", "seed", "masks"  # names of tensors that travel
SUM = "sum"  # in the place of a site's id, where all sites are merged as one
COUNTS = ("examples", "val", "correct")  # the last words of a vector, in this order
MAX_SITES = 1024  # in one sum
MAX_COUNT = 10**9  # of each count of a site
_MAX_CHANGE = 2 * int(MAX_MAGNITUDE)  # of one number: from one end of the range to the other
_LARGEST_SUM = 2**63 - 1
_PIECE = 128 << 10  # bytes of a mask at a time
_ZEROS = memoryview(bytes(_PIECE))  # what the stream is read from


@dataclass(frozen=True)
class SumFormat:
    """How the updates of a plan become words: the same for sites, helper and coordinator."""

    schema: Schema  # of a decoded update: F32, or I64 for sums
    max_weight: int  # of one site: its images, or 1 where all sites weigh alike
    clip: float = 0.0  # the largest norm of a site's change of its weights; 0: no limit
    max_examples: int = MAX_COUNT
    noise: float = 0.0  # standard deviation of what a site adds to each number

    @classmethod
    def of(cls, plan: Plan, schema: Schema) -> SumFormat:
        """The format of a plan, and of the updates of its method."""
        weight = plan.merge.max_examples if merge_settings(plan).weight == "examples" else 1
        added = accountant.noise_of_a_site(plan) if plan.privacy.hides_sites else 0.0
        return cls(schema, weight, plan.privacy.clip, plan.merge.max_examples, added)

    @cached_property
    def bits(self) -> int:
        """Binary places of a number: as many as the largest sum leaves."""
        return (_LARGEST_SUM // (MAX_SITES * self.max_weight * _MAX_CHANGE)).bit_length() - 1

    @property
    def largest(self) -> int:
        """The largest absolute number of one site; `MAX_SITES` of them stay below 2^63."""
        return _LARGEST_SUM // MAX_SITES

    @cached_property
    def length(self) -> int:
        """Words in a vector."""
        return sum(math.prod(tensor.shape) for tensor in self.schema.tensors) + len(COUNTS)

    @property
    def wire_schema(self) -> Schema:
        """What an update of this format holds."""
        return wire_schema(self.length)

    @cached_property
    def masks_schema(self) -> Schema:
        """What the helper's answer holds."""
        return Schema((TensorSpec(MASKS, "I64", (self.length,), "table"),))

    @cached_property
    def vector_schema(self) -> Schema:
        """A vector without a seed: in the lab, where nothing is masked."""
        return Schema((TensorSpec(MASKED, "I64", (self.length,), "table"),))

    # --- a site ----------------------------------------------------------------------------------------------------
    def quantise(self, base: Arrays, arrays: Arrays, counts: Mapping[str, int], noise_key: bytes = b"") -> Words:
        """The vector of an update: its weighted change from the base, then its counts. Nothing is masked yet.

        Noise that hides the site follows from a key that is used once and never leaves the site. Refuses what no sum
        of updates is sure to hold.
        """
        if bool(noise_key) != bool(self.noise):
            raise ValueError("an update with noise needs a key, and no other does")
        examples = counts["examples"]
        if not 1 <= examples <= self.max_examples:
            raise SumRangeError(f"{examples} images, and one site may count from 1 to {self.max_examples}")
        if wrong := next((name for name in COUNTS if not 0 <= counts.get(name, 0) <= MAX_COUNT), ""):
            raise SumRangeError(f"{wrong} is {counts[wrong]}, and may be from 0 to {MAX_COUNT}")
        factor = self._clip_factor(base, arrays)
        words = []
        for number, tensor in enumerate(self.schema.tensors):
            if tensor.role == "sum":
                words.append(self._checked_sum(tensor.name, arrays[tensor.name]))
                continue
            change = arrays[tensor.name].astype(np.float64) - base[tensor.name]
            if tensor.role in LIMITED_ROLES:
                change *= factor
            if self.noise:
                change += self.noise * noise.normal(noise_key, number, change.size).reshape(change.shape)
            if not np.abs(change).max(initial=0) <= _MAX_CHANGE:  # also for NaN
                raise SumRangeError(f"{tensor.name}: a change beyond {_MAX_CHANGE}, or NaN")
            scale = (1 if tensor.role == "even" else min(examples, self.max_weight)) * 2.0**self.bits
            words.append(np.rint(change * scale).astype(np.int64).ravel())
        words.append(np.array([counts.get(name, 0) for name in COUNTS], np.int64))
        return np.concatenate(words).view(np.uint64)

    def _checked_sum(self, name: str, numbers: Array) -> NDArray[np.int64]:
        if numbers.min(initial=0) < -self.largest or numbers.max(initial=0) > self.largest:
            raise SumRangeError(f"{name}: a number beyond {self.largest}")
        return numbers.astype(np.int64).ravel()

    def _clip_factor(self, base: Arrays, arrays: Arrays) -> float:
        """Scales the change of all weights so that its norm is at most `clip`."""
        if not self.clip:
            return 1.0
        squares = (
            float(np.square(arrays[tensor.name].astype(np.float64) - base[tensor.name]).sum())
            for tensor in self.schema.tensors
            if tensor.role in LIMITED_ROLES
        )
        norm = math.sqrt(math.fsum(squares))
        return min(1.0, self.clip / norm) if norm else 1.0

    # --- the coordinator -------------------------------------------------------------------------------------------
    def decode(self, base: Arrays, summed: Words, sites: int) -> tuple[dict[str, Array], dict[str, int]]:
        """The mean update of `sites` sites as arrays, and their counts together.

        Refuses a sum that no such updates have: a wrong mask, or a site that sent no update, gives random words.
        """
        numbers, limit = summed.view(np.int64), sites * self.largest
        if len(numbers) != self.length:
            raise SumRangeError(f"a sum of {len(numbers)} words, and not of {self.length}")
        counts = dict(zip(COUNTS, map(int, numbers[-len(COUNTS) :]), strict=True))
        row = numbers[: -len(COUNTS)]
        limits = {"examples": (sites, sites * self.max_examples)}
        if any(not low <= counts[n] <= high for n in COUNTS for low, high in [limits.get(n, (0, sites * MAX_COUNT))]):
            raise SumRangeError("the counts are not those of the sites in the set")
        if row.min(initial=0) < -limit or row.max(initial=0) > limit:
            raise SumRangeError("a number is larger than those of all sites together can be")
        weight = counts["examples"] if self.max_weight > 1 else sites
        arrays: dict[str, Array] = {}
        squares, limited, start = 0.0, 0, 0
        for tensor in self.schema.tensors:
            end = start + math.prod(tensor.shape)
            part = row[start:end].reshape(tensor.shape)
            start = end
            if tensor.role == "sum":
                arrays[tensor.name] = part
                continue
            divisor = (sites if tensor.role == "even" else weight) * 2.0**self.bits
            change = part / divisor
            if tensor.role in LIMITED_ROLES:
                squares, limited = squares + float(np.square(change).sum()), limited + change.size
            arrays[tensor.name] = (base[tensor.name] + change).astype(np.float32)
        rounding = math.sqrt(limited) * 2.0**-self.bits
        if self.clip and not self.noise and math.sqrt(squares) > self.clip + rounding:
            raise SumRangeError(f"the mean change of the weights is longer than clip = {self.clip:g} lets any be")
        return arrays, counts

    def as_one_update(
        self, vectors: Mapping[str, Arrays], base: Arrays
    ) -> tuple[dict[str, dict[str, Array]], dict[str, int]]:
        """What a merger gets of vectors without masks: the mean update in the place of one, and all images as its."""
        words = (as_words(vectors[site][MASKED]) for site in vectors)
        arrays, counts = self.decode(base, total(words, self.length), len(vectors))
        return {SUM: arrays}, {SUM: counts["examples"]}


def wire_schema(length: int) -> Schema:
    """What a masked update holds: the masked vector, and the seed's parcel."""
    masked = TensorSpec(MASKED, "I64", (length,), "table")
    return Schema((masked, TensorSpec(SEED, "U8", (SEED_LIMIT,), "table", free=True)))


def mask(seed: bytes, length: int) -> Words:
    """The words of a mask."""
    words = np.zeros(length, np.uint64)
    add_mask(words, seed)
    return words


def add_mask(words: Words, seed: bytes) -> None:
    """Adds a mask: the key stream of ChaCha20 (RFC 8439) from counter 0 and an empty nonce, little-endian.

    A seed is drawn for one update and never used again, so key and nonce never repeat. The stream is made in pieces
    that stay in the processor's cache: that is three times as fast as all at once.
    """
    if len(seed) != SEED_BYTES:
        raise ValueError("a seed has 32 bytes")
    stream = Cipher(ChaCha20(seed, bytes(16)), None).encryptor()
    piece = bytearray(_PIECE)
    mask_words = np.frombuffer(piece, "<u8")
    for start in range(0, len(words), _PIECE // 8):
        part = words[start : start + _PIECE // 8]
        stream.update_into(_ZEROS[: part.nbytes], piece)
        part += mask_words[: len(part)]


def total(vectors: Iterable[Words], length: int) -> Words:
    """The sum of vectors modulo 2^64, in any order."""
    words = np.zeros(length, np.uint64)
    for vector in vectors:
        words += vector
    return words


def as_array(words: Words) -> Array:
    """Words as the tensor that travels: I64 has the same bits."""
    return words.view(np.int64)


def as_words(array: Array) -> Words:
    """The words of a tensor that travelled."""
    return np.ascontiguousarray(array).view(np.uint64)
