"""How good a model is on test images, and how certain that is.

Intervals are 95 %: score intervals for plain proportions (Wilson's) and for overconfidence, else the percentiles of
1,000 draws of the test images with replacement. They hold the truth 95 times of 100 on average over true values. Hits
are whole numbers, so for single values it is 90 to 98 times, not "at least" 95. Classes may be missing from a small
test set: means run over the classes that can be judged. What cannot be computed is None with a reason, never a NaN and
never an exception.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 15
DRAWS = 1000
MIN_IMAGES = 10  # images for an interval from draws; draws of fewer tell nothing
MIN_WRONG = 5  # wrong answers, for an interval of the Brier score: most of it comes from them
MIN_CLASS_IMAGES = 5  # images of a class, and of the others, for an interval of that class alone
ROC_LIMITS = tuple(tenth / 10 for tenth in range(11))  # parts of the other images that may be flagged
_Z = 1.959963984540054  # 97.5 % of a normal distribution lie below it
_CHANCE_DRAWS = 200  # of a mean
_BLOCK = 1 << 20  # draws x images held at once


@dataclass(frozen=True)
class Figure:
    """A number and its interval; `reason` says why the number, or only its interval, is missing."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class ClassFigures:
    """One class against the rest."""

    images: int
    sensitivity: Figure
    specificity: Figure
    auc: Figure
    f1: Figure


@dataclass(frozen=True)
class Bin:
    """Answers of about equal certainty: their mean certainty, and the part of them that was right."""

    images: int
    sure: float
    right: Figure


@dataclass(frozen=True)
class Scores:
    """All figures of a model on a test set.

    `sensitivity` and `specificity` are those of class 1 where there are two classes. `auc` and `f1` are means over the
    classes; for `f1`, as in scikit-learn, over those that stand in the labels or in the answers. `brier` runs from 0 to
    1 for two classes and to 2 for more. Few images make `ece` look larger than it is, and no interval of it holds the
    truth: its reason says how much is chance. `overconfidence` has an interval: mean certainty less accuracy.
    """

    images: int
    accuracy: Figure
    balanced_accuracy: Figure
    auc: Figure
    sensitivity: Figure
    specificity: Figure
    f1: Figure
    ece: Figure
    overconfidence: Figure
    brier: Figure
    classes: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...]  # a row a label, a column an answer; empty where nothing can be judged
    reliability: tuple[Bin, ...]  # from least to most sure, the bins of `ece`; those that hold no answer are left out

    def to_json(self) -> dict[str, Any]:
        return _to_json(self)


@dataclass(frozen=True)
class Difference:
    """By how much one model's figures are above another's on the same images."""

    images: int
    accuracy: Figure
    balanced_accuracy: Figure
    auc: Figure

    def to_json(self) -> dict[str, Any]:
        return _to_json(self)


def scores(probabilities: ArrayLike, labels: ArrayLike, *, seed: int = 0) -> Scores:
    """The figures of `probabilities` (images x classes) against the true `labels`."""
    predictions = _Predictions.read(probabilities, labels)
    images, classes = predictions.probabilities.shape
    confusion = predictions.confusion()
    problem = predictions.problem()
    truths, guesses, hits = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    blank = dict.fromkeys(("balanced_accuracy", "auc", "f1", "ece", "brier"), math.nan)
    blanks = dict.fromkeys(("aucs", "f1s"), np.full(classes, math.nan))
    value: dict[str, Any] = {**blank, **blanks} if problem else predictions.figures(np.ones((1, images)), squeeze=True)
    draws = {} if problem or images < MIN_IMAGES else _bootstrap(predictions, seed)

    def with_draws(name: str, missing: str = "") -> Figure:
        return with_interval(float(value[name]), draws.get(name), problem or missing)

    def of_class(label: int) -> ClassFigures:
        truth, others = int(truths[label]), images - int(truths[label])
        no_image, only_image = "no image of this class", "every image is of this class"
        is_small = min(truth, others) < MIN_CLASS_IMAGES
        few = f"fewer than {MIN_CLASS_IMAGES} images of this class, or of others" if is_small else ""

        def of_this_class(name: str, missing: str) -> Figure:
            class_draws = draws[name][:, label] if draws and not few else None
            return with_interval(float(value[name][label]), class_draws, problem or missing, few)

        return ClassFigures(
            truth,
            _wilson(int(hits[label]), truth, problem, no_image),
            _wilson(others - int(guesses[label] - hits[label]), others, problem, only_image),
            of_this_class("aucs", only_image if truth else no_image),
            of_this_class("f1s", "a class neither in the labels nor in the answers"),
        )

    by_class = tuple(map(of_class, range(classes)))
    undefined = Figure(None, reason=problem or "more than two classes: each has its own")
    return Scores(
        images,
        _wilson(int(hits.sum()), images, problem),
        with_draws("balanced_accuracy"),
        with_draws("auc", "all images are of one class"),
        by_class[1].sensitivity if classes == 2 else undefined,
        by_class[1].specificity if classes == 2 else undefined,
        with_draws("f1"),
        predictions.ece_figure(float(value["ece"]), problem),
        predictions.overconfidence(problem),
        _brier_figure(with_draws("brier"), images - int(hits.sum())),
        by_class,
        () if problem else tuple(tuple(map(int, row)) for row in confusion),
        () if problem else tuple(predictions.reliability()),
    )


def roc(probabilities: ArrayLike, labels: ArrayLike) -> list[list[float] | None]:
    """For each class the best sensitivity with at most 0, 0.1, ... 1 of the other images flagged.

    None for a class that no image has or all have, and of predictions that cannot be judged.
    """
    predictions = _Predictions.read(probabilities, labels)
    if predictions.problem():
        return [None] * predictions.probabilities.shape[1]
    return [_roc(score, predictions.labels == label) for label, score in enumerate(predictions.probabilities.T)]


def _roc(score: Floats, positive: NDArray[np.bool_]) -> list[float] | None:
    if positive.all() or not positive.any():
        return None
    thresholds, index = np.unique(-score, return_inverse=True)  # from the surest one on
    flagged = np.stack([np.bincount(index, side, len(thresholds)).cumsum() for side in (~positive, positive)])
    false, true = np.concatenate([np.zeros((2, 1)), flagged / flagged[:, -1:]], 1)
    return [float(true[false <= limit + 1e-9].max()) for limit in ROC_LIMITS]


def paired_difference(
    probabilities_a: ArrayLike, probabilities_b: ArrayLike, labels: ArrayLike, *, seed: int = 0
) -> Difference:
    """How far a is above b, both on the same images in every draw, so that luck with the images cancels out."""
    sides = [_Predictions.read(side, labels) for side in (probabilities_a, probabilities_b)]
    images = len(sides[0].labels)
    names = ("accuracy", "balanced_accuracy", "auc")
    problem = next(filter(None, (side.problem() for side in sides)), "")
    if problem:
        return Difference(images, *(Figure(None, reason=problem) for _ in names))
    first, second = (side.figures(np.ones((1, images)), squeeze=True) for side in sides)
    draws = [_bootstrap(side, seed) for side in sides] if images >= MIN_IMAGES else []
    return Difference(
        images,
        *(
            with_interval(
                float(first[name] - second[name]),
                draws[0][name] - draws[1][name] if draws else None,
                "all images are of one class",
                even_if_equal=True,
            )
            for name in names
        ),
    )


def weighted_figures(probabilities: ArrayLike, labels: ArrayLike, weights: Floats) -> dict[str, Floats]:
    """Each figure for each row of `weights` (draws x images: how often an image counts); NaN: not defined."""
    return _Predictions.read(probabilities, labels).figures(weights)


def values(probabilities: ArrayLike, labels: ArrayLike) -> dict[str, Any]:
    """The values of the figures of `scores`, without an interval, in a twentieth of its time; NaN: not defined.

    Empty if the predictions cannot be judged.
    """
    predictions = _Predictions.read(probabilities, labels)
    return {} if predictions.problem() else predictions.figures(np.ones((1, len(predictions.labels))), squeeze=True)


def overconfidence(probabilities: ArrayLike, labels: ArrayLike) -> Figure:
    """Mean certainty less accuracy, as in `Scores`."""
    predictions = _Predictions.read(probabilities, labels)
    return predictions.overconfidence(predictions.problem())


def proportion(hits: int, total: int) -> Figure:
    """A proportion with Wilson's interval."""
    return _wilson(hits, total, "", "there are none")


def order_statistic(below: int, total: int) -> Figure:
    """The proportion of other values above the next one after the `below` smallest of `total`, with its interval.

    Over samples it has the beta distribution of (total - below, below + 1), whatever distribution the values have.
    """
    low, high = (_beta_quantile(level, total - below, below + 1) for level in (0.025, 0.975))
    return Figure(1 - (below + 1) / (total + 1), low, high)


def _beta_quantile(level: float, a: int, b: int) -> float:
    """The quantile of a beta distribution: by chance `level`, a or more of a + b - 1 uniform draws lie below it."""
    draws, hits = a + b - 1, np.arange(a, a + b)
    ways = math.lgamma(draws + 1) - np.array([math.lgamma(k + 1) + math.lgamma(draws - k + 1) for k in hits])
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        chance = np.exp(ways + hits * math.log(middle) + (draws - hits) * math.log1p(-middle)).sum()
        low, high = (middle, high) if chance < level else (low, middle)
    return low


def adjust_prior(probabilities: ArrayLike, prior_from: ArrayLike, prior_to: ArrayLike) -> Floats:
    """Probabilities learned under the class frequencies `prior_from`, adjusted to the frequencies `prior_to`.

    Rows add up to one again, without which an AUC of them would be wrong. A class that `prior_from` does not know
    cannot be corrected and keeps its weight; a row that loses all its weight becomes `prior_to` itself.
    """
    learned = np.asarray(probabilities, np.float64)
    prior_source, prior_target = (np.asarray(prior, np.float64) / np.sum(prior) for prior in (prior_from, prior_to))
    ratio = np.divide(prior_target, prior_source, out=(prior_target > 0).astype(np.float64), where=prior_source > 0)
    weighted = learned * ratio
    total = weighted.sum(-1, keepdims=True)
    adjusted: Floats = np.where(total > 0, weighted / np.where(total > 0, total, 1), prior_target)
    return adjusted


@dataclass(frozen=True)
class _Predictions:
    """A model's probabilities and the true labels, judged under many weightings of the images at once."""

    probabilities: Floats
    labels: Ints

    @classmethod
    def read(cls, probabilities: ArrayLike, labels: ArrayLike) -> _Predictions:
        matrix, truth = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64).reshape(-1)
        return cls(matrix if matrix.size else matrix.reshape(0, matrix.shape[1] if matrix.ndim > 1 else 0), truth)

    def problem(self) -> str:
        """Why these predictions cannot be judged, or ""."""
        if not len(self.labels):
            return "no images"
        return "" if np.isfinite(self.probabilities).all() else "the model's answers contain NaN or infinite values"

    @property
    def predicted(self) -> Ints:
        """The likeliest class of each image."""
        return self.probabilities.argmax(1) if len(self.labels) else self.labels

    def confusion(self) -> Ints:
        """The number of images by label (rows) and answer (columns)."""
        classes = self.probabilities.shape[1]
        return np.bincount(self.labels * classes + self.predicted, minlength=classes**2).reshape(classes, classes)

    def bins(self) -> Ints:
        """The bin of each answer's certainty; bins are equally wide and include their upper end."""
        return np.asarray(np.clip(np.ceil(self.probabilities.max(1) * BINS) - 1, 0, BINS - 1), np.int64)

    def reliability(self) -> Iterator[Bin]:
        """The bins that hold an answer, from least to most certain."""
        confidence, correct, bins = self.probabilities.max(1), self.predicted == self.labels, self.bins()
        for index in np.unique(bins):
            members = bins == index
            yield Bin(
                int(members.sum()),
                float(confidence[members].mean()),
                _wilson(int(correct[members].sum()), int(members.sum()), ""),
            )

    def ece_figure(self, value: float, problem: str) -> Figure:
        """The calibration error, and what chance alone makes of it: the mean of draws in which certainties are true."""
        if problem:
            return Figure(None, reason=problem)
        certainty, bins = self.probabilities.max(1), np.eye(BINS)[self.bins()]
        generator = np.random.Generator(np.random.Philox(key=0))
        errors = [
            np.abs(((generator.random(len(certainty)) < certainty) - certainty) @ bins).sum() / len(certainty)
            for _ in range(_CHANCE_DRAWS)
        ]
        return Figure(value, reason=f"no interval: chance alone shows {np.mean(errors):.3f} of a calibrated model")

    def overconfidence(self, problem: str) -> Figure:
        """By how much answers are surer than right, with a score interval, as Wilson's is for proportions.

        It has the differences within z standard errors of the measured one. The error is the one that there would be if
        every answer were right as often as it is sure, less the difference.
        """
        if problem:
            return Figure(None, reason=problem)
        certainty = self.probabilities.max(1)
        images, value = len(certainty), float((certainty - (self.predicted == self.labels)).mean())
        if images < MIN_IMAGES:
            return Figure(value, reason=f"no interval: fewer than {MIN_IMAGES} images")

        def bound(sign: int) -> float:
            near, far = 0.0, 2.0
            for _ in range(40):
                distance = (near + far) / 2
                rate = np.clip(certainty - value - sign * distance, 0, 1)
                within = distance**2 * images <= _Z**2 * float((rate * (1 - rate)).mean())
                near, far = (distance, far) if within else (near, distance)
            return value + sign * near

        return Figure(value, bound(-1), bound(1))

    def figures(self, weights: Floats, *, squeeze: bool = False) -> dict[str, Any]:
        """Each figure for each row of `weights` (draws x images: how often an image counts); NaN: not defined."""
        classes = self.probabilities.shape[1]
        truth, predicted = np.eye(classes)[self.labels], np.eye(classes)[self.predicted]
        correct = self.predicted == self.labels
        confidence = self.probabilities.max(1)
        bins = np.eye(BINS)[self.bins()]
        squared_error = ((self.probabilities - truth) ** 2).sum(1) / (2 if classes == 2 else 1)
        total = weights.sum(1)
        true_counts, predicted_counts, hits = weights @ truth, weights @ predicted, weights @ (truth * correct[:, None])
        counts = np.ascontiguousarray(weights.T)
        aucs = np.stack([_auc(counts, self._score(label), self.labels == label) for label in range(classes)], 1)
        with np.errstate(invalid="ignore"):
            f1s = 2 * hits / (true_counts + predicted_counts)
            recalls = hits / true_counts
        figures = {
            "accuracy": hits.sum(1) / total,
            "balanced_accuracy": _row_mean(recalls),
            "auc": _row_mean(aucs),
            "aucs": aucs,
            "f1": _row_mean(f1s),
            "f1s": f1s,
            "ece": np.abs(weights @ (bins * (correct - confidence)[:, None])).sum(1) / total,
            "brier": weights @ squared_error / total,
        }
        return {name: values[0] for name, values in figures.items()} if squeeze else figures

    def _score(self, label: int) -> Floats:
        """The scores that rank images for a class. Of two classes, each ranks exactly as the other does backwards."""
        backwards = self.probabilities.shape[1] == 2 and label == 0
        return -self.probabilities[:, 1] if backwards else self.probabilities[:, label]


def _auc(counts: Floats, score: Floats, positive: NDArray[np.bool_]) -> Floats:
    """How often a positive image ranks above a negative one, a tie counting half; `counts` is images x draws."""
    if positive.all() or not positive.any():
        return np.full(counts.shape[1], math.nan)
    order = np.argsort(score, kind="stable")
    yes, no = order[positive[order]], order[~positive[order]]
    below = np.zeros((len(no) + 1, counts.shape[1]))
    np.cumsum(counts[no], axis=0, out=below[1:])
    ties = (np.searchsorted(score[no], score[yes], side) for side in ("left", "right"))
    with np.errstate(invalid="ignore"):
        beaten = np.einsum("ij,ij->j", counts[yes], sum(below[rank] for rank in ties)) / 2
        return np.asarray(beaten / (counts[yes].sum(0) * below[-1]))


def _row_mean(values: Floats) -> Floats:
    """The mean of each row over the values that are not NaN."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(values, 1) / (~np.isnan(values)).sum(1))


def _bootstrap(predictions: _Predictions, seed: int) -> dict[str, Floats]:
    """Every figure for every draw. The draws depend on the seed and the number of images alone."""
    blocks = [predictions.figures(weights) for weights in _bootstrap_weights(len(predictions.labels), seed)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _bootstrap_weights(images: int, seed: int) -> Iterator[Floats]:
    generator = np.random.Generator(np.random.Philox(key=seed))
    rows = max(1, _BLOCK // images)
    for start in range(0, DRAWS, rows):
        block = min(rows, DRAWS - start)
        indices = generator.integers(images, size=(block, images)) + images * np.arange(block)[:, None]
        yield np.bincount(indices.ravel(), minlength=block * images).reshape(block, images).astype(np.float64)


def with_interval(
    value: float, draws: Floats | None, missing: str, few: str = "", *, even_if_equal: bool = False
) -> Figure:
    """A figure with the percentiles of its draws (`even_if_equal`: of equal ones too), or why it has none."""
    if math.isnan(value):
        return Figure(None, reason=missing)
    if draws is None:
        return Figure(value, reason="no interval: " + (few or f"fewer than {MIN_IMAGES} images"))
    low, high = map(float, np.percentile(draws[~np.isnan(draws)], [2.5, 97.5]))
    if low == high == value and not even_if_equal:
        return Figure(value, reason="no interval: every draw agrees, so that they tell nothing")
    return Figure(value, min(low, value), max(high, value))


def _brier_figure(figure: Figure, wrong: int) -> Figure:
    """A Brier score without the interval of draws that hold too few wrong answers: it would be too narrow."""
    if figure.low is None or wrong >= MIN_WRONG:
        return figure
    return Figure(figure.value, reason=f"no interval: fewer than {MIN_WRONG} wrong answers")


def _wilson(hits: int, total: int, problem: str, missing: str = "") -> Figure:
    """A proportion with Wilson's score interval, which holds near 0 and 1 and for few images."""
    if problem or not total:
        return Figure(None, reason=problem or missing)
    rate = hits / total
    middle = rate + _Z**2 / (2 * total)
    spread = _Z * math.sqrt(rate * (1 - rate) / total + _Z**2 / (4 * total**2))
    low, high = ((middle + sign * spread) / (1 + _Z**2 / total) for sign in (-1, 1))
    return Figure(rate, max(0.0, min(low, rate)), min(1.0, max(high, rate)))


def _to_json(figures: Any) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(figures), allow_nan=False))
    return plain
