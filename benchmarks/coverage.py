"""How often the interval of a difference between two methods contains the true one, over simulated federations.

Two methods are judged on the test images of four sites, by three, five or ten seeds. An image has a difficulty, and a
preference for one method; a run has luck of its own (`seed_spread`), and luck with each image (`image_noise`). The true
difference is over all runs and all images. All draws are seeded. Prints JSON lines.

Then an average of nets, one of which was trained alone, against as many nets that were trained alone. Each of these is
in the ensembles of several seeds.
"""

from __future__ import annotations

import json
import math

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.report import seeds

Floats = NDArray[np.float64]
SITES = (140, 140, 90, 30)  # test images
_EASE = np.repeat([1.4, 0.3, -0.1, 0.4], SITES)  # of each site's images
_GAIN, _TASTE = 0.1, 0.5  # the second method's, and the spread of how much an image prefers one method
IMAGES = sum(SITES)
SETTINGS = ((0.0, 0.3), (0.0, 1.0), (0.05, 0.5), (0.1, 0.5), (0.2, 0.5), (0.5, 0.5))


def main() -> None:
    for runs in (3, 4, 5, 10):
        for seed_spread, image_noise in SETTINGS:
            rates = covered(runs, seed_spread, image_noise)
            about = {"runs": runs, "seed_spread": seed_spread, "image_noise": image_noise}
            print(json.dumps({"figure": "coverage of a 95 % interval", **about, **rates}))
            rates = covered_by_ensembles(runs, seed_spread, image_noise)
            print(json.dumps({"figure": "coverage, averages against ensembles", **about, **rates}))


def covered(runs: int, seed_spread: float, image_noise: float, federations: int = 1000) -> dict[str, float]:
    """The part of simulated federations whose interval contains the truth: `both` is ours, over seeds and images.

    `images` takes the runs as they are, as an interval over images alone does; `seeds` takes the images as they are.
    """
    random = np.random.default_rng(17)
    truth = true_difference(seed_spread, image_noise)
    labels = np.repeat(np.arange(len(SITES)), SITES)
    weights = np.vstack([np.ones((1, IMAGES)), seeds.draw_weights(labels, np.arange(IMAGES))[:200]]) / IMAGES
    hits = {"both": 0, "images": 0, "seeds": 0}
    for _ in range(federations):
        differences = _gains(random, runs, seed_spread, image_noise) @ weights.T  # as `metrics` makes them
        both, images = (seeds.compare(some, IMAGES) for some in (differences, differences.mean(0, keepdims=True)))
        hits["both"] += _contains(both, truth)
        hits["images"] += _contains(images, truth)
        values = differences[:, 0]
        half = seeds.student_quantile(runs - 1) * values.std(ddof=1) / math.sqrt(runs)
        hits["seeds"] += bool(abs(values.mean() - truth) <= half)
    return {name: hits[name] / federations for name in hits}


def covered_by_ensembles(
    runs: int, seed_spread: float, image_noise: float, federations: int = 1000, size: int = 3
) -> dict[str, float]:
    """The same for an average of two nets of the second method and one of the first, less three of the first.

    `shared` is ours: it leaves seeds out in turn. `independent` takes the ensembles of different seeds as such.
    """
    random = np.random.default_rng(18)
    spread = math.sqrt(1 + (_TASTE / 2 / size) ** 2 + (seed_spread**2 + image_noise**2) / size)
    own, other = (size - 1) / size * _GAIN, math.sqrt(spread**2 + (_TASTE / 2) ** 2 * (1 - 1 / size**2))
    truth = float(np.mean(_normal((_EASE + own) / spread) - _normal(_EASE / other)))
    labels = np.repeat(np.arange(len(SITES)), SITES)
    weights = np.vstack([np.ones((1, IMAGES)), seeds.draw_weights(labels, np.arange(IMAGES))[:200]]) / IMAGES
    hits = {"shared": 0, "independent": 0}
    for _ in range(federations):
        ease, taste = random.normal(_EASE, 1), random.normal(0, _TASTE, IMAGES) / 2
        nets = [
            ease
            + sign * taste
            + gain
            + random.normal(0, seed_spread, (runs, 1))
            + random.normal(0, image_noise, (runs, IMAGES))
            for sign, gain in [(-1, 0.0), *[(1, _GAIN)] * (size - 1)]
        ]
        means = np.mean(nets, 0)

        def differences(order: list[int], means: Floats = means, local: Floats = nets[0]) -> Floats:
            """For each seed of these, as `lab.results` makes them."""
            members = [[order[(start + step) % len(order)] for step in range(min(size, len(order)))]
                       for start in range(len(order))]  # fmt: skip
            ensembles = np.stack([local[each].mean(0) for each in members])
            return ((means[order] > 0) * 1.0 - (ensembles > 0)) @ weights.T

        everyone = list(range(runs))
        each = differences(everyone)
        left_out = np.stack([differences([one for one in everyone if one != left]).mean(0) for left in everyone])
        shared = seeds.compare(seeds.added_by_each(each.mean(0), left_out), IMAGES)
        hits["shared"] += _contains(shared, truth)
        hits["independent"] += _contains(seeds.compare(each, IMAGES), truth)
    return {name: hits[name] / federations for name in hits}


def true_difference(seed_spread: float, image_noise: float) -> float:
    """The difference in accuracy over all runs and all images of such sites."""
    spread = math.sqrt(1 + (_TASTE / 2) ** 2 + seed_spread**2 + image_noise**2)
    return float(np.mean(_normal((_EASE + _GAIN) / spread) - _normal(_EASE / spread)))


def _gains(random: np.random.Generator, runs: int, seed_spread: float, image_noise: float) -> Floats:
    """1 where only the second method is right, -1 where only the first is, else 0: runs x images."""
    ease, taste = random.normal(_EASE, 1), random.normal(0, _TASTE, IMAGES) / 2
    first, second = (
        ease
        + sign * taste
        + gain
        + random.normal(0, seed_spread, (runs, 1))
        + random.normal(0, image_noise, (runs, IMAGES))
        > 0
        for sign, gain in ((-1, 0.0), (1, _GAIN))
    )
    return second.astype(np.float64) - first


def _contains(comparison: seeds.Comparison, truth: float) -> bool:
    return comparison.low is not None and comparison.high is not None and comparison.low <= truth <= comparison.high


def _normal(x: Floats) -> Floats:
    return np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])


if __name__ == "__main__":
    main()
