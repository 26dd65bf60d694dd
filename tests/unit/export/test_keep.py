"""What a site keeps: how much each net counts, by the site's validation images, and what gain to expect of that."""

from __future__ import annotations

import sys
from subprocess import run

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import keeps
from export import calibrate, keep
from export.keep import Kept, log_softmax

Floats = NDArray[np.float64]


def drawn(count: int, seed: int = 0, **skills: float) -> tuple[dict[str, Floats], NDArray[np.int64]]:
    """Nets of so much skill, and the classes of the images; some nets are surer of themselves than of the truth."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    truth = np.eye(3)[labels]
    return {name: skill * truth + random.normal(size=(count, 3)) for name, skill in skills.items()}, labels


def kept(count: int, **skills: float) -> Kept:
    logits, labels = drawn(count, **skills)
    return keep.keep(logits, labels, np.arange(count))


def test_many_images_give_weight_to_the_net_that_knows_more() -> None:
    weights = kept(400, own=3.0, merged=0.0, alone=1.0).weights
    assert weights["own"] > 0.6
    assert weights["alone"] > 1.2 * weights["merged"]
    assert sum(weights.values()) == pytest.approx(1)


def test_few_images_leave_all_nets_near_the_plain_average() -> None:
    few, many = (kept(count, own=3.0, merged=0.0, alone=1.0).scales for count in (3, 400))
    assert all(0.2 < scale < 0.5 for scale in few.values())
    assert many["own"] - 1 / 3 > 2 * (few["own"] - 1 / 3)


def test_without_validation_images_all_nets_count_alike_and_no_gain_is_promised() -> None:
    choice = kept(0, own=1.0, merged=1.0, alone=1.0)
    assert set(choice.weights.values()) == {1 / 3}
    assert choice.gain.accuracy.value is None
    assert choice.gain.accuracy.reason == "fewer than 10 validation images to measure by"


def test_a_net_that_is_surely_wrong_loses_its_weight_after_few_images() -> None:
    logits, labels = drawn(12, own=1.0, alone=1.0)
    logits["merged"] = 9 * np.eye(3)[(labels + 1) % 3]
    assert keep.keep(logits, labels, np.arange(12)).weights["merged"] < 0.2  # 0.7 in the average


def test_weights_are_the_most_likely_ones_under_their_prior() -> None:
    """No step along any net's scale is better."""
    logits, labels = drawn(30, own=2.0, merged=1.0, alone=0.0)
    choice = keep.keep(logits, labels, np.arange(30))
    scales = np.array(list(choice.scales.values())) / choice.temperature
    assert len(scales) == 3

    def cost(scales: Floats) -> float:
        logs = np.log(3 * scales)
        answers = log_softmax(sum(scale * each for scale, each in zip(scales, logits.values(), strict=True)))
        prior = logs @ np.linalg.inv(np.eye(3) + np.ones((3, 3))) @ logs / 2
        return float(prior - answers[np.arange(30), labels].sum())

    best = cost(scales)
    for index in range(3):
        for factor in (0.99, 1.01):
            moved = scales.copy()
            moved[index] *= factor
            assert cost(moved) > best


def test_how_much_a_net_counts_does_not_depend_on_the_size_of_its_logits() -> None:
    logits, labels = drawn(200, own=2.0, merged=2.0)
    loud = keep.keep({**logits, "merged": 50 * logits["merged"]}, labels, np.arange(200))
    assert loud.scales["merged"] < 0.1 * loud.scales["own"]
    assert loud.weights["merged"] == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("factor", [1e-6, 1e5])
def test_logits_of_any_size_have_finite_weights(factor: float) -> None:
    logits, labels = drawn(25, own=2.0, merged=1.0, alone=0.5)
    choice = keep.keep({name: factor * each for name, each in logits.items()}, labels, np.arange(25))
    assert sum(choice.weights.values()) == pytest.approx(1)
    assert all(np.isfinite(weight) and weight > 0 for weight in choice.weights.values())
    assert choice.temperature > 0


def test_a_class_that_validation_images_lack_is_no_error() -> None:
    logits, _ = drawn(15, own=2.0, alone=1.0)
    assert keep.keep(logits, np.zeros(15, np.int64), np.arange(15)).gain.accuracy.value is not None


def test_a_net_whose_answers_are_no_numbers_does_not_count() -> None:
    logits, labels = drawn(20, own=1.0, merged=1.0, alone=1.0)
    logits["merged"][3, 1] = np.nan
    assert set(keep.keep(logits, labels, np.arange(20)).weights) == {"own", "alone"}
    nothing = {name: np.full((20, 3), np.inf) for name in ("own", "alone")}
    choice = keep.keep(nothing, labels, np.arange(20))
    assert (set(choice.weights.values()), choice.gain.accuracy.value) == ({0.5}, None)
    assert "numbers" in (choice.gain.accuracy.reason or "")


def test_a_net_under_two_names_counts_once_and_its_baseline_is_known() -> None:
    """In its first round a site's own net is its local baseline."""
    logits, labels = drawn(40, own=1.0, merged=2.0)
    choice = keep.keep({**logits, "alone": logits["own"]}, labels, np.arange(40))
    assert choice.weights == keep.keep(logits, labels, np.arange(40)).weights
    assert choice.gain.accuracy.value is not None


def test_a_site_without_local_baseline_keeps_its_nets_and_is_told_why_no_gain_is_known() -> None:
    choice = kept(40, own=1.0, merged=2.0)
    assert set(choice.weights) == {"own", "merged"}
    assert choice.gain.accuracy.reason == "there is no local baseline to compare with"


def test_the_expected_gain_is_of_images_that_did_not_decide() -> None:
    """Nets that know nothing fit 30 images by chance; cross-fitted, nothing is gained on average over sites."""
    gains = []
    for seed in range(40):
        logits, labels = drawn(30, seed, own=0.0, merged=0.0, alone=0.0)
        gains.append(keep.keep(logits, labels, np.arange(30)).gain.accuracy.value)
    assert abs(np.mean([gain for gain in gains if gain is not None])) < 0.05


def test_the_interval_holds_the_value_and_narrows_with_images() -> None:
    gains = [kept(count, own=2.0, merged=1.5, alone=0.5).gain for count in (20, 80, 320)]
    widths = []
    for gain in gains:
        figure = gain.accuracy
        assert figure.value is not None and figure.low is not None and figure.high is not None
        assert figure.low <= figure.value <= figure.high
        assert gain.log_loss.value is not None and gain.log_loss.low is None and gain.log_loss.reason
        widths.append((gain.accuracy.high or 0) - (gain.accuracy.low or 0))
    assert widths == sorted(widths, reverse=True)
    assert (gains[2].accuracy.low or 0) > 0


def test_nets_that_all_agree_leave_an_interval_around_zero() -> None:
    logits, labels = drawn(12, alone=5.0)
    logits = {"own": 1.1 * logits["alone"], **logits}
    gain = keep.keep(logits, labels, np.arange(12)).gain.accuracy
    assert gain.value == 0
    assert (gain.low or 0) < 0 < (gain.high or 0)


def test_images_of_one_patient_are_weighed_together_and_count_as_one() -> None:
    logits, labels = drawn(15, own=1.5, merged=1.0, alone=0.5)
    repeated = {name: np.repeat(each, 4, 0) for name, each in logits.items()}
    patients = np.repeat(np.arange(15), 4)
    once = keep.keep(logits, labels, np.arange(15)).gain.accuracy
    together, apart = (keep.keep(repeated, np.repeat(labels, 4), groups).gain.accuracy
                       for groups in (patients, np.arange(60)))  # fmt: skip
    assert (apart.high or 0) - (apart.low or 0) < 0.7 * ((together.high or 0) - (together.low or 0))
    assert (together.high or 0) - (together.low or 0) > 0.5 * ((once.high or 0) - (once.low or 0))
    assert "fewer than 10" in (keep.keep(repeated, np.repeat(labels, 4), patients // 2).gain.accuracy.reason or "")


def test_one_net_has_about_its_temperature() -> None:
    logits, labels = drawn(200, own=2.0)
    choice = keep.keep(logits, labels, np.arange(200))
    assert choice.weights == {"own": 1}
    assert choice.temperature == pytest.approx(calibrate.fit_temperature(logits["own"], labels), rel=0.03)


def test_the_choice_needs_no_torch() -> None:
    code = "import sys, export.keep; sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0


Outcomes = dict[str, dict[int, dict[str, dict[str, float]]]]


@pytest.fixture(scope="module")
def simulated() -> Outcomes:
    """A small form of the simulation whose table docs/decisions/keeps.md shows."""
    names = ("most often right (before)", "always the average", keeps.OURS)
    rules = {name: keeps.RULES[name] for name in names}
    return {scene: keeps.outcomes(sites, rules, (20, 50)) for scene, sites in keeps.simulated_scenes(6).items()}


def mean(simulated: Outcomes, rule: str, size: int) -> float:
    return float(np.mean([by_size[size][rule]["gain"] for by_size in simulated.values()]))


def test_by_simulation_a_site_gains_over_training_alone_in_expectation(simulated: Outcomes) -> None:
    assert all(mean(simulated, keeps.OURS, size) > 1 for size in (20, 50))
    ruined = {rule: simulated["ruins"][50][rule]["gain"] for rule in keeps.RULES if rule in simulated["ruins"][50]}
    assert ruined["always the average"] < -1 < ruined[keeps.OURS]


def test_by_simulation_scaled_nets_gain_more_than_the_net_that_is_right_most_often(simulated: Outcomes) -> None:
    for size in (20, 50):
        assert mean(simulated, keeps.OURS, size) > mean(simulated, "most often right (before)", size) + 0.3
