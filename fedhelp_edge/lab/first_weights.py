"""The first weights that files give: of the model that travels, and of the nets that sites keep for themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedhelp_edge.errors import SchemaShapeError
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets import spec
from fedhelp_edge.plan import Plan
from fedhelp_edge.update import Array

Weights = Mapping[str, Array]


@dataclass(frozen=True)
class FirstWeights:
    """Where a federation starts."""

    travelling: dict[str, Array]  # round 0's model
    own: Mapping[str, Weights]  # given weights, by the name of the net
    missing: tuple[str, ...]  # tensors that the given weights lack: they keep their drawn values


def match(plan: Plan, files: Sequence[Weights]) -> FirstWeights:
    """Finds by tensor names what each file is for. A file for no net of the plan is refused.

    A whole net's file serves every net of that name: the one that travels, and those that sites keep.
    """
    travelling, form = METHODS[plan.method].start(plan), spec.Form.of(plan)
    own: dict[str, Weights] = {}
    missing: list[str] = []
    for weights in files:
        name, lacking = spec.name_of(weights, form), []
        if name and name not in (plan.nets.small, plan.nets.large, *plan.nets.own.values()):
            raise SchemaShapeError(f"the first weights are for {name}, which is no net of this plan")
        if name:
            own[name] = weights
            lacking = spec.warm_start(spec.initial_weights(spec.schema(name, form), plan.seed), weights)[1]
        if not name or (name == plan.nets.small and weights.keys() <= travelling.keys()):
            travelling, lacking = spec.warm_start(travelling, weights)
        missing += lacking
    return FirstWeights(travelling, own, tuple(dict.fromkeys(missing)))
