"""Nodes and constants of an ONNX graph, named in the order in which they come. So the same nets give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from fedhelp_edge.update import Array

OPSET, _IR = 18, 8  # the first with an antialiased resize


class Nodes:
    """A graph in the making."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}

    def node(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Adds an operator; returns the name of its output."""
        out = out or f"{kind.lower()}{len(self._nodes)}"
        self.add(helper.make_node(kind, inputs, [out], name=out, **attributes))
        return out

    def add(self, node: NodeProto) -> None:
        """Adds an operator as it is."""
        self._nodes.append(node)

    def constant(self, name: str, values: Array) -> str:
        """Adds floating-point numbers, once for each name; returns the name."""
        array = np.ascontiguousarray(values, np.float32)
        self._constants.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def has(self, tensor: str) -> bool:
        """Whether an operator makes a tensor of this name."""
        return any(tensor in node.output for node in self._nodes)

    def tensor(self, name: str, values: Array) -> str:
        """Adds numbers of any type as they are; returns the name."""
        self._constants[name] = numpy_helper.from_array(values, name)
        return name

    def integers(self, values: Sequence[int]) -> str:
        """Adds a list of integers, once for all that need the same; returns its name."""
        name = f"integers.{'.'.join(map(str, values))}"
        self._constants.setdefault(name, numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def model(self, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> ModelProto:
        """The whole model."""
        graph = helper.make_graph(self._nodes, "fedhelp-edge", inputs, outputs, list(self._constants.values()))
        model = helper.make_model(graph, producer_name="fedhelp-edge", opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = _IR
        return model
