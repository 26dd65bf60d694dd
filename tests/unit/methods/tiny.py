"""Nets of some thousand numbers, for tests that run every method. The toy method is known too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from fedhelp_edge.methods import registry
from fedhelp_edge.nets import spec
from fedhelp_edge.nets.spec import NETS, RESNETS, Family, ResNetSize
from tests.unit.methods import toy

SETTINGS: Mapping[str, Mapping[str, Any]] = {  # so that a round has few steps, and few images are enough
    "fccl": {"pretrain": 1}, "fedgh": {"least_images": 1}, "fedmd": {"public_epochs": 1}, "mdhfl": {"pretrain": 1},
    "ridge": {"dimensions": 4, "least_images": 1},
}  # fmt: skip


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the ResNets of plans tiny; that of large sites stays the deeper one."""
    small = ResNetSize((1, 1, 1), (4, 8, 16))
    for name, size in (("resnet8", small), ("resnet20", replace(small, blocks=(2, 1, 1))), ("resnet32", small)):
        family = Family("fedhelp_edge.nets.resnet:ResNet", partial(spec._resnet_schema, size), size.widths[-1])
        monkeypatch.setitem(RESNETS, name, size)  # type: ignore[index]
        monkeypatch.setitem(NETS, name, family)  # type: ignore[index]


@pytest.fixture
def tiny_nets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ResNets of plans are tiny, and the toy method is known."""
    shrink(monkeypatch)
    monkeypatch.setitem(registry._BUILT_IN, "toy", toy.METHOD)  # type: ignore[index]
