"""The nets that a plan may name: the schema of each and its first weights, without torch.

A coordinator needs no more to open round 0. The modules themselves are named, not imported: they need torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from fedhelp_edge.errors import SchemaShapeError
from fedhelp_edge.plan import Plan
from fedhelp_edge.update import Array, Role, Schema, TensorSpec, check_values

# CIFAR-style ResNets (He et al. 2016, section 4.2): a 3x3 convolution, three stages of n blocks with 16, 32 and 64
# channels. Shortcuts have no parameters (option A). Global average pooling and one linear layer follow. The depth is
# 6n + 2.
BLOCKS_PER_STAGE = {"resnet20": 3, "resnet32": 5, "resnet56": 9, "resnet110": 18}  # n, the blocks of a stage
WIDTHS = (16, 32, 64)
NORM_GROUPS = 8  # of group norm: 2 to 8 channels each; one channel each would be another method


@dataclass(frozen=True)
class Form:
    """What a net of any family is made for."""

    classes: int
    channels: int = 3
    norm: str = "batch"  # "batch" | "group"

    @classmethod
    def of(cls, plan: Plan) -> Form:
        return cls(len(plan.classes), plan.image.channels, plan.nets.norm)


@dataclass(frozen=True)
class Family:
    """What a net's name in a plan stands for."""

    module: str  # module:name of its class, which takes the net's name and a form
    schema: Callable[[Form], Schema]
    width: int = WIDTHS[-1]  # of its features


def _resnet_schema(blocks: int, form: Form) -> Schema:
    """The tensors of a net in the order of its modules. Batch norm's counters do not travel."""
    tensors = [*_conv_tensors("conv1", form.channels, WIDTHS[0]), *_norm_tensors("bn1", WIDTHS[0], form.norm)]
    width = WIDTHS[0]
    for stage, wider in enumerate(WIDTHS, 1):
        for block in range(blocks):
            prefix = f"layer{stage}.{block}"
            for number, in_channels in ((1, width), (2, wider)):
                tensors += _conv_tensors(f"{prefix}.conv{number}", in_channels, wider)
                tensors += _norm_tensors(f"{prefix}.bn{number}", wider, form.norm)
            width = wider
    return Schema((
        *tensors,
        TensorSpec("linear.weight", "F32", (form.classes, width)),
        TensorSpec("linear.bias", "F32", (form.classes,)),
    ))  # fmt: skip


def _conv_tensors(name: str, in_channels: int, out_channels: int) -> list[TensorSpec]:
    return [TensorSpec(f"{name}.weight", "F32", (out_channels, in_channels, 3, 3))]


def _norm_tensors(name: str, width: int, norm: str) -> list[TensorSpec]:
    parts: dict[str, Role] = {"weight": "norm", "bias": "norm"}
    if norm == "batch":
        parts |= {"running_mean": "stat", "running_var": "stat"}
    return [TensorSpec(f"{name}.{part}", "F32", (width,), role) for part, role in parts.items()]


NETS: Mapping[str, Family] = {
    name: Family("fedhelp_edge.nets.resnet:ResNet", partial(_resnet_schema, blocks))
    for name, blocks in BLOCKS_PER_STAGE.items()
}


def schema(name: str, form: Form) -> Schema:
    """The tensors of a net."""
    return NETS[name].schema(form)


def name_of(weights: Mapping[str, Array], form: Form) -> str:
    """The net that has exactly tensors of these names; "": none."""
    return next((net for net in NETS if {tensor.name for tensor in schema(net, form).tensors} == weights.keys()), "")


def initial_weights(schema: Schema, seed: int) -> dict[str, Array]:
    """First weights, the same on every machine: kernels He-normal, scales and variances 1, biases and means 0."""
    return {tensor.name: _initial_tensor(tensor, seed, index) for index, tensor in enumerate(schema.tensors)}


def warm_start(initial: Mapping[str, Array], given: Mapping[str, Array]) -> tuple[dict[str, Array], list[str]]:
    """First weights: the given tensors where they fit, else the initial ones, which are named in the second result.

    Weights of the same net for other classes or channels fit but for its ends; those of another net are refused.
    """
    if not given:
        raise SchemaShapeError("the first weights contain no tensor")
    unknown = [name for name in given if name not in initial]
    fitting = {name for name in given if name in initial and given[name].shape == initial[name].shape}
    if unknown or not fitting:
        names = unknown or list(given)
        raise SchemaShapeError(
            f"the first weights are for another net: {len(names)} differ, the first is {names[0][:60]!r}"
        )
    weights = {name: given[name].astype("f4") if name in fitting else array for name, array in initial.items()}
    check_values(weights)
    return weights, [name for name in initial if name not in fitting]


def _initial_tensor(tensor: TensorSpec, seed: int, index: int) -> Array:
    if len(tensor.shape) > 1:
        generator = np.random.Generator(np.random.Philox(key=[seed, index]))
        deviation = np.sqrt(2 / np.prod(tensor.shape[1:]))
        return np.asarray(generator.standard_normal(tensor.shape) * deviation, np.float32)
    ones = tensor.name.endswith(("running_var", ".weight"))  # weights with one side belong to norm layers
    return np.full(tensor.shape, float(ones), np.float32)
