"""The nets that a plan may name: the schema of each and its first weights, without torch.

A coordinator needs no more to open round 0. The modules themselves are named, not imported: they need torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from fedhelp_edge.errors import SchemaShapeError
from fedhelp_edge.plan import HALVINGS, MASK_NETS, Plan
from fedhelp_edge.update import Array, Role, Schema, TensorSpec, check_values

NORM_GROUPS = 8  # of group norm, or the most that divide a layer's channels; one channel each would be another method
_LAST_ROWS = 4  # of the last feature maps, at least: see `strides`


@dataclass(frozen=True)
class ResNetSize:
    """A ResNet (He et al. 2016): a 3x3 convolution, stages of blocks of two convolutions, a linear layer."""

    blocks: tuple[int, ...]  # of each stage
    widths: tuple[int, ...] = (16, 32, 64)  # channels of each stage: those for CIFAR, of section 4.2
    projected: bool = False  # shortcuts to more channels are 1x1 convolutions (option B), or have no parameters (A)


RESNETS: Mapping[str, ResNetSize] = {
    "resnet8": ResNetSize((1, 1, 1)), "resnet20": ResNetSize((3, 3, 3)), "resnet32": ResNetSize((5, 5, 5)),
    "resnet56": ResNetSize((9, 9, 9)), "resnet110": ResNetSize((18, 18, 18)),
    # those of RHFL (Fang and Ye 2022) and MDH-FL: ImageNet's widths with CIFAR's first layer
    "resnet10": ResNetSize((1, 1, 1, 1), (64, 128, 256, 512), projected=True),
    "resnet12": ResNetSize((2, 1, 1, 1), (64, 128, 256, 512), projected=True),
}  # fmt: skip


class MobileNetGroup(NamedTuple):
    """A group of inverted residuals (Sandler et al. 2018)."""

    expansion: int  # of the channels, within a block
    channels: int
    blocks: int
    halves: bool = False  # whether the first block halves the maps
    kernel: int = 3


@dataclass(frozen=True)
class MobileNetSize:
    """A net of inverted residuals: a 3x3 convolution, groups of blocks, a 1x1 convolution, a linear layer."""

    groups: tuple[MobileNetGroup, ...]
    tensorflow: bool = False  # its published weights come from TensorFlow, which pads and normalises in its own way


_Group = MobileNetGroup
MOBILENETS: Mapping[str, MobileNetSize] = {
    "mobilenetv2": MobileNetSize((  # Sandler et al. 2018, table 2
        _Group(1, 16, 1), _Group(6, 24, 2, True), _Group(6, 32, 3, True), _Group(6, 64, 4, True),
        _Group(6, 96, 3), _Group(6, 160, 3, True), _Group(6, 320, 1),
    )),
    "efficientnet_lite0": MobileNetSize((  # Tan and Le 2019, table 1, without squeeze-and-excitation
        _Group(1, 16, 1), _Group(6, 24, 2, True), _Group(6, 40, 2, True, 5), _Group(6, 80, 3, True),
        _Group(6, 112, 3, False, 5), _Group(6, 192, 4, True, 5), _Group(6, 320, 1),
    ), tensorflow=True),
}  # fmt: skip
MOBILENET_STEM, MOBILENET_LAST = 32, 1280

# U-Nets (Ronneberger et al. 2015) of four levels: channels of the first, which each level below doubles.
UNETS: Mapping[str, int] = {name: int(name.removeprefix("unet")) for name in MASK_NETS}

# ShuffleNetV2 1x (Ma et al. 2018, table 5): channels and units of each stage.
SHUFFLENET_STAGES = ((116, 4), (232, 8), (464, 4))
SHUFFLENET_STEM, SHUFFLENET_LAST = 24, 1024


@dataclass(frozen=True)
class Form:
    """What a net of any family is made for."""

    classes: int  # numbers that it gives, for an image or for each pixel
    channels: int = 3
    norm: str = "batch"  # "batch" | "group"
    side: int = 32  # pixels of an image, which decide where some families halve their maps; no tensor depends on it
    features: int = 0  # that an encoder gives for an image, in the place of its pixels; 0: the net sees pixels
    depth: int = 1  # slices of a block of a volume; 1: pictures

    @property
    def dimensions(self) -> int:
        """Those of an image: 2, or 3 of a block."""
        return 3 if self.depth > 1 else 2

    @classmethod
    def of(cls, plan: Plan) -> Form:
        image, width = plan.image, plan.nets.encoder_width
        return cls(plan.outputs, image.channels, plan.nets.norm, image.size, width, image.depth)


@dataclass(frozen=True)
class Family:
    """What a net's name in a plan stands for."""

    module: str  # module:name of its class, which takes the net's name and a form
    schema: Callable[[Form], Schema]
    width: int  # of its features; 0: those that an encoder gives
    on: str = "pixels"  # "pixels" | "features"
    masks: bool = False  # whether it classifies each pixel


def strides(side: int, published: int) -> list[int]:
    """The strides at the places where a net published for large images halves its maps, first to last.

    The first halvings are left out until the last maps of an image of this side have four rows. From 128 pixels the
    nets for ImageNet are the published ones; at 32 they are those that RHFL trains on CIFAR.
    """
    halvings = max(count for count in range(published + 1) if not count or -(-side // 2**count) >= _LAST_ROWS)
    return [1] * (published - halvings) + [2] * halvings


def _resnet_schema(size: ResNetSize, form: Form) -> Schema:
    """The tensors of a net in the order of its modules. Batch norm's counters do not travel."""
    width = size.widths[0]
    tensors = _layer("", form, form.channels, width, number="1")
    for stage, (blocks, wider) in enumerate(zip(size.blocks, size.widths, strict=True), 1):
        for block in range(blocks):
            prefix = f"layer{stage}.{block}."
            tensors += _layer(prefix, form, width, wider, number="1")
            tensors += _layer(prefix, form, wider, wider, number="2")
            if size.projected and width != wider:
                tensors += _layer(f"{prefix}shortcut.", form, width, wider, kernel=1)
            width = wider
    return Schema((*tensors, *_linear(form, width)))


def _mobilenet_schema(size: MobileNetSize, form: Form) -> Schema:
    width, block = MOBILENET_STEM, 0
    tensors = _layer("stem.", form, form.channels, width)
    for group in size.groups:
        for _ in range(group.blocks):
            prefix, inner = f"blocks.{block}.", width * group.expansion
            tensors += _layer(f"{prefix}expand.", form, width, inner, kernel=1) if group.expansion > 1 else []
            tensors += _layer(f"{prefix}depthwise.", form, 1, inner, kernel=group.kernel)
            tensors += _layer(f"{prefix}project.", form, inner, group.channels, kernel=1)
            width, block = group.channels, block + 1
    tensors += _layer("last.", form, width, MOBILENET_LAST, kernel=1)
    return Schema((*tensors, *_linear(form, MOBILENET_LAST)))


def _shufflenet_schema(form: Form) -> Schema:
    width = SHUFFLENET_STEM
    tensors = _layer("stem.", form, form.channels, width)
    for stage, (channels, units) in enumerate(SHUFFLENET_STAGES, 2):
        half = channels // 2
        for unit in range(units):
            prefix, incoming = f"stage{stage}.{unit}.", half if unit else width
            if not unit:
                tensors += _layer(f"{prefix}short.depthwise.", form, 1, incoming)
                tensors += _layer(f"{prefix}short.point.", form, incoming, half, kernel=1)
            tensors += _layer(f"{prefix}long.first.", form, incoming, half, kernel=1)
            tensors += _layer(f"{prefix}long.depthwise.", form, 1, half)
            tensors += _layer(f"{prefix}long.second.", form, half, half, kernel=1)
        width = channels
    tensors += _layer("last.", form, width, SHUFFLENET_LAST, kernel=1)
    return Schema((*tensors, *_linear(form, SHUFFLENET_LAST)))


def _unet_schema(base: int, form: Form) -> Schema:
    widths = [base * 2**level for level in range(HALVINGS + 1)]
    tensors, incoming = [], form.channels
    for level, width in enumerate(widths):
        tensors += _layer(f"down{level}.0.", form, incoming, width) + _layer(f"down{level}.1.", form, width, width)
        incoming = width
    for level in reversed(range(HALVINGS)):
        width = widths[level]
        tensors += [
            TensorSpec(f"up{level}.weight", "F32", (2 * width, width, *(2,) * form.dimensions)),
            TensorSpec(f"up{level}.bias", "F32", (width,)),
            *_layer(f"join{level}.0.", form, 2 * width, width),
            *_layer(f"join{level}.1.", form, width, width),
        ]
    return Schema((*tensors, *_linear(form, base)))


def _layer(
    prefix: str, form: Form, in_channels: int, out_channels: int, *, kernel: int = 3, number: str = ""
) -> list[TensorSpec]:
    """A convolution and its norm layer. A depthwise one has one channel in."""
    parts: dict[str, Role] = {"weight": "norm", "bias": "norm"}
    if form.norm == "batch":
        parts |= {"running_mean": "stat", "running_var": "stat"}
    return [
        TensorSpec(f"{prefix}conv{number}.weight", "F32", (out_channels, in_channels, *(kernel,) * form.dimensions)),
        *(TensorSpec(f"{prefix}bn{number}.{part}", "F32", (out_channels,), role) for part, role in parts.items()),
    ]


def _linear_schema(form: Form) -> Schema:
    return Schema(tuple(_linear(form, form.features)))


def _linear(form: Form, width: int) -> list[TensorSpec]:
    return [
        TensorSpec("linear.weight", "F32", (form.classes, width)),
        TensorSpec("linear.bias", "F32", (form.classes,)),
    ]


NETS: Mapping[str, Family] = {
    **{
        name: Family("fedhelp_edge.nets.resnet:ResNet", partial(_resnet_schema, size), size.widths[-1])
        for name, size in RESNETS.items()
    },
    **{
        name: Family("fedhelp_edge.nets.mobilenet:MobileNet", partial(_mobilenet_schema, size), MOBILENET_LAST)
        for name, size in MOBILENETS.items()
    },
    "shufflenetv2": Family("fedhelp_edge.nets.shufflenet:ShuffleNetV2", _shufflenet_schema, SHUFFLENET_LAST),
    **{
        name: Family("fedhelp_edge.nets.unet:UNet", partial(_unet_schema, base), base, masks=True)
        for name, base in UNETS.items()
    },
    "linear": Family("fedhelp_edge.nets.linear:Linear", _linear_schema, 0, on="features"),
}


def width(name: str, form: Form) -> int:
    """The number of features that a net's head classifies."""
    return NETS[name].width or form.features


def schema(name: str, form: Form) -> Schema:
    """The tensors of a net."""
    return NETS[name].schema(form)


def name_of(weights: Mapping[str, Array], form: Form) -> str:
    """The net that has exactly tensors of these names, with or without those of its last layer; "": none.

    Of nets that differ in their widths alone, the one with most of these shapes.
    """
    head = {tensor.name for tensor in _linear(form, 1)}
    on = "features" if form.features else "pixels"
    nets = (net for net, family in NETS.items() if family.on == on)
    shapes = {net: {tensor.name: tensor.shape for tensor in schema(net, form).tensors} for net in nets}
    named = [net for net, every in shapes.items() if every.keys() - head == weights.keys() - head]
    return max(named, key=lambda net: sum(weights[name].shape == shapes[net][name] for name in weights), default="")


def initial_weights(schema: Schema, seed: int) -> dict[str, Array]:
    """First weights, the same on every machine: kernels He-normal, scales and variances 1, biases and means 0."""
    return {tensor.name: _initial_tensor(tensor, seed, index) for index, tensor in enumerate(schema.tensors)}


def warm_start(initial: Mapping[str, Array], given: Mapping[str, Array]) -> tuple[dict[str, Array], list[str]]:
    """First weights: the given tensors where they fit, else the initial ones, which are named in the second result.

    Weights of the same net for other classes or channels fit but for its ends, which differ in one side. Those of
    another net are refused.
    """
    if not given:
        raise SchemaShapeError("the first weights contain no tensor")
    wrong = [name for name, array in given.items() if name not in initial or not _similar(array, initial[name])]
    fitting = {name for name in given if name in initial and given[name].shape == initial[name].shape}
    if wrong or not fitting:
        names = wrong or list(given)
        raise SchemaShapeError(
            f"the first weights are for another net: {len(names)} differ, the first is {names[0][:60]!r}"
        )
    weights = {name: given[name].astype("f4") if name in fitting else array for name, array in initial.items()}
    check_values(weights)
    return weights, [name for name in initial if name not in fitting]


def _similar(one: Array, other: Array) -> bool:
    """Whether shapes differ in one side at most."""
    return one.ndim == other.ndim and sum(a != b for a, b in zip(one.shape, other.shape, strict=True)) <= 1


def _initial_tensor(tensor: TensorSpec, seed: int, index: int) -> Array:
    if len(tensor.shape) > 1:
        generator = np.random.Generator(np.random.Philox(key=[seed, index]))
        deviation = np.sqrt(2 / np.prod(tensor.shape[1:]))
        return np.asarray(generator.standard_normal(tensor.shape) * deviation, np.float32)
    ones = tensor.name.endswith(("running_var", ".weight"))  # weights with one side belong to norm layers
    return np.full(tensor.shape, float(ones), np.float32)
