"""A site's training: the round's net, and beside it the yardstick, the same net trained alone with as many steps.

A round is a folder of files that are written once: the learner's state, what travels, the yardstick's state, and last
`report.json`, without which the round is not over and goes on where it was cut off. `report.html` shows the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files, share
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.methods.base import Bench, Learner
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.plan import Plan
from fedhelp_edge.report import metrics, rounds
from fedhelp_edge.share import Array
from fedhelp_edge.train import checkpoint, learners, loop

Watch = Callable[[str], loop.Progress | None]  # a bar for each part of the work

_DONE = "report.json"


@dataclass(frozen=True)
class Place:
    """Who trains, by which plan, on what."""

    plan: Plan
    site: str
    tier: str
    images: Images
    pack: Pack | None
    bench: Bench

    def learner(self, method: str = "") -> Learner:
        """The learner of the plan's method, or of another one, for this site."""
        plan = replace(self.plan, method=method or self.plan.method)
        tier = self.tier if METHODS[self.plan.method].two_tiers or not method else "small"  # the same net
        return learners.learner(plan, self.site, tier, self.images.part("train"), self.pack, self.bench)

    def sets(self) -> dict[str, loop.Set]:
        return learners.sets(self.images.part("train"), self.pack)


def learn(
    place: Place, round_: int, merged: Mapping[str, Array], folder: Path, before: Path | None, watch: Watch
) -> dict[str, Any]:
    """One round at a site, from the merged model, in a folder beside its other rounds; `before` is the last."""
    if not (folder / _DONE).exists():
        report = _round(place, round_, merged, folder, before, watch)
        with files.writing(folder / _DONE) as file:
            file.write(json.dumps(report, indent=1).encode())
    if not (folder / "report.html").exists():
        told = [read(done.parent) for done in folder.parent.glob(f"*/{_DONE}")]
        so_far = sorted((one for one in told if one["round"] <= round_), key=itemgetter("round"))
        with files.writing(folder / "report.html") as file:
            file.write(rounds.report(place.plan.name, so_far).encode())
    return read(folder)


def read(folder: Path) -> dict[str, Any]:
    """The report of a finished round."""
    return dict(json.loads((folder / _DONE).read_text(encoding="utf-8")))


def _round(
    place: Place, round_: int, merged: Mapping[str, Array], folder: Path, before: Path | None, watch: Watch
) -> dict[str, Any]:
    learner = place.learner()
    _take_up(learner, before and before / "own", round_)
    learner.receive(merged, round_)
    told = _train(learner, place, round_, folder / "own", watch("training"))
    if not (folder / "share.safetensors").exists():
        with files.writing(folder / "share.safetensors") as file:
            share.write(file, learner.give().arrays)
    figures = {"own": _accuracy(learner, place)}
    if place.plan.training.yardstick and METHODS[place.plan.method].exchanges:
        alone = place.learner("local")
        _take_up(alone, before and before / "alone", round_)
        alone.receive(merged, round_)
        _train(alone, place, round_, folder / "alone", watch("training alone, to compare"))
        figures["alone"] = _accuracy(alone, place)
    return {
        "round": round_, "method": place.plan.method, "tier": place.tier, "examples": sum(learner.site.examples),
        "loss": told.means(), "val": figures, "seconds": round(told.seconds, 1),
        "cpu_seconds": round(told.cpu_seconds, 1), "images": told.images, "prior": learner.prior,
    }  # fmt: skip


def follow(place: Place) -> None:
    """What every process but the first does in its stead: it helps to train, until the first has ended."""
    loop.follow(
        lambda method, tier: replace(place, plan=replace(place.plan, method=method), tier=tier).learner(), place.sets()
    )


def answers(place: Place, folder: Path, split: str) -> dict[str, NDArray[np.float64]]:
    """What the nets of a finished round say of a part of the images, with the prior of what they were trained on."""
    prior = read(folder)["prior"]
    found: dict[str, NDArray[np.float64]] = {}
    for name, method in (("own", ""), ("alone", "local")):
        state = checkpoint.newest(folder / name)
        if state:
            learner = place.learner(method)
            learner.load(state[1], 1)
            learner.prior = prior
            found[name] = loop.probabilities(learner, learner.model, place.images.part(split).pixels)
    return found


def _train(learner: Learner, place: Place, round_: int, kept: Path, progress: loop.Progress | None) -> loop.Report:
    """Train a round, and keep the state that it ends with."""
    told = loop.train(learner, place.sets(), round_, kept=kept, progress=progress)
    learner.optimisers = {}  # new in each round
    checkpoint.save(kept, _LAST, {"round": round_, "done": _LAST, "report": vars(told)}, learner.state())
    return told


_LAST = 999_999_999  # above any step: the state at the end of a round


def _take_up(learner: Learner, before: Path | None, round_: int) -> None:
    state = checkpoint.newest(before) if before else None
    if state:
        learner.load(state[1], round_)


def _accuracy(learner: Learner, place: Place) -> float | None:
    """On the part that is kept to choose by."""
    images = place.images.part("val")
    said = loop.probabilities(learner, learner.model, images.pixels)
    return metrics.scores(said, images.labels).accuracy.value
