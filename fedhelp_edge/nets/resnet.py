"""CIFAR-style ResNets (He et al. 2016, section 4.2) with shortcuts that have no parameters.

One 3x3 convolution, three stages of n blocks with 16, 32 and 64 channels, global average pooling, one linear layer. The
names of its parameters are those of `nets.spec`, in the same order; public CIFAR weights fit as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedhelp_edge.nets.spec import BLOCKS_PER_STAGE, FEATURES, NORM_GROUPS, WIDTHS
from fedhelp_edge.update import Array


class Block(nn.Module):
    """Two convolutions and a shortcut, which halves the sides and pads channels with zeros where they grow."""

    def __init__(self, in_channels: int, out_channels: int, norm: str) -> None:
        super().__init__()
        stride = 1 if in_channels == out_channels else 2
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = _norm_layer(out_channels, norm)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = _norm_layer(out_channels, norm)
        self.pad = (out_channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.pad:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(out + x)


class ResNet(nn.Module):
    """A net of `spec.BLOCKS_PER_STAGE`; `norm` is "batch" or "group"."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(self, net: str, classes: int, channels: int = 3, norm: str = "batch") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = _norm_layer(WIDTHS[0], norm)
        in_widths = (WIDTHS[0], *WIDTHS[:-1])
        for stage, (narrow, wide) in enumerate(zip(in_widths, WIDTHS, strict=True), 1):
            blocks = [Block(narrow if index == 0 else wide, wide, norm) for index in range(BLOCKS_PER_STAGE[net])]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(FEATURES, classes)

    def feature_maps(self, x: Tensor) -> Tensor:
        """The last feature maps, N x 64 x h x w, whose mean over h and w is the feature."""
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3):
            x = stage(x)
        return x

    def features(self, x: Tensor) -> Tensor:
        """What the last layer classifies: N x 64."""
        return self.feature_maps(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.features(x))  # N x classes
        return logits


@contextmanager
def frozen_bn_stats(net: nn.Module) -> Iterator[None]:
    """Batch norm normalises by the batch, as in training, but its running statistics stay as they are."""
    layers = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


def arrays(net: nn.Module) -> dict[str, Array]:
    """Copies of a net's tensors in the order of its schema, without batch norm's counters."""
    tensors = {name: t for name, t in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    return {name: t.detach().cpu().numpy().copy() for name, t in tensors.items()}


def load(net: nn.Module, values: Mapping[str, Array]) -> None:
    """Loads arrays into a net. Names and shapes must be exactly the net's; batch norm's counters stay as they are."""
    expected = {
        name: tuple(t.shape) for name, t in net.state_dict().items() if not name.endswith("num_batches_tracked")
    }
    mismatched = expected.items() ^ {name: value.shape for name, value in values.items()}.items()
    if mismatched:
        raise ValueError(f"these arrays are for another net: {min(mismatched)[0]}")
    net.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in values.items()}, strict=False)


def _norm_layer(width: int, norm: str) -> nn.Module:
    return nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(NORM_GROUPS, width)
