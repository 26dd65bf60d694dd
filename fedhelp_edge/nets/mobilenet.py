"""MobileNetV2 (Sandler et al. 2018) and EfficientNet-Lite0 (Tan and Le 2019): inverted residuals.

EfficientNet-Lite0 is EfficientNet-B0 for small devices: ReLU6, and no squeeze-and-excitation. There is no dropout:
training draws nothing that a resumed run would have to draw again. How far an image is halved depends on its side
(`spec.strides`). Tensors come in the order of the usual ImageNet weights.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from fedhelp_edge.nets import spec
from fedhelp_edge.nets.layers import Layer
from fedhelp_edge.nets.net import Net
from fedhelp_edge.nets.spec import Form, MobileNetGroup


class InvertedResidual(nn.Module):
    """A 1x1 convolution to more channels, a depthwise one, and a linear one back to few; a shortcut where it fits."""

    def __init__(self, in_channels: int, group: MobileNetGroup, norm: str, stride: int, *, tensorflow: bool) -> None:
        super().__init__()
        inner, layer = in_channels * group.expansion, partial(Layer, norm=norm, tensorflow=tensorflow)
        self.expand = (
            layer(in_channels, inner, kernel=1, activation=nn.ReLU6()) if group.expansion > 1 else nn.Identity()
        )
        self.depthwise = layer(inner, inner, kernel=group.kernel, stride=stride, depthwise=True, activation=nn.ReLU6())
        self.project = layer(inner, group.channels, kernel=1)
        self.residual = stride == 1 and in_channels == group.channels

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class MobileNet(Net):
    """A net of `spec.MOBILENETS`."""

    def __init__(self, name: str, form: Form) -> None:
        super().__init__(name, form)
        size, width = spec.MOBILENETS[name], spec.MOBILENET_STEM
        layer = partial(Layer, norm=form.norm, activation=nn.ReLU6(), tensorflow=size.tensorflow)
        halving = iter(spec.strides(form.side, 1 + sum(group.halves for group in size.groups)))
        self.stem = layer(form.channels, width, stride=next(halving))
        blocks = []
        for group in size.groups:
            stride = next(halving) if group.halves else 1
            for index in range(group.blocks):
                first_stride = 1 if index else stride
                blocks.append(InvertedResidual(width, group, form.norm, first_stride, tensorflow=size.tensorflow))
                width = group.channels
        self.blocks = nn.Sequential(*blocks)
        self.width = spec.MOBILENET_LAST
        self.last = layer(width, self.width, kernel=1)
        self.linear = nn.Linear(self.width, form.classes)

    @property
    def head(self) -> nn.Linear:
        return self.linear

    def feature_maps(self, x: Tensor) -> Tensor:
        maps: Tensor = self.last(self.blocks(self.stem(x)))
        return maps
