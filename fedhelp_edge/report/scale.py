"""How the predictions of each task are judged. A tally is what one net predicts for some images, and their truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.report import metrics, seeds

Tally: TypeAlias = Any  # of the task's own type


class Scale(Protocol):
    """Judges tallies. Several of them, as of all sites, are judged as one."""

    @property
    def figures(self) -> tuple[str, ...]:
        """Their names; the first chooses among nets."""

    def tally(self, predictions: NDArray[np.float64], truth: NDArray[np.int64]) -> Tally:
        """What a net predicts for some images, with their truth."""

    def scores(self, tallies: Sequence[Tally]) -> dict[str, float | None]:
        """The value of each figure; None where these images cannot tell it."""

    def right(self, tallies: Sequence[Tally]) -> tuple[int, int]:
        """How many predictions there are, and how many of them are right: what patience goes by."""

    def draw(self, tallies: Sequence[Tally], groups: Sequence[NDArray[np.int64]]) -> seeds.Draws:
        """The figures of all sites' tallies as one, and of draws of them. A group (a patient) is drawn as one."""


class Classification:
    """Probabilities of classes (N x classes) against labels (N)."""

    figures = ("accuracy", "balanced_accuracy", "auc")

    def tally(self, predictions: NDArray[np.float64], truth: NDArray[np.int64]) -> Tally:
        return predictions, truth

    def scores(self, tallies: Sequence[Tally]) -> dict[str, float | None]:
        scores = metrics.scores(*_joined(tallies))
        return {name: getattr(scores, name).value for name in self.figures}

    def right(self, tallies: Sequence[Tally]) -> tuple[int, int]:
        probabilities, labels = _joined(tallies)
        return len(labels), int((probabilities.argmax(1) == labels).sum())

    def draw(self, tallies: Sequence[Tally], groups: Sequence[NDArray[np.int64]]) -> seeds.Draws:
        sites = np.repeat(np.arange(len(groups)), [len(site) for site in groups])
        return seeds.draw(*_joined(tallies), sites, np.concatenate(groups))


def _joined(tallies: Sequence[Tally]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    probabilities, labels = zip(*tallies, strict=True)
    return np.concatenate(probabilities), np.concatenate(labels)


SCALES: Mapping[str, Scale] = {"classification": Classification()}
