"""A site's training: the round's net, and beside it the yardstick, the same net trained alone with as many steps.

A round is a folder of files that are written once: the learner's state, what travels, the yardstick's state, and last
`report.json`, without which the round is not over and goes on where it was cut off. `report.html` shows the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import data, files, lock, update
from fedhelp_edge.data import pack as packs
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.methods.base import Bench, Learner
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets.resnet import ResNet
from fedhelp_edge.plan import Plan
from fedhelp_edge.report import metrics, rounds
from fedhelp_edge.site import layout
from fedhelp_edge.train import checkpoint, learners, loop, machine, parallel
from fedhelp_edge.update import Array

Watch = Callable[[str], loop.Progress | None]  # a bar for each part of the work

LOCK = "train.lock"
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

    def findings(self) -> list[dict[str, Any]]:
        """What whoever reads figures of these images must know of them."""
        return [finding.to_json() for finding in data.findings(self.images, self.plan.classes)]

    def sets(self) -> dict[str, loop.Set]:
        return learners.sets(self.images.part("train"), self.pack)


@contextmanager
def at_work(
    home: Path, plan: Plan, site: str, tier: str, images: Path | None, knowledge: Path | None,
    *, device: str = "cpu", threads: int | None = None,
) -> Iterator[Place]:  # fmt: skip
    """A place with its images decoded and its processes together; of several the first decides what is done."""
    machine.settle(threads)
    bench = parallel.join(machine.bench(plan.training.precision, device))
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with nullcontext() if bench.rank else lock.held(home / LOCK, wait=0):
        with parallel.first(bench):
            found = data.load(layout.remembered(home, None if bench.rank else images), plan, kept=home / "images")
        side = plan.tables["fedhelp"].public_size
        pack = packs.load(knowledge).fitted(side, plan.image.channels) if knowledge else None
        yield Place(plan, site, tier, found, pack, bench)
        parallel.leave(bench)


def learn(
    place: Place, round_: int, merged: Mapping[str, Array], at: Path, before: Path | None, watch: Watch
) -> dict[str, Any]:
    """One round at a site, from the merged model, in a folder beside its other rounds; `before` is the last."""
    if not (at / _DONE).exists():
        report = _round(place, round_, merged, at, before, watch)
        with files.writing(at / _DONE) as file:
            file.write(json.dumps(report, indent=1).encode())
    if not (at / "report.html").exists():
        told = [read(done.parent) for done in at.parent.glob(f"*/{_DONE}")]
        so_far = sorted((one for one in told if one["round"] <= round_), key=itemgetter("round"))
        with files.writing(at / "report.html") as file:
            file.write(rounds.report(place.plan.name, so_far).encode())
    return read(at)


def read(at: Path) -> dict[str, Any]:
    """The report of a finished round."""
    return dict(json.loads((at / _DONE).read_text(encoding="utf-8")))


def _round(
    place: Place, round_: int, merged: Mapping[str, Array], at: Path, before: Path | None, watch: Watch
) -> dict[str, Any]:
    learner = place.learner()
    _take_up(learner, before and before / "own", round_)
    learner.receive(merged, round_)
    base = _right(learner, place) if METHODS[place.plan.method].exchanges else {}
    told = _train(learner, place, round_, at / "own", watch("training"))
    if not (at / "share.safetensors").exists():
        with files.writing(at / "share.safetensors") as file:
            update.write(file, learner.give().arrays)
    figures = {"own": _accuracy(learner, place)}
    if place.plan.training.yardstick and METHODS[place.plan.method].exchanges:
        alone = place.learner("local")
        _take_up(alone, before and before / "alone", round_)
        alone.receive(merged, round_)
        _train(alone, place, round_, at / "alone", watch("training alone, to compare"))
        figures["alone"] = _accuracy(alone, place)
    return {
        "round": round_, "method": place.plan.method, "tier": place.tier, "examples": sum(learner.site.examples),
        "loss": told.means(), "val": figures, "seconds": round(told.seconds, 1),
        "cpu_seconds": round(told.cpu_seconds, 1), "images": told.images, "prior": learner.prior, "base": base,
        "val_images": len(place.images.part("val")), "left_out": len(place.images.problems),
        "findings": place.findings(),
    }  # fmt: skip


def follow(place: Place) -> None:
    """What every process but the first does in its stead: it helps to train, until the first has ended."""
    loop.follow(
        lambda method, tier: replace(place, plan=replace(place.plan, method=method), tier=tier).learner(), place.sets()
    )


def answers(place: Place, at: Path, split: str) -> dict[str, NDArray[np.float64]]:
    """What the nets of a finished round say of a part of the images, with the prior of what they were trained on."""
    pixels = place.images.part(split).pixels
    return {name: loop.probabilities(learner, learner.model, pixels) for name, learner in _taken_up(place, at)}


def nets(place: Place, at: Path, merged: Mapping[str, Array] | None) -> dict[str, ResNet]:
    """What a site could diagnose with after a round: its own net, the one trained alone, and the merged one."""
    found = dict(_taken_up(place, at))
    made = {name: cast(ResNet, learner.model) for name, learner in found.items()}
    if merged is not None:
        _, learner = next(_taken_up(place, at))
        learner.receive(merged, 1)
        made["merged"] = learner.net
    return made


def _taken_up(place: Place, at: Path) -> Iterator[tuple[str, Learner]]:
    """The learners of a finished round as it left them; they answer with the prior of what they were trained on."""
    prior = read(at)["prior"]
    for name, method in (("own", ""), ("alone", "local")):
        state = checkpoint.newest(at / name)
        if state:
            learner = place.learner(method)
            learner.load(state[1], 1)
            learner.prior = prior
            yield name, learner


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


def _right(learner: Learner, place: Place) -> dict[str, int]:
    """How many images that are kept to choose by the model of the round gets right, before anything is learned."""
    images = place.images.part("val")
    said = loop.probabilities(learner, learner.net, images.pixels)
    return {"val": len(images), "correct": int((said.argmax(1) == images.labels).sum())}


def _accuracy(learner: Learner, place: Place) -> float | None:
    """On the part that is kept to choose by."""
    images = place.images.part("val")
    said = loop.probabilities(learner, learner.model, images.pixels)
    return metrics.scores(said, images.labels).accuracy.value
