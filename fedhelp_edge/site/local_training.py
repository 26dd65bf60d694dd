"""Trains a round at a site, and beside it the local baseline: the same net, trained alone with as many steps.

A round is a folder of files that are written once: the learner's state, the update, the baseline's state, and last
`report.json`. Without that file the round is unfinished and resumes at its checkpoint. `report.html` shows the same.
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
from fedhelp_edge.methods.base import Compute, Learner
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets.resnet import ResNet
from fedhelp_edge.plan import Plan
from fedhelp_edge.report import metrics, rounds
from fedhelp_edge.site import layout
from fedhelp_edge.train import checkpoint, learners, loop, machine, parallel
from fedhelp_edge.update import Array

Watch = Callable[[str], loop.Progress | None]  # a progress bar for each part of the work

LOCK = "train.lock"
_REPORT = "report.json"
_END_OF_ROUND = 999_999_999  # as number of the last checkpoint: above any step


@dataclass(frozen=True)
class TrainingContext:
    """A site's plan, images, knowledge and compute, from which learners are made."""

    plan: Plan
    site: str
    tier: str
    images: Images
    pack: Pack | None
    compute: Compute

    def learner(self, method: str = "") -> Learner:
        """Creates the learner of the plan's method, or of another one, for this site."""
        plan = replace(self.plan, method=method or self.plan.method)
        tier = self.tier if METHODS[self.plan.method].two_tiers or not method else "small"  # the same net
        return learners.create(plan, self.site, tier, self.images.part("train"), self.pack, self.compute)

    def findings(self) -> list[dict[str, Any]]:
        """Returns the findings about these images that a reader of their figures should know."""
        return [finding.to_json() for finding in data.findings(self.images, self.plan.classes)]

    def sets(self) -> dict[str, loop.Set]:
        return learners.image_sets(self.images.part("train"), self.pack)


@contextmanager
def open_context(
    home: Path, plan: Plan, site: str, tier: str, images: Path | None, knowledge: Path | None,
    *, device: str = "cpu", threads: int | None = None,
) -> Iterator[TrainingContext]:  # fmt: skip
    """Yields the context, with the images decoded and the processes joined. Only rank 0 holds the lock and decides."""
    machine.configure(threads)
    compute = parallel.join(machine.compute(plan.training.precision, device))
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with nullcontext() if compute.rank else lock.exclusive(home / LOCK, wait=0):
        with parallel.main_process_first(compute):
            decoded = data.load(
                layout.resolve_images(home, None if compute.rank else images), plan, state_dir=home / "images"
            )
        public_size = plan.tables["fedhelp"].public_size
        pack = packs.load(knowledge).resized(public_size, plan.image.channels) if knowledge else None
        yield TrainingContext(plan, site, tier, decoded, pack, compute)
        parallel.leave(compute)


def train_round(
    context: TrainingContext,
    round_: int,
    merged: Mapping[str, Array],
    round_dir: Path,
    previous_dir: Path | None,
    watch: Watch,
) -> dict[str, Any]:
    """Trains one round from the merged model and returns its report. A finished round is not trained again.

    `previous_dir` is the site's last round, whose local state it continues.
    """
    if not (round_dir / _REPORT).exists():
        report = _train_and_report(context, round_, merged, round_dir, previous_dir, watch)
        with files.writing(round_dir / _REPORT) as file:
            file.write(json.dumps(report, indent=1).encode())
    if not (round_dir / "report.html").exists():
        reports = [read_report(path.parent) for path in round_dir.parent.glob(f"*/{_REPORT}")]
        so_far = sorted((each for each in reports if each["round"] <= round_), key=itemgetter("round"))
        with files.writing(round_dir / "report.html") as file:
            file.write(rounds.page(context.plan.name, so_far).encode())
    return read_report(round_dir)


def read_report(round_dir: Path) -> dict[str, Any]:
    """Reads the report of a finished round."""
    return dict(json.loads((round_dir / _REPORT).read_text(encoding="utf-8")))


def _train_and_report(
    context: TrainingContext,
    round_: int,
    merged: Mapping[str, Array],
    round_dir: Path,
    previous_dir: Path | None,
    watch: Watch,
) -> dict[str, Any]:
    learner = context.learner()
    _resume(learner, previous_dir and previous_dir / "own", round_)
    learner.receive(merged, round_)
    base_counts = _count_correct(learner, context) if METHODS[context.plan.method].exchanges else {}
    trained = _train(learner, context, round_, round_dir / "own", watch("training"))
    if not (round_dir / "share.safetensors").exists():
        with files.writing(round_dir / "share.safetensors") as file:
            update.write(file, learner.give().arrays)
    accuracy = {"own": _validation_accuracy(learner, context)}
    if context.plan.training.yardstick and METHODS[context.plan.method].exchanges:
        baseline = context.learner("local")
        _resume(baseline, previous_dir and previous_dir / "alone", round_)
        baseline.receive(merged, round_)
        _train(baseline, context, round_, round_dir / "alone", watch("training alone, to compare"))
        accuracy["alone"] = _validation_accuracy(baseline, context)
    return {
        "round": round_, "method": context.plan.method, "tier": context.tier, "examples": sum(learner.site.examples),
        "loss": trained.means(), "val": accuracy, "seconds": round(trained.seconds, 1),
        "cpu_seconds": round(trained.cpu_seconds, 1), "images": trained.images, "prior": learner.prior,
        "base": base_counts, "val_images": len(context.images.part("val")), "left_out": len(context.images.problems),
        "findings": context.findings(),
    }  # fmt: skip


def follow(context: TrainingContext) -> None:
    """Serves rank 0 in its training until it ends: what every other process does."""
    loop.follow(
        lambda method, tier: replace(context, plan=replace(context.plan, method=method), tier=tier).learner(),
        context.sets(),
    )


def predictions(context: TrainingContext, round_dir: Path, split: str) -> dict[str, NDArray[np.float64]]:
    """Returns each net's probabilities (images, classes) for one split, with the prior of its training images."""
    pixels = context.images.part(split).pixels
    return {
        name: loop.probabilities(learner, learner.model, pixels) for name, learner in _load_learners(context, round_dir)
    }


def nets(context: TrainingContext, round_dir: Path, merged: Mapping[str, Array] | None) -> dict[str, ResNet]:
    """Returns a finished round's nets by name: the site's own, the local baseline, and the merged one if given."""
    learners_of = dict(_load_learners(context, round_dir))
    nets_of = {name: cast(ResNet, learner.model) for name, learner in learners_of.items()}
    if merged is not None:
        _, learner = next(_load_learners(context, round_dir))
        learner.receive(merged, 1)
        nets_of["merged"] = learner.net
    return nets_of


def _load_learners(context: TrainingContext, round_dir: Path) -> Iterator[tuple[str, Learner]]:
    """Yields the learners of a finished round with their final state and the prior of their training images."""
    prior = read_report(round_dir)["prior"]
    for name, method in (("own", ""), ("alone", "local")):
        state = checkpoint.newest(round_dir / name)
        if state:
            learner = context.learner(method)
            learner.load(state[1], 1)
            learner.prior = prior
            yield name, learner


def _train(
    learner: Learner, context: TrainingContext, round_: int, checkpoint_dir: Path, progress: loop.Progress | None
) -> loop.EpochReport:
    """Trains a round and saves the final state."""
    trained = loop.train(learner, context.sets(), round_, checkpoints=checkpoint_dir, progress=progress)
    learner.optimisers = {}  # new in each round
    facts = {"round": round_, "done": _END_OF_ROUND, "report": vars(trained)}
    checkpoint.save(checkpoint_dir, _END_OF_ROUND, facts, learner.state())
    return trained


def _resume(learner: Learner, checkpoint_dir: Path | None, round_: int) -> None:
    state = checkpoint.newest(checkpoint_dir) if checkpoint_dir else None
    if state:
        learner.load(state[1], round_)


def _count_correct(learner: Learner, context: TrainingContext) -> dict[str, int]:
    """Counts the validation images that the round's model classifies correctly, before it is trained further."""
    images = context.images.part("val")
    probabilities = loop.probabilities(learner, learner.net, images.pixels)
    return {"val": len(images), "correct": int((probabilities.argmax(1) == images.labels).sum())}


def _validation_accuracy(learner: Learner, context: TrainingContext) -> float | None:
    """Returns the accuracy on the validation images, or None without any."""
    images = context.images.part("val")
    probabilities = loop.probabilities(learner, learner.model, images.pixels)
    return metrics.scores(probabilities, images.labels).accuracy.value
