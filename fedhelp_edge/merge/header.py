"""FedGH's merger: a linear layer, the header, that the coordinator trains on all sites' class means (Yi et al. 2023).

Each site sends the mean representation of each of its classes (section 4.1 of the paper). The coordinator takes steps
of gradient descent down the cross-entropy of the header on these means (Eq. 5-6). Sums are made without BLAS, so that
they have the same bits on every number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.merge.closing import Closing
from fedhelp_edge.merge.norm_limit import LIMIT_FACTOR
from fedhelp_edge.nets import spec
from fedhelp_edge.plan import Plan
from fedhelp_edge.update import Array, Schema, TensorSpec

MEANS, COUNTS = "means.rows", "means.counts"
WEIGHT, BIAS = "head.weight", "head.bias"

Doubles = NDArray[np.float64]


def means_schema(plan: Plan, public: Any = None) -> Schema:
    """A mean representation of each class, and the number of images behind it; 0 where none is sent."""
    classes = len(plan.classes)
    shape = classes, spec.width(plan.nets.small, spec.Form.of(plan))
    return Schema((TensorSpec(MEANS, "F32", shape, "table"), TensorSpec(COUNTS, "I32", (classes,), "table")))


def header_schema(plan: Plan, public: Any = None) -> Schema:
    """The header."""
    classes = len(plan.classes)
    shape = classes, spec.width(plan.nets.small, spec.Form.of(plan))
    return Schema((TensorSpec(WEIGHT, "F32", shape), TensorSpec(BIAS, "F32", (classes,))))


def start(plan: Plan) -> dict[str, Array]:
    """The first net of small sites, and the header that all sites begin with."""
    schemas = (spec.schema(plan.nets.small, spec.Form.of(plan)), header_schema(plan))
    return {name: array for schema in schemas for name, array in spec.initial_weights(schema, plan.seed).items()}


def check(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """Yields the nets of a plan whose features do not fit the header."""
    form = spec.Form.of(plan)
    widths = {name: spec.width(name, form) for name in spec.NETS}
    width, on = widths[plan.nets.small], spec.NETS[plan.nets.small].on
    fitting = ", ".join(name for name in widths if widths[name] == width and spec.NETS[name].on == on)
    for key, names in (("large", [plan.nets.large]), ("own", plan.nets.own.values())):
        if wrong := next((name for name in names if widths[name] != width), ""):
            cause = f"{wrong} has {widths[wrong]} features, {plan.nets.small} {width}"
            yield "nets", key, f"{cause}; fedgh needs equally many: one of {fitting}"


def train(closing: Closing) -> dict[str, Array]:
    """Trains the header of the last round on this round's class means. Each of them weighs alike."""
    settings = closing.plan.tables["fedgh"]
    means, labels = _rows(closing)
    layer = {name: closing.base[name].astype(np.float64) for name in (WEIGHT, BIAS)}
    velocity = {name: np.zeros_like(values) for name, values in layer.items()}
    for _ in range(settings.steps if len(means) else 0):
        for name, gradient in gradients(layer, means, labels).items():
            velocity[name] = settings.momentum * velocity[name] + gradient + settings.weight_decay * layer[name]
            layer[name] = layer[name] - settings.lr * velocity[name]
    return {name: values.astype(np.float32) for name, values in layer.items()}


def loss(layer: dict[str, Doubles], means: Doubles, labels: NDArray[np.int64]) -> float:
    """The header's mean cross-entropy on class means."""
    return float(-np.log(_probabilities(layer, means)[np.arange(len(labels)), labels]).mean())


def gradients(layer: dict[str, Doubles], means: Doubles, labels: NDArray[np.int64]) -> dict[str, Doubles]:
    """The gradient of `loss`: G = softmax(X W^T + b) - Y over the number of rows, then G^T X and the sum of G."""
    error = (_probabilities(layer, means) - np.eye(layer[BIAS].size)[labels]) / len(labels)
    return {WEIGHT: np.einsum("nc,nd->cd", error, means), BIAS: error.sum(0)}


def _probabilities(layer: dict[str, Doubles], means: Doubles) -> Doubles:
    logits = np.einsum("nd,cd->nc", means, layer[WEIGHT]) + layer[BIAS]
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(1, keepdims=True))


def _rows(closing: Closing) -> tuple[Doubles, NDArray[np.int64]]:
    """All class means that were sent, and the class of each.

    With `clip = "auto"` none is longer than a multiple of the median: no site outweighs the others by its scale.
    """
    means, labels = [], []
    for site in sorted(closing.updates):
        update = closing.updates[site]
        sent = np.flatnonzero(update[COUNTS] > 0)
        means.append(update[MEANS][sent].astype(np.float64))
        labels.append(sent)
    rows = np.concatenate(means)
    if closing.settings.clip == "auto" and len(rows):
        lengths = np.sqrt((rows**2).sum(1))
        limit = LIMIT_FACTOR * np.median(lengths)
        rows *= np.divide(limit, lengths, out=np.ones_like(lengths), where=lengths > limit)[:, None]
    return rows, np.concatenate(labels)
