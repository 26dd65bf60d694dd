"""A part of a bundle's graph that is an ONNX graph already: an encoder, or a head that PyTorch exports.

What does not depend on its input becomes constants: the sides of an encoder's maps, and what follows from them; the
masks of a head. Sizes that depend on the number of images alone are written anew. So a bundle has the plain operators
whose cost `infer.graph_check` knows, whoever wrote the part.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, version_converter

from export.nodes import OPSET, Nodes
from fedhelp_edge.encoder import Encoder
from fedhelp_edge.errors import BadBundleError, EncoderError
from fedhelp_edge.infer import graph_check
from fedhelp_edge.infer.engine import Session
from fedhelp_edge.nets.net import Net
from fedhelp_edge.plan import ImageSettings
from fedhelp_edge.update import Array

_POOLS, _SAME_NUMBERS = ("GlobalAveragePool", "ReduceMean"), ("Flatten", "Squeeze", "Reshape", "Identity")


@dataclass(frozen=True)
class Part:
    """An ONNX graph with one input and one output that counts."""

    model: ModelProto
    input: str
    output: str
    example: Array  # one input, without meaning


@dataclass(frozen=True)
class Known:
    """The tensors of a part that no image changes, by name."""

    constants: Mapping[str, Array]
    sizes: Mapping[str, Array]  # lists of whole numbers of which some are multiples of the images: those for one image
    counted: Mapping[str, Array]  # and which of them are

    def __contains__(self, name: object) -> bool:
        return name in self.constants or name in self.sizes


@dataclass(frozen=True)
class Encoded:
    """What an encoder adds to a graph."""

    features: str  # the tensor: N x width
    maps: str  # the last feature maps, whose means the features are: N x width x rows x columns; "" without


def add_encoder(nodes: Nodes, encoder: Encoder, pixels: str, image: ImageSettings, *, out: str) -> Encoded:
    """Adds an encoder that takes the tensor `pixels` (N x side x side x 3, float), and gives features named `out`."""
    example = np.zeros((1, image.size, image.size, 3), np.uint8)
    part = Part(_at_our_opset(encoder), encoder.input, encoder.output, example)
    known = _known(part)
    steps = _needed(part.model.graph.node, known, part.output)
    name_of = _add(nodes, part, steps, known, "encoder", pixels, out)
    maps = _last_maps(steps, known.constants, part.output)
    return Encoded(out, name_of[maps] if maps else "")


def add_head(nodes: Nodes, name: str, net: Net, features: str) -> str:
    """Adds a net on features, as PyTorch exports it; returns the name of its logits."""
    sink = io.BytesIO()
    example = torch.zeros(2, net.form.features)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is the older one
        torch.onnx.export(
            net.eval(), (example,), sink, dynamo=False,  # type: ignore[arg-type]
            opset_version=OPSET, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": [0], "y": [0]},
        )  # fmt: skip
    part = Part(onnx.load_model_from_string(sink.getvalue()), "x", "y", example[:1].numpy())
    known = _known(part)
    _add(nodes, part, _needed(part.model.graph.node, known, "y"), known, name, features, f"{name}.logits")
    return f"{name}.logits"


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


def _add(
    nodes: Nodes, part: Part, steps: Iterable[NodeProto], known: Known, prefix: str, source: str, out: str
) -> dict[str, str]:  # fmt: skip
    """Adds the steps of a part that takes the tensor `source`; returns the new names of all tensors."""
    names = {"": "", part.input: source, part.output: out}
    for step in steps:
        for tensor in (*step.input, *step.output):
            names.setdefault(tensor, f"{prefix}.{tensor}")
        for tensor in step.input:
            if tensor in known.constants:
                nodes.tensor(names[tensor], _single(known.constants[tensor]))
            elif tensor in known.sizes and not nodes.has(names[tensor]):
                _add_sizes(nodes, known.sizes[tensor], known.counted[tensor], source, names[tensor])
        copy = NodeProto(op_type=step.op_type)
        copy.attribute.extend(step.attribute)
        copy.input.extend(names[tensor] for tensor in step.input)
        copy.output.extend(names[tensor] for tensor in step.output)
        copy.name = copy.output[0]
        if copy.op_type == "Cast" and copy.attribute[0].i == TensorProto.DOUBLE:
            copy.attribute[0].i = TensorProto.FLOAT
        nodes.add(copy)
    return names


def _add_sizes(nodes: Nodes, sizes: Array, counted: Array, source: str, out: str) -> None:
    """Adds a list of sizes, of which some are multiples of the number of images."""
    count = nodes.node("Shape", source, start=0, end=1)
    parts = [
        nodes.integers([int(size)]) if not is_counted
        else count if size == 1 else nodes.node("Mul", count, nodes.integers([int(size)]))
        for size, is_counted in zip(sizes, counted, strict=True)
    ]  # fmt: skip
    nodes.node("Concat", *parts, axis=0, out=out)


def _single(values: Array) -> Array:
    """Double precision becomes single: a bundle has no other floating-point numbers."""
    return values.astype(np.float32) if values.dtype == np.float64 else values


def _known(part: Part) -> Known:
    """What no image changes: constants, and sizes that are multiples of the number of images."""
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in part.model.graph.initializer}
    depends = {part.input}
    free: list[str] = []
    for step in part.model.graph.node:
        if step.op_type != "Shape" and depends.intersection(step.input):
            depends.update(step.output)
        else:
            free.extend(filter(None, step.output))
    if not free:
        return Known(weights, {}, {})
    probe = ModelProto()
    probe.CopyFrom(part.model)
    probe.graph.ClearField("output")
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in free)
    try:
        session = Session(probe.SerializeToString(), threads=1)
        two, three = (session.run(part.input, np.repeat(part.example, count, 0), free) for count in (2, 3))
    except BadBundleError as error:
        raise EncoderError(error.cause) from error
    sizes, counted = {}, {}
    for name, a, b in zip(free, two, three, strict=True):
        if np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
            weights[name] = a
        elif a.dtype == np.int64 and a.ndim == 1 and a.shape == b.shape and ((a == b) | (3 * a == 2 * b)).all():
            counted[name] = a != b
            sizes[name] = np.where(counted[name], b - a, a)
    return Known(weights, sizes, counted)


def _needed(steps: Iterable[NodeProto], known: Known, output: str) -> list[NodeProto]:
    """The steps that the output depends on and that are no constants, in order."""
    needed, kept = {output}, []
    for step in reversed(list(steps)):
        if needed.intersection(step.output) and not all(name in known for name in step.output):
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
