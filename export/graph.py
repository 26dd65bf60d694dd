"""One or several nets as one ONNX graph: raw pixels in, at any size; logits, probabilities, heat-map and embedding out.

No path or line of source gets into the graph. Several nets of any families are averaged by their logits. That keeps
the heat-map exact: it is the mean of theirs, on the grid of the finest one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from export import onnx_part, walk
from export.nodes import Nodes
from fedhelp_edge import plan
from fedhelp_edge.encoder import Encoder
from fedhelp_edge.nets.linear import Linear
from fedhelp_edge.nets.net import Net
from fedhelp_edge.update import Array


def build(
    nets: Sequence[Net], image: plan.ImageSettings, prior: Sequence[float] | None, encoder: Encoder | None = None
) -> ModelProto:
    """The graph of these nets' mean. The log of `prior`, which training kept out of the logits, joins the bias.

    With an encoder the nets work on its features. The mean of linear layers is one layer; it has a heat-map where the
    features are means of the encoder's last maps.
    """
    nodes = Nodes()
    pixels = _resized_pixels(nodes, image)
    if encoder:
        pixels = nodes.node("Transpose", pixels, perm=[0, 2, 3, 1])
        encoded = onnx_part.add_encoder(nodes, encoder, pixels, image, out="embedding")
        features = nets[0].form.features
        if is_one_layer(nets):
            weight, bias = last_layer(nets, prior)
            if encoded.maps:
                _add_heat_map(nodes, [walk.Maps(encoded.maps, features, (0, 0))], [weight])
            _add_last_layer(nodes, weight, bias)
        else:
            _add_mean(nodes, nets, prior)
    else:
        (weight, bias), features = last_layer(nets, prior), sum(net.width for net in nets)
        _add_nets(nodes, nets, _normalised_pixels(nodes, pixels, image), image, weight)
        _add_last_layer(nodes, weight, bias)
    scaled = nodes.node("Div", "logits", nodes.constant("temperature", np.array([1.0])))
    nodes.node("Softmax", scaled, axis=1, out="probabilities")
    model = _with_ends(nodes, image.channels, nets[0].form.classes, features)
    if encoder:
        onnx_part.check(model, image)
    return model


def is_one_layer(nets: Sequence[Net]) -> bool:
    """Whether the logits of these nets' mean are a linear layer on the embedding."""
    return all(not net.form.features or isinstance(net, Linear) for net in nets)


def bias(nets: Sequence[Net], prior: Sequence[float] | None) -> list[float]:
    """What the heat-map's mean lacks to be the logit; without a heat-map the log of the prior."""
    values = last_layer(nets, prior)[1] if is_one_layer(nets) else _log(prior, nets[0].form.classes)
    return [float(np.float32(value)) for value in values]


def _add_last_layer(nodes: Nodes, weight: Array, bias: Array) -> None:
    nodes.node(
        "Gemm", "embedding", nodes.constant("weight", weight), nodes.constant("bias", bias), transB=1, out="logits"
    )


def _add_mean(nodes: Nodes, nets: Sequence[Net], prior: Sequence[float] | None) -> None:
    """Adds the nets on the embedding, each as PyTorch exports it, and the mean of their logits."""
    total, *others = [onnx_part.add_head(nodes, f"head{index}", net, "embedding") for index, net in enumerate(nets)]
    for logits in others:
        total = nodes.node("Add", total, logits)
    mean = nodes.node("Div", total, nodes.constant("members", np.array([len(nets)])))
    nodes.node("Add", mean, nodes.constant("prior", _log(prior, nets[0].form.classes)), out="logits")


def _add_nets(nodes: Nodes, nets: Sequence[Net], pixels: str, image: plan.ImageSettings, weight: Array) -> None:
    """Adds the nets up to the mean of their maps, and the heat-map."""
    maps = [walk.feature_maps(nodes, f"net{index}", net, pixels, image) for index, net in enumerate(nets)]
    names = ["embedding"] if len(nets) == 1 else [f"embedding{index}" for index in range(len(nets))]
    means = [
        nodes.node("ReduceMean", each.name, nodes.integers([2, 3]), keepdims=0, out=name)
        for each, name in zip(maps, names, strict=True)
    ]
    if len(nets) > 1:
        nodes.node("Concat", *means, axis=1, out="embedding")
    _add_heat_map(nodes, maps, np.split(weight, np.cumsum([net.width for net in nets])[:-1], axis=1))


def last_layer(nets: Sequence[Net], prior: Sequence[float] | None) -> tuple[Array, Array]:
    """Weights and bias of the last layer over the features of all nets; those of an encoder are the same for all."""
    weights, biases = zip(*((walk.numbers(net.head.weight), walk.numbers(net.head.bias)) for net in nets), strict=True)
    bias, joined = np.mean(biases, 0), np.sum(weights, 0) if nets[0].form.features else np.concatenate(weights, 1)
    return joined / len(nets), bias + _log(prior, len(bias))


def _log(prior: Sequence[float] | None, classes: int) -> Array:
    return np.log(prior if prior else np.ones(classes))


def resampling(rows: int, finer: int) -> Array:
    """Brings values at so many places to a finer grid: each gets the mean of what it covers, so their mean stays."""
    edges = np.arange(finer + 1)[:, None] * rows / finer
    starts = np.arange(rows)
    covered = np.minimum(edges[1:], starts + 1) - np.maximum(edges[:-1], starts)
    return np.asarray(covered.clip(0) * finer / rows)  # finer x rows


def set_temperature(model: ModelProto, temperature: float) -> None:
    """Sets the temperature, which divides the logits before the softmax."""
    initializer = next(tensor for tensor in model.graph.initializer if tensor.name == "temperature")
    initializer.CopyFrom(numpy_helper.from_array(np.array([temperature], np.float32), "temperature"))


def build_masks(nets: Sequence[Net], image: plan.ImageSettings) -> ModelProto:
    """The graph of the mean of nets for masks: probabilities of each pixel, and an embedding.

    The embedding is the means of each net's coarsest maps, which see most of the image. A block of a volume has the
    plan's sides; only pictures are resized.
    """
    nodes = Nodes()
    pixels = _normalised_pixels(
        nodes, _float_pixels(nodes, 5) if image.is_volume else _resized_pixels(nodes, image), image
    )
    total, means = "", []
    for index, net in enumerate(nets):
        maps, coarsest = walk.mask_maps(nodes, f"net{index}", net, pixels, image)
        axes = [2, 3, 4][: len(maps.sides)]
        weight, bias = (walk.numbers(part) / len(nets) for part in (net.head.weight, net.head.bias))
        weights = nodes.constant(f"weight{index}", weight.reshape(*weight.shape, *[1] * len(axes)))
        logits = nodes.node("Conv", maps.name, weights, nodes.constant(f"bias{index}", bias))
        total = nodes.node("Add", total, logits) if total else logits
        means.append(nodes.node("ReduceMean", coarsest.name, nodes.integers(axes), keepdims=0))
    nodes.node("Concat", *means, axis=1, out="embedding")
    scaled = nodes.node("Div", total, nodes.constant("temperature", np.array([1.0])))
    nodes.node("Softmax", scaled, axis=1, out="probabilities")
    return _with_mask_ends(nodes, image, nets[0].form.classes)


def _float_pixels(nodes: Nodes, rank: int) -> str:
    """N x channels x sides, from 0 to 255."""
    pixels = nodes.node("Transpose", "image", perm=[0, rank - 1, *range(1, rank - 1)])
    return nodes.node("Cast", pixels, to=TensorProto.FLOAT)


def _resized_pixels(nodes: Nodes, image: plan.ImageSettings) -> str:
    """N x channels x side x side, from 0 to 255."""
    pixels = _float_pixels(nodes, 4)
    sides = nodes.integers([image.size] * 2)
    target_shape = nodes.node("Concat", nodes.node("Shape", pixels, start=0, end=2), sides, axis=0)
    return nodes.node(  # naming axes instead breaks onnxruntime's own rewriting of 8-bit graphs
        "Resize", pixels, "", "", target_shape, mode="linear", antialias=1, exclude_outside=1,
        coordinate_transformation_mode="half_pixel",
    )  # fmt: skip


def _normalised_pixels(nodes: Nodes, pixels: str, image: plan.ImageSettings) -> str:
    sides = [1] * len(image.block)
    for kind, name, values in (("Sub", "mean", image.mean), ("Div", "std", image.std)):
        pixels = nodes.node(kind, pixels, nodes.constant(name, np.array(values).reshape(1, -1, *sides) * 255))
    return pixels


def _add_heat_map(nodes: Nodes, maps: Sequence[walk.Maps], weights: Sequence[Array]) -> None:
    """Adds the last layer at each place. All nodes here have names that begin with `cam`: they stay in fp32."""
    side, total = max(each.side for each in maps), ""
    for index, (each, weight) in enumerate(zip(maps, weights, strict=True)):
        fields = nodes.constant(f"fields{index}", weight[:, :, None, None])
        cam = nodes.node("Conv", each.name, fields, out="cam" if len(maps) == 1 else f"cam{index}")
        if each.side < side:
            finer = resampling(each.side, side)
            cam = nodes.node("MatMul", nodes.constant(f"rows.{each.side}", finer), cam, out=f"cam{index}.rows")
            cam = nodes.node("MatMul", cam, nodes.constant(f"columns.{each.side}", finer.T), out=f"cam{index}.columns")
        if total:
            cam = nodes.node("Add", total, cam, out="cam" if index == len(maps) - 1 else f"cam.to{index}")
        total = cam


def _with_ends(nodes: Nodes, channels: int, classes: int, features: int) -> ModelProto:
    """The model with its input and those outputs that it has."""
    pixels = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", channels])
    pixels.type.denotation = "IMAGE"
    shapes: dict[str, list[str | int | None]] = {
        "logits": ["batch", classes], "probabilities": ["batch", classes],
        "cam": ["batch", classes, "rows", "columns"], "embedding": ["batch", features],
    }  # fmt: skip
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
        if nodes.has(name)
    ]
    return nodes.model([pixels], outputs)


def _with_mask_ends(nodes: Nodes, image: plan.ImageSettings, outputs: int) -> ModelProto:
    """The model with its input, of any size for pictures, and its outputs."""
    sides: list[str | int] = [*image.block] if image.is_volume else ["height", "width"]
    pixels = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", *sides, image.channels])
    pixels.type.denotation = "IMAGE"
    shapes: dict[str, list[str | int | None]] = {
        "probabilities": ["batch", outputs, *image.block], "embedding": ["batch", "features"],
    }  # fmt: skip
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    return nodes.model([pixels], ends)
