"""FedAdam (Reddi et al., ICLR 2021, algorithm 2): the coordinator takes Adam's step along the mean change of a round.

With d the mean change: m <- b1 m + (1 - b1) d and v <- b2 v + (1 - b2) d^2. The model moves by lr m / (sqrt(v) + tau).
At first m is 0 and v is tau^2. There is no correction of the bias, as in the paper. Means and squares stay with the
model and never travel. Running statistics are averaged: a step along their change could make a variance negative.
"""

from __future__ import annotations

import numpy as np

from fedhelp_edge.merge import rules
from fedhelp_edge.merge.closing import STATE, Closing
from fedhelp_edge.update import Array

MEAN, SQUARE = f"mean{STATE}", f"square{STATE}"


def adam(closing: Closing) -> dict[str, Array]:
    """The merger of FedAdam: the plan's rule, weights and limit give the mean change."""
    settings, merged = closing.plan.tables["fedadam"], rules.average(closing)
    state: dict[str, Array] = {}
    for name in [name for name in merged if closing.schema.role_of(name) in ("weight", "norm")]:
        base = closing.base[name].astype(np.float64)
        change = merged[name] - base
        mean = settings.beta1 * closing.base.get(MEAN + name, 0.0) + (1 - settings.beta1) * change
        square = settings.beta2 * closing.base.get(SQUARE + name, settings.tau**2) + (1 - settings.beta2) * change**2
        merged[name] = (base + settings.lr * mean / (np.sqrt(square) + settings.tau)).astype(np.float32)
        state |= {MEAN + name: mean.astype(np.float32), SQUARE + name: square.astype(np.float32)}
    return {**merged, **state}
