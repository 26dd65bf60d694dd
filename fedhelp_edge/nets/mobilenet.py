"""MobileNetV2 (Sandler et al. 2018): inverted residuals around depthwise convolutions.

The width is 1 and there is no dropout: training draws nothing that a resumed run would have to draw again. How far an
image is halved depends on its side (`spec.strides`). Tensors come in the order of the usual ImageNet weights.
"""

from __future__ import annotations

from torch import Tensor, nn

from fedhelp_edge.nets import spec
from fedhelp_edge.nets.layers import Layer
from fedhelp_edge.nets.net import Net
from fedhelp_edge.nets.spec import Form


class InvertedResidual(nn.Module):
    """A 1x1 convolution to more channels, a depthwise one, and a linear one back to few; a shortcut where it fits."""

    def __init__(self, in_channels: int, out_channels: int, norm: str, expansion: int, stride: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.expand = Layer(in_channels, inner, norm, 1, activation=nn.ReLU6()) if expansion > 1 else nn.Identity()
        self.depthwise = Layer(inner, inner, norm, 3, stride, depthwise=True, activation=nn.ReLU6())
        self.project = Layer(inner, out_channels, norm, 1)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class MobileNetV2(Net):
    """The net of `spec.MOBILENET_GROUPS`."""

    def __init__(self, name: str, form: Form) -> None:
        super().__init__(name, form)
        halving = iter(spec.strides(form.side, 1 + sum(first == 2 for *_, first in spec.MOBILENET_GROUPS)))
        width = spec.MOBILENET_STEM
        self.stem = Layer(form.channels, width, form.norm, 3, next(halving), activation=nn.ReLU6())
        blocks = []
        for expansion, channels, count, first in spec.MOBILENET_GROUPS:
            stride = next(halving) if first == 2 else 1
            for index in range(count):
                blocks.append(InvertedResidual(width, channels, form.norm, expansion, 1 if index else stride))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.width = spec.MOBILENET_LAST
        self.last = Layer(width, self.width, form.norm, 1, activation=nn.ReLU6())
        self.linear = nn.Linear(self.width, form.classes)

    @property
    def head(self) -> nn.Linear:
        return self.linear

    def feature_maps(self, x: Tensor) -> Tensor:
        maps: Tensor = self.last(self.blocks(self.stem(x)))
        return maps
