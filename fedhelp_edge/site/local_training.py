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
from fedhelp_edge.methods.base import Compute, Learner
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets.resnet import ResNet
from fedhelp_edge.plan import Plan
from fedhelp_edge.report import metrics, rounds
from fedhelp_edge.site import layout
from fedhelp_edge.train import checkpoint, learners, loop, machine, parallel
from fedhelp_edge.update import Array

Watch = Callable[[str], loop.Progress | None]  # a bar for each part of the work

LOCK = "train.lock"
_REPORT = "report.json"


@dataclass(frozen=True)
class TrainingContext:
    """Who trains, by which plan, on what."""

    plan: Plan
    site: str
    tier: str
    images: Images
    pack: Pack | None
    compute: Compute

    def learner(self, method: str = "") -> Learner:
        """The learner of the plan's method, or of another one, for this site."""
        plan = replace(self.plan, method=method or self.plan.method)
        tier = self.tier if METHODS[self.plan.method].two_tiers or not method else "small"  # the same net
        return learners.create(plan, self.site, tier, self.images.part("train"), self.pack, self.compute)

    def findings(self) -> list[dict[str, Any]]:
        """What whoever reads figures of these images must know of them."""
        return [finding.to_json() for finding in data.findings(self.images, self.plan.classes)]

    def sets(self) -> dict[str, loop.Set]:
        return learners.image_sets(self.images.part("train"), self.pack)


@contextmanager
def open_context(
    home: Path, plan: Plan, site: str, tier: str, images: Path | None, knowledge: Path | None,
    *, device: str = "cpu", threads: int | None = None,
) -> Iterator[TrainingContext]:  # fmt: skip
    """A place with its images decoded and its processes together; of several the first decides what is done."""
    machine.configure(threads)
    bench = parallel.join(machine.compute(plan.training.precision, device))
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with nullcontext() if bench.rank else lock.exclusive(home / LOCK, wait=0):
        with parallel.main_process_first(bench):
            decoded = data.load(
                layout.resolve_images(home, None if bench.rank else images), plan, state_dir=home / "images"
            )
        public_size = plan.tables["fedhelp"].public_size
        pack = packs.load(knowledge).resized(public_size, plan.image.channels) if knowledge else None
        yield TrainingContext(plan, site, tier, decoded, pack, bench)
        parallel.leave(bench)


def train_round(
    context: TrainingContext,
    round_: int,
    merged: Mapping[str, Array],
    round_dir: Path,
    previous_dir: Path | None,
    watch: Watch,
) -> dict[str, Any]:
    """One round at a site, from the merged model, in a folder beside its other rounds; `before` is the last."""
    if not (round_dir / _REPORT).exists():
        report = _train_and_report(context, round_, merged, round_dir, previous_dir, watch)
        with files.writing(round_dir / _REPORT) as file:
            file.write(json.dumps(report, indent=1).encode())
    if not (round_dir / "report.html").exists():
        reports = [read_report(report_path.parent) for report_path in round_dir.parent.glob(f"*/{_REPORT}")]
        so_far = sorted((report_ for report_ in reports if report_["round"] <= round_), key=itemgetter("round"))
        with files.writing(round_dir / "report.html") as file:
            file.write(rounds.page(context.plan.name, so_far).encode())
    return read_report(round_dir)


def read_report(round_dir: Path) -> dict[str, Any]:
    """The report of a finished round."""
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
    epochs_report = _train(learner, context, round_, round_dir / "own", watch("training"))
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
        "loss": epochs_report.means(), "val": accuracy, "seconds": round(epochs_report.seconds, 1),
        "cpu_seconds": round(epochs_report.cpu_seconds, 1), "images": epochs_report.images, "prior": learner.prior, "base": base_counts,
        "val_images": len(context.images.part("val")), "left_out": len(context.images.problems),
        "findings": context.findings(),
    }  # fmt: skip


def follow(context: TrainingContext) -> None:
    """What every process but the first does in its stead: it helps to train, until the first has ended."""
    loop.follow(
        lambda method, tier: replace(context, plan=replace(context.plan, method=method), tier=tier).learner(),
        context.sets(),
    )


def predictions(context: TrainingContext, round_dir: Path, split: str) -> dict[str, NDArray[np.float64]]:
    """What the nets of a finished round say of a part of the images, with the prior of what they were trained on."""
    pixels = context.images.part(split).pixels
    return {
        name: loop.probabilities(learner, learner.model, pixels) for name, learner in _load_learners(context, round_dir)
    }


def nets(context: TrainingContext, round_dir: Path, merged: Mapping[str, Array] | None) -> dict[str, ResNet]:
    """What a site could diagnose with after a round: its own net, the one trained alone, and the merged one."""
    learners_by_name = dict(_load_learners(context, round_dir))
    nets_by_name = {name: cast(ResNet, learner.model) for name, learner in learners_by_name.items()}
    if merged is not None:
        _, learner = next(_load_learners(context, round_dir))
        learner.receive(merged, 1)
        nets_by_name["merged"] = learner.net
    return nets_by_name


def _load_learners(context: TrainingContext, round_dir: Path) -> Iterator[tuple[str, Learner]]:
    """The learners of a finished round as it left them; they answer with the prior of what they were trained on."""
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
    """Train a round, and keep the state that it ends with."""
    epochs_report = loop.train(learner, context.sets(), round_, checkpoints=checkpoint_dir, progress=progress)
    learner.optimisers = {}  # new in each round
    checkpoint.save(
        checkpoint_dir,
        _END_OF_ROUND,
        {"round": round_, "done": _END_OF_ROUND, "report": vars(epochs_report)},
        learner.state(),
    )
    return epochs_report


_END_OF_ROUND = 999_999_999  # above any step: the state at the end of a round


def _resume(learner: Learner, checkpoint_dir: Path | None, round_: int) -> None:
    state = checkpoint.newest(checkpoint_dir) if checkpoint_dir else None
    if state:
        learner.load(state[1], round_)


def _count_correct(learner: Learner, context: TrainingContext) -> dict[str, int]:
    """How many images that are kept to choose by the model of the round gets right, before anything is learned."""
    images = context.images.part("val")
    probabilities = loop.probabilities(learner, learner.net, images.pixels)
    return {"val": len(images), "correct": int((probabilities.argmax(1) == images.labels).sum())}


def _validation_accuracy(learner: Learner, context: TrainingContext) -> float | None:
    """On the part that is kept to choose by."""
    images = context.images.part("val")
    probabilities = loop.probabilities(learner, learner.model, images.pixels)
    return metrics.scores(probabilities, images.labels).accuracy.value
