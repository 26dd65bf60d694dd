"""How a share shrinks for the wire, and grows back.

A codec knows from the schema alone what travels (`wire`), so intake can judge a file before it decodes it. `encode` may
lean on the `base` that both ends hold and on a `memory` that stays at the site between rounds (the error of the last
round, to be made good in this one); `decode` needs only the base. `f32` and `f16` need neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from fedhelp_edge.errors import NumberRangeError
from fedhelp_edge.update import Array, Schema

NamedArrays = Mapping[str, Array]


class Codec(Protocol):
    def wire(self, schema: Schema) -> Schema:
        """What travels in place of `schema`."""

    def encode(self, arrays: NamedArrays, base: NamedArrays, memory: NamedArrays) -> tuple[NamedArrays, NamedArrays]:
        """The wire's arrays, and the memory for the next round."""

    def decode(self, wire: NamedArrays, base: NamedArrays) -> NamedArrays:
        """The arrays that were meant; `wire` was checked against `wire(schema)` before."""


@dataclass(frozen=True)
class CastCodec:
    """Every float32 as another float: `f32` leaves it as it is, `f16` halves the bytes."""

    dtype: str

    def wire(self, schema: Schema) -> Schema:
        return replace(
            schema, tensors=tuple(replace(t, dtype=self.dtype) if t.dtype == "F32" else t for t in schema.tensors)
        )

    def encode(self, arrays: NamedArrays, base: NamedArrays, memory: NamedArrays) -> tuple[NamedArrays, NamedArrays]:
        return {name: self._narrow(name, array) for name, array in arrays.items()}, memory

    def decode(self, wire: NamedArrays, base: NamedArrays) -> NamedArrays:
        if self.dtype == "F32":
            return wire
        return {name: a.astype(np.float32) if a.dtype == np.float16 else a for name, a in wire.items()}

    def _narrow(self, name: str, array: Array) -> Array:
        if self.dtype == "F32" or array.dtype != np.float32:
            return array
        if np.abs(array).max(initial=0) > np.finfo(np.float16).max:
            raise NumberRangeError(f"{name}: too large for {self.dtype.lower()}")
        return array.astype(np.float16)


CODECS: Mapping[str, Codec] = {"f32": CastCodec("F32"), "f16": CastCodec("F16")}
