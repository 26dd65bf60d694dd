"""Calibrates a model by a site's validation images: how sure it may be, and when it does not know.

What is claimed must hold for other images, though the same ones weighed the nets: so each is judged by nets weighed
without it. docs/decisions/bundle.md has the reasons and the simulation, and says what a small sample cannot promise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export import keep
from fedhelp_edge.errors import TooFewError
from fedhelp_edge.infer.metadata import Calibration, FeatureDistribution, Likeness, Rate, Threshold
from fedhelp_edge.report import metrics

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

MISS_RATE = 0.05  # how often a set may lack the true class
MIN_IMAGES = 4  # images of a class for a miss rate of its own: with 4, 1/5
NEVER_RULED_OUT = 0.5  # a class at least as likely as not is never ruled out
UNLIKE_RATE = 0.02  # how often an image of the site's own kind may be called unlike
MIN_CLASS_IMAGES = 10  # images of a class, for a threshold
_FOLDS = 10
_TEMPERATURES = np.exp(np.linspace(-3, 3, 601))
_STRIDE = 10  # of a first search among them
_DIRECTIONS = 192  # of wider embeddings, at most: the root of all of MobileNetV2's would be larger than the net
_MIN_SPREAD = 0.03  # pixel features that hardly differ here say little
_ROUNDING = 1e-5  # tolerance for another processor's rounding


def calibrate(logits: Floats, labels: Ints, target_sensitivity: float) -> Calibration:
    """The calibration by validation images: their logits (images x classes), and their true classes.

    Where nets were weighed by the same images, the logits are those of `held_out`.
    """
    if len(labels) < MIN_IMAGES:
        raise TooFewError(f"there are {len(labels)} validation images; at least {MIN_IMAGES} are needed")
    temperature = fit_temperature(logits, labels)
    raw, calibrated = softmax(logits), softmax(logits / temperature)
    least, level, own = zip(*_prediction_sets(calibrated, labels), strict=True)
    overconfidence = metrics.overconfidence(calibrated, labels)
    value, low, high = overconfidence.value, overconfidence.low, overconfidence.high
    surer = None if value is None or low is None or high is None else (value, low, high)
    return Calibration(
        tuple(int(count) for count in np.bincount(labels, minlength=logits.shape[1])), temperature,
        (_calibration_error(raw, labels), _calibration_error(calibrated, labels)) if np.isfinite(raw).all() else None,
        least, level, own, target_sensitivity, tuple(thresholds(calibrated, labels, target_sensitivity)),
        surer,
    )  # fmt: skip


def _calibration_error(probabilities: Floats, labels: Ints) -> float:
    return float(metrics.weighted_figures(probabilities, labels, np.ones((1, len(labels))))["ece"][0])


def held_out(logits: keep.Logits, labels: Ints, groups: Ints) -> NDArray[np.float64]:
    """The logits (images x classes) of each validation image by nets that were weighed without it and its patient."""
    numbered = {str(number): values for number, values in enumerate(logits.values())}  # no baseline: no gain to find
    folds = keep.folds(labels, groups)
    pooled = np.empty((len(labels), next(iter(numbered.values())).shape[1]))
    for fold in np.unique(folds):
        inside, outside = folds == fold, folds != fold
        parts = {name: values[outside] for name, values in numbered.items()}
        scales = keep.keep(parts, labels[outside], groups[outside]).scales
        pooled[inside] = keep.pool({name: numbered[name][inside] for name in scales}, scales)
    return pooled


def softmax(logits: Floats) -> NDArray[np.float64]:
    """The probabilities of logits: images x classes."""
    powers = np.exp(np.asarray(logits, np.float64) - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def fit_temperature(logits: Floats, labels: Ints) -> float:
    """The temperature that divides the logits (Guo et al. 2017): most likely under a log-normal prior around 1.

    The prior matters where images are few: a few right answers alone would make the model entirely certain.
    """

    def negative_log_posterior(temperature: float) -> float:
        return float(log_loss(softmax(logits / temperature), labels) * len(labels) + math.log(temperature) ** 2 / 2)

    grid = _TEMPERATURES.tolist()
    middle = grid.index(min(grid[::_STRIDE], key=negative_log_posterior))
    near = grid[max(0, middle - _STRIDE) : middle + _STRIDE + 1]
    return float(np.float32(min(near, key=negative_log_posterior)))


def log_loss(probabilities: Floats, labels: Ints) -> float:
    """The mean negative log-likelihood of the true classes."""
    likelihoods = np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)
    return float(-np.log(likelihoods).mean())


def _prediction_sets(probabilities: Floats, labels: Ints) -> Iterator[tuple[float, float, bool]]:
    """For each class: the least probability with which it stays in a set, the miss rate, and whether both are its own.

    Split-conformal, by class (Vovk 2012): of n images of a class, at most floor(level (n + 1)) - 1 lie below. Classes
    with too few images take the values of all images together.
    """
    likelihoods = np.asarray(probabilities[np.arange(len(labels)), labels], np.float64)
    for label in range(probabilities.shape[1]):
        from_own_class = bool((labels == label).sum() >= MIN_IMAGES)
        scores = np.sort(likelihoods[labels == label] if from_own_class else likelihoods)
        level = max(MISS_RATE, 1 / (len(scores) + 1))
        rank = math.floor(level * (len(scores) + 1) + 1e-9)
        yield max(0.0, min(float(scores[rank - 1]), NEVER_RULED_OUT) - _ROUNDING), level, from_own_class


def thresholds(probabilities: Floats, labels: Ints, target_sensitivity: float) -> Iterator[Threshold]:
    """For each class the highest threshold whose sensitivity for other images is, on average, the one asked for.

    Above the k-th smallest of n probabilities, 1 - k / (n + 1) of other images are to be expected. That is the mean of
    a beta distribution, whose quantiles are the interval. Of too few images the smallest is taken: the claim is lower.
    """
    for label in range(probabilities.shape[1]):
        positives, others = (np.sort(probabilities[(labels == label) == side, label]) for side in (True, False))
        images = len(positives)
        if min(images, len(others)) < MIN_CLASS_IMAGES:
            reason = f"fewer than {MIN_CLASS_IMAGES} validation images of this class, or of others"
            yield Threshold(None, images, reason=reason)
            continue
        rank = math.floor((1 - target_sensitivity) * (images + 1) + 1e-9)
        reason = "" if rank else f"{images} images show a sensitivity of {1 - 1 / (images + 1):.1%} at most"
        threshold = max(0.0, float(positives[max(rank - 1, 0)]) - _ROUNDING)
        below, passed_over = int((positives < threshold).sum()), int((others < threshold).sum())
        sensitivity = metrics.order_statistic(below, images) if threshold else metrics.Figure(1.0, 1.0, 1.0)
        specificity = metrics.proportion(passed_over, len(others))
        yield Threshold(threshold, images, _rate(sensitivity), _rate(specificity), reason)


def _rate(figure: metrics.Figure) -> Rate:
    value, low, high = (float(part or 0) for part in (figure.value, figure.low, figure.high))
    return Rate(value, low, high)


TrainAndValidation = tuple[Floats, Floats]  # numbers of training and of validation images: images x features


def likeness(training: Floats, validation: Floats, looks: Mapping[str, TrainAndValidation] = {}) -> Likeness:
    """Mahalanobis distances from the mean of the training images, with their shrunk covariance.

    One kind is of the net's embeddings (images x features, of training and validation images); the others are of what
    the pixels look like (`looks`).

    The limits come from validation images alone: embeddings of training images lie too close together. Each kind of
    distance is brought to one scale by its own median and 95 % quantile there. One limit, by split conformal, holds for
    the largest of them: so more kinds of distance raise no more false alarms. The scale that an image is judged on
    comes from other folds; on its own scale the largest would always look usual.
    """
    clouds = [
        _fit_cloud(training, validation, min_spread=0.0),
        *(_fit_cloud(*sides, min_spread=_MIN_SPREAD) for sides in looks.values()),
    ]
    limits, level = _limits(_logs([distances for _, distances in clouds]))
    own, *others = (replace(cloud, limit=float(limit)) for (cloud, _), limit in zip(clouds, limits, strict=True))
    return Likeness(own.mean, own.root, own.limit, level, len(training), dict(zip(looks, others, strict=True)))


def held_out_distances(likeness: Likeness, validation: Floats, looks: Mapping[str, Floats], folds: Ints) -> Floats:
    """How far each validation image is from the training images, in limits that the other folds set."""
    kinds = [(likeness, validation), *((cloud, looks[name]) for name, cloud in likeness.looks.items())]
    logs = _logs([cloud.distance(numbers) * cloud.limit for cloud, numbers in kinds])
    distances = np.empty(len(folds))
    for fold in np.unique(folds):
        inside, outside = folds == fold, _outside(folds, fold)
        distances[inside] = np.exp(logs[:, inside] - np.log(_limits(logs[:, outside])[0])[:, None]).max(0)
    return distances


def held_out_calibrations(
    logits: Floats, labels: Ints, target_sensitivity: float, folds: Ints
) -> Iterator[tuple[NDArray[np.bool_], Calibration]]:
    """For each fold its images, and the calibration by all others."""
    for fold in np.unique(folds):
        outside = _outside(folds, fold)
        yield folds == fold, calibrate(logits[outside], labels[outside], target_sensitivity)


def _outside(folds: Ints, fold: int) -> NDArray[np.bool_]:
    """The images of other folds; of all, where too few would remain to calibrate by."""
    outside = folds != fold
    return np.asarray(outside if outside.sum() >= MIN_IMAGES else np.ones_like(outside))


def _logs(distances: Sequence[Floats]) -> NDArray[np.float64]:
    return np.asarray(np.log([np.maximum(each, 1e-9) for each in distances]), np.float64)


def _limits(logs: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """The limit of each kind's distances (logarithms: kinds x images), and how often any of them is exceeded."""
    count = logs.shape[1]
    folds, worst = np.arange(count) % _FOLDS, np.empty(count)
    for fold in np.unique(folds):
        worst[folds == fold] = _largest(logs[:, folds == fold], *_scale(logs[:, folds != fold]))
    level = max(UNLIKE_RATE, 1 / (count + 1))
    furthest = np.sort(worst)[math.ceil((1 - level) * (count + 1) - 1e-9) - 1]
    middle, spread = _scale(logs)
    return np.exp(middle + spread * (furthest - middle.mean()) / spread.mean()) * (1 + _ROUNDING), level


def _scale(logs: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The middle and the spread of each kind's distances (logarithms: kinds x images)."""
    middle, high = np.quantile(logs, 0.5, axis=1), np.quantile(logs, 0.95, axis=1)
    return middle, np.maximum(high - middle, 0.01)


def _largest(
    logs: NDArray[np.float64], middle: NDArray[np.float64], spread: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The largest distance of each image on the kinds' mean scale. Of one kind it is the distance itself."""
    standard = (logs - middle[:, None]) / spread[:, None]
    return np.asarray(standard.max(0) * spread.mean() + middle.mean())


def _fit_cloud(
    training: Floats, validation: Floats, min_spread: float
) -> tuple[FeatureDistribution, NDArray[np.float64]]:
    """The mean and root of training images, and the distances of validation images from them.

    With `min_spread`, each feature is first divided by its own spread plus that.
    """
    numbers = np.asarray(training, np.float64)
    spread = numbers.std(0) + min_spread if min_spread else np.ones(numbers.shape[1])
    directions = _directions(numbers.shape[1])
    values, vectors = np.linalg.eigh(_shrunk_covariance(numbers / spread @ directions))
    root = directions @ (vectors / np.sqrt(values)) @ vectors.T / spread[:, None]  # of the roots the symmetric one
    cloud = FeatureDistribution(numbers.mean(0).astype(np.float32), root.astype(np.float32), 1.0)
    return cloud, cloud.distance(validation)


def _directions(features: int) -> NDArray[np.float64]:
    """What distances are measured along (features x directions): the features, or as many random mixtures of many.

    Random ones keep all distances alike (Johnson and Lindenstrauss 1984), also those to images that are like none.
    """
    if features <= _DIRECTIONS:
        return np.eye(features)
    generator = np.random.Generator(np.random.Philox(key=0))
    return generator.standard_normal((features, _DIRECTIONS)) / math.sqrt(_DIRECTIONS)


def _shrunk_covariance(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shrunk towards a multiple of the identity by as much as the sample asks for (Ledoit and Wolf 2004)."""
    count, features = x.shape
    x = x - x.mean(0)
    sample = x.T @ x / count
    level = float(np.trace(sample)) / features or 1.0
    spread = float(((sample - level * np.eye(features)) ** 2).sum())
    noise = float(((x**2).T @ (x**2)).sum() / count - (sample**2).sum()) / count
    part = min(noise, spread) / spread if spread else 1.0
    return np.asarray((1 - part) * sample + part * level * np.eye(features) + 1e-6 * level * np.eye(features))
