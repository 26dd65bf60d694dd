"""Probabilities for public images from their features and labels, of which no image's own label is a part.

The images lie in parts by the hash of their pixels: the same image twice has one part. A part is answered by what was
fitted on all others. Strength and scale of a fit are chosen in the same way, within those others. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
PARTS = 5
_SCALES = np.array([0.0, *2.0 ** np.arange(-1, 9)])  # of scores; the one with the least loss is chosen
_STRENGTHS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)  # of ridge regression, as a fraction of the features' mean variance


@dataclass(frozen=True)
class Examples:
    """Features and labels of images, and the part of each."""

    features: Floats
    labels: NDArray[np.int64]
    parts: NDArray[np.int64]
    classes: int

    def only(self, rows: NDArray[np.bool_]) -> Examples:
        return Examples(self.features[rows], self.labels[rows], self.parts[rows], self.classes)

    @property
    def prior(self) -> Floats:
        """The log of each class's share. A class without an image counts as one with one."""
        return np.asarray(np.log((self.targets.sum(0) + 1) / (len(self.labels) + self.classes)))

    @cached_property
    def targets(self) -> Floats:
        """A row for each image: 1 at its class."""
        return np.eye(self.classes)[self.labels]

    def splits(self) -> Iterator[tuple[NDArray[np.bool_], Examples]]:
        """Each part, and the images of all others."""
        for part in np.unique(self.parts):
            yield self.parts == part, self.only(self.parts != part)


Fit = Callable[[Examples, float], Callable[[Floats], Floats]]  # examples and strength; then features to scores


def prototypes(examples: Examples, strength: float) -> Callable[[Floats], Floats]:
    """Cosine similarity to the mean of each class. A class without an image has the least that there is."""
    centre = examples.features.mean(0)
    means = _directions(examples.targets.T @ _directions(examples.features - centre))
    absent = ~examples.targets.any(0)

    def scores(features: Floats) -> Floats:
        return np.where(absent, -1.0, _directions(features - centre) @ means.T)

    return scores


def probe(examples: Examples, strength: float) -> Callable[[Floats], Floats]:
    """Ridge regression on the classes: a linear probe in closed form."""
    centre = examples.features.mean(0)
    x, y = examples.features - centre, examples.targets - examples.targets.mean(0)
    ridge = strength * max(float((x**2).sum()), 1e-12) / x.shape[1]
    gram = x.T @ x if len(x) > x.shape[1] else x @ x.T  # the smaller of two equal solutions
    gram[np.diag_indices_from(gram)] += ridge
    weights = np.linalg.solve(gram, x.T @ y) if len(x) > x.shape[1] else x.T @ np.linalg.solve(gram, y)
    return lambda features: (features - centre) @ weights


KINDS: Mapping[str, tuple[Fit, Sequence[float]]] = {
    "prototypes": (prototypes, (0.0,)), "probe": (probe, _STRENGTHS),
}  # fmt: skip


def answer(kind: str, features: NDArray[np.floating], labels: NDArray[np.int64], classes: int,
           hashes: Sequence[str]) -> NDArray[np.float32]:  # fmt: skip
    """The probabilities of each image, images x classes. `hashes` are those of the images' pixels, in hexadecimal."""
    parts = np.array([int(image_hash[:8], 16) % PARTS for image_hash in hashes], np.int64)
    examples = Examples(np.asarray(features, np.float64), labels, parts, classes)
    answers = np.full((len(labels), classes), 1 / classes)
    for part, others in examples.splits():
        if len(others.labels):
            answers[part] = _fitted(kind, others)(examples.features[part])
    return answers.astype(np.float32)


def _fitted(kind: str, examples: Examples) -> Callable[[Floats], Floats]:
    """What answers with probabilities: fitted on these examples with the strength and scale of the least loss."""
    fit, strengths = KINDS[kind]
    losses = np.zeros((len(strengths), len(_SCALES)))
    for part, others in examples.splits():
        if len(others.labels):
            for index, strength in enumerate(strengths):
                scores = fit(others, strength)(examples.features[part])
                losses[index] += [_loss(others.prior + scale * scores, examples.labels[part]) for scale in _SCALES]
    row, column = divmod(int(losses.argmin()), len(_SCALES))
    scores_of, count = fit(examples, strengths[row]), len(examples.labels)

    def probabilities(features: Floats) -> Floats:
        """So many examples allow no certainty: one more, of any class, might have been another."""
        raised = np.exp(_lowered(examples.prior + _SCALES[column] * scores_of(features)))
        return np.asarray((count * raised / raised.sum(1, keepdims=True) + 1 / examples.classes) / (count + 1))

    return probabilities


def _directions(rows: Floats) -> Floats:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def _lowered(logits: Floats) -> Floats:
    """The largest of each row is 0."""
    return np.asarray(logits - logits.max(1, keepdims=True))


def _loss(logits: Floats, labels: NDArray[np.int64]) -> float:
    """The sum of the cross-entropy."""
    lowered = _lowered(logits)
    return float((np.log(np.exp(lowered).sum(1)) - lowered[np.arange(len(labels)), labels]).sum())
