"""A codec that remembers: it sends whole steps, and the rest of each number joins the next update."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fedhelp_edge.codec import NamedArrays
from fedhelp_edge.update import Schema


@dataclass
class Steps:
    step: float
    memories: list[bool] = field(default_factory=list)  # whether each update came with one

    def wire_schema(self, schema: Schema) -> Schema:
        return schema

    def encode(self, arrays: NamedArrays, base: NamedArrays, memory: NamedArrays) -> tuple[NamedArrays, NamedArrays]:
        self.memories.append(bool(memory))
        summed = {name: array + memory.get(name, np.float32(0)) for name, array in arrays.items()}
        wire = {name: (np.round(array / self.step) * self.step).astype(np.float32) for name, array in summed.items()}
        return wire, {name: (summed[name] - wire[name]).astype(np.float32) for name in wire}

    def decode(self, wire: NamedArrays, base: NamedArrays) -> NamedArrays:
        return wire
