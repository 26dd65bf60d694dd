"""An encoder's graph as the first part of a bundle's: from pixels to features.

What does not depend on an image becomes constants: the sides of its maps, and what follows from them. So a bundle has
the plain operators that `infer.graph_check` knows the cost of, whatever program wrote the encoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper, version_converter

from export.nodes import OPSET, Nodes
from fedhelp_edge.encoder import Encoder
from fedhelp_edge.errors import BadBundleError, EncoderError
from fedhelp_edge.infer import graph_check
from fedhelp_edge.infer.engine import Session
from fedhelp_edge.plan import ImageSettings
from fedhelp_edge.update import Array

_POOLS, _SAME_NUMBERS = ("GlobalAveragePool", "ReduceMean"), ("Flatten", "Squeeze", "Reshape", "Identity")


@dataclass(frozen=True)
class Encoded:
    """What an encoder adds to a graph."""

    features: str  # the tensor: N x width
    maps: str  # the last feature maps, whose means the features are: N x width x rows x columns; "" without


def add(nodes: Nodes, encoder: Encoder, pixels: str, side: int, *, out: str) -> Encoded:
    """Adds an encoder that takes the tensor `pixels` (N x side x side x 3, float), and gives features named `out`."""
    model = _at_our_opset(encoder)
    constants = _constants(model, encoder, side)
    steps = _needed(model.graph.node, constants, encoder.output)
    names = {encoder.input: pixels, encoder.output: out}

    def name_of(tensor: str) -> str:
        return names.get(tensor, tensor and f"encoder.{tensor}")

    for tensor in dict.fromkeys(name for step in steps for name in step.input if name in constants):
        nodes.tensor(name_of(tensor), constants[tensor])
    for step in steps:
        copy = NodeProto(op_type=step.op_type, attribute=step.attribute)
        copy.input.extend(map(name_of, step.input))
        copy.output.extend(map(name_of, step.output))
        copy.name = copy.output[0]
        nodes.add(copy)
    maps = _last_maps(steps, constants, encoder.output)
    return Encoded(out, name_of(maps) if maps else "")


def check(model: ModelProto, image: ImageSettings) -> None:
    """Refuses an encoder with operators whose memory and work nobody could know before diagnosing."""
    try:
        graph_check.check_cost(model.SerializeToString(), (1, image.size, image.size, image.channels))
    except BadBundleError as error:
        raise EncoderError(
            f"no model can hold this encoder: {error.cause}",
            remedy="write it with the operators of docs/spec/bundle.md; 'fedhelp-edge evaluate' works without",
        ) from error


def _at_our_opset(encoder: Encoder) -> ModelProto:
    model = onnx.load_model_from_string(encoder.model)
    opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    if opset > OPSET:
        raise EncoderError(f"its operators are of ONNX's version {opset}: a bundle has those of version {OPSET}")
    return version_converter.convert_version(model, OPSET) if opset < OPSET else model


def _constants(model: ModelProto, encoder: Encoder, side: int) -> dict[str, Array]:
    """All tensors that are the same for every image and every number of images, by name."""
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    depends = {encoder.input}
    free: list[str] = []
    for step in model.graph.node:
        if step.op_type != "Shape" and depends.intersection(step.input):
            depends.update(step.output)
        else:
            free.extend(filter(None, step.output))
    if not free:
        return weights
    probe = ModelProto()
    probe.CopyFrom(model)
    probe.graph.ClearField("output")
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in free)
    try:
        session = Session(probe.SerializeToString(), threads=1)
        two, three = (session.run(encoder.input, np.zeros((count, side, side, 3), np.uint8), free) for count in (2, 3))
    except BadBundleError as error:
        raise EncoderError(error.cause) from error
    same = (np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(two, three, strict=True))
    return weights | {name: value for name, value, is_same in zip(free, two, same, strict=True) if is_same}


def _needed(steps: Iterable[NodeProto], constants: Mapping[str, Array], output: str) -> list[NodeProto]:
    """The steps that the output depends on and that are no constants, in order."""
    needed, kept = {output}, []
    for step in reversed(list(steps)):
        if needed.intersection(step.output) and not all(name in constants for name in step.output):
            kept.append(step)
            needed.update(step.input)
    return kept[::-1]


def _last_maps(steps: Iterable[NodeProto], constants: Mapping[str, Array], output: str) -> str:
    """The maps whose means over rows and columns are the output; "" if it is made otherwise."""
    maker = {name: step for step in steps for name in step.output}
    if output not in maker:
        raise EncoderError("its features do not depend on the image")
    step = maker[output]
    while step.op_type in _SAME_NUMBERS and step.input[0] in maker:
        step = maker[step.input[0]]
    if step.op_type == "ReduceMean" and sorted(constants[step.input[1]].tolist()) not in ([2, 3], [-2, -1]):
        return ""
    return str(step.input[0]) if step.op_type in _POOLS else ""
