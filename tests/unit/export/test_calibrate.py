"""What validation images say of a model: checked on samples whose truth is known, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from export import calibrate
from fedhelp_edge.errors import TooFew
from fedhelp_edge.infer.facts import Calibration

K = 3


def sample(count: int, seed: int, heat: float = 1.0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits that are `heat` times what would be calibrated, with labels drawn by what would be."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2.0, (count, K))
    chances = calibrate.softmax(logits)
    labels = (chances.cumsum(1) < random.random((count, 1))).sum(1)
    return logits * heat, labels


@pytest.mark.parametrize("heat", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_was_put_in(heat: float) -> None:
    assert calibrate.temperature(*sample(4000, 1, heat)) == pytest.approx(heat, rel=0.1)


def test_a_few_right_answers_do_not_ask_for_certainty() -> None:
    logits, labels = np.eye(K)[[0, 1, 2, 0]] * 4.0, np.array([0, 1, 2, 0])
    assert 0.5 < calibrate.temperature(logits, labels) < 1.5


def test_calibrated_probabilities_err_less() -> None:
    said = calibrate.calibrate(*sample(1000, 2, heat=3.0), wanted=0.9)
    assert said.ece
    assert said.ece[1] < said.ece[0] / 2


def covered(said: Calibration, seed: int) -> list[float]:
    """How often new images of each class have it in their set."""
    logits, labels = sample(2000, seed)
    probabilities = calibrate.softmax(logits / said.temperature)
    held = probabilities[np.arange(len(labels)), labels] >= np.array(said.least)[labels]
    return [float(held[labels == one].mean()) for one in range(K)]


def test_each_class_stays_in_its_sets_as_often_as_promised() -> None:
    """Over many draws of validation images, as the promise has it: single samples are lucky or not."""
    rates = [covered(calibrate.calibrate(*sample(120, seed), 0.9), 1000 + seed) for seed in range(20)]
    assert np.mean(rates, 0).min() >= 1 - calibrate.LEVEL - 0.01


def test_few_images_promise_less_and_say_so() -> None:
    logits, labels = sample(300, 4)
    few = np.concatenate(
        [np.flatnonzero(labels == 0)[:9], np.flatnonzero(labels == 1), np.flatnonzero(labels == 2)[:2]]
    )
    said = calibrate.calibrate(logits[few], labels[few], 0.9)
    assert said.level[0] == pytest.approx(1 / 10)
    assert said.level[1] == calibrate.LEVEL
    assert said.own == (True, True, False)


def test_a_class_without_validation_images_is_promised_nothing_and_stops_nothing() -> None:
    logits, labels = sample(200, 10)
    said = calibrate.calibrate(logits[labels < 2], labels[labels < 2], 0.9)
    assert (said.images[2], said.own[2], said.thresholds[2].at) == (0, False, None)
    assert len(said.least) == K


def test_too_few_images_are_refused() -> None:
    with pytest.raises(TooFew):
        calibrate.calibrate(*sample(3, 5), 0.9)


def test_a_class_at_least_as_likely_as_not_is_never_ruled_out() -> None:
    logits = np.eye(2)[np.arange(100) % 2] * 20.0
    said = calibrate.calibrate(logits, np.arange(100) % 2, 0.9)
    assert max(said.least) < 0.5


def test_a_threshold_misses_no_more_than_was_wanted() -> None:
    logits, labels = sample(600, 6)
    said = calibrate.calibrate(logits, labels, 0.9)
    probabilities = calibrate.softmax(logits / said.temperature)
    for one, threshold in enumerate(said.thresholds):
        found = (probabilities[labels == one, one] >= threshold.at).mean()
        assert threshold.sensitivity
        assert threshold.sensitivity.value == pytest.approx(found)
        assert found >= 0.9
        assert (probabilities[labels == one, one] >= threshold.at + 0.02).mean() < found
        assert threshold.sensitivity.low < found < threshold.sensitivity.high


def test_there_is_no_threshold_from_nine_images() -> None:
    logits, labels = sample(300, 7)
    few = np.concatenate([np.flatnonzero(labels == 0)[:9], np.flatnonzero(labels > 0)])
    threshold = calibrate.calibrate(logits[few], labels[few], 0.9).thresholds[0]
    assert threshold.at is None
    assert "fewer than 10" in threshold.reason


def test_the_distance_is_that_of_mahalanobis_with_ledoit_and_wolfs_covariance() -> None:
    random = np.random.default_rng(8)
    train = random.normal(size=(80, 12)) @ random.normal(size=(12, 12)) + 3
    other = random.normal(size=(30, 12)) * 2
    found = calibrate.likeness(train, other)
    oracle = np.sqrt(LedoitWolf().fit(train).mahalanobis(other))
    assert found.distance(other) * found.limit == pytest.approx(oracle, rel=1e-3)


def test_the_limit_lets_nearly_all_images_of_the_same_kind_pass_and_no_others() -> None:
    random = np.random.default_rng(9)
    found = calibrate.likeness(random.normal(size=(300, 16)), random.normal(size=(200, 16)))
    assert (found.distance(random.normal(size=(4000, 16))) > 1).mean() < 0.05
    assert (found.distance(random.normal(size=(500, 16)) + 2) > 1).mean() > 0.9


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize(("count", "beyond"), [(9, 0), (49, 0), (99, 1), (200, 3)])
def test_of_the_validation_images_no_more_and_no_fewer_lie_beyond_the_limit_than_the_promise_needs(
    count: int, beyond: int, looks: bool
) -> None:
    """So that of new images of the same kind 2 % lie beyond it: floor(0.02 (n + 1)) - 1 of n, and none of few."""
    random = np.random.default_rng(12)
    train, kept = random.normal(size=(300, 6)), random.normal(size=(count, 6))
    seen = (random.normal(size=(300, 3)), random.normal(size=(count, 3)))
    found = calibrate.likeness(train, kept, {"tone": seen} if looks else {})
    away = [found.distance(kept), *(cloud.distance(seen[1]) for cloud in found.looks.values())]
    assert int((np.max(away, 0) > 1).sum()) == beyond
    assert found.level == max(0.02, 1 / (count + 1))


def test_embeddings_that_are_all_alike_have_distances_too() -> None:
    found = calibrate.likeness(np.ones((20, 4)), np.ones((10, 4)) + np.arange(10)[:, None])
    assert np.isfinite(found.distance(np.ones((1, 4)))).all()
