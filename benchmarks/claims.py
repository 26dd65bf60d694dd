"""Whether a card's claims hold for new images: by simulation through weighing, calibration, thresholds and limits.

A site has several nets, and 10 to 200 validation images of class 0 with twice as many others. Nets know much of the
classes (`clear`) or little (`hard`). `export.keep` weighs them, `export.calibrate` makes the claims, and 10,000 new
images say what is true. `claimed` and `true` are means over sites; `error` is the standard error of their difference.
`covered` is how often the claim's 95 % interval holds the truth. `rule` is ours, or `in-sample`: thresholds and figures
from the images that chose them, as before. All draws are seeded; `--short` simulates fewer sites. Prints JSON lines,
and on stderr how far it is.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from export import calibrate, keep
from fedhelp_edge.infer import decide
from fedhelp_edge.infer.metadata import Rate
from fedhelp_edge.report import metrics

SITES = {10: 300, 20: 300, 50: 200, 200: 100}  # to simulate, by validation images of class 0
TARGETS = (0.8, 0.9, 0.95)
SCENES = {"clear": (1.2, 2), "hard": (0.4, 3)}  # what a net knows, and classes
NETS = 3
NEW = 5000  # images of class 0, and of the others

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Claim = tuple[Rate, float]  # what is claimed, and what is true
OURS, BEFORE = "ours", "in-sample"


def main() -> None:
    started = time.monotonic()
    for size, sites in SITES.items():
        sites = 20 if "--short" in sys.argv else sites
        for name, rows in likeness_claims(size, sites).items():
            print(json.dumps({"figure": "claims about new images", "images": size, "claim": name, **rows}))
        for scene in SCENES:
            for (rule, claim), rows in claims(size, scene, NETS, sites).items():
                about = {"images": size, "scene": scene, "nets": NETS, "rule": rule, "claim": claim}
                print(json.dumps({"figure": "claims about new images", **about, **rows}), flush=True)
            print(f"{size} images, {scene}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def claims(
    size: int, scene: str, nets: int, sites: int, rules: Sequence[str] = (OURS, BEFORE), *, figures: bool = True
) -> dict[tuple[str, str], dict[str, float]]:
    """By rule and claim: what is claimed, what is true, and how often the interval holds it; means over sites."""
    pairs: dict[tuple[str, str], list[Claim]] = {}
    for site in range(sites):
        random = np.random.default_rng([7, size, nets, site])
        for rule, claim, claimed, truth in _site(random, size, scene, nets, rules, figures):
            pairs.setdefault((rule, claim), []).append((claimed, truth))
    return {key: _summary(values) for key, values in pairs.items()}


def _summary(pairs: list[Claim]) -> dict[str, float]:
    claimed, truth = np.array([rate.value for rate, _ in pairs]), np.array([truth for _, truth in pairs])
    means = {"claimed": claimed.mean(), "true": truth.mean(), "error": (truth - claimed).std() / math.sqrt(len(pairs))}
    if not math.isnan(pairs[0][0].low):
        means["covered"] = np.mean([rate.low <= truth <= rate.high for rate, truth in pairs])
    return {name: round(float(mean), 4) for name, mean in means.items()}


def _site(
    random: np.random.Generator, size: int, scene: str, nets: int, rules: Sequence[str], figures: bool
) -> Iterator[tuple[str, str, Rate, float]]:
    """One site: a rule, a claim, its figure and what is true of new images."""
    knows, classes = SCENES[scene]
    others = np.arange(2 * size) % (classes - 1) + 1
    labels = np.concatenate([np.zeros(size, np.int64), others, np.zeros(NEW, np.int64), np.resize(others, NEW)])
    logits = _simulate(random, labels, knows, classes, nets)
    seen = random.permutation(3 * size)
    named = {str(number): net[seen] for number, net in enumerate(logits)}
    validation, new = labels[seen], labels[3 * size :]
    groups = np.arange(len(seen))
    scales = keep.keep(named, validation, groups).scales
    new_logits = keep.pool({name: logits[int(name)][3 * size :] for name in scales}, scales)
    pooled, honest = keep.pool(named, scales), calibrate.held_out(named, validation, groups)
    for rule in rules:
        used = honest if rule == OURS else pooled
        calibration = calibrate.calibrate(used, validation, TARGETS[0])
        answers = calibrate.softmax(used / calibration.temperature)
        truths = calibrate.softmax(new_logits / calibration.temperature)
        weights = (np.bincount(validation) / len(validation) / (np.bincount(new) / len(new)))[new]  # as at the site
        if figures and rule == OURS:
            yield from _figures(rule, answers, validation, truths, new, weights)
            folds = keep.folds(validation, groups)
            claimed = np.zeros((2, len(validation)), np.bool_)
            for inside, others in calibrate.held_out_calibrations(used, validation, TARGETS[0], folds):
                held_out = calibrate.softmax(used[inside] / others.temperature)
                claimed[:, inside] = _answered(held_out, validation[inside], others.least)
            yield from _answering(rule, claimed, _answered(truths, new, calibration.least), weights)
        elif figures:
            claimed = _answered(answers, validation, calibration.least)
            yield from _answering(rule, claimed, _answered(truths, new, calibration.least), weights)
        level = 1 - calibration.level[0]
        inside = float((truths[new == 0, 0] >= calibration.least[0]).mean())
        yield rule, "true class kept", Rate(level, math.nan, math.nan), inside
        for target in TARGETS:
            if rule == OURS:
                threshold = next(calibrate.thresholds(answers, validation, target))
                at, sensitivity, specificity = threshold.at, threshold.sensitivity, threshold.specificity
                assert at is not None and sensitivity and specificity
            else:
                at, sensitivity, specificity = _in_sample(answers[:, 0], validation, target)
            flagged = truths[:, 0] >= at
            yield rule, f"sensitivity {target}", sensitivity, float(flagged[new == 0].mean())
            yield rule, f"specificity {target}", specificity, float((~flagged)[new != 0].mean())


def _simulate(random: np.random.Generator, labels: Ints, knows: float, classes: int, nets: int) -> Floats:
    """Logits (nets x images x classes): evidence for the truth, errors in common, errors of their own, and a bias."""
    shape = len(labels), classes
    common, together = random.normal(size=shape), []
    for _ in range(nets):
        evidence = 2 * max(0.05, knows + random.normal(0, 0.3)) * np.eye(classes)[labels]
        errors = 0.8 * common + random.uniform(0.5, 1.1) * random.normal(size=shape) + random.normal(0, 0.4, classes)
        together.append((evidence + errors) * np.exp(random.normal(0.2, 0.5)))
    return np.array(together)


def _figures(
    rule: str, answers: Floats, labels: Ints, new_answers: Floats, new: Ints, weights: Floats
) -> Iterator[tuple[str, str, Rate, float]]:
    """The figures of the weighed nets, as the card has them."""
    claimed, truths = metrics.scores(answers, labels), metrics.weighted_figures(new_answers, new, weights[None])
    certainty = new_answers.max(1) - (new_answers.argmax(1) == new)
    truths["overconfidence"] = np.array([np.average(certainty, weights=weights)])
    for name in ("accuracy", "balanced_accuracy", "auc", "brier", "overconfidence", "ece"):
        figure: metrics.Figure = getattr(claimed, name)
        if figure.value is not None and (name == "ece" or figure.low is not None):
            low, high = (math.nan if end is None else end for end in (figure.low, figure.high))
            yield rule, name, Rate(figure.value, low, high), float(truths[name][0])


def _answered(probabilities: Floats, labels: Ints, least: Sequence[float]) -> NDArray[np.bool_]:
    """Which images get an answer, as `infer.decide` says of images that are not unlike; and which a wrong one."""
    ordered = np.sort(probabilities, axis=1)
    possible, likeliest = probabilities >= np.array(least), probabilities.argmax(1)
    sure = (ordered[:, -1] >= decide.MIN_PROBABILITY) & (ordered[:, -1] >= decide.MIN_ODDS * ordered[:, -2])
    answered = sure & (possible.sum(1) == 1) & possible[np.arange(len(labels)), likeliest]
    return np.stack([answered, answered & (likeliest != labels)])


def _answering(
    rule: str, claimed: NDArray[np.bool_], true: NDArray[np.bool_], weights: Floats
) -> Iterator[tuple[str, str, Rate, float]]:
    """How many images are answered, and how many of these wrongly."""
    answered, wrong = (int(part.sum()) for part in claimed)
    of_new = [float(np.average(part, weights=weights)) for part in true]
    yield rule, "answered", Rate(answered / claimed.shape[1], math.nan, math.nan), of_new[0]
    if answered and of_new[0]:
        figure = metrics.proportion(wrong, answered)
        yield (
            rule,
            "error of answers",
            Rate(figure.value or 0, figure.low or 0, figure.high or 0),
            of_new[1] / of_new[0],
        )


def _in_sample(answers: Floats, labels: Ints, target: float) -> tuple[float, Rate, Rate]:
    """The threshold that misses no more of these very images than is allowed, and its figures on them."""
    own, others = np.sort(answers[labels == 0]), answers[labels != 0]
    at = float(own[math.floor((1 - target) * len(own) + 1e-9)])
    figures = (
        metrics.proportion(int((own >= at).sum()), len(own)),
        metrics.proportion(int((others < at).sum()), len(others)),
    )
    sensitivity, specificity = (Rate(f.value or 0, f.low or 0, f.high or 0) for f in figures)
    return at, sensitivity, specificity


def likeness_claims(size: int, sites: int, training: int = 150) -> Mapping[str, dict[str, float]]:
    """How many images of the same kind are called unlike: by one kind of distance, and by the largest of three."""
    pairs: dict[str, list[Claim]] = {}
    for site in range(sites):
        random = np.random.default_rng([3, size, site])
        kinds = [_heavy_tailed(random, features, (training, size, NEW)) for features in (24, 18, 49)]
        for name, used in (("unlike, embedding", kinds[:1]), ("unlike, with looks", kinds)):
            looks = {str(number): (kind[0], kind[1]) for number, kind in enumerate(used[1:])}
            likeness = calibrate.likeness(used[0][0], used[0][1], looks)
            clouds = (likeness, *likeness.looks.values())
            furthest = np.max([cloud.distance(kind[2]) for cloud, kind in zip(clouds, used, strict=True)], 0)
            truth = float((furthest > 1).mean())
            pairs.setdefault(name, []).append((Rate(likeness.level, math.nan, math.nan), truth))
            others = {key: validation for key, (_, validation) in looks.items()}
            distances = calibrate.held_out_distances(likeness, used[0][1], others, np.arange(size) % 10)
            counted = Rate(float((distances > 1).mean()), math.nan, math.nan)
            pairs.setdefault(f"{name}, counted", []).append((counted, truth))
    return {name: _summary(values) for name, values in pairs.items()}


def _heavy_tailed(random: np.random.Generator, features: int, counts: tuple[int, ...]) -> list[Floats]:
    mixing = random.normal(size=(features, features)) / math.sqrt(features)
    return [
        np.exp(0.3 * random.normal(size=(count, 1))) * random.standard_t(6, (count, features)) @ mixing
        for count in counts
    ]


if __name__ == "__main__":
    main()
