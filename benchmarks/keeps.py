"""How to decide what a site keeps: what rules gain over training alone, with few and with many validation images.

A site has its own net, a merged net and its local baseline (in this order). Nets are simulated, in four scenes: from a
merged net that helps to one that would ruin a site. Or they are trained: linear heads of federations on the training
images of FEDHELP_DATA. A file of features may be named (`python -m benchmarks.keeps features.npz`); else the leading
components of pixels are used. Test images of no data set are read. All draws are seeded. Prints JSON lines.

`gain` and `loss_gain` are means over sites, in points of accuracy and hundredths of a nat. `below` is the percentage of
sites that are more than 0.5 points below training alone. `shortfall` is the mean over all sites of what these lack.
`covered` is how often the interval that the site sees contains the gain on the other images.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export import keep
from export.keep import log_softmax

DATA = Path(__file__).parents[1] / os.environ.get("FEDHELP_DATA", "../shared/data") / "classification"
SIZES = (10, 20, 50, 100, 300)  # validation images
MARGIN = 0.005
SCENES = {"helps": 0.4, "equal": 0.0, "harms": -0.6, "ruins": -1.5}  # what the merged net knows more than the baseline
NAMES = ("own", "merged", keep.ALONE)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Answers = tuple[Floats, Ints]  # logits (nets x images x classes), and classes
Rule = Callable[["Sample"], Floats]  # how much each net counts

_SINGLE = np.vstack([np.eye(3), np.full(3, 1 / 3)])  # each net, and their average


def main(reps: int = 40) -> None:
    for scene, sites in {**simulated_scenes(reps), **trained_scenes(reps, *sys.argv[1:2])}.items():
        for size, by_rule in outcomes(sites, RULES).items():
            for rule, rows in by_rule.items():
                print(json.dumps({"figure": "what a site keeps", "scene": scene, "images": size, "rule": rule, **rows}))


class Sample:
    """A site's answers for some validation images, with what several rules look at."""

    def __init__(self, logits: Floats, labels: Ints) -> None:
        self.logits, self.labels = logits, labels

    @cached_property
    def right(self) -> Floats:
        """How often each net, and their average, is right."""
        return np.array([(answers.argmax(1) == self.labels).mean() for answers in self._candidates])

    @cached_property
    def losses(self) -> Floats:
        """The calibrated loss of each net, and of their average, for each image."""
        return np.array([_losses(each / self.temperature(each), self.labels) for each in self._candidates])

    @property
    def _candidates(self) -> list[Floats]:
        return [*self.logits, self.logits.mean(0)]

    def temperature(self, logits: Floats) -> float:
        return keep.keep({"net": logits}, self.labels, np.arange(len(self.labels))).temperature


def outcomes(
    sites: Iterator[tuple[Answers, Answers]], rules: Mapping[str, Rule], sizes: Sequence[int] = SIZES
) -> dict[int, dict[str, Any]]:
    """The figures of each rule, by the number of validation images. A site has answers for these and for others."""
    gains: dict[int, dict[str, list[tuple[float, float]]]] = {}
    covered: dict[int, list[bool]] = {}
    for (logits, labels), others in sites:
        for size in (size for size in sizes if size <= len(labels)):
            sample = Sample(logits[:, :size], labels[:size])
            alone = _figures(_SINGLE[2], sample, others)
            for name, rule in rules.items():
                right, loss = _figures(rule(sample), sample, others)
                gains.setdefault(size, {}).setdefault(name, []).append((right - alone[0], alone[1] - loss))
            named = dict(zip(NAMES, sample.logits, strict=True))
            seen = keep.keep(named, sample.labels, np.arange(size)).gain.accuracy
            covered.setdefault(size, []).append((seen.low or 0) <= gains[size][OURS][-1][0] <= (seen.high or 0))
    return {
        size: {
            name: {**_summary(pairs), **({"covered": float(np.mean(covered[size]))} if name == OURS else {})}
            for name, pairs in by_rule.items()
        }
        for size, by_rule in gains.items()
    }


def _summary(pairs: list[tuple[float, float]]) -> dict[str, float]:
    gains, losses = np.array(pairs).T
    return {
        "gain": round(100 * float(gains.mean()), 2), "below": round(100 * float((gains < -MARGIN).mean())),
        "shortfall": round(100 * float(np.minimum(gains, 0).mean()), 2),
        "loss_gain": round(100 * float(losses.mean()), 1),
        "loss_below": round(100 * float((losses < -MARGIN).mean())), "sites": len(gains),
    }  # fmt: skip


def _figures(weights: Floats, sample: Sample, others: Answers) -> tuple[float, float]:
    """Accuracy and loss of weighed nets on other images, with the temperature of the validation images."""
    logits, labels = others
    answers, some = (np.tensordot(weights, each, 1) for each in (logits, sample.logits))
    loss = _losses(answers / sample.temperature(some), labels).mean()
    return float((answers.argmax(1) == labels).mean()), float(loss)


def _losses(logits: Floats, labels: Ints) -> Floats:
    return np.asarray(-log_softmax(logits)[np.arange(len(labels)), labels])


def _most_right(sample: Sample) -> Floats:
    losses = sample.losses.mean(1)
    return np.asarray(_SINGLE[max(range(4), key=lambda net: (sample.right[net], -losses[net]))])


def _least_loss(sample: Sample) -> Floats:
    return np.asarray(_SINGLE[sample.losses.mean(1).argmin()])


def _one_error(default: int) -> Rule:
    """The net of least loss if it leads the default by more than a standard error of the paired differences."""

    def rule(sample: Sample) -> Floats:
        best = int(sample.losses.mean(1).argmin())
        lead = sample.losses[default] - sample.losses[best]
        return np.asarray(_SINGLE[best if lead.mean() > lead.std(ddof=1) / np.sqrt(len(lead)) else default])

    return rule


def _model_averaging(power: float) -> Rule:
    """Bayes' averaging of the four, with a likelihood to this power."""

    def rule(sample: Sample) -> Floats:
        losses = sample.losses.sum(1)
        chances = np.exp(-power * (losses - losses.min()))
        return np.asarray(chances @ _SINGLE / chances.sum())

    return rule


def _bagged(sample: Sample) -> Floats:
    """How often each of the four has the least loss in bootstrap draws."""
    count = len(sample.labels)
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), 200)
    return np.asarray(np.bincount((draws @ sample.losses.T).argmin(1), minlength=4) / 200 @ _SINGLE)


def _ours(sample: Sample) -> Floats:
    numbered = {str(number): each for number, each in enumerate(sample.logits)}  # no baseline: no gain is estimated
    scales = keep.keep(numbered, sample.labels, np.arange(len(sample.labels))).scales
    return np.array([scales.get(name, 0.0) for name in numbered])


OURS = "weighed (ours)"
RULES: Mapping[str, Rule] = {
    "most often right (before)": _most_right,
    "always the average": lambda sample: np.asarray(_SINGLE[3]),
    "least loss": _least_loss,
    "one error from the average": _one_error(3),
    "one error from training alone": _one_error(2),
    "model averaging, power 0.2": _model_averaging(0.2),
    "bagged least loss": _bagged,
    OURS: _ours,
}


def simulated_scenes(reps: int, seed: int = 1) -> dict[str, Iterator[tuple[Answers, Answers]]]:
    """Sites whose nets' logits are evidence for the truth, errors in common, errors of their own, and a bias."""

    def sites(number: int, shift: float) -> Iterator[tuple[Answers, Answers]]:
        return (simulate(np.random.default_rng([seed, number, rep]), shift) for rep in range(reps))

    return {scene: sites(number, shift) for number, (scene, shift) in enumerate(SCENES.items())}


def simulate(random: np.random.Generator, shift: float, others: int = 3000) -> tuple[Answers, Answers]:
    """A site's validation images, as many as the largest size, and others. Nets differ in what they know and claim."""
    classes, count = int(random.choice([2, 3, 8])), SIZES[-1] + others
    frequencies = np.maximum(random.dirichlet(np.full(classes, 2.0)), 0.02)
    labels = random.choice(classes, count, p=frequencies / frequencies.sum())
    base, common, nets = random.uniform(0.8, 2.2), random.normal(size=(count, classes)), []
    for knows, noise, bias in (
        (base + random.normal(0.6 * max(shift, -0.5) + 0.05, 0.15), 0.6, 0.25),
        (base + random.normal(shift, 0.15), 1.0, 0.8 if shift < 0 else 0.25),
        (base, 0.8, 0.25),
    ):
        errors = 0.6 * common + noise * random.normal(size=(count, classes)) + random.normal(0, bias, classes)
        claims = np.exp(random.normal(0.2, 0.5))
        nets.append((2 * max(0.05, knows) * np.eye(classes)[labels] + errors) * claims)
    return _parted(np.array(nets), labels, SIZES[-1])


def _parted(logits: Floats, labels: Ints, count: int) -> tuple[Answers, Answers]:
    return (logits[:, :count], labels[:count]), (logits[:, count:], labels[count:])


def trained_scenes(reps: int, features: str = "", seed: int = 1) -> dict[str, Iterator[tuple[Answers, Answers]]]:
    """Linear heads of real federations, each time with other images: of skin by centre, of others by drawn classes."""
    if not features and not DATA.exists():
        return {}
    data = dict(np.load(features)) if features else _pixels()
    scenes: dict[str, Iterator[tuple[Answers, Answers]]] = {}
    for number, (name, skewed) in enumerate((("skin", True), ("chest", False), ("chest", True), ("cells", True))):
        images, labels, centres = (data.get(f"{name}_{part}") for part in ("images", "labels", "centres"))
        assert images is not None and labels is not None
        reduced = _components(images.reshape(len(images), -1))
        scene = f"{name}, {'centres' if centres is not None else 'skewed' if skewed else 'alike'}"
        scenes[scene] = _trained(np.random.SeedSequence([seed, number]), reps, reduced, labels, centres, skewed)
    return scenes


def _trained(
    seed: np.random.SeedSequence, reps: int, images: Floats, labels: Ints, centres: Ints | None, skewed: bool
) -> Iterator[tuple[Answers, Answers]]:
    return (_train(np.random.default_rng(each), images, labels, centres, skewed) for each in seed.spawn(reps))


def _pixels() -> dict[str, NDArray[Any]]:
    """The training parts of the data sets, as pixels."""
    files = {"skin": "fedisic_mini_32.npz", "chest": "pneumoniamnist.npz", "cells": "bccd_cells_32.npz"}
    arrays: dict[str, NDArray[Any]] = {}
    for name, file in files.items():
        archive = np.load(DATA / file)
        arrays |= {f"{name}_images": archive["train_images"], f"{name}_labels": archive["train_labels"].ravel()}
    return arrays | {"skin_centres": np.load(DATA / files["skin"])["train_centers"].ravel()}


def _components(images: NDArray[Any], count: int = 64) -> Floats:
    """The leading components, flattened, and a one for the bias."""
    centred = images.astype(np.float32) - images.astype(np.float32).mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    leading = centred @ vectors[:, -count:] / values[-1] ** 0.25 / values[-count:] ** 0.25
    return np.hstack([leading / leading.std(), np.ones((len(leading), 1))]).astype(np.float64)


def _train(
    random: np.random.Generator, images: Floats, labels: Ints, centres: Ints | None, skewed: bool
) -> tuple[Answers, Answers]:
    """A small site of 30 to 150 training images, and three others; all heads that the site then has."""
    classes, count, longer = int(labels.max()) + 1, int(random.choice([30, 80, 150])), int(random.choice([1, 4]))
    if centres is not None:
        own = random.choice([centre for centre in np.unique(centres) if (centres == centre).sum() >= 300])
        site = random.permutation(np.flatnonzero(centres == own))
        others = [np.flatnonzero(centres == centre) for centre in np.unique(centres) if centre != own]
    else:
        first, rest = np.array_split(random.permutation(len(labels)), 2)
        site, *others = (_skewed(random, part, labels, skewed) for part in (first, *np.array_split(rest, 3)))
    largest = SIZES[-1] if len(site) >= count + SIZES[-1] + 100 else 100
    train, rest = site[:count], site[count:]
    heads = _federation([(images[part], labels[part]) for part in (train, *others)], classes, longer)
    return _parted(np.array([images[rest] @ head for head in heads]), labels[rest], largest)


def _skewed(random: np.random.Generator, part: Ints, labels: Ints, skewed: bool) -> Ints:
    """Two thirds of some images, with frequencies of classes of their own."""
    classes = int(labels.max()) + 1
    frequencies = np.maximum(random.dirichlet(np.full(classes, 0.5)), 0.03) if skewed else np.ones(classes)
    chances = frequencies[labels[part]]
    return np.asarray(random.choice(part, 2 * len(part) // 3, replace=False, p=chances / chances.sum()))


def _federation(sites: list[tuple[Floats, Ints]], classes: int, longer: int) -> tuple[Floats, Floats, Floats]:
    """The first site's own, the merged and its local head: ten rounds of federated averaging."""
    sizes = np.array([len(labels) for _, labels in sites], float)
    first = merged = np.zeros((sites[0][0].shape[1], classes))
    for _ in range(10):
        merged = np.tensordot(sizes / sizes.sum(), np.array([_descend(*site, merged, 8) for site in sites]), 1)
    return _descend(*sites[0], merged, 16 * longer), merged, _descend(*sites[0], first, 80 * longer)


def _descend(images: Floats, labels: Ints, head: Floats, steps: int) -> Floats:
    speed, truth = np.zeros_like(head), np.eye(head.shape[1])[labels]
    for _ in range(steps):
        slope = images.T @ (np.exp(log_softmax(images @ head)) - truth) / len(labels) + 1e-4 * head
        speed = 0.9 * speed - 0.1 * slope
        head = head + speed
    return head


if __name__ == "__main__":
    main()
