"""How much of the claimed epsilon is real? One step is taken many times, with a canary image and without it.

The attacker knows all other images and the canary, and sees the noisy gradient. How often it is right bounds epsilon
from below (Jagielski et al. 2020). A bound above what is claimed would show that the noise is too small.

If the noise is normal, its errors at one threshold bound those at all others. Then fewer trials tell more (Nasr et al.
2023). A normal mechanism's epsilon follows from them exactly (Balle and Wang 2018).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import beta, norm
from torch import Tensor

from fedhelp_edge.lab.attacks import DP, AttackResult
from fedhelp_edge.methods.base import Batch, Learner
from fedhelp_edge.methods.private_gradients import PrivateGradients, clipped_sum
from fedhelp_edge.privacy import accountant, noise
from fedhelp_edge.privacy.accountant import NoisySteps

_CONFIDENCE = 0.95
_THRESHOLDS = 400  # that are tried
_LARGEST = 100.0  # epsilon of normal noise beyond which nothing is told apart


def audit(learner: Learner, batch: Batch, trials: int) -> list[AttackResult]:
    """The lower bounds for one step with all images of a batch, of which the last is the canary."""
    privacy = learner.plan.privacy
    without = replace(batch, images=batch.images[:-1], labels=batch.labels[:-1], index=batch.index[:-1])
    canary = replace(batch, images=batch.images[-1:], labels=batch.labels[-1:], index=batch.index[-1:])
    direction, *worlds = (clipped_sum(learner, images, privacy.gradient_norm)[0] for images in (canary, without, batch))
    seen = np.array([
        [_project(learner, sums, direction, 2 * trial + world) for trial in range(trials)]
        for world, sums in enumerate(worlds)
    ])  # fmt: skip
    half = trials // 2  # some trials choose the threshold, the others judge it
    thresholds = np.quantile(seen[:, :half], np.linspace(0, 1, _THRESHOLDS))
    claimed = accountant.epsilon([NoisySteps(privacy.noise_multiplier, 1.0, 1)], privacy.delta)
    results = []
    for bound, given in ((_bound, ""), (_normal_bound, ", if the noise is normal")):
        chosen = max(thresholds, key=lambda at: bound(*_errors(seen[:, :half], at), privacy.delta))
        value = bound(*_errors(seen[:, half:], chosen), privacy.delta)
        measure = f"epsilon at least{given}, of {claimed:.3g} claimed"
        results.append(AttackResult("canary", DP, "one step's gradient", measure, value))
    return results


def _project(learner: Learner, sums: Mapping[str, Tensor], direction: Mapping[str, Tensor], step: int) -> float:
    """How far a noisy gradient points into the canary's direction."""
    gradients = PrivateGradients(noise.lab_key(learner.plan.seed, learner.site.id, 1), step).noisy(learner.plan, sums)
    return math.fsum(float((gradient * direction[name]).sum()) for name, gradient in gradients.items())


def _errors(seen: NDArray[np.float64], threshold: float) -> tuple[float, float]:
    """Upper bounds, by Clopper and Pearson, of how often the attacker wrongly says yes, and wrongly says no."""
    count = seen.shape[1]
    wrong = (int((seen[0] >= threshold).sum()), int((seen[1] < threshold).sum()))
    level = 1 - (1 - _CONFIDENCE) / 2
    alarms, misses = (1.0 if n == count else float(beta.ppf(level, n + 1, count - n)) for n in wrong)
    return alarms, misses


def _bound(alarms: float, misses: float, delta: float) -> float:
    """The epsilon that so few errors need."""
    both = ((1 - delta - misses) / alarms, (1 - delta - alarms) / misses)
    return max(0.0, math.log(max(1.0, *both)))


def _normal_bound(alarms: float, misses: float, delta: float) -> float:
    """The epsilon of normal noise that so few errors need: two normal numbers that lie `distance` apart."""
    distance = -norm.ppf(alarms) - norm.ppf(misses)

    def excess(epsilon: float) -> float:
        low, high = norm.cdf((distance / 2 - epsilon / distance, -distance / 2 - epsilon / distance))
        return float(low - math.exp(epsilon) * high - delta)

    if distance <= 0 or excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, _LARGEST)) if excess(_LARGEST) < 0 else _LARGEST
