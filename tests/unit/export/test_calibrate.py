"""Calibration by validation images: checked on samples with known truth, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta
from sklearn.covariance import LedoitWolf

from benchmarks import claims
from export import calibrate, keep
from fedhelp_edge.errors import TooFewError
from fedhelp_edge.infer.metadata import Calibration

K = 3


def sample(count: int, seed: int, temperature: float = 1.0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Calibrated logits times `temperature`, with labels drawn by the calibrated ones."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2.0, (count, K))
    chances = calibrate.softmax(logits)
    labels = (chances.cumsum(1) < random.random((count, 1))).sum(1)
    return logits * temperature, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_restores_calibrated_logits(temperature: float) -> None:
    assert calibrate.fit_temperature(*sample(4000, 1, temperature)) == pytest.approx(temperature, rel=0.1)


def test_a_few_right_answers_do_not_give_certainty() -> None:
    logits, labels = np.eye(K)[[0, 1, 2, 0]] * 4.0, np.array([0, 1, 2, 0])
    assert 0.5 < calibrate.fit_temperature(logits, labels) < 1.5


def test_calibrated_probabilities_have_a_smaller_error() -> None:
    calibration = calibrate.calibrate(*sample(1000, 2, temperature=3.0), target_sensitivity=0.9)
    assert calibration.ece
    assert calibration.ece[1] < calibration.ece[0] / 2


def coverage(calibration: Calibration, seed: int) -> list[float]:
    """The coverage: how often new images of each class have it in their set."""
    logits, labels = sample(2000, seed)
    probabilities = calibrate.softmax(logits / calibration.temperature)
    in_set = probabilities[np.arange(len(labels)), labels] >= np.array(calibration.least)[labels]
    return [float(in_set[labels == label].mean()) for label in range(K)]


def test_each_class_has_the_promised_coverage() -> None:
    """Checked over many draws of validation images, because the guarantee is one of expectation."""
    rates = [coverage(calibrate.calibrate(*sample(120, seed), 0.9), 1000 + seed) for seed in range(20)]
    assert np.mean(rates, 0).min() >= 1 - calibrate.MISS_RATE - 0.01


def test_few_images_give_a_lower_level_that_is_recorded() -> None:
    logits, labels = sample(300, 4)
    few = np.concatenate(
        [np.flatnonzero(labels == 0)[:9], np.flatnonzero(labels == 1), np.flatnonzero(labels == 2)[:2]]
    )
    calibration = calibrate.calibrate(logits[few], labels[few], 0.9)
    assert calibration.level[0] == pytest.approx(1 / 10)
    assert calibration.level[1] == calibrate.MISS_RATE
    assert calibration.own == (True, True, False)


def test_a_class_without_validation_images_has_no_guarantee_and_blocks_nothing() -> None:
    logits, labels = sample(200, 10)
    calibration = calibrate.calibrate(logits[labels < 2], labels[labels < 2], 0.9)
    assert (calibration.images[2], calibration.own[2], calibration.thresholds[2].at) == (0, False, None)
    assert len(calibration.least) == K


def test_too_few_images_are_refused() -> None:
    with pytest.raises(TooFewError):
        calibrate.calibrate(*sample(3, 5), 0.9)


def test_a_class_at_least_as_likely_as_not_is_never_ruled_out() -> None:
    logits = np.eye(2)[np.arange(100) % 2] * 20.0
    calibration = calibrate.calibrate(logits, np.arange(100) % 2, 0.9)
    assert max(calibration.least) < 0.5


@pytest.mark.parametrize("scene", ["clear", "hard"])
def test_the_claims_about_thresholds_hold_for_new_images(scene: str) -> None:
    """Through the whole chain of six weighed nets. What ten images say of themselves is eight points too high."""
    rows = claims.claims(10, scene, nets=6, sites=20, figures=False)
    for target in claims.TARGETS:
        in_sample = rows[claims.BEFORE, f"sensitivity {target}"]
        assert in_sample["true"] < in_sample["claimed"] - 0.045  # this test would see it
        sensitivity, specificity = (rows[claims.OURS, f"{name} {target}"] for name in ("sensitivity", "specificity"))
        assert sensitivity["true"] == pytest.approx(sensitivity["claimed"], abs=0.045)
        assert specificity["true"] == pytest.approx(specificity["claimed"], abs=0.045)


def test_an_image_is_judged_by_nets_that_were_weighed_without_it_and_without_its_patient() -> None:
    random = np.random.default_rng(4)
    labels, patients = np.arange(24) % 2, np.arange(24) // 2
    nets = {name: random.normal(size=(24, 2)) + 2 * np.eye(2)[labels] for name in ("own", "merged", "alone")}
    pooled = calibrate.held_out(nets, labels, patients)
    for patient in range(2, 10):  # of twelve patients, these are alone in their fold
        inside = patients == patient
        kept = keep.keep({n: x[~inside] for n, x in nets.items()}, labels[~inside], patients[~inside])
        assert pooled[inside] == pytest.approx(keep.pool({n: x[inside] for n, x in nets.items()}, kept.scales))


def test_what_is_promised_of_unlike_images_holds_for_few_validation_images() -> None:
    """With looks, twice as many as promised were called unlike."""
    for name, row in claims.likeness_claims(10, sites=40).items():
        assert row["claimed"] - 0.06 < row["true"] < row["claimed"] + 0.03, name


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
    likeness = calibrate.likeness(train, other)
    oracle = np.sqrt(LedoitWolf().fit(train).mahalanobis(other))
    assert likeness.distance(other) * likeness.limit == pytest.approx(oracle, rel=1e-3)


def test_the_limit_accepts_nearly_all_images_of_the_same_kind_and_no_others() -> None:
    random = np.random.default_rng(9)
    likeness = calibrate.likeness(random.normal(size=(300, 16)), random.normal(size=(200, 16)))
    assert (likeness.distance(random.normal(size=(4000, 16))) > 1).mean() < 0.05
    assert (likeness.distance(random.normal(size=(500, 16)) + 2) > 1).mean() > 0.9


@pytest.mark.parametrize("features", [192, 1280])
def test_of_wide_embeddings_the_distance_is_taken_along_fewer_directions(features: int) -> None:
    random = np.random.default_rng(3)
    mixing = random.normal(size=(24, features))  # embeddings fill few of their dimensions
    train, validation, same, shifted = (random.normal(size=(n, 24)) @ mixing for n in (300, 200, 1000, 300))
    likeness = calibrate.likeness(train, validation)
    assert likeness.root.shape == (features, 192)
    assert (likeness.distance(same) > 1).mean() < 0.06
    assert (likeness.distance(shifted + 2 * np.abs(mixing).mean(0)) > 1).mean() > 0.9
    off = 3 * random.normal(size=features)  # where training images never lie
    assert (likeness.distance(shifted + off) > 1).mean() > 0.9


def test_as_many_validation_images_are_unlike_by_the_others_limits_as_new_images_are() -> None:
    """By a limit of their own, no image of ten is."""
    random, counted, true = np.random.default_rng(13), [], []
    folds = np.arange(10)
    for _ in range(60):
        train, validation, new = (random.normal(size=(count, 6)) for count in (100, 10, 500))
        likeness = calibrate.likeness(train, validation)
        counted.append((calibrate.held_out_distances(likeness, validation, {}, folds) > 1).mean())
        true.append((likeness.distance(new) > 1).mean())
        assert not (likeness.distance(validation) > 1).any()
    assert np.mean(counted) == pytest.approx(np.mean(true), abs=0.03)
    assert np.mean(true) > 0.05


def test_a_calibration_without_a_fold_knows_nothing_of_it() -> None:
    logits, labels = sample(40, 6)
    folds = np.arange(40) % 10
    for inside, calibration in calibrate.held_out_calibrations(logits, labels, 0.9, folds):
        assert calibration == calibrate.calibrate(logits[~inside], labels[~inside], 0.9)
    ((_, alone),) = calibrate.held_out_calibrations(logits, labels, 0.9, np.zeros(40))  # one patient: nobody else
    assert alone == calibrate.calibrate(logits, labels, 0.9)


@pytest.mark.parametrize(("count", "beyond"), [(9, 0), (49, 0), (99, 1), (200, 3)])
def test_exactly_as_many_validation_images_are_beyond_the_limit_as_the_guarantee_needs(count: int, beyond: int) -> None:
    """So that 2 % of new images of the same kind are beyond it: floor(0.02 (n + 1)) - 1 of n, and none of few."""
    random = np.random.default_rng(12)
    train, validation = random.normal(size=(300, 6)), random.normal(size=(count, 6))
    likeness = calibrate.likeness(train, validation)
    assert int((likeness.distance(validation) > 1).sum()) == beyond
    assert likeness.level == max(0.02, 1 / (count + 1))


def test_equal_embeddings_give_a_thousand_times_the_euclidean_distance() -> None:
    likeness = calibrate.likeness(np.ones((20, 4)), np.ones((10, 4)) + np.arange(10)[:, None])
    away = np.array([[1.0, 1, 1, 2], [4.0, 1, 1, 5]])
    assert likeness.distance(away) * likeness.limit == pytest.approx([1000.0, 5000.0], rel=1e-3)


def test_off_a_line_of_embeddings_the_distance_is_a_thousand_spreads() -> None:
    train = np.array([[3.0, 3.0], [-3.0, -3.0]] * 10)
    likeness = calibrate.likeness(train, train + 1)
    assert likeness.distance(np.array([[3.0, -3.0]])) * likeness.limit == pytest.approx(1000 * 2**0.5, rel=1e-3)


def test_a_single_feature_is_measured_in_standard_deviations() -> None:
    train = np.arange(20.0)[:, None]
    likeness = calibrate.likeness(train, train + 1)
    assert likeness.distance(train[:1]) * likeness.limit == pytest.approx(9.5 / train.std(), rel=1e-3)


def test_appearance_features_each_have_their_own_scale() -> None:
    random = np.random.default_rng(14)
    looks, other = random.normal(size=(80, 5)) * [1, 0.2, 0.05, 0.01, 3], random.normal(size=(30, 5))
    likeness = calibrate.likeness(random.normal(size=(80, 4)), random.normal(size=(30, 4)), {"tone": (looks, other)})
    scale, cloud = looks.std(0) + 0.03, likeness.looks["tone"]
    oracle = np.sqrt(LedoitWolf().fit(looks / scale).mahalanobis(other / scale))
    assert cloud.distance(other) * cloud.limit == pytest.approx(oracle, rel=1e-3)


@pytest.mark.parametrize("narrow", [False, True])
def test_every_kind_of_distance_has_its_limit_the_same_number_of_spreads_beyond_its_median(narrow: bool) -> None:
    """The spread goes from the median to the 95 % quantile of the logarithms, and is at least one per cent."""
    random = np.random.default_rng(15)
    train, validation = random.normal(size=(300, 6)), random.normal(size=(100, 6))
    looks, others = random.normal(size=(300, 3)), random.normal(size=(100, 3))
    if narrow:
        others[:] = [3, 0, 0]
        others[:2] = [3.2, 0, 0]
    likeness = calibrate.likeness(train, validation, {"tone": (looks, others)})
    spreads = []
    for cloud, numbers in ((likeness, validation), (likeness.looks["tone"], others)):
        logs = np.log(cloud.distance(numbers) * cloud.limit)
        middle, high = np.quantile(logs, [0.5, 0.95])
        spreads.append((np.log(cloud.limit) - middle) / max(high - middle, 0.01))
    assert spreads[0] == pytest.approx(spreads[1], rel=1e-2)


# --- counts at each limit ------------------------------------------------------------------------------------------


def unsure(count: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """So many images of class 0 with different probabilities below one half, and 15 others."""
    logits = np.zeros((count + 15, 2))
    logits[:, 0] = [*np.linspace(-2, -0.5, count), *np.linspace(-3, -0.1, 15)]
    return logits, np.array([0] * count + [1] * 15)


@pytest.mark.parametrize(("count", "below"), [(4, 0), (9, 0), (18, 0), (19, 0), (38, 0), (39, 1), (59, 2), (100, 4)])
def test_exactly_as_many_images_of_a_class_miss_their_set_as_the_guarantee_allows(count: int, below: int) -> None:
    """So that 5 % of new images of the class do: floor(0.05 (n + 1)) - 1 of n, and none of few."""
    logits, labels = unsure(count)
    calibration = calibrate.calibrate(logits, labels, 0.9)
    sorted_chances = np.sort(calibrate.softmax(logits / calibration.temperature)[labels == 0, 0])
    assert int((sorted_chances < calibration.least[0]).sum()) == below
    assert calibration.least[0] == pytest.approx(sorted_chances[below], abs=2e-5)
    assert calibration.level[0] == pytest.approx(max(0.05, 1 / (count + 1)))


@pytest.mark.parametrize(("count", "own_level"), [(3, False), (4, True)])
def test_four_images_of_a_class_are_enough_for_its_own_guarantee(count: int, own_level: bool) -> None:
    assert calibrate.calibrate(*unsure(count), 0.9).own == (own_level, True)


def test_four_images_are_enough_for_calibration() -> None:
    assert calibrate.calibrate(*sample(4, 5), 0.9).images


@pytest.mark.parametrize(
    ("count", "target", "missed", "claimed"),
    [
        (10, 0.9, 0, 10 / 11), (19, 0.9, 1, 0.9), (20, 0.9, 1, 19 / 21), (29, 0.9, 2, 0.9), (19, 0.95, 0, 0.95),
        (10, 0.8, 1, 9 / 11), (200, 0.9, 19, 181 / 201),
    ],
)  # fmt: skip
def test_a_threshold_misses_as_many_images_as_leave_the_target_for_other_images(
    count: int, target: float, missed: int, claimed: float
) -> None:
    """At the k-th smallest of n, 1 - k / (n + 1) of others are above it: the largest k for which that is the target."""
    logits, labels = unsure(count)
    calibration = calibrate.calibrate(logits, labels, target)
    chances, threshold = calibrate.softmax(logits / calibration.temperature)[:, 0], calibration.thresholds[0]
    sorted_chances = np.sort(chances[labels == 0])
    assert threshold.at is not None and threshold.sensitivity and threshold.specificity
    assert int((sorted_chances < threshold.at).sum()) == missed
    assert threshold.at == pytest.approx(sorted_chances[missed], abs=2e-5)
    assert (threshold.images, threshold.sensitivity.value) == (count, pytest.approx(claimed))
    expected = beta(count - missed, missed + 1).interval(0.95)
    assert (threshold.sensitivity.low, threshold.sensitivity.high) == pytest.approx(expected)
    assert threshold.specificity.value == pytest.approx((chances[labels == 1] < threshold.at).mean())
    assert not threshold.reason


@pytest.mark.parametrize(("count", "target", "most"), [(10, 0.99, "90.9%"), (98, 0.99, "99.0%"), (10, 0.91, "90.9%")])
def test_too_few_images_for_the_target_give_the_lowest_threshold_and_say_what_it_can_reach(
    count: int, target: float, most: str
) -> None:
    logits, labels = unsure(count)
    threshold = calibrate.calibrate(logits, labels, target).thresholds[0]
    assert threshold.reason == f"{count} images show a sensitivity of {most} at most"
    assert threshold.sensitivity and threshold.sensitivity.value == pytest.approx(count / (count + 1))


def test_a_class_with_zero_probability_is_always_flagged_and_never_ruled_out() -> None:
    logits, labels = np.array([[-1e6, 0.0]] * 20), np.array([0, 1] * 10)
    calibration = calibrate.calibrate(logits, labels, 0.9)
    threshold = calibration.thresholds[0]
    assert threshold.sensitivity and threshold.specificity
    assert (calibration.least[0], threshold.at) == (0, 0)
    assert (threshold.sensitivity.value, threshold.specificity.value) == (1, 0)


# --- the temperature -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_temperature_is_the_likeliest_one_under_a_log_normal_prior(seed: int) -> None:
    logits, labels = sample(6, seed, temperature=6.0)

    def unlikely(log: float) -> float:
        chances = calibrate.softmax(logits / np.exp(log))[np.arange(6), labels]
        return float(-np.log(chances).sum() + log**2 / 2)

    oracle = min(np.linspace(-3, 3, 6001), key=unlikely)
    assert np.log(calibrate.fit_temperature(logits, labels)) == pytest.approx(oracle, abs=0.006)


@pytest.mark.parametrize(("logit", "log"), [(-10.0, 3), (0.1, -3)])
def test_the_temperature_is_limited_to_e_to_the_third_in_both_directions(logit: float, log: float) -> None:
    labels = np.arange(4000) % 2
    assert calibrate.fit_temperature(np.eye(2)[labels] * logit, labels) == pytest.approx(np.exp(log), rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_temperature_has_steps_of_one_per_cent(seed: int) -> None:
    steps = 100 * np.log(calibrate.fit_temperature(*sample(50, seed, 2.0)))
    assert steps == pytest.approx(round(steps), abs=1e-3)


def test_logits_of_any_size_have_probabilities_and_a_loss() -> None:
    assert calibrate.softmax(np.array([[1000.0, 0.0], [-1000.0, -1000.0]])).tolist() == [[1, 0], [0.5, 0.5]]
    assert calibrate.log_loss(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(-np.log(1e-12))


def test_nan_answers_have_no_calibration_error() -> None:
    assert calibrate.calibrate(np.full((20, 2), np.nan), np.arange(20) % 2, 0.9).ece is None
