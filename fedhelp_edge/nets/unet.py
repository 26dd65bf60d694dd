"""U-Nets (Ronneberger et al. 2015) that name the class of each pixel of a picture, or of each voxel of a block.

Four levels of two 3x3 convolutions, each with a norm layer, halve the maps and double the channels. A transposed
convolution leads up a level, where the maps of that level join. Borders are padded: a mask is as large as its image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedhelp_edge.nets import spec
from fedhelp_edge.nets.layers import norm_layer
from fedhelp_edge.nets.net import Net, classify
from fedhelp_edge.nets.spec import Form
from fedhelp_edge.plan import HALVINGS


class Convolution(nn.Module):
    """A 3x3 convolution (3x3x3 in a volume), a norm layer, a ReLU."""

    def __init__(self, in_channels: int, out_channels: int, form: Form) -> None:
        super().__init__()
        kind = nn.Conv3d if form.dimensions == 3 else nn.Conv2d
        self.conv = kind(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn = norm_layer(out_channels, form.norm, dimensions=form.dimensions)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class UNet(Net):
    """A net of `spec.UNETS`. Its features are maps as large as the image. Its head classifies each pixel."""

    def __init__(self, name: str, form: Form) -> None:
        super().__init__(name, form)
        self.width = spec.UNETS[name]
        widths = [self.width * 2**level for level in range(HALVINGS + 1)]
        up = nn.ConvTranspose3d if form.dimensions == 3 else nn.ConvTranspose2d
        self.pool = F.max_pool3d if form.dimensions == 3 else F.max_pool2d
        self.downs, self.ups, self.joins = [], [], []
        for level, (incoming, width) in enumerate(zip([form.channels, *widths], widths, strict=False)):
            self.downs.append(_two(incoming, width, form))
            self.add_module(f"down{level}", self.downs[-1])
        for level in reversed(range(HALVINGS)):
            width = widths[level]
            self.ups.append(up(2 * width, width, 2, 2))
            self.add_module(f"up{level}", self.ups[-1])
            self.joins.append(_two(2 * width, width, form))
            self.add_module(f"join{level}", self.joins[-1])
        self.linear = nn.Linear(self.width, form.classes)

    @property
    def head(self) -> nn.Linear:
        return self.linear

    def contracting_maps(self, x: Tensor) -> list[Tensor]:
        passed: list[Tensor] = []
        for down in self.downs:
            x = down(self.pool(x, 2) if passed else x)
            passed.append(x)
        return passed

    def feature_maps(self, x: Tensor) -> Tensor:
        passed = self.contracting_maps(x)
        x = passed[-1]
        for level, (up, join) in enumerate(zip(self.ups, self.joins, strict=True), 2):
            x = join(torch.cat([passed[-level], up(x)], 1))
        return x

    def features(self, x: Tensor) -> Tensor:
        """What the head classifies: N x width x the sides of the image."""
        return self.feature_maps(x)

    def forward(self, x: Tensor) -> Tensor:
        return classify(self.head, self.features(x))  # N x classes x the sides of the image


def _two(in_channels: int, out_channels: int, form: Form) -> nn.Sequential:
    return nn.Sequential(Convolution(in_channels, out_channels, form), Convolution(out_channels, out_channels, form))
