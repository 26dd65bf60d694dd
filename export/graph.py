"""One or several nets as one ONNX graph: raw pixels in, at any size; logits, probabilities, heat-map and embedding out.

The graph is written node by node. The same numbers give the same bytes on every machine, and no path or line of source
gets into them. Several nets are averaged by their logits, which keeps the heat-map exact. Their last feature maps stand
side by side, and one linear layer over all of them is the mean of theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from fedhelp_edge import plan
from fedhelp_edge.nets.spec import NORM_GROUPS
from fedhelp_edge.update import Array

OUTPUTS = ("logits", "probabilities", "cam", "embedding")
_OPSET, _IR = 18, 8  # the first with an antialiased resize
_EPSILON = 1e-5  # of torch's norm layers
_BLOCK = re.compile(r"layer(\d)\.(\d+)\.conv1\.weight")


def build(nets: Sequence[Mapping[str, Array]], image: plan.ImageSettings, prior: Sequence[float] | None) -> ModelProto:
    """The graph of these nets' mean. The log of `prior`, which training kept out of the logits, joins the bias."""
    weight, bias = last_layer(nets, prior)
    graph = _Graph()
    pixels = graph.node("Transpose", "image", perm=[0, 3, 1, 2])
    pixels = graph.node("Cast", pixels, to=TensorProto.FLOAT)
    side = graph.constant("side", np.array([image.size] * 2, np.int64))
    target_shape = graph.node("Concat", graph.node("Shape", pixels, start=0, end=2), side, axis=0)
    pixels = graph.node(  # naming axes instead breaks onnxruntime's own rewriting of 8-bit graphs
        "Resize", pixels, "", "", target_shape, mode="linear", antialias=1, exclude_outside=1,
        coordinate_transformation_mode="half_pixel",
    )  # fmt: skip
    shape = (1, image.channels, 1, 1)
    pixels = graph.node("Sub", pixels, graph.constant("mean", np.array(image.mean).reshape(shape) * 255))
    pixels = graph.node("Div", pixels, graph.constant("std", np.array(image.std).reshape(shape) * 255))
    maps = [_feature_maps(graph, f"net{index}", net, pixels, image.size) for index, net in enumerate(nets)]
    joined = maps[0] if len(maps) == 1 else graph.node("Concat", *maps, axis=1)
    graph.node("ReduceMean", joined, graph.constant("places", np.array([2, 3], np.int64)), keepdims=0, out="embedding")
    graph.node("Conv", joined, graph.constant("fields", weight[:, :, None, None]), out="cam")
    graph.node(
        "Gemm", "embedding", graph.constant("weight", weight), graph.constant("bias", bias), transB=1, out="logits"
    )
    scaled = graph.node("Div", "logits", graph.constant("temperature", np.array([1.0])))
    graph.node("Softmax", scaled, axis=1, out="probabilities")
    return graph.model(image.channels, len(bias), weight.shape[1])


def last_layer(nets: Sequence[Mapping[str, Array]], prior: Sequence[float] | None) -> tuple[Array, Array]:
    """Weights and bias of the last layer over the feature maps of all nets."""
    weight = np.concatenate([np.asarray(net["linear.weight"], np.float64) for net in nets], 1) / len(nets)
    bias = np.mean([np.asarray(net["linear.bias"], np.float64) for net in nets], 0)
    return weight, bias + np.log(prior if prior else np.ones(len(bias)))


def set_temperature(model: ModelProto, temperature: float) -> None:
    """Sets the temperature, which divides the logits before the softmax."""
    initializer = next(tensor for tensor in model.graph.initializer if tensor.name == "temperature")
    initializer.CopyFrom(numpy_helper.from_array(np.array([temperature], np.float32), "temperature"))


def _feature_maps(graph: _Graph, name: str, net: Mapping[str, Array], x: str, side: int) -> str:
    """Adds the nodes of a `nets.resnet` net with these arrays; returns its last feature maps."""
    x = graph.node("Relu", _conv_and_norm(graph, f"{name}.", net, "conv1", "bn1", x, side, 1))
    blocks = [match for match in map(_BLOCK.fullmatch, net) if match]
    for match in blocks:
        prefix, halves = f"layer{match[1]}.{match[2]}.", match[1] != "1" and match[2] == "0"
        stride = 2 if halves else 1
        side = -(-side // stride)
        y = graph.node(
            "Relu", _conv_and_norm(graph, f"{name}.{prefix}", net, f"{prefix}conv1", f"{prefix}bn1", x, side, stride)
        )
        y = _conv_and_norm(graph, f"{name}.{prefix}", net, f"{prefix}conv2", f"{prefix}bn2", y, side, 1)
        if halves:
            x = graph.node("Slice", x, *graph.halving())
            wide, narrow = net[f"{prefix}conv1.weight"].shape[:2]
            pads = np.array([0, (wide - narrow) // 2, 0, 0] * 2, np.int64)
            x = graph.node("Pad", x, graph.constant(f"{name}.{prefix}pad", pads))
        x = graph.node("Relu", graph.node("Add", y, x))
    return x


def _conv_and_norm(
    graph: _Graph, prefix: str, net: Mapping[str, Array], conv: str, norm: str, x: str, side: int, stride: int
) -> str:
    """Adds a convolution and its norm layer: batch norm is folded into it, group norm has nodes of its own."""
    kernel = np.asarray(net[f"{conv}.weight"], np.float64)
    scale, shift = (np.asarray(net[f"{norm}.{part}"], np.float64) for part in ("weight", "bias"))
    attributes: dict[str, Any] = {"strides": [stride] * 2, "pads": [1] * 4, "kernel_shape": [3, 3]}
    name = f"{prefix}{conv.rpartition('.')[2]}"
    if f"{norm}.running_var" in net:
        scale = scale / np.sqrt(np.asarray(net[f"{norm}.running_var"], np.float64) + _EPSILON)
        shift = shift - scale * net[f"{norm}.running_mean"]
        folded = graph.constant(name, kernel * scale[:, None, None, None])
        return graph.node("Conv", x, folded, graph.constant(f"{name}.bias", shift), **attributes)
    x = graph.node("Conv", x, graph.constant(name, kernel), **attributes)
    width = len(scale)
    x = graph.node("Reshape", x, graph.constant(f"{name}.groups", np.array([0, NORM_GROUPS, -1], np.int64)))
    ones, zeros = graph.constant("one", np.ones(NORM_GROUPS)), graph.constant("none", np.zeros(NORM_GROUPS))
    x = graph.node("InstanceNormalization", x, ones, zeros, epsilon=_EPSILON)
    x = graph.node("Reshape", x, graph.constant(f"{name}.apart", np.array([0, width, side, side], np.int64)))
    x = graph.node("Mul", x, graph.constant(f"{name}.scale", scale[None, :, None, None]))
    return graph.node("Add", x, graph.constant(f"{name}.shift", shift[None, :, None, None]))


class _Graph:
    """Nodes and constants, named in the order in which they come."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}

    def node(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        out = out or f"{kind.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [out], name=out, **attributes))
        return out

    def constant(self, name: str, values: Array) -> str:
        array = np.ascontiguousarray(values, np.int64 if values.dtype == np.int64 else np.float32)
        self._constants.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def halving(self) -> Iterator[str]:
        """What makes a slice take every second row and column."""
        for name, values in (("from", [0, 0]), ("to", [2**31 - 1] * 2), ("axes", [2, 3]), ("steps", [2, 2])):
            yield self.constant(f"halving.{name}", np.array(values, np.int64))

    def model(self, channels: int, classes: int, features: int) -> ModelProto:
        input_info = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", channels])
        input_info.type.denotation = "IMAGE"
        shapes: tuple[list[str | int | None], ...] = (
            ["batch", classes], ["batch", classes], ["batch", classes, "rows", "columns"], ["batch", features],
        )  # fmt: skip
        output_info = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in zip(OUTPUTS, shapes, strict=True)
        ]
        graph = helper.make_graph(
            self._nodes, "fedhelp-edge", [input_info], output_info, list(self._constants.values())
        )
        model = helper.make_model(graph, producer_name="fedhelp-edge", opset_imports=[helper.make_opsetid("", _OPSET)])
        model.ir_version = _IR
        return model
