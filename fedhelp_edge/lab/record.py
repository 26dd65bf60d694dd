"""What a lab run measures: the points of its curves, the claims of its sites, and its figures on test images."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.methods.base import Learner
from fedhelp_edge.nets import resnet
from fedhelp_edge.report import metrics
from fedhelp_edge.train import loop
from fedhelp_edge.update import Array

Floats = NDArray[np.float64]
Figures = dict[str, float | None]

_FIGURES = ("accuracy", "balanced_accuracy", "auc")


class Evaluator:
    """Measures the nets of all sites: each learner's own, and the merged one in a spare net beside it."""

    def __init__(self, sites: Sequence[SiteImages], learner_of: Mapping[str, Learner]) -> None:
        self.sites, self.learner_of = sites, learner_of
        self._spare_nets = {name: copy.deepcopy(learner.net) for name, learner in learner_of.items()}

    def curve_point(self, shared: Mapping[str, Array], round_: int) -> dict[str, Any]:
        """A round's point in the curves: on validation images, of the sites' own nets and of the merged one."""
        rows: dict[str, list[Figures]] = {"own": [], "merged": []}
        for site in self.sites:
            val = site.split("val")
            rows["own"].append(_figures(self._own(site, val.pixels), val.labels))
            if shared:
                rows["merged"].append(_figures(self._merged(site, shared, val.pixels), val.labels))
        return {"round": round_, **{net: _mean(figures) for net, figures in rows.items() if figures}}

    def validation_counts(self, merged: Mapping[str, Array]) -> dict[str, list[int]]:
        """By site: its validation images, and how many the merged model gets right. Updates claim the same."""
        counts: dict[str, list[int]] = {}
        for site in self.sites:
            val = site.split("val")
            predicted = self._merged(site, merged, val.pixels).argmax(1)
            counts[site.id] = [len(val), int((predicted == val.labels).sum())]
        return counts

    def record(self, shared: Mapping[str, Array] | None, path: Path) -> dict[str, Any]:
        """The figures on test images. All predictions on val and test go to `path`, for comparisons and averages."""
        rows: list[dict[str, Any]] = []
        merged_rows: list[Figures] = []
        predictions: dict[str, Floats] = {}
        for site in self.sites:
            for split in ("val", "test"):
                images = site.split(split)
                predictions[f"{site.id}/{split}_labels"] = images.labels.astype(np.float64)
                predictions[f"{site.id}/{split}_own"] = self._own(site, images.pixels)
            labels = site.split("test").labels
            if shared is not None:
                for split in ("val", "test"):
                    predictions[f"{site.id}/{split}_merged"] = self._merged(site, shared, site.split(split).pixels)
                merged_rows.append(_figures(predictions[f"{site.id}/test_merged"], labels))
            sizes = {"n_train": len(site.split("train")), "n_test": len(labels)}
            figures = _figures(predictions[f"{site.id}/test_own"], labels)
            rows.append({"name": site.name, "tier": site.tier, **sizes, **figures})
        path.unlink(missing_ok=True)
        with files.writing(path, private=False) as file:
            np.savez_compressed(file, **predictions)  # type: ignore[arg-type]  # typeshed takes a name for allow_pickle
        return {"sites": rows, "mean": _mean(rows), "merged": _mean(merged_rows) if merged_rows else None}

    def _own(self, site: SiteImages, pixels: Any) -> Floats:
        learner = self.learner_of[site.id]
        return loop.probabilities(learner, learner.model, pixels)

    def _merged(self, site: SiteImages, shared: Mapping[str, Array], pixels: Any) -> Floats:
        """Of the merged net at a site: the shared weights, beside those that stay with its learner."""
        learner, net = self.learner_of[site.id], self._spare_nets[site.id]
        resnet.load(net, {**resnet.arrays(learner.net), **shared})
        return loop.probabilities(learner, net, pixels)


def _figures(probabilities: Floats, labels: NDArray[np.int64]) -> Figures:
    scores = metrics.scores(probabilities, labels)
    return {name: getattr(scores, name).value for name in _FIGURES}


def _mean(rows: Sequence[Mapping[str, Any]]) -> Figures:
    values = {name: [row[name] for row in rows if row[name] is not None] for name in _FIGURES}
    return {name: float(np.mean(known)) if known else None for name, known in values.items()}
