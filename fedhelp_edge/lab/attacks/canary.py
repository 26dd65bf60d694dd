"""How much of the claimed epsilon is real? One step is taken many times, with a canary image and without it.

The attacker knows all other images and the canary, and sees the noisy gradient. How often it is right bounds epsilon
from below (Jagielski et al. 2020). A bound above what is claimed would show that the noise is too small.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from scipy.stats import beta

from fedhelp_edge.lab.attacks import DP, AttackResult
from fedhelp_edge.methods.base import Batch, Learner
from fedhelp_edge.methods.private_gradients import PrivateGradients, clipped_sum
from fedhelp_edge.privacy import accountant, noise
from fedhelp_edge.privacy.accountant import NoisySteps

_CONFIDENCE = 0.95


def audit(learner: Learner, batch: Batch, trials: int) -> AttackResult:
    """The lower bound for one step with all images of a batch, of which the last is the canary."""
    privacy = learner.plan.privacy
    without = replace(batch, images=batch.images[:-1], labels=batch.labels[:-1], index=batch.index[:-1])
    canary = replace(batch, images=batch.images[-1:], labels=batch.labels[-1:], index=batch.index[-1:])
    sums, _ = clipped_sum(learner, canary, privacy.gradient_norm)
    direction = torch.cat([gradient.flatten() for gradient in sums.values()])
    seen = np.array([
        [_project(learner, images, direction, 2 * trial + world) for trial in range(trials)]
        for world, images in enumerate((without, batch))
    ])  # fmt: skip
    half = trials // 2  # some trials choose the threshold, the others judge it
    thresholds = np.sort(seen[:, :half].ravel())
    chosen = max(thresholds, key=lambda at: _bound(*_errors(seen[:, :half], at), privacy.delta))
    bound = _bound(*_errors(seen[:, half:], chosen), privacy.delta)
    claimed = accountant.epsilon([NoisySteps(privacy.noise_multiplier, 1.0, 1)], privacy.delta)
    return AttackResult("canary", DP, "one step's gradient", f"epsilon at least, of {claimed:.3g} claimed", bound)


def _project(learner: Learner, batch: Batch, direction: torch.Tensor, step: int) -> float:
    learner.net.zero_grad()
    PrivateGradients(noise.lab_key(learner.plan.seed, learner.site.id, 1), step).add(learner, batch)
    gradient = torch.cat([p.grad.flatten() for p in learner.net.parameters() if p.grad is not None])
    return float(gradient @ direction)


def _errors(seen: np.ndarray, threshold: float) -> tuple[float, float]:
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
