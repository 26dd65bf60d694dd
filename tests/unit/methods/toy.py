"""A method of one file: sites exchange a table instead of a net, and it has a merger of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from fedhelp_edge.merge.closing import Closing, LastMerge
from fedhelp_edge.methods.base import Learner, LearnerContext, Modules
from fedhelp_edge.methods.registry import Method
from fedhelp_edge.plan import Plan, key
from fedhelp_edge.update import Array, Schema, TensorSpec


@dataclass(frozen=True)
class ToySettings:
    """a toy"""

    raise_by: int = key(1, "what a round adds", low=0, high=9)


def schema(plan: Plan) -> Schema:
    return Schema((TensorSpec("answers.rows", "F32", (len(plan.classes), 2), "table"),))


def start(plan: Plan) -> dict[str, Array]:
    return {tensor.name: np.zeros(tensor.shape, np.float32) for tensor in schema(plan).tensors}


class Rows(nn.Module):
    """A table of two columns."""

    rows: torch.Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(classes, 2))


class Toy(Learner):
    """Adds to the common table its number of images of each class."""

    merges: ClassVar[list[tuple[str, int, LastMerge]]] = []

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        self.ours, self.common = Rows(len(self.plan.classes)), Rows(len(self.plan.classes))

    def kept(self) -> Modules:
        return {**self.trained(), "ours": self.ours, "common": self.common}

    def gives(self) -> Modules:
        return {"answers.": self.ours}

    def takes(self, round_: int) -> Modules:
        return {"answers.": self.common}

    def began(self, round_: int, merge: LastMerge) -> None:
        self.merges.append((self.site.id, round_, merge))
        counts = torch.tensor(self.site.examples, dtype=torch.float32)
        self.ours.rows[:, 0] = self.common.rows[:, 0] + counts * self.plan.tables["toy"].raise_by
        self.ours.rows[:, 1] = round_


def largest(closing: Closing) -> dict[str, Array]:
    """The largest number of each cell."""
    tables = [closing.updates[site]["answers.rows"] for site in sorted(closing.updates)]
    return {"answers.rows": np.max(tables, axis=0)}


METHOD = Method(ToySettings, f"{__name__}:Toy", up=schema, down=schema, start=start, merger=f"{__name__}:largest",
                weight="uniform")  # fmt: skip
