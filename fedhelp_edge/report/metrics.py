"""How good a model is on test images, and how certain that is.

Intervals are 95 %: Wilson's for plain proportions, else the percentiles of 1,000 draws of the test images with
replacement. Classes may be missing from a small test set: means run over the classes that can be judged. What cannot be
computed is None with a reason, never a NaN and never an exception.
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
FEWEST = 10  # images; below it, draws of so few tell nothing
FEWEST_SIDE = 5  # images of a class, and of the others, for an interval of that class alone
_Z = 1.959963984540054  # 97.5 % of a normal distribution lie below it
_CELLS = 1 << 20  # draws x images held at once


@dataclass(frozen=True)
class Figure:
    """A number and its interval; `reason` says why the number, or only its interval, is missing."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class OfClass:
    """One class against the rest."""

    images: int
    sensitivity: Figure
    specificity: Figure
    auc: Figure
    f1: Figure


@dataclass(frozen=True)
class Bin:
    """Answers that were about equally sure: how sure in the mean, and what part of them was right."""

    images: int
    sure: float
    right: Figure


@dataclass(frozen=True)
class Scores:
    """All figures of a model on a test set.

    `sensitivity` and `specificity` are those of class 1 where there are two classes. `auc` and `f1` are means over the
    classes; for `f1`, as in scikit-learn, over those that stand in the labels or in the answers. `brier` runs from 0 to
    1 for two classes and to 2 for more. The draws behind the interval of `ece` add calibration error of their own, so
    that it leans upwards.
    """

    images: int
    accuracy: Figure
    balanced_accuracy: Figure
    auc: Figure
    sensitivity: Figure
    specificity: Figure
    f1: Figure
    ece: Figure
    brier: Figure
    classes: tuple[OfClass, ...]
    confusion: tuple[tuple[int, ...], ...]  # a row a label, a column an answer; empty where nothing can be judged
    reliability: tuple[Bin, ...]  # from least to most sure, the bins of `ece`; those that hold no answer are left out

    def to_json(self) -> dict[str, Any]:
        return _plain(self)


@dataclass(frozen=True)
class Difference:
    """By how much one model's figures lie above another's on the same images."""

    images: int
    accuracy: Figure
    balanced_accuracy: Figure
    auc: Figure

    def to_json(self) -> dict[str, Any]:
        return _plain(self)


def scores(probabilities: ArrayLike, labels: ArrayLike, *, seed: int = 0) -> Scores:
    """The figures of `probabilities` (images x classes) against the true `labels`."""
    answers = _Answers.read(probabilities, labels)
    images, classes = answers.probabilities.shape
    confusion = answers.confusion()
    why = answers.flaw()
    truths, guesses, hits = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    blank = dict.fromkeys(("balanced_accuracy", "auc", "f1", "ece", "brier"), math.nan)
    blanks = dict.fromkeys(("aucs", "f1s"), np.full(classes, math.nan))
    value: dict[str, Any] = {**blank, **blanks} if why else answers.figures(np.ones((1, images)), squeeze=True)
    draws = {} if why or images < FEWEST else _drawn(answers, seed)

    def drawn(name: str, missing: str = "") -> Figure:
        return _figure(float(value[name]), draws.get(name), why or missing)

    def of_class(one: int) -> OfClass:
        truth, rest = int(truths[one]), images - int(truths[one])
        none, full = "no image of this class", "every image is of this class"
        few = "" if min(truth, rest) >= FEWEST_SIDE else f"fewer than {FEWEST_SIDE} images of this class, or of others"

        def each(name: str, missing: str) -> Figure:
            spread = draws[name][:, one] if draws and not few else None
            return _figure(float(value[name][one]), spread, why or missing, few)

        return OfClass(
            truth,
            _wilson(int(hits[one]), truth, why, none),
            _wilson(rest - int(guesses[one] - hits[one]), rest, why, full),
            each("aucs", full if truth else none),
            each("f1s", "a class neither in the labels nor in the answers"),
        )

    each = tuple(map(of_class, range(classes)))
    many = Figure(None, reason=why or "more than two classes: each has its own")
    return Scores(
        images,
        _wilson(int(hits.sum()), images, why),
        drawn("balanced_accuracy"),
        drawn("auc", "all images are of one class"),
        each[1].sensitivity if classes == 2 else many,
        each[1].specificity if classes == 2 else many,
        drawn("f1"),
        drawn("ece"),
        drawn("brier"),
        each,
        () if why else tuple(tuple(map(int, row)) for row in confusion),
        () if why else tuple(answers.reliability()),
    )


def paired(probabilities_a: ArrayLike, probabilities_b: ArrayLike, labels: ArrayLike, *, seed: int = 0) -> Difference:
    """How far a lies above b, both judged on the same images in every draw: what they share in luck cancels out.

    Each may be several runs (runs x images x classes): then it is the mean over runs, the images of which are drawn
    together, for more runs make no more images.
    """
    runs = [
        [_Answers.read(one, labels) for one in (said if np.ndim(said) == 3 else [said])]
        for said in map(np.asarray, (probabilities_a, probabilities_b))
    ]
    images = len(runs[0][0].labels)
    names = ("accuracy", "balanced_accuracy", "auc")
    why = next(filter(None, (answers.flaw() for side in runs for answers in side)), "")
    if why:
        return Difference(images, *(Figure(None, reason=why) for _ in names))
    whole = [[answers.figures(np.ones((1, images)), squeeze=True) for answers in side] for side in runs]
    drawn = [[_drawn(answers, seed) for answers in side] for side in runs] if images >= FEWEST else []

    def gap(sides: list[list[Any]], name: str) -> Any:
        one, other = (np.mean([figures[name] for figures in side], axis=0) for side in sides)
        return one - other

    return Difference(
        images,
        *(
            _figure(
                float(gap(whole, name)), gap(drawn, name) if drawn else None, "all images are of one class", still=True
            )
            for name in names
        ),
    )


def proportion(hits: int, of: int) -> Figure:
    """A part of so many, with Wilson's interval."""
    return _wilson(hits, of, "", "there are none")


def with_prior(probabilities: ArrayLike, prior_from: ArrayLike, prior_to: ArrayLike) -> Floats:
    """Probabilities learned where classes have the frequencies `prior_from`, as they are where they have `prior_to`.

    Rows add up to one again, without which an AUC of them would be wrong. A class that `prior_from` does not know
    cannot be corrected and keeps its weight; a row that loses all its weight becomes `prior_to` itself.
    """
    given = np.asarray(probabilities, np.float64)
    source, target = (np.asarray(prior, np.float64) / np.sum(prior) for prior in (prior_from, prior_to))
    ratio = np.divide(target, source, out=(target > 0).astype(np.float64), where=source > 0)
    weighed = given * ratio
    total = weighed.sum(-1, keepdims=True)
    made: Floats = np.where(total > 0, weighed / np.where(total > 0, total, 1), target)
    return made


@dataclass(frozen=True)
class _Answers:
    """A model's answers beside the truth, ready for being judged under many weightings of the images at once."""

    probabilities: Floats
    labels: Ints

    @classmethod
    def read(cls, probabilities: ArrayLike, labels: ArrayLike) -> _Answers:
        given, truth = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64).reshape(-1)
        return cls(given if given.size else given.reshape(0, given.shape[1] if given.ndim > 1 else 0), truth)

    def flaw(self) -> str:
        """Why nothing at all can be said of these answers, or nothing."""
        if not len(self.labels):
            return "no images"
        return "" if np.isfinite(self.probabilities).all() else "the model's answers are no finite numbers"

    @property
    def answers(self) -> Ints:
        return self.probabilities.argmax(1) if len(self.labels) else self.labels

    def confusion(self) -> Ints:
        classes = self.probabilities.shape[1]
        return np.bincount(self.labels * classes + self.answers, minlength=classes**2).reshape(classes, classes)

    def bins(self) -> Ints:
        """Which of equally wide steps of certainty each answer stands on; its upper end belongs to it."""
        return np.asarray(np.clip(np.ceil(self.probabilities.max(1) * BINS) - 1, 0, BINS - 1), np.int64)

    def reliability(self) -> Iterator[Bin]:
        sure, right, bins = self.probabilities.max(1), self.answers == self.labels, self.bins()
        for one in np.unique(bins):
            held = bins == one
            yield Bin(int(held.sum()), float(sure[held].mean()), _wilson(int(right[held].sum()), int(held.sum()), ""))

    def figures(self, weights: Floats, *, squeeze: bool = False) -> dict[str, Any]:
        """Each figure for each row of `weights` (draws x images: how often an image counts); NaN: not defined."""
        classes = self.probabilities.shape[1]
        truth, guess = np.eye(classes)[self.labels], np.eye(classes)[self.answers]
        right = self.answers == self.labels
        sure = self.probabilities.max(1)
        bins = np.eye(BINS)[self.bins()]
        miss = ((self.probabilities - truth) ** 2).sum(1) / (2 if classes == 2 else 1)
        total = weights.sum(1)
        truths, guesses, hits = weights @ truth, weights @ guess, weights @ (truth * right[:, None])
        counts = np.ascontiguousarray(weights.T)
        aucs = np.stack([_auc(counts, self._score(one), self.labels == one) for one in range(classes)], 1)
        with np.errstate(invalid="ignore"):
            f1s = 2 * hits / (truths + guesses)
            recalls = hits / truths
        found = {
            "accuracy": hits.sum(1) / total,
            "balanced_accuracy": _mean(recalls),
            "auc": _mean(aucs),
            "aucs": aucs,
            "f1": _mean(f1s),
            "f1s": f1s,
            "ece": np.abs(weights @ (bins * (right - sure)[:, None])).sum(1) / total,
            "brier": weights @ miss / total,
        }
        return {name: values[0] for name, values in found.items()} if squeeze else found

    def _score(self, one: int) -> Floats:
        """What ranks the images for a class. Of two classes, one ranks as the other backwards, rounding or not."""
        backwards = self.probabilities.shape[1] == 2 and one == 0
        return -self.probabilities[:, 1] if backwards else self.probabilities[:, one]


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


def _mean(values: Floats) -> Floats:
    """The mean of each row over what is defined in it."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(values, 1) / (~np.isnan(values)).sum(1))


def _drawn(answers: _Answers, seed: int) -> dict[str, Floats]:
    """Every figure for every draw. The draws hang on the seed and the number of images alone."""
    blocks = [answers.figures(weights) for weights in _weights(len(answers.labels), seed)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _weights(images: int, seed: int) -> Iterator[Floats]:
    random = np.random.Generator(np.random.Philox(key=seed))
    rows = max(1, _CELLS // images)
    for start in range(0, DRAWS, rows):
        block = min(rows, DRAWS - start)
        drawn = random.integers(images, size=(block, images)) + images * np.arange(block)[:, None]
        yield np.bincount(drawn.ravel(), minlength=block * images).reshape(block, images).astype(np.float64)


def _figure(value: float, draws: Floats | None, missing: str, few: str = "", *, still: bool = False) -> Figure:
    """A figure with the percentiles of its draws (`still`: even where they all agree), or why it has none."""
    if math.isnan(value):
        return Figure(None, reason=missing)
    if draws is None:
        return Figure(value, reason="no interval: " + (few or f"fewer than {FEWEST} images"))
    low, high = map(float, np.percentile(draws[~np.isnan(draws)], [2.5, 97.5]))
    if low == high == value and not still:
        return Figure(value, reason="no interval: every draw agrees, so that they tell nothing")
    return Figure(value, min(low, value), max(high, value))


def _wilson(hits: int, of: int, flaw: str, missing: str = "") -> Figure:
    """A proportion with Wilson's score interval, which holds near 0 and 1 and for few images."""
    if flaw or not of:
        return Figure(None, reason=flaw or missing)
    share = hits / of
    middle = share + _Z**2 / (2 * of)
    spread = _Z * math.sqrt(share * (1 - share) / of + _Z**2 / (4 * of**2))
    low, high = ((middle + sign * spread) / (1 + _Z**2 / of) for sign in (-1, 1))
    return Figure(share, max(0.0, min(low, share)), min(1.0, max(high, share)))


def _plain(what: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(asdict(what), allow_nan=False))
    return made
