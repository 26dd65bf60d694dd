"""Another float: `f32` changes nothing, `f16` halves the bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fedhelp_edge.codec.base import NamedArrays
from fedhelp_edge.errors import NumberRangeError
from fedhelp_edge.update import Array, Schema


@dataclass(frozen=True)
class CastCodec:
    """Casts float32 to another float: `f32` changes nothing, `f16` halves the bytes."""

    dtype: str

    def wire_schema(self, schema: Schema) -> Schema:
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
