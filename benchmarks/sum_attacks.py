"""What the checks of a secure sum find of one hostile site of six, and how often they hold an honest sum.

Six sites of 35 % to 8 % of 2,000 images train by FedAvg, honestly. From the fourth round on the second largest turns
hostile for one round, in each of the ways below, upon the same honest model. `held`: its sum is held in this round.
`next`: the fall of the sites' accuracy holds the sum of the next round. `harm` is what the model loses, in points of
accuracy: the median of all sums, and the worst of those that are held in neither. `clip` is 1.5 times the longest
honest change of the first round. Prints JSON lines, and on stderr how far it is. `--short` has one federation.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import report
from fedhelp_edge import plan as plans
from fedhelp_edge.data import npz
from fedhelp_edge.data.images import Images
from fedhelp_edge.merge import sum_outliers
from fedhelp_edge.merge.norm_limit import update_norm
from fedhelp_edge.merge.sum_outliers import ROUNDS_BEFORE, SummedRound
from fedhelp_edge.methods.base import Compute, Learner
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.report.scale import SCALES
from fedhelp_edge.train import learners
from fedhelp_edge.train.visit import Visit, judge, visit
from fedhelp_edge.update import LIMITED_ROLES, Array, role_by_name

DATA = Path(__file__).parents[1] / os.environ.get("FEDHELP_DATA", "../shared/data") / "classification"
HOMES = {  # file, classes, image size, channels
    "chest X-rays": ("pneumoniamnist", 2, 28, 1),
    "blood cells": ("bccd_cells_32", 3, 32, 3),
    "skin": ("fedisic_mini_32", 8, 32, 3),
}
RUNS = [(home, "resnet8", seed) for home in HOMES for seed in (0, 1)] + [("chest X-rays", "resnet20", 0)]
ROUNDS, IMAGES = 15, 2000
PARTS = np.array([0.35, 0.2, 0.15, 0.12, 0.1, 0.08])  # of the images; labels are skewed
HOSTILE = 1
_PLAN = """classes = {classes}
method = "fedavg"
rounds = {rounds}
seed = {seed}
[image]
size = {size}
channels = {channels}
mean = {mean}
std = {std}
[nets]
small = "{net}"
[training]
precision = "fp32"
"""

Model = dict[str, Array]


class Judged(NamedTuple):
    """One sum."""

    held: bool  # before its model is published
    falls: bool  # the sites' accuracy, so that the next sum is held
    harm: float


class Federation:
    """Six sites and their learners."""

    def __init__(self, home: str, net: str, seed: int, rounds: int) -> None:
        file, classes, size, channels = HOMES[home]
        scale = {"mean": [0.5] * channels, "std": [0.25] * channels}
        names = [f"class-{label}" for label in range(classes)]
        text = _PLAN.format(
            classes=str(names).replace("'", '"'), rounds=rounds, seed=seed, size=size, channels=channels, net=net,
            **scale,
        )  # fmt: skip
        self.plan = plans.read(text, METHODS)
        self.sites = list(self._distributed(file, seed))
        self.learners = [self._learner(number, site.split("train")) for number, site in enumerate(self.sites)]
        train = self.sites[HOSTILE].split("train")
        self.flipped = replace(train, labels=(train.labels + 1) % classes)
        self.liar = self._learner(HOSTILE, self.flipped)
        self.examples = np.array([len(site.split("train")) for site in self.sites], np.float64)

    def _distributed(self, file: str, seed: int) -> Iterator[Images]:
        with np.load(DATA / f"{file}.npz") as archive:
            splits = [split for split in ("train", "val", "test") if f"{split}_images" in archive]
            images = np.concatenate([archive[f"{split}_images"] for split in splits])
            labels = np.concatenate([archive[f"{split}_labels"] for split in splits]).ravel().astype(np.int64)
        random = np.random.default_rng(seed)
        chosen = random.permutation(len(images))[:IMAGES]
        skewed = random.random(len(chosen)) < 0.3  # these lie in the order of their labels
        places = np.where(skewed, labels[chosen] + random.random(len(chosen)), random.random(len(chosen)) * 10)
        order = chosen[np.argsort(places)]
        for part in np.split(order, (np.cumsum(PARTS)[:-1] * len(order)).astype(int)):
            pixels = np.stack([npz.decode(image, self.plan.image).pixels for image in images[part]])
            names, blank = ("val", *("train",) * 4), ("",) * len(part)
            yield Images(pixels, labels[part], tuple(names[i % 5] for i in range(len(part))), blank, blank, blank)

    def _learner(self, number: int, train: Images) -> Learner:
        return learners.create(self.plan, f"site-{number + 1:03}", "small", train, None, Compute())

    def visits(self, model: Model, round_: int) -> list[Visit]:
        return [
            visit(learner, learners.image_sets(site.split("train"), None), site.split("val"), model, round_)
            for learner, site in zip(self.learners, self.sites, strict=True)
        ]

    def lie(self, model: Model, round_: int) -> Model:
        """The update of the hostile site's images with wrong labels."""
        sets = learners.image_sets(self.flipped, None)
        return visit(self.liar, sets, self.sites[HOSTILE].split("val"), model, round_).update

    def counts(self, model: Model, round_: int) -> dict[str, int]:
        """What all sites together report of a model."""
        learner = self.learners[0]
        learner.receive(model, round_)
        right = [
            SCALES["classification"].right([judge(learner, learner.net, site.split("val"))]) for site in self.sites
        ]
        return {"val": sum(val for val, _ in right), "correct": sum(correct for _, correct in right)}


def main() -> None:
    torch.set_num_threads(1)
    short = "--short" in sys.argv
    together: dict[str, list[Judged]] = {}
    for home, net, seed in RUNS[:1] if short else RUNS:
        for sums, judged in _run(Federation(home, net, seed, ROUNDS), 5 if short else ROUNDS).items():
            together.setdefault(sums, []).extend(judged)
            report("attacks on a secure sum", ("torch",), images=home, net=net, seed=seed, sums=sums, **_row(judged))
    for sums, judged in together.items():
        report("attacks on a secure sum", ("torch",), images="all", sums=sums, **_row(judged))


def _run(federation: Federation, rounds: int) -> dict[str, list[Judged]]:
    started, model, clip = time.monotonic(), dict(METHODS["fedavg"].start(federation.plan)), 0.0
    merged: list[SummedRound] = []
    judged: dict[str, list[Judged]] = {}
    for round_ in range(1, rounds + 1):
        counts = federation.counts(model, round_)
        updates = [visited.update for visited in federation.visits(model, round_)]
        clip = clip or 1.5 * max(update_norm(model, update)["weights"] for update in updates)
        before = merged[-ROUNDS_BEFORE:]
        for name, (update, examples) in _sums(federation, model, updates, clip, round_).items():
            if len(before) < ROUNDS_BEFORE:
                break
            present = [site for site in range(len(updates)) if examples[site]]
            claimed = {"updates": len(present), "examples": int(examples.sum()), **counts}
            mean = _mean([*updates[:HOSTILE], update, *updates[HOSTILE + 1 :]], examples)
            after = federation.counts(mean, round_)
            falls = sum_outliers.fallen_from(
                after, [each.counts for each in [*before[1:], SummedRound({}, {}, counts)]]
            )
            held = bool(sum_outliers.unusual(SummedRound(model, mean, claimed), before))
            harm = 100 * (counts["correct"] / counts["val"] - after["correct"] / after["val"])
            judged.setdefault(name, []).append(Judged(held, falls is not None, harm))
        honest = _mean(updates, federation.examples)
        claimed = {"updates": len(updates), "examples": int(federation.examples.sum()), **counts}
        merged.append(SummedRound(model, honest, claimed))
        model = honest
        print(f"round {round_}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return judged


def _row(sums: list[Judged]) -> dict[str, object]:
    unseen = [each.harm for each in sums if not each.held and not each.falls]
    return {
        "of": len(sums), "held": sum(each.held for each in sums),
        "next": sum(each.falls and not each.held for each in sums),
        "harm": round(statistics.median(each.harm for each in sums), 1),
        "worst unseen": round(max(unseen), 1) if unseen else None,
    }  # fmt: skip


def _sums(
    federation: Federation, model: Model, updates: list[Model], clip: float, round_: int
) -> Mapping[str, tuple[Model, NDArray[np.float64]]]:
    """By name, the hostile site's update, and the images that the sites claim."""
    own, lie, images = updates[HOSTILE], federation.lie(model, round_), federation.examples
    inflated = images * np.where(np.arange(len(images)) == HOSTILE, 10, 1)
    return {
        "honest": (own, images),
        "honest, the largest site away": (own, images * (np.arange(len(images)) > 0)),
        "sign turned": (_scaled(model, own, -1), images),
        "sign turned, ten times, clipped": (_scaled(model, own, -10, clip), images),
        "sign turned, ten times": (_scaled(model, own, -10), images),
        "sign turned, claims ten times the images": (_scaled(model, own, -1), inflated),
        "wrong labels": (lie, images),
        "wrong labels, ten times, clipped": (_scaled(model, lie, 10, clip), images),
        "wrong labels, ten times": (_scaled(model, lie, 10), images),
    }


def _scaled(model: Model, update: Model, factor: float, clip: float = 0.0) -> Model:
    """An update whose change of the weights is scaled, and then clipped."""
    norm = abs(factor) * update_norm(model, update)["weights"]
    if clip and norm > clip:
        factor *= clip / norm
    return {
        name: (model[name] + factor * (array.astype(np.float64) - model[name])).astype(np.float32)
        if role_by_name(name) in LIMITED_ROLES
        else array
        for name, array in update.items()
    }


def _mean(updates: list[Model], examples: NDArray[np.float64]) -> Model:
    parts = examples / examples.sum()
    return {
        name: sum(part * update[name].astype(np.float64) for part, update in zip(parts, updates, strict=True)).astype(
            np.float32
        )
        for name in updates[0]
    }


if __name__ == "__main__":
    main()
