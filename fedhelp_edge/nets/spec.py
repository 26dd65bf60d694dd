"""The schema of a net's update and its first weights, without torch: a coordinator needs no more to open round 0.

CIFAR-style ResNets (He et al. 2016, section 4.2): a 3x3 convolution, three stages of n blocks with 16, 32 and 64
channels. Shortcuts have no parameters (option A). Global average pooling and one linear layer follow; depth is 6n + 2.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedhelp_edge.errors import SchemaShapeError
from fedhelp_edge.update import Array, Schema, TensorSpec, check_values

BLOCKS_PER_STAGE = {"resnet20": 3, "resnet32": 5, "resnet56": 9, "resnet110": 18}  # n, the blocks of a stage
WIDTHS = (16, 32, 64)
FEATURES = WIDTHS[-1]
NORM_GROUPS = 8  # of group norm: 2 to 8 channels each; one channel each would be another method


def schema(net: str, classes: int, channels: int, norm: str = "batch") -> Schema:
    """The tensors of a net in the order of its modules. Batch norm's counters do not travel."""
    tensors = [*_conv_tensors("conv1", channels, WIDTHS[0]), *_norm_tensors("bn1", WIDTHS[0], norm)]
    width = WIDTHS[0]
    for stage, wider in enumerate(WIDTHS, 1):
        for block in range(BLOCKS_PER_STAGE[net]):
            prefix = f"layer{stage}.{block}"
            tensors += [*_conv_tensors(f"{prefix}.conv1", width, wider), *_norm_tensors(f"{prefix}.bn1", wider, norm)]
            tensors += [*_conv_tensors(f"{prefix}.conv2", wider, wider), *_norm_tensors(f"{prefix}.bn2", wider, norm)]
            width = wider
    tensors += [TensorSpec("linear.weight", "F32", (classes, FEATURES)), TensorSpec("linear.bias", "F32", (classes,))]
    return Schema(tuple(tensors))


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


def _conv_tensors(name: str, in_channels: int, out_channels: int) -> list[TensorSpec]:
    return [TensorSpec(f"{name}.weight", "F32", (out_channels, in_channels, 3, 3))]


def _norm_tensors(name: str, width: int, norm: str) -> list[TensorSpec]:
    parts = ("weight", "bias", "running_mean", "running_var") if norm == "batch" else ("weight", "bias")
    return [TensorSpec(f"{name}.{part}", "F32", (width,)) for part in parts]
