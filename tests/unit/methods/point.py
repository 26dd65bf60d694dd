"""A net of two numbers, whose loss is a quadratic around a goal: a formula says what a step of a method does."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedhelp_edge.methods.base import Batch, Learner
from fedhelp_edge.nets import spec
from fedhelp_edge.nets.net import Net
from fedhelp_edge.nets.spec import NETS, Family, Form
from fedhelp_edge.update import Schema
from tests.unit.methods import small

CURVE, GOAL, START = 0.8, np.array([1.0, -2.0]), np.array([3.0, 0.5])


class Point(Net):
    def __init__(self, name: str, form: Form) -> None:
        super().__init__(name, form)
        self.w = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.w.expand(len(x), 2)


def schema(form: Form) -> Schema:
    return Schema.parse(["w F32 2"])


def learner(
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    lr: float,
    site: str = "site-001",
    training: Mapping[str, Any] = MappingProxyType({}),
    **settings: Any,
) -> Learner:
    """A learner in double precision, at `START`, by plain gradient steps."""
    monkeypatch.setitem(NETS, "resnet8", Family(f"{__name__}:Point", schema, width=2))  # type: ignore[index]
    assert spec.schema("resnet8", Form(2)).tensors[0].name == "w"
    plain = {"optimiser": "sgd", "lr": lr, "weight_decay": 0.0, "schedule": "constant", "batch": 4}
    plan = small.plan(method, classes=2, training={**plain, **training}, **{method: settings})
    made = small.learner(plan, site=site)
    made.loss = lambda logits, labels: CURVE / 2 * ((logits - torch.tensor(GOAL)) ** 2).sum(1).mean()
    for module in made.kept().values():
        module.double()
    made.receive({"w": START}, 1)
    return made


def batches(*names: str) -> dict[str, Batch]:
    return {name: small.batch(classes=2, seed=seed) for seed, name in enumerate(names)}
