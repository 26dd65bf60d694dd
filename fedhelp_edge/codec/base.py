"""What a codec does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from fedhelp_edge.update import Array, Schema

NamedArrays = Mapping[str, Array]


class Codec(Protocol):
    def wire_schema(self, schema: Schema) -> Schema:
        """The schema of the encoded arrays."""

    def encode(self, arrays: NamedArrays, base: NamedArrays, memory: NamedArrays) -> tuple[NamedArrays, NamedArrays]:
        """The encoded arrays, and the memory for the next round."""

    def decode(self, wire: NamedArrays, base: NamedArrays) -> NamedArrays:
        """The decoded arrays; `wire` has been checked against the wire's schema before."""
