"""`int8-delta`: the change from the base in 8-bit steps, a quarter of the bytes.

Each output channel of a matrix or kernel has a step of its own: its largest change divided by 127. Tensors with one
side or none stay float32: they are few. What rounding takes away joins the next update: error
feedback (Seide et al. 2014).
"""

from __future__ import annotations

import numpy as np

from fedhelp_edge.codec.base import NamedArrays
from fedhelp_edge.update import Array, Schema, TensorSpec

_LARGEST = 127  # steps


class Int8DeltaCodec:
    """Rounds changes to whole steps."""

    def wire_schema(self, schema: Schema) -> Schema:
        tensors: list[TensorSpec] = []
        for tensor in schema.tensors:
            if _is_rounded(tensor):
                tensors += [TensorSpec(tensor.name, "I8", tensor.shape, tensor.role), _step_spec(tensor)]
            else:
                tensors.append(tensor)
        names = [tensor.name for tensor in tensors]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"names of tensors that int8-delta needs for its steps: {', '.join(repeated)}")
        return Schema(tuple(tensors))

    def encode(self, arrays: NamedArrays, base: NamedArrays, memory: NamedArrays) -> tuple[NamedArrays, NamedArrays]:
        wire: dict[str, Array] = {}
        lost: dict[str, Array] = {}
        for name, array in arrays.items():
            if not (array.dtype == np.float32 and array.ndim > 1):
                wire[name] = array
                continue
            change = array.astype(np.float64) - _of(base, name) + _of(memory, name)
            steps = (np.abs(change).reshape(len(change), -1).max(1) / _LARGEST).astype(np.float32)
            step = _per_channel(steps, change.ndim)
            rounded = np.rint(np.divide(change, step, out=np.zeros_like(change), where=step > 0))
            wire[name] = np.clip(rounded, -_LARGEST, _LARGEST).astype(np.int8)
            wire[_step_name(name)] = steps
            lost[name] = (change - wire[name] * step).astype(np.float32)
        return wire, lost

    def decode(self, wire: NamedArrays, base: NamedArrays) -> NamedArrays:
        arrays: dict[str, Array] = {}
        for name in wire:
            if _step_name(name) in wire:
                step = _per_channel(wire[_step_name(name)], wire[name].ndim)
                arrays[name] = (_of(base, name) + wire[name] * step).astype(np.float32)
            elif not (name.endswith(_SUFFIX) and name.removesuffix(_SUFFIX) in wire):
                arrays[name] = wire[name]
        return arrays


_SUFFIX = ".step"


def _step_name(name: str) -> str:
    return name + _SUFFIX


def _is_rounded(tensor: TensorSpec) -> bool:
    return tensor.dtype == "F32" and len(tensor.shape) > 1


def _step_spec(tensor: TensorSpec) -> TensorSpec:
    return TensorSpec(_step_name(tensor.name), "F32", tensor.shape[:1])


def _per_channel(steps: Array, sides: int) -> Array:
    return steps.astype(np.float64).reshape(-1, *(1,) * (sides - 1))


def _of(arrays: NamedArrays, name: str) -> Array | float:
    """In double precision; 0 where there is none, as for a table, which has no base."""
    return arrays[name].astype(np.float64) if name in arrays else 0.0
