"""ResNets of basic blocks (He et al. 2016), of the sizes in `nets.spec`.

One 3x3 convolution, stages of blocks, global average pooling, one linear layer. Those of three stages are the paper's
for CIFAR (section 4.2): their shortcuts have no parameters, and public CIFAR weights fit as they are. Those of four
stages are RHFL's, with projections; the first layer too halves the maps of images from 64 pixels on.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fedhelp_edge.nets import spec
from fedhelp_edge.nets.layers import Layer, norm_layer
from fedhelp_edge.nets.net import Net
from fedhelp_edge.nets.spec import Form


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut. Without a projection it takes every `stride`-th pixel, and pads channels."""

    def __init__(
        self, in_channels: int, out_channels: int, norm: str, stride: int = 1, *, projected: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = norm_layer(out_channels, norm)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = norm_layer(out_channels, norm)
        self.stride, self.pad = stride, (out_channels - in_channels) // 2
        self.shortcut = Layer(in_channels, out_channels, norm, 1, stride) if projected and self.pad else None

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.shortcut:
            x = self.shortcut(x)
        elif self.pad:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(out + x)


class ResNet(Net):
    """A net of `spec.RESNETS`."""

    def __init__(self, name: str, form: Form) -> None:
        super().__init__(name, form)
        size = spec.RESNETS[name]
        width = size.widths[0]
        # of the first layer, and of each stage but the first; nets for CIFAR halve twice whatever the side
        stem, *strides = spec.strides(form.side, len(size.widths)) if size.projected else [1, 2, 2]
        self.conv1 = nn.Conv2d(form.channels, width, 3, stem, 1, bias=False)
        self.bn1 = norm_layer(width, form.norm)
        self.stages: list[nn.Sequential] = []
        for number, count in enumerate(size.blocks):
            blocks, wider = [], size.widths[number]
            for stride in ([1, *strides][number], *[1] * (count - 1)):
                blocks.append(ResidualBlock(width, wider, form.norm, stride, projected=size.projected))
                width = wider
            self.stages.append(nn.Sequential(*blocks))
            self.add_module(f"layer{number + 1}", self.stages[-1])
        self.width = width
        self.linear = nn.Linear(self.width, form.classes)

    @property
    def head(self) -> nn.Linear:
        return self.linear

    def feature_maps(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = stage(x)
        return x
