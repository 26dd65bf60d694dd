"""Layers that several families have."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from fedhelp_edge.nets.spec import NORM_GROUPS


def norm_layer(width: int, norm: str, eps: float = 1e-5, dimensions: int = 2) -> nn.Module:
    """Batch norm, or group norm of as many groups as `spec.NORM_GROUPS` and the width allow, of two channels each."""
    if norm == "batch":
        return (nn.BatchNorm3d if dimensions == 3 else nn.BatchNorm2d)(width, eps)
    groups = math.gcd(NORM_GROUPS, width)
    return nn.GroupNorm(groups if groups < width else max(1, groups // 2), width, eps)


class SameConv2d(nn.Conv2d):
    """A convolution that pads as TensorFlow's "same" does: the last window lies around the last pixel.

    PyTorch's lies around the last pixel but one where an even side is halved.
    """

    def forward(self, x: Tensor) -> Tensor:
        pad = self.kernel_size[0] // 2
        top, left = (self.before(side) for side in x.shape[2:])
        return F.conv2d(F.pad(x, (left, pad, top, pad)), self.weight, self.bias, self.stride, groups=self.groups)

    def before(self, side: int) -> int:
        """The zeros before the first of so many pixels; behind the last one there are half of the kernel's."""
        return self.kernel_size[0] // 2 - (self.stride[0] == 2 and side % 2 == 0)


class Layer(nn.Module):
    """A convolution that keeps the side, or halves it, then a norm layer, then an activation if there is one.

    With `tensorflow` it pads and normalises as TensorFlow does, whose weights need that.
    """

    def __init__(
        self, in_channels: int, out_channels: int, norm: str, kernel: int = 3, stride: int = 1, *,
        depthwise: bool = False, activation: nn.Module | None = None, tensorflow: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        groups = in_channels if depthwise else 1
        convolution = SameConv2d if tensorflow and stride > 1 else nn.Conv2d  # without a stride they are one
        self.conv = convolution(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = norm_layer(out_channels, norm, 1e-3 if tensorflow else 1e-5)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return self.activation(x) if self.activation else x
