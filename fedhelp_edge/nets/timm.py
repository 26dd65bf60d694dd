"""Weights that timm published for MobileNets, under our names. Needs no torch.

timm's `mobilenetv2_100` is our `mobilenetv2`, its `tf_efficientnet_lite0` our `efficientnet_lite0`. It counts blocks
within their groups and convolutions by their kind; our names say what a layer does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fedhelp_edge.nets import spec
from fedhelp_edge.update import Array

_HEAD = "classifier"
_ENDS = {"conv_stem": "stem.conv", "bn1": "stem.bn", "conv_head": "last.conv", "bn2": "last.bn", _HEAD: "linear"}
_WIDE = {"conv_pw": "expand", "conv_dw": "depthwise", "conv_pwl": "project"}  # the convolutions of a block, in order
_NARROW = {"conv_dw": "depthwise", "conv_pw": "project"}  # and of one that has no more channels inside


def translate(weights: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors under our names, where they have exactly timm's for one of our nets; all others as they are.

    A file without the layer that classifies is one too. Batch norm's counters are left out: our nets need none.
    """
    tensors = {name: array for name, array in weights.items() if not name.endswith("num_batches_tracked")}
    layers = {name.rpartition(".")[0] for name in tensors}
    for size in spec.MOBILENETS.values():
        ours = dict(_layers(size))
        if layers | {_HEAD} == ours.keys():
            parts = ((*name.rpartition("."), array) for name, array in tensors.items())
            return {f"{ours[layer]}.{part}": array for layer, _, part, array in parts}
    return tensors


def _layers(size: spec.MobileNetSize) -> Iterator[tuple[str, str]]:
    """timm's name of each layer, and ours."""
    yield from _ENDS.items()
    number = 0
    for group, facts in enumerate(size.groups):
        for block in range(facts.blocks):
            for index, (theirs, ours) in enumerate((_WIDE if facts.expansion > 1 else _NARROW).items(), 1):
                yield f"blocks.{group}.{block}.{theirs}", f"blocks.{number}.{ours}.conv"
                yield f"blocks.{group}.{block}.bn{index}", f"blocks.{number}.{ours}.bn"
            number += 1
