"""ShuffleNetV2 (Ma et al. 2018), of width 1: half of the channels pass each unit, and a shuffle mixes the halves.

How far an image is halved depends on its side (`spec.strides`). Where the pooling after the first layer would not
halve it, it is left out. Tensors come in the order of the usual ImageNet weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedhelp_edge.nets import spec
from fedhelp_edge.nets.layers import Layer
from fedhelp_edge.nets.net import Net
from fedhelp_edge.nets.spec import Form


class Short(nn.Module):
    """The branch of a stage's first unit that stands for its shortcut."""

    def __init__(self, in_channels: int, out_channels: int, norm: str, stride: int) -> None:
        super().__init__()
        self.depthwise = Layer(in_channels, in_channels, norm, 3, stride, depthwise=True)
        self.point = Layer(in_channels, out_channels, norm, 1, activation=nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.point(self.depthwise(x))
        return out


class Long(nn.Module):
    """The branch of a unit that learns most: a 1x1, a depthwise and a 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, norm: str, stride: int) -> None:
        super().__init__()
        self.first = Layer(in_channels, out_channels, norm, 1, activation=nn.ReLU())
        self.depthwise = Layer(out_channels, out_channels, norm, 3, stride, depthwise=True)
        self.second = Layer(out_channels, out_channels, norm, 1, activation=nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.depthwise(self.first(x)))
        return out


class Unit(nn.Module):
    """Two branches side by side, shuffled.

    In the first unit of a stage each gets all channels; in the others half of the channels stay as they are.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: str, stride: int, *, first: bool) -> None:
        super().__init__()
        self.still = out_channels // 2  # channels
        self.short = Short(in_channels, self.still, norm, stride) if first else None
        self.long = Long(in_channels if first else self.still, self.still, norm, stride)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        halves = (self.short(x), self.long(x)) if self.short else (x[:, : self.still], self.long(x[:, self.still :]))
        out: Tensor = self.shuffle(torch.cat(halves, 1))
        return out


class ShuffleNetV2(Net):
    """The net of `spec.SHUFFLENET_STAGES`."""

    def __init__(self, name: str, form: Form) -> None:
        super().__init__(name, form)
        stem, pool, *strides = spec.strides(form.side, 2 + len(spec.SHUFFLENET_STAGES))
        width = spec.SHUFFLENET_STEM
        self.stem = Layer(form.channels, width, form.norm, 3, stem, activation=nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1) if pool == 2 else nn.Identity()
        self.stages: list[nn.Sequential] = []
        for number, ((channels, count), stride) in enumerate(zip(spec.SHUFFLENET_STAGES, strides, strict=True), 2):
            first = Unit(width, channels, form.norm, stride, first=True)
            others = [Unit(channels, channels, form.norm, 1, first=False) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(first, *others))
            self.add_module(f"stage{number}", self.stages[-1])
            width = channels
        self.width = spec.SHUFFLENET_LAST
        self.last = Layer(width, self.width, form.norm, 1, activation=nn.ReLU())
        self.linear = nn.Linear(self.width, form.classes)

    @property
    def head(self) -> nn.Linear:
        return self.linear

    def feature_maps(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x))
        for stage in self.stages:
            x = stage(x)
        maps: Tensor = self.last(x)
        return maps
