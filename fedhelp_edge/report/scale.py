"""How the predictions of each task are judged. A tally is what one net predicts for some images, and their truth.

A tally is two arrays. Of masks the first is what `outlines` tells of each case: no pixel is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.report import metrics, outlines, seeds

Tally: TypeAlias = "tuple[NDArray[np.float64], NDArray[np.int64]]"


class Scale(Protocol):
    """Judges tallies. Several of them, as of all sites, are judged as one."""

    @property
    def figures(self) -> tuple[str, ...]:
        """Their names; the first chooses among nets."""

    @property
    def absent(self) -> tuple[str, ...]:
        """Figures of another task, which programs find in every record: here they are None."""

    @property
    def names(self) -> Mapping[str, str]:
        """The figures, in words."""

    @property
    def pools(self) -> bool:
        """Whether nets can be averaged by their tallies."""

    def scores(self, tallies: Sequence[Tally]) -> dict[str, float | None]:
        """The value of each figure; None where these images cannot tell it."""

    def right(self, tallies: Sequence[Tally]) -> tuple[int, int]:
        """How many predictions there are, and how many of them are right: what patience goes by."""

    def draw(self, tallies: Sequence[Tally], groups: Sequence[NDArray[np.int64]]) -> seeds.Draws:
        """The figures of all sites' tallies as one, and of draws of them. A group (a patient) is drawn as one."""


class Classification:
    """Probabilities of classes (N x classes) against labels (N)."""

    figures = ("accuracy", "balanced_accuracy", "auc")
    absent = ()
    names: Mapping[str, str] = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "auc": "AUC"}
    pools = True

    def scores(self, tallies: Sequence[Tally]) -> dict[str, float | None]:
        values = metrics.values(*_joined(tallies))
        return {name: None if np.isnan(values.get(name, np.nan)) else float(values[name]) for name in self.figures}

    def right(self, tallies: Sequence[Tally]) -> tuple[int, int]:
        probabilities, labels = _joined(tallies)
        return len(labels), int((probabilities.argmax(1) == labels).sum())

    def draw(self, tallies: Sequence[Tally], groups: Sequence[NDArray[np.int64]]) -> seeds.Draws:
        sites = np.repeat(np.arange(len(groups)), [len(site) for site in groups])
        return seeds.draw(*_joined(tallies), sites, np.concatenate(groups))


class Segmentation:
    """The rows of cases (`outlines`) against the classes that their masks show, as bits."""

    figures = outlines.FIGURES
    absent = ("balanced_accuracy", "auc")
    names: Mapping[str, str] = {"dice": "Dice", "iou": "IoU", "accuracy": "pixel accuracy", "hd95": "HD95"}
    pools = False

    def scores(self, tallies: Sequence[Tally]) -> dict[str, float | None]:
        rows = outlines.joined(tallies)
        values = {name: float(each[0]) for name, each in outlines.figures(rows, np.ones((1, len(rows)))).items()}
        return {name: None if np.isnan(value) else value for name, value in values.items()}

    def right(self, tallies: Sequence[Tally]) -> tuple[int, int]:
        return outlines.right(outlines.joined(tallies))

    def draw(self, tallies: Sequence[Tally], groups: Sequence[NDArray[np.int64]]) -> seeds.Draws:
        sites = np.repeat(np.arange(len(groups)), [len(site) for site in groups])
        rows = outlines.joined(tallies)
        weights, units = seeds.weights(sites, np.concatenate(groups))
        if not len(rows):
            return seeds.Draws({}, 0, "no images")
        return seeds.Draws(outlines.figures(rows, weights), units, limits={"hd95": np.inf})


def _joined(tallies: Sequence[Tally]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    probabilities, labels = zip(*tallies, strict=True)
    return np.concatenate(probabilities), np.concatenate(labels)


# in words; a report names no accuracy of pixels, so this is that of images
FIGURE_NAMES = {**Segmentation.names, **Classification.names}
SCALES: Mapping[str, Scale] = {"classification": Classification(), "segmentation": Segmentation()}
