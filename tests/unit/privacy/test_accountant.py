"""Epsilon against other accountants, and what a plan may ask."""

from __future__ import annotations

import math

import pytest

from fedhelp_edge import plan as plans
from fedhelp_edge.errors import BadPlanError
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.privacy import accountant
from fedhelp_edge.privacy.accountant import NoisySteps
from tests.unit.privacy.plans import TEXT

# noise, rate, steps, delta; Renyi: dp-accounting 0.6.0 and Opacus 1.6.0; exact: PLD of dp-accounting and PRV of Opacus
OTHERS = [
    (1.0, 0.05, 400, 1e-5, 7.425479, 7.419864, 6.699970, 6.710371),
    (0.6, 0.02, 1000, 1e-5, 15.860423, 15.825064, 14.038486, 14.049346),
    (2.0, 0.1, 4000, 1e-6, 22.570029, 22.464963, 21.183605, 21.194312),
    (1.1, 0.01, 10000, 1e-5, 5.632011, 5.631992, 5.192620, 5.202866),
    (5.0, 1.0, 100, 1e-5, 10.725510, 10.725510, 9.997256, 10.007715),
    (0.4, 0.001, 100, 1e-5, 6.548091, 6.547902, 4.960993, 4.971614),
]


@pytest.mark.parametrize(("noise", "rate", "steps", "delta", "google", "opacus", "pld", "prv"), OTHERS)
def test_epsilon_is_that_of_two_other_accountants(
    noise: float, rate: float, steps: int, delta: float, google: float, opacus: float, pld: float, prv: float
) -> None:
    epsilon = accountant.epsilon([NoisySteps(noise, rate, steps)], delta)
    assert epsilon == pytest.approx(google, rel=0.01)
    assert epsilon == pytest.approx(opacus, rel=0.001)
    assert epsilon >= max(pld, prv)  # those are exact: an accountant may say more, and never less


def test_steps_add_up_whatever_their_order_and_none_cost_nothing() -> None:
    parts = [NoisySteps(1.0, 0.05, 10), NoisySteps(1.3, 0.1, 20), NoisySteps(1.0, 0.05, 30)]
    together = accountant.epsilon([NoisySteps(1.0, 0.05, 40), parts[1]], 1e-5)
    assert accountant.epsilon(parts, 1e-5) == pytest.approx(together)
    assert accountant.epsilon(parts[::-1], 1e-5) == pytest.approx(together)
    assert accountant.epsilon([], 1e-5) == 0


def test_one_full_step_is_the_gaussian_mechanism() -> None:
    """Every order's divergence is order / (2 noise^2); epsilon is at most the classical bound for small epsilons."""
    epsilon = accountant.epsilon([NoisySteps(10.0, 1.0, 1)], 1e-5)
    assert epsilon < math.sqrt(2 * math.log(1.25 / 1e-5)) / 10


def test_a_plan_whose_rounds_spend_too_much_is_refused_with_the_noise_that_is_enough() -> None:
    with pytest.raises(BadPlanError) as caught:
        plans.read(TEXT, METHODS, {"rounds": "400"})
    (mistake,) = caught.value.mistakes
    assert mistake.where == "[privacy] noise_multiplier"
    enough = mistake.cause.split("budget is 8: ")[1].split(" or more")[0]
    assert plans.read(TEXT, METHODS, {"rounds": "400", "privacy.noise_multiplier": enough}).rounds == 400
    less = f"{float(enough) - 0.01:.2f}"
    with pytest.raises(BadPlanError):
        plans.read(TEXT, METHODS, {"rounds": "400", "privacy.noise_multiplier": less})


def test_a_plan_for_which_no_noise_is_enough_is_refused_without_such_advice() -> None:
    changes = {"rounds": "100000", "training.epochs": "1000", "privacy.sampling_rate": "1.0"}
    with pytest.raises(BadPlanError) as caught:
        plans.read(TEXT, METHODS, changes)
    assert "more noise is of no use" in caught.value.mistakes[0].cause


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("nets.norm", "batch", "batch norm mixes"),
        ("merge.weight", "examples", "do not send"),
        ("round.patience", "5", "send no figures"),
        ("training.loss", "logit-adjusted", "counts the images of each class"),
        ("privacy.helper_key", "age1x", "the helper's key"),
    ],
)
def test_what_would_pass_around_the_noise_is_refused_with_the_reason(setting: str, value: str, reason: str) -> None:
    with pytest.raises(BadPlanError) as caught:
        plans.read(TEXT, METHODS, {setting: value})
    table, _, name = setting.partition(".")
    assert {m.where: m.cause for m in caught.value.mistakes}[f"[{table}] {name}"].count(reason) == 1


def test_noise_hides_a_picture_with_its_mask_and_no_volume_nor_how_frequent_classes_are() -> None:
    masks = {"task": "segmentation", "nets.small": "unet8", "nets.large": "unet8", "image.size": "16"}
    assert plans.read(TEXT, METHODS, masks | {"masks.weights": "none"}).has_masks
    assert plans.read(TEXT, METHODS, masks | {"training.loss": "dice-ce"}).has_masks
    for more, place, reason in (
        ({}, "[masks] weights", "how frequent classes are at a site"),
        ({"image.depth": "16", "masks.weights": "none"}, "[image] depth", "several blocks"),
    ):
        with pytest.raises(BadPlanError) as caught:
            plans.read(TEXT, METHODS, masks | more)
        assert reason in {mistake.where: mistake.cause for mistake in caught.value.mistakes}[place]


NOISED = {"fedhelp", "fedavg", "fedprox", "fedadam", "scaffold"}


def test_these_methods_send_nothing_that_the_noise_does_not_cover() -> None:
    assert {name for name in METHODS if METHODS[name].noised} == NOISED


@pytest.mark.parametrize("method", sorted(set(METHODS) - NOISED))
def test_other_methods_are_refused(method: str) -> None:
    with pytest.raises(BadPlanError) as caught:
        plans.read(TEXT, METHODS, {"method": method})
    causes = {mistake.where: mistake.cause for mistake in caught.value.mistakes}
    assert "one of the methods fedhelp, fedavg" in causes["[privacy] mode"]
