"""Walks through a net as PyTorch traces it, and writes each layer as ONNX nodes. No family is described a second time.

A net must end in the mean of its last feature maps and one linear layer: then its heat-map is exact. A net for masks
is walked up to its last feature maps. Batch norm is folded into the convolution before it. A kind of layer that is not
in the tables below is refused by its name.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from export.nodes import Nodes
from fedhelp_edge import plan
from fedhelp_edge.errors import UnknownLayerError
from fedhelp_edge.nets.layers import SameConv2d
from fedhelp_edge.nets.net import Net
from fedhelp_edge.update import Array


@dataclass(frozen=True)
class Maps:
    """Feature maps in the graph."""

    name: str  # of the tensor
    channels: int
    sides: tuple[int, ...]  # rows and columns, which are as many; of volumes the slices first

    @property
    def side(self) -> int:
        """The rows, which are as many as the columns."""
        return self.sides[-1]


def feature_maps(nodes: Nodes, name: str, net: Net, pixels: str, image: plan.ImageSettings) -> Maps:
    """Adds the nodes of a net up to its last feature maps. `name` begins the names of its numbers."""
    return _walk(nodes, name, net, _steps(net), pixels, image)[-1]


def mask_maps(nodes: Nodes, name: str, net: Net, pixels: str, image: plan.ImageSettings) -> tuple[Maps, Maps]:
    """Adds the nodes of a net for masks. Returns its last feature maps, of each pixel, and its coarsest ones."""
    every = _walk(nodes, name, net, _mask_steps(net), pixels, image)
    return every[-1], min(reversed(every), key=lambda maps: math.prod(maps.sides))


def _walk(
    nodes: Nodes, name: str, net: Net, steps: Sequence[fx.Node], pixels: str, image: plan.ImageSettings
) -> list[Maps]:
    """Adds the nodes of these steps; returns the maps of each."""
    layers = {step: net.get_submodule(str(step.target)) for step in steps if step.op == "call_module"}
    norms = {step.args[0]: step for step in steps if _follows_a_convolution(step, layers)}
    values: dict[fx.Node, Any] = {steps[0]: Maps(pixels, image.channels, image.block)}
    for step in steps[1:]:
        inputs: Any = fx.node.map_arg(step.args, values.__getitem__)
        try:
            if step in norms.values():
                (values[step],) = inputs
            elif step in norms:
                values[step] = _convolution(
                    nodes, f"{name}.{step.target}", layers[step], inputs[0], layers[norms[step]]
                )
            elif step in layers:
                values[step] = _LAYERS[type(layers[step])](nodes, f"{name}.{step.target}", layers[step], *inputs)
            else:
                values[step] = _FUNCTIONS[step.target](nodes, *inputs, **step.kwargs)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            kind = type(layers[step]).__name__ if step in layers else getattr(step.target, "__name__", step.target)
            raise UnknownLayerError(
                f"the net {net.name} has a layer of a kind that export does not know: {kind} ({step.name})"
            ) from error
    return [values[step] for step in steps]


def numbers(tensor: Any) -> Array:
    """A tensor's numbers, in which constants are folded before they are rounded."""
    return np.asarray(tensor.detach().cpu().double().numpy())


def _steps(net: Net) -> list[fx.Node]:
    """What the net does with an image, from the image to its last feature maps."""
    match _trace(net, "forward"):
        case [*steps, mean, head, output] if (
            steps and (mean.op, mean.target, mean.args, mean.kwargs) == ("call_method", "mean", (steps[-1], (2, 3)), {})
            and head.op == "call_module" and net.get_submodule(str(head.target)) is net.head
            and (head.args, output.args) == ((mean,), (head,))
        ):  # fmt: skip
            return steps
    raise UnknownLayerError(f"the net {net.name} does not end in the mean of its maps and one linear layer")


def _mask_steps(net: Net) -> list[fx.Node]:
    """What a net for masks does with an image, from the image to the feature maps of its pixels."""
    return _trace(net, "feature_maps")[:-1]


def _trace(net: Net, function: str) -> list[fx.Node]:
    """The steps of one of a net's functions, the result last."""
    tracer = _Tracer()
    tracer.traced_func_name = function
    try:
        return list(tracer.trace(net).nodes)
    except Exception as error:  # the net's own code runs on stand-ins for tensors, and may raise whatever it likes
        raise UnknownLayerError(f"the steps of the net {net.name} depend on the image, or cannot be traced") from error


class _Tracer(fx.Tracer):
    """Does not look into a layer that is written whole."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return type(module) in _LAYERS or super().is_leaf_module(module, name)


def _follows_a_convolution(step: fx.Node, layers: Mapping[Any, nn.Module]) -> bool:
    """Whether it is batch norm that can be folded: nothing else needs what the convolution before it gives."""
    if not isinstance(layers.get(step), nn.BatchNorm2d | nn.BatchNorm3d):
        return False
    before = step.args[0]
    return isinstance(layers.get(before), nn.Conv2d | nn.Conv3d) and len(before.users) == 1  # type: ignore[union-attr]


def _convolution(nodes: Nodes, name: str, layer: Any, x: Maps, norm: Any = None) -> Maps:
    """A convolution, with the batch norm after it folded in."""
    kernel, bias = numbers(layer.weight), None if layer.bias is None else numbers(layer.bias)
    if norm:
        scale = numbers(norm.weight) / np.sqrt(numbers(norm.running_var) + norm.eps)
        bias = numbers(norm.bias) + scale * ((0 if bias is None else bias) - numbers(norm.running_mean))
        kernel = kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1))
    if layer.padding_mode != "zeros" or {*layer.dilation} != {1}:
        raise ValueError
    constants = [nodes.constant(name, kernel), *([] if bias is None else [nodes.constant(f"{name}.bias", bias)])]
    groups = {"group": layer.groups} if layer.groups > 1 else {}
    return _windows(nodes, "Conv", layer, x, layer.out_channels, *constants, **groups)


def _transposed(nodes: Nodes, name: str, layer: Any, x: Maps) -> Maps:
    """A convolution that makes each place as many as its kernel has: they do not overlap."""
    kernel, stride = (_side(value) for value in (layer.kernel_size, layer.stride))
    if kernel != stride or {*layer.padding, *layer.output_padding} != {0} or layer.groups > 1 or layer.bias is None:
        raise ValueError
    constants = nodes.constant(name, numbers(layer.weight)), nodes.constant(f"{name}.bias", numbers(layer.bias))
    sides = [kernel] * len(x.sides)
    out = nodes.node("ConvTranspose", x.name, *constants, strides=sides, kernel_shape=sides)
    return Maps(out, layer.out_channels, tuple(kernel * side for side in x.sides))


def _pool(
    nodes: Nodes, x: Maps, kernel: int, stride: int | None = None, padding: int = 0, dilation: int = 1, **others: bool
) -> Maps:
    """The largest of each window; the windows do not overlap."""
    if stride not in (None, kernel) or padding or dilation != 1 or any(others.values()):
        raise ValueError
    sides = [kernel] * len(x.sides)
    out = nodes.node("MaxPool", x.name, strides=sides, kernel_shape=sides)
    return Maps(out, x.channels, tuple(side // kernel for side in x.sides))


def _max_pool(nodes: Nodes, name: str, layer: Any, x: Maps) -> Maps:
    if layer.ceil_mode or layer.return_indices or layer.dilation != 1:
        raise ValueError
    return _windows(nodes, "MaxPool", layer, x, x.channels)


def _windows(nodes: Nodes, kind: str, layer: Any, x: Maps, channels: int, *constants: str, **options: Any) -> Maps:
    """A layer that sees a window of the maps at each place. Windows are square, or cubes."""
    kernel, stride, pad = (_side(value) for value in (layer.kernel_size, layer.stride, layer.padding))
    before = layer.before(x.side) if isinstance(layer, SameConv2d) else pad
    rank = len(x.sides)
    pads = [before] * rank + [pad] * rank
    out = nodes.node(
        kind, x.name, *constants, strides=[stride] * rank, pads=pads, kernel_shape=[kernel] * rank, **options
    )
    return Maps(out, channels, tuple((side + before + pad - kernel) // stride + 1 for side in x.sides))


def _side(value: int | tuple[int, int]) -> int:
    """One number for all sides."""
    if isinstance(value, int):
        return value
    across, *others = value
    if not isinstance(across, int) or {*others} != {across}:
        raise ValueError
    return across


def _group_norm(nodes: Nodes, name: str, layer: Any, x: Maps) -> Maps:
    groups = layer.num_groups
    y = nodes.node("Reshape", x.name, nodes.integers([0, groups, -1]))
    ones, zeros = nodes.constant(f"ones.{groups}", np.ones(groups)), nodes.constant(f"zeros.{groups}", np.zeros(groups))
    y = nodes.node("InstanceNormalization", y, ones, zeros, epsilon=layer.eps)
    y = nodes.node("Reshape", y, nodes.integers([0, x.channels, *x.sides]))
    scale, shift = (numbers(part).reshape(1, -1, *[1] * len(x.sides)) for part in (layer.weight, layer.bias))
    y = nodes.node("Mul", y, nodes.constant(f"{name}.scale", scale))
    return replace(x, name=nodes.node("Add", y, nodes.constant(f"{name}.shift", shift)))


def _channel_shuffle(nodes: Nodes, name: str, layer: Any, x: Maps) -> Maps:
    y = nodes.node("Reshape", x.name, nodes.integers([0, layer.groups, x.channels // layer.groups, x.side**2]))
    y = nodes.node("Transpose", y, perm=[0, 2, 1, 3])
    return replace(x, name=nodes.node("Reshape", y, nodes.integers([0, x.channels, x.side, x.side])))


def _relu(nodes: Nodes, x: Maps, inplace: bool = False) -> Maps:
    return replace(x, name=nodes.node("Relu", x.name))


def _relu6(nodes: Nodes, x: Maps) -> Maps:
    bounds = nodes.constant("zero", np.array(0.0)), nodes.constant("six", np.array(6.0))
    return replace(x, name=nodes.node("Clip", x.name, *bounds))


def _add(nodes: Nodes, x: Maps, y: Maps) -> Maps:
    if (x.channels, x.sides) != (y.channels, y.sides):
        raise ValueError
    return replace(x, name=nodes.node("Add", x.name, y.name))


def _concatenate(nodes: Nodes, parts: Sequence[Maps], dim: int = 0) -> Maps:
    if dim != 1 or len({part.sides for part in parts}) > 1:
        raise ValueError
    name = nodes.node("Concat", *(part.name for part in parts), axis=1)
    return Maps(name, sum(part.channels for part in parts), parts[0].sides)


def _slice(nodes: Nodes, x: Maps, index: tuple[slice, ...]) -> Maps:
    """A part of the channels, or each so-manieth row and column."""
    sides = [1, x.channels, x.side, x.side]
    lengths = [len(range(side)[part]) for side, part in zip(sides, index, strict=False)] + sides[len(index) :]
    axes = [axis for axis, part in enumerate(index) if part != slice(None)]
    if 0 in axes or lengths[2] != lengths[3]:
        raise ValueError
    cuts = [index[axis] for axis in axes]
    bounds = (
        [cut.start or 0 for cut in cuts], [_TO_THE_END if cut.stop is None else cut.stop for cut in cuts], axes,
        [cut.step or 1 for cut in cuts],
    )  # fmt: skip
    return Maps(nodes.node("Slice", x.name, *map(nodes.integers, bounds)), lengths[1], (lengths[2], lengths[3]))


def _pad(nodes: Nodes, x: Maps, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Maps:
    """Zeros around; PyTorch names the last axis first."""
    left, right, top, bottom, before, after = [*pad, *[0] * (6 - len(pad))]
    if mode != "constant" or value or left + right != top + bottom:
        raise ValueError
    name = nodes.node("Pad", x.name, nodes.integers([0, before, top, left, 0, after, bottom, right]))
    return Maps(name, x.channels + before + after, (x.side + left + right,) * 2)


_TO_THE_END = 2**31 - 1
_LAYERS: Mapping[type[nn.Module], Callable[..., Maps]] = {
    nn.Conv2d: _convolution, nn.Conv3d: _convolution, SameConv2d: _convolution, nn.MaxPool2d: _max_pool,
    nn.ConvTranspose2d: _transposed, nn.ConvTranspose3d: _transposed, nn.GroupNorm: _group_norm,
    nn.ChannelShuffle: _channel_shuffle,
    nn.ReLU: lambda nodes, name, layer, x: _relu(nodes, x), nn.ReLU6: lambda nodes, name, layer, x: _relu6(nodes, x),
    nn.Identity: lambda nodes, name, layer, x: x,
}  # fmt: skip
_FUNCTIONS: Mapping[Any, Callable[..., Maps]] = {
    F.relu: _relu, operator.add: _add, torch.cat: _concatenate, operator.getitem: _slice, F.pad: _pad,
    F.max_pool2d: _pool, F.max_pool3d: _pool,
}  # fmt: skip
