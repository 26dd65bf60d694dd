"""Tables of predictions for public images travel instead of nets: their tensors, and how a round of them is merged.

A table has a row for each public image that a round asks for, in the order of the pack. Each site predicts its own at
the end of a round. The merged table names that round, for a cancelled round is never merged. Sites learn
from it at the start of the next round. No norm is limited: a row has no weights that could grow, and hostile rows are
refused on intake.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedhelp_edge.merge.closing import Closing
from fedhelp_edge.plan import Plan
from fedhelp_edge.update import Array, Role, Schema, TensorSpec

ROWS, PREDICTED_IN = "table.rows", "table.predicted_in"
LOSSES, TOTALS = "confidence.losses", "confidence.totals"

_PREDICTED_IN = TensorSpec(PREDICTED_IN, "I64", (1,), "table")


def logits_schema(plan: Plan, public: Any = None) -> Schema:
    """What a site sends: for each image the logits of a head."""
    return Schema((_rows(plan, public, "table"),))


def merged_logits_schema(plan: Plan, public: Any = None) -> Schema:
    """Their mean, and the round at whose end they were predicted."""
    return Schema((_rows(plan, public, "table"), _PREDICTED_IN))


def probabilities_schema(plan: Plan, public: Any = None) -> Schema:
    """What a site sends: for each image the probabilities of the classes; for confidence scores also two losses."""
    losses = (TensorSpec(LOSSES, "F32", (2,), "table"),) if plan.method_settings.ccr else ()
    return Schema((_rows(plan, public, "probabilities"), *losses))


def merged_probabilities_schema(plan: Plan, public: Any = None) -> Schema:
    """Their mean, the round, and for confidence scores the two sums by which a site knows its own weight."""
    totals = (TensorSpec(TOTALS, "F32", (2,), "table"),) if plan.method_settings.ccr else ()
    return Schema((_rows(plan, public, "probabilities"), _PREDICTED_IN, *totals))


def _rows(plan: Plan, public: Any, role: Role) -> TensorSpec:
    settings = plan.method_settings
    classes = public.classes if getattr(settings, "head", "private") == "public" else plan.classes
    return TensorSpec(ROWS, "F32", (min(settings.images, len(public)), len(classes)), role)


def mean(closing: Closing) -> dict[str, Array]:
    """The merger of these methods: the plain mean of the tables. With confidence scores, weighted by them."""
    sites, settings = sorted(closing.updates), closing.plan.method_settings
    gains: dict[str, float] = {}
    if has_losses := any(tensor.name == LOSSES for tensor in closing.schema.tensors):
        gains = {site: relative_gain(*map(float, closing.updates[site][LOSSES])) for site in sites}
    total_gain = math.fsum(map(abs, gains.values()))
    weights = {site: weight(gains.get(site, 0.0), total_gain, settings.beta if gains else 0.0) for site in sites}
    total = math.fsum(weights.values())
    summed = _sum(closing, weights)
    merged: dict[str, Array] = {
        ROWS: (summed / total).astype(np.float32),
        PREDICTED_IN: np.array([closing.round], np.int64),
    }
    return merged | ({TOTALS: np.array([total_gain, total], np.float32)} if has_losses else {})


def _sum(closing: Closing, weights: Mapping[str, float]) -> Array:
    """The weighted sum of the tables in float64. One site's is read at a time, in the order of their ids."""
    first, *others = weights
    total = weights[first] * closing.updates[first][ROWS].astype(np.float64)
    for site in others:
        total += weights[site] * closing.updates[site][ROWS].astype(np.float64)
    return np.asarray(total)


def relative_gain(before: float, now: float) -> float:
    """By what part of itself a site's loss fell in a round; 0 in a site's first round, which has no loss before it."""
    return (before - now) / now if before > 0 and now > 0 else 0.0


def weight(gain: float, total_gain: float, beta: float) -> float:
    """A site's weight by its gain's part of all: above 0, and 1 for everybody where nobody's loss moved.

    The total is of absolute gains. The sum of gains may be zero or negative, which would explode or turn the order.
    """
    return math.exp(beta * gain / total_gain) if total_gain else 1.0
