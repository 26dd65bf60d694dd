"""CIFAR-style ResNets (He et al. 2016, section 4.2) with shortcuts that have no parameters.

One 3x3 convolution, three stages of n blocks with 16, 32 and 64 channels, global average pooling, one linear layer. The
names of its parameters are those of `nets.spec`, in the same order; public CIFAR weights fit as they are.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fedhelp_edge.nets.net import Net
from fedhelp_edge.nets.spec import BLOCKS_PER_STAGE, NORM_GROUPS, WIDTHS, Form


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


class ResNet(Net):
    """A net of `spec.BLOCKS_PER_STAGE`."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(self, name: str, form: Form) -> None:
        super().__init__(name, form)
        self.conv1 = nn.Conv2d(form.channels, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = _norm_layer(WIDTHS[0], form.norm)
        in_widths = (WIDTHS[0], *WIDTHS[:-1])
        for stage, (narrow, wide) in enumerate(zip(in_widths, WIDTHS, strict=True), 1):
            blocks = [Block(narrow if i == 0 else wide, wide, form.norm) for i in range(BLOCKS_PER_STAGE[name])]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.width = WIDTHS[-1]
        self.linear = nn.Linear(self.width, form.classes)

    @property
    def head(self) -> nn.Linear:
        return self.linear

    def feature_maps(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3):
            x = stage(x)
        return x


def _norm_layer(width: int, norm: str) -> nn.Module:
    return nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(NORM_GROUPS, width)
