"""The first weights that files give: of the model that travels, and of the nets that sites keep for themselves.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedhelp_edge import update
from fedhelp_edge.errors import SchemaShapeError
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets import spec, timm
from fedhelp_edge.plan import Plan
from fedhelp_edge.update import Array

Weights = Mapping[str, Array]


@dataclass(frozen=True)
class Taken:
    """What a file of first weights gave."""

    net: str  # "": the model that travels, of which the file has a part
    tensors: int
    drawn: tuple[str, ...]  # tensors of the net that keep their drawn values: the file lacks them, or for other classes


@dataclass(frozen=True)
class FirstWeights:
    """Where a federation starts."""

    travelling: dict[str, Array]  # round 0's model
    own: Mapping[str, Weights]  # given weights, by the name of the net
    taken: tuple[Taken, ...]  # from each file


def load(path: Path) -> dict[str, Array]:
    """A file's tensors under our names: timm's are translated (`nets.timm`). Its metadata is not read."""
    return timm.translate(update.load(path, metadata=None))


def match(plan: Plan, files: Sequence[Weights]) -> FirstWeights:
    """Finds by tensor names what each file is for. A file for no net of the plan is refused.

    A whole net's file serves every net of that name: the one that travels, and those that sites keep.
    """
    travelling, own, taken = METHODS[plan.method].start(plan), dict[str, Weights](), []
    for weights in files:
        name, drawn = spec.name_of(weights, spec.Form.of(plan)), list[str]()
        if name and name not in (plan.nets.small, plan.nets.large, *plan.nets.own.values()):
            raise SchemaShapeError(f"the first weights are for {name}, which is no net of this plan")
        if name:
            own[name] = weights
        if not name or (name == plan.nets.small and weights.keys() <= travelling.keys()):
            travelling, drawn = spec.warm_start(travelling, weights)
        taken.append(of_net(plan, name, weights) if name else Taken("", len(travelling) - len(drawn), tuple(drawn)))
    return FirstWeights(travelling, own, tuple(taken))


def of_net(plan: Plan, name: str, weights: Weights) -> Taken:
    """What a net of this name takes from these weights."""
    schema = spec.schema(name, spec.Form.of(plan))
    drawn = spec.warm_start(spec.initial_weights(schema, plan.seed), weights)[1]
    return Taken(name, len(schema.tensors) - len(drawn), tuple(drawn))
