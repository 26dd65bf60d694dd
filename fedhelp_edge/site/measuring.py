"""How good the nets of a finished round are: each that the site has, and which of them it would diagnose with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from export import calibrate, choose
from fedhelp_edge import data
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.labels import kept_columns, kept_names
from fedhelp_edge.errors import FedhelpError
from fedhelp_edge.plan import Plan
from fedhelp_edge.report import metrics
from fedhelp_edge.report.evaluation import Evaluation
from fedhelp_edge.site import layout, local_training
from fedhelp_edge.train import machine
from fedhelp_edge.update import Array


def measure(
    home: Path, plan: Plan, site: str, tier: str, at: Path, merged: Mapping[str, Array] | None, images: Path | None,
    *, threads: int | None = None,
) -> Evaluation:  # fmt: skip
    """On the test part, or on all of other images; the net is chosen by the site's validation images, as `export` does,
    and each answers with the temperature that these ask for."""
    machine.settle(threads)
    own = _own(home, plan, required=images is None)
    found = own if images is None else _others(home, plan, images)
    assert found is not None  # noqa: S101 - one of the two is there, or was refused
    place, told = (
        local_training.Place(plan, site, tier, found, None, machine.bench(plan.training.precision)),
        local_training.read(at),
    )
    nets, prior = local_training.nets(place, at, merged), told["prior"]
    test, val = found.part("test"), own.part("val") if own else found.only(np.array([], np.int64))
    distinct = choose.distinct(nets)
    choice = choose.choose(distinct, val, test, plan.image, prior)
    scores = {name: choice.test[choose.alike(distinct, net)] for name, net in nets.items()}
    scores |= {name: one for name, one in choice.test.items() if name == choose.AVERAGE}
    if prior:
        bare = choose.logits(nets["own"], test.pixels, plan.image, None)
        scores["without_prior"] = metrics.scores(calibrate.softmax(bare), test.labels)
    findings = place.findings() if images is None else _seen_before(own, found)
    chosen = choice.name if len(val) else ""
    return Evaluation(plan.name, told["round"], tier, plan.classes, scores, findings, choice.figures, chosen)


def _own(home: Path, plan: Plan, *, required: bool) -> Images | None:
    """The site's images; where others are measured on, they may be gone."""
    try:
        return data.load(layout.remembered(home, None), plan, kept=home / "images")
    except FedhelpError:
        if required:
            raise
        return None


def _others(home: Path, plan: Plan, images: Path) -> Images:
    names = kept_names(home / "images", images, plan.classes)
    columns = kept_columns(home / "images", images)
    found = data.load(images, plan, kept=home / "others", mapping=names, columns=columns)
    return replace(found, splits=("test",) * len(found))


def _seen_before(own: Images | None, others: Images) -> list[dict[str, Any]]:
    """Which of other images were learned from, as far as the site's own are still there."""
    if own is None:
        said = "the training images cannot be read here: whether these images were learned from is not known"
        return [data.Finding("unknown-training-images", "test", len(others), len(others), said).to_json()]
    return [finding.to_json() for finding in data.seen_before(others, own)]
