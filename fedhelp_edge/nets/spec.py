"""What a net's share looks like, and its first weights, without torch: the coordinator needs no more to open round 0.

CIFAR-style ResNets (He et al. 2016, section 4.2): a 3x3 convolution, three stages of n blocks with 16, 32 and 64
channels, shortcuts without parameters (option A), global average pooling, one linear layer; depth is 6n + 2.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedhelp_edge.errors import SchemaShapeError
from fedhelp_edge.update import Array, Schema, Tensor, check_numbers

DEPTHS = {"resnet20": 3, "resnet32": 5, "resnet56": 9, "resnet110": 18}  # n, the blocks of a stage
WIDTHS = (16, 32, 64)
FEATURES = WIDTHS[-1]
GROUPS = 8  # of group norm: 2 to 8 channels each; one channel each would be another method


def schema(net: str, classes: int, channels: int, norm: str = "batch") -> Schema:
    """The tensors of a net in the order of its modules. Batch norm's counters stay at home."""
    tensors = [*_conv("conv1", channels, WIDTHS[0]), *_norm("bn1", WIDTHS[0], norm)]
    width = WIDTHS[0]
    for stage, wider in enumerate(WIDTHS, 1):
        for block in range(DEPTHS[net]):
            at = f"layer{stage}.{block}"
            tensors += [*_conv(f"{at}.conv1", width, wider), *_norm(f"{at}.bn1", wider, norm)]
            tensors += [*_conv(f"{at}.conv2", wider, wider), *_norm(f"{at}.bn2", wider, norm)]
            width = wider
    tensors += [Tensor("linear.weight", "F32", (classes, FEATURES)), Tensor("linear.bias", "F32", (classes,))]
    return Schema(tuple(tensors))


def start(schema: Schema, seed: int) -> dict[str, Array]:
    """First weights, the same on every machine: He's normal law for what multiplies, one and zero for the rest."""
    return {tensor.name: _first(tensor, seed, place) for place, tensor in enumerate(schema.tensors)}


def begin_from(drawn: Mapping[str, Array], given: Mapping[str, Array]) -> tuple[dict[str, Array], list[str]]:
    """First weights: what was given where it fits, what was drawn elsewhere, and the names of that. A net for other
    classes or channels gives all but its ends; another kind of net is refused."""
    if not given:
        raise SchemaShapeError("the first weights hold no tensor")
    odd = [name for name in given if name not in drawn]
    fits = {name for name in given if name in drawn and given[name].shape == drawn[name].shape}
    if odd or not fits:
        names = odd or list(given)
        raise SchemaShapeError(
            f"the first weights are for another net: {len(names)} differ, the first is {names[0][:60]!r}"
        )
    first = {name: given[name].astype("f4") if name in fits else array for name, array in drawn.items()}
    check_numbers(first)
    return first, [name for name in drawn if name not in fits]


def _first(tensor: Tensor, seed: int, place: int) -> Array:
    if len(tensor.shape) > 1:
        draw = np.random.Generator(np.random.Philox(key=[seed, place]))
        spread = np.sqrt(2 / np.prod(tensor.shape[1:]))
        return np.asarray(draw.standard_normal(tensor.shape) * spread, np.float32)
    ones = tensor.name.endswith(("running_var", ".weight"))  # the weights of one side are those of norm layers
    return np.full(tensor.shape, float(ones), np.float32)


def _conv(name: str, inside: int, outside: int) -> list[Tensor]:
    return [Tensor(f"{name}.weight", "F32", (outside, inside, 3, 3))]


def _norm(name: str, width: int, norm: str) -> list[Tensor]:
    parts = ("weight", "bias", "running_mean", "running_var") if norm == "batch" else ("weight", "bias")
    return [Tensor(f"{name}.{part}", "F32", (width,)) for part in parts]
