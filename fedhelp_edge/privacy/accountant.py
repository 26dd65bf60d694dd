"""What epsilon training with noise spends: Renyi differential privacy of the Gaussian mechanism on Poisson samples.

Two sets of images are neighbours if one has one image more. A step takes each image with the chance of the sampling
rate, and adds noise to the sum of clipped gradients. Its Renyi divergences (Mironov, Talwar and Zhang, 2019) add up
over steps, rounds and restarts. They become epsilon by proposition 12 of Canonne, Kamath and Steinke (2020).

Where noise hides sites, two rounds are neighbours if one site changes nothing in one of them. Every site takes part, so
nothing is sampled: a round is one step at the rate 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.plan import Plan

_ORDERS = np.array([*(1 + step / 10 for step in range(1, 100)), *range(11, 64), 96, 128, 192, 256, 384, 512])
_TAIL = 12.0  # standard deviations of the noise beyond which nothing is added up
_LEAST_NOISE, _LARGEST_NOISE = 0.3, 1000.0


@dataclass(frozen=True)
class NoisySteps:
    """Steps of training with noise: all that epsilon depends on."""

    noise_multiplier: float  # standard deviation of the noise, over the largest norm of one image's gradient
    sampling_rate: float
    steps: int


def steps_per_epoch(plan: Plan) -> int:
    """As many as it takes to see each image once, in the mean. It follows from the plan, and not from the images."""
    return max(1, round(1 / plan.privacy.sampling_rate))


def round_of(plan: Plan, rounds: int = 1) -> NoisySteps:
    """The steps of some rounds of a plan, at every site; where noise hides sites, the rounds themselves."""
    privacy = plan.privacy
    if privacy.hides_sites:
        return NoisySteps(privacy.site_noise, 1.0, rounds)
    steps = rounds * plan.training.epochs * steps_per_epoch(plan)
    return NoisySteps(privacy.noise_multiplier, privacy.sampling_rate, steps)


def epsilon(spent: Iterable[NoisySteps], delta: float) -> float:
    """The smallest epsilon that holds with this delta for all these steps together; 0 for none."""
    divergences = np.zeros_like(_ORDERS)
    for steps in spent:
        divergences += steps.steps * _divergences(steps.noise_multiplier, steps.sampling_rate)
    if not divergences.any():
        return 0.0
    values = divergences + np.log1p(-1 / _ORDERS) - (math.log(delta) + np.log(_ORDERS)) / (_ORDERS - 1)
    return max(0.0, float(values.min()))


def spent(plan: Plan, epsilon: float) -> dict[str, Any]:
    """A spent epsilon beside the plan's budget, as people and programs see it. `unit` is there where it is no image."""
    unit = {"unit": "site"} if plan.privacy.hides_sites else {}
    return {"epsilon": round(epsilon, 4), "delta": plan.privacy.delta, "budget": plan.privacy.epsilon, **unit}


def noise_of_a_site(plan: Plan) -> float:
    """The standard deviation of the noise that a site adds to each number of its update.

    The noise of a round's sum is that of its sites together. A site can subtract its own, so the quorum less one site
    make the noise that the plan names.
    """
    return plan.privacy.site_noise * plan.privacy.clip / math.sqrt(max(plan.round.quorum, 2) - 1)


def least_noise(plan: Plan) -> float | None:
    """The smallest noise multiplier with which all rounds stay within the budget, to two digits; None: none does."""
    low, high = round(100 * _LEAST_NOISE) - 1, round(100 * _LARGEST_NOISE)

    def fits(hundredths: int) -> bool:
        steps = replace(round_of(plan, plan.rounds), noise_multiplier=hundredths / 100)
        return epsilon([steps], plan.privacy.delta) <= plan.privacy.epsilon

    if not fits(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high / 100


@cache
def _divergences(noise: float, rate: float) -> NDArray[np.float64]:
    """The Renyi divergence of one step for each order."""
    return np.array([_divergence(noise, rate, order) for order in _ORDERS])


def _divergence(noise: float, rate: float, order: float) -> float:
    """Of the output with an image from that without it, the larger of both directions (theorem 5 of Mironov et al.).

    It is log E[(1 - rate + rate exp((2x - 1) / 2 noise^2))^order] / (order - 1), with x from N(0, noise^2). The sum
    over a grid is exact to machine precision, for the integrand is smooth and falls off as a Gaussian does.
    """
    if rate == 1:
        return order / (2 * noise**2)
    spacing = min(noise, noise**2) / 4
    x = np.arange(-_TAIL * noise, order + _TAIL * noise, spacing)
    density = -((x / noise) ** 2) / 2 - math.log(noise * math.sqrt(2 * math.pi))
    ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * noise**2))
    return max(0.0, float(np.logaddexp.reduce(density + order * ratio)) + math.log(spacing)) / (order - 1)
