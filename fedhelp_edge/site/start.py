"""The first weights of the net that a site keeps for itself: a file that is named once, and remembered.

The net that travels comes with the round. A large site's own net, a teacher for instance, starts here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from fedhelp_edge import files
from fedhelp_edge.errors import SchemaShapeError, UsageError
from fedhelp_edge.methods import first_weights
from fedhelp_edge.methods.first_weights import FirstWeights
from fedhelp_edge.plan import Plan
from fedhelp_edge.site import layout
from fedhelp_edge.site.local_training import TrainingContext


def read(plan: Plan, path: Path) -> tuple[FirstWeights, dict[str, Any]]:
    """Reads a file of first weights. Returns them, and what a report says of them."""
    weights = first_weights.load(path)
    first = first_weights.match(plan, [weights])
    with path.open("rb") as file:
        facts = {"sha256": files.digest(file), **vars(first.taken[0])}
    return first, facts


def use(home: Path, context: TrainingContext, given: Path | None) -> TrainingContext:
    """Returns the context whose own net starts from the given file, or from the one that was given last.

    A net that has begun to learn cannot start again.
    """
    remembered = home / layout.START
    if given:
        with files.reading(given) as file:
            data = file.read()
        if not (remembered.exists() and remembered.read_bytes() == data):
            if any((home / "rounds").glob("*/own/*.state")):
                remedy = "leave --start out: the net continues from the site's last round"
                raise UsageError("this site's net has begun to learn, from other first weights", remedy=remedy)
            _check(context, given)
            files.write_atomic(remembered, data)
    if not remembered.exists():
        return context
    first, facts = read(context.plan, remembered)
    return replace(context, first_weights=first.own, start=facts)


def _check(context: TrainingContext, given: Path) -> None:
    """Refuses first weights for a net that this site does not keep: they would be overwritten, or never used."""
    net, own = read(context.plan, given)[1]["net"], context.learner().own_nets()
    if not own:
        remedy = "leave --start out; the coordinator gives first weights with 'fedhelp-coordinator open --start FILE'"
        raise UsageError("this site keeps no net of its own: its net comes with the round", remedy=remedy)
    if net not in own:
        cause = f"the first weights are for {net or 'a part of the net that travels'}"
        raise SchemaShapeError(f"{cause}; the net that this site keeps is {' and '.join(sorted(own))}")
