"""A method of one file: sites exchange a table instead of a net, and it has a merger of its own.

`installed` puts this file into a folder as another package would: under a name of its own, with an entry point.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from fedhelp_edge.merge.closing import Closing, LastMerge
from fedhelp_edge.methods import registry
from fedhelp_edge.methods.base import Learner, LearnerContext, Modules
from fedhelp_edge.methods.registry import Method, Public
from fedhelp_edge.plan import Plan, key
from fedhelp_edge.update import Array, Schema, TensorSpec


@dataclass(frozen=True)
class ToySettings:
    """a toy"""

    raise_by: int = key(1, "what a round adds", low=0, high=9)


def schema(plan: Plan, public: Public | None = None) -> Schema:
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


def check(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """The toy's own limit."""
    if plan.tables["toy"].raise_by == 9:
        yield "toy", "raise_by", "9 is too much for two classes"


METHOD = Method(
    ToySettings, f"{__name__}:Toy", up=schema, down=schema, start=start, merger=f"{__name__}:largest",
    weight="uniform", public=True, sites=2, check=check,
)  # fmt: skip


@contextmanager
def installed(folder: Path) -> Iterator[Path]:
    """Has the method in a folder that is on the path, as if another package brought it; gives its file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.delitem(sys.modules, "toy_method", raising=False)
        registry._added.cache_clear()
        yield _install(folder)
    sys.modules.pop("toy_method", None)
    registry._added.cache_clear()


def _install(folder: Path) -> Path:
    shutil.copy(__file__, folder / "toy_method.py")
    facts = folder / "toy_method-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-method\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[fedhelp_edge.methods]\ntoy = toy_method:METHOD\n")
    return folder / "toy_method.py"
