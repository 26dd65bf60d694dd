"""Layers that several families have."""

from __future__ import annotations

import math

from torch import Tensor, nn

from fedhelp_edge.nets.spec import NORM_GROUPS


def norm_layer(width: int, norm: str) -> nn.Module:
    """Batch norm, or group norm of as many groups as `spec.NORM_GROUPS` and the width allow."""
    return nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(math.gcd(NORM_GROUPS, width), width)


class Layer(nn.Module):
    """A convolution that keeps the side, or halves it, then a norm layer, then an activation if there is one."""

    def __init__(
        self, in_channels: int, out_channels: int, norm: str, kernel: int = 3, stride: int = 1, *,
        depthwise: bool = False, activation: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        groups = in_channels if depthwise else 1
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = norm_layer(out_channels, norm)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return self.activation(x) if self.activation else x
