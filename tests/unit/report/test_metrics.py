from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as theirs
from sklearn.calibration import calibration_curve

from fedhelp_edge.report import metrics
from fedhelp_edge.report.metrics import MIN_IMAGES, Difference, Figure, adjust_prior, paired_difference, scores

Case = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Probabilities and labels of a small test set with possibly missing classes and many ties."""
    classes, images = draw(st.integers(2, 5)), draw(st.integers(1, 30))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    present = random.choice(classes, draw(st.integers(1, classes)), replace=False)
    parts = random.integers(1, draw(st.sampled_from([3, 50])), (images, classes))
    return parts / parts.sum(1, keepdims=True), random.choice(present, images)


def simulated(images: int, classes: int, seed: int, skill: float = 1.0) -> Case:
    labels = np.random.default_rng(seed).integers(classes, size=images)
    return answered(labels, classes, seed + 10_000, skill), labels


def answered(labels: np.ndarray[Any, Any], classes: int, seed: int, skill: float = 1.0) -> np.ndarray[Any, Any]:
    """Probabilities that correlate with the labels."""
    logits = np.random.default_rng(seed).normal(size=(len(labels), classes)) + skill * np.eye(classes)[labels]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for part in value.values() for number in numbers(part)]
    if isinstance(value, list):
        return [number for part in value for number in numbers(part)]
    return [value] if isinstance(value, int | float) else []


def close(figure: Figure, value: float) -> bool:
    return figure.value is not None and math.isclose(figure.value, value, abs_tol=1e-12)


@given(cases())
def test_proportions_and_f1_are_those_of_scikit_learn(case: Case) -> None:
    probabilities, labels = case
    result, answers = scores(*case), probabilities.argmax(1)
    classes = list(range(probabilities.shape[1]))
    assert close(result.accuracy, theirs.accuracy_score(labels, answers))
    recalls = theirs.recall_score(labels, answers, labels=np.unique(labels), average=None)
    assert close(result.balanced_accuracy, float(np.mean(recalls)))
    assert close(result.f1, theirs.f1_score(labels, answers, average="macro"))
    assert np.array_equal(result.confusion, theirs.confusion_matrix(labels, answers, labels=classes))
    f1s = theirs.f1_score(labels, answers, labels=classes, average=None, zero_division=0.0)
    for label, figures in enumerate(result.classes):
        assert figures.images == np.sum(labels == label)
        assert figures.f1.value is None or close(figures.f1, f1s[label])
        assert (figures.f1.value is None) == (label not in labels and label not in answers)


@given(cases())
def test_values_alone_are_those_with_intervals(case: Case) -> None:
    alone, result = metrics.values(*case), scores(*case).to_json()
    for name in ("accuracy", "balanced_accuracy", "auc", "f1", "ece", "brier"):
        assert result[name]["value"] == (None if math.isnan(alone[name]) else alone[name])


@given(cases())
def test_sensitivity_and_specificity_are_recalls_of_a_class_and_of_the_rest(case: Case) -> None:
    probabilities, labels = case
    answers = probabilities.argmax(1)
    for label, figures in enumerate(scores(*case).classes):
        for figure, chosen in ((figures.sensitivity, labels == label), (figures.specificity, labels != label)):
            if chosen.any():
                assert close(figure, float(np.mean((answers[chosen] == label) == (labels[chosen] == label))))
            else:
                assert figure.value is None and figure.reason


@given(cases())
def test_the_auc_is_that_of_scikit_learn_ties_and_missing_classes_included(case: Case) -> None:
    probabilities, labels = case
    result, expected = scores(*case), []
    for label, figures in enumerate(result.classes):
        if 0 < np.sum(labels == label) < len(labels):
            expected.append(float(theirs.roc_auc_score(labels == label, probabilities[:, label])))
            assert close(figures.auc, expected[-1])
        else:
            assert figures.auc.value is None and figures.auc.reason
    if expected:
        assert close(result.auc, float(np.mean(expected)))
    else:
        assert result.auc == Figure(None, reason="all images are of one class")


@given(cases())
def test_the_brier_score_is_that_of_scikit_learn(case: Case) -> None:
    probabilities, labels = case
    expected = theirs.brier_score_loss(labels, probabilities, labels=range(probabilities.shape[1]))
    assert close(scores(*case).brier, expected)


@given(cases())
@settings(max_examples=50)
def test_every_number_is_finite_and_within_its_interval(case: Case) -> None:
    result = scores(*case)  # a warning of numpy's would fail here too
    plain = result.to_json()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert all(math.isfinite(number) for number in numbers(plain))
    for name in ("accuracy", "balanced_accuracy", "auc", "f1", "ece", "overconfidence", "brier"):
        figure = getattr(result, name)
        assert figure.value is not None or figure.reason
        if figure.low is None:
            assert figure.high is None and figure.reason
        else:
            assert figure.low <= figure.value <= figure.high and not figure.reason


def test_an_interval_excludes_25_of_1000_draws_on_either_side() -> None:
    draws = np.arange(1001) / 1000
    assert metrics.with_interval(0.5, draws, "") == Figure(0.5, 0.025, 0.975)
    assert metrics.with_interval(0.975, draws, "") == Figure(0.975, 0.025, 0.975)
    assert metrics.with_interval(0.01, draws, "") == Figure(
        0.01, 0.01, 0.975
    )  # the interval includes the figure itself


def test_no_proportion_and_no_end_of_its_interval_is_below_0_or_above_1() -> None:
    for images in range(1, 300):
        none, all_ = metrics.proportion(0, images), metrics.proportion(images, images)
        assert (none.value, none.low, all_.value, all_.high) == (0, 0, 1, 1)
    assert metrics.proportion(0, 0) == Figure(None, reason="there are none")


def test_a_nan_figure_never_appears_in_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Difference(1, Figure(math.nan), Figure(None), Figure(None)).to_json()


@pytest.mark.parametrize("hits", range(11))
def test_a_wilson_interval_ends_where_the_proportion_is_just_not_rejected(hits: int) -> None:
    answers = np.eye(2)[[1] * hits + [0] * (10 - hits)]
    figure = scores(answers, np.ones(10)).accuracy
    assert figure.low is not None and figure.high is not None
    for end in (figure.low, figure.high):
        if 0 < end < 1:
            assert abs(hits / 10 - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 10), rel=1e-6)


def test_a_wilson_interval_equals_the_published_one() -> None:
    labels = np.zeros(263)  # Newcombe 1998, table I: 81 of 263
    figure = scores(np.eye(2)[[0] * 81 + [1] * 182], labels).accuracy
    assert (round(figure.low or 0, 4), round(figure.high or 0, 4)) == (0.2553, 0.3662)


def test_with_two_classes_sensitivity_is_that_of_class_one() -> None:
    labels = np.array([0] * 8 + [1] * 4)
    result = scores(np.eye(2)[[0] * 7 + [1] * 1 + [0] * 3 + [1] * 1], labels)
    assert (result.sensitivity.value, result.specificity.value) == (1 / 4, 7 / 8)


def test_with_more_classes_each_class_has_its_sensitivity() -> None:
    result = scores(*simulated(40, 3, seed=1))
    assert result.sensitivity.value is None and result.sensitivity.reason
    assert all(figures.sensitivity.value is not None for figures in result.classes)


def test_with_two_classes_both_rank_alike_though_one_probability_is_rounded() -> None:
    high = np.array([1e-20, 2e-20, 3e-20, 4e-20])
    result = scores(np.stack([1 - high, high], 1), [0, 0, 1, 1])
    assert [figures.auc.value for figures in result.classes] == [1, 1]


def test_bootstrap_intervals_have_about_their_nominal_coverage() -> None:
    probabilities, labels = simulated(200_000, 2, seed=999)
    right = probabilities.argmax(1) == labels
    truth = {
        "auc": float(theirs.roc_auc_score(labels, probabilities[:, 1])),
        "balanced_accuracy": float(np.mean([right[labels == label].mean() for label in range(2)])),
    }
    small = [scores(*simulated(80, 2, seed), seed=seed) for seed in range(120)]
    for name, value in truth.items():
        figures = [getattr(result, name) for result in small]
        covered = np.mean([figure.low <= value <= figure.high for figure in figures])
        assert 0.88 <= covered <= 0.99


def test_the_interval_of_a_difference_has_about_its_nominal_coverage() -> None:
    figures = []
    for seed in range(120):
        first, labels = simulated(80, 2, seed)
        second = answered(labels, 2, seed + 5000)  # of the same skill: the true difference is zero
        figures.append(paired_difference(first, second, labels, seed=seed).auc)
    assert 0.88 <= np.mean([figure.low <= 0 <= figure.high for figure in figures]) <= 0.99


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others() -> None:
    case = simulated(60, 3, seed=2)
    assert scores(*case, seed=7) == scores(*case, seed=7)
    assert scores(*case, seed=7).auc.low != scores(*case, seed=8).auc.low


def test_the_draws_do_not_depend_on_how_many_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    case = simulated(60, 3, seed=2)
    reference = scores(*case)
    for cells, most in ((60 * 7, 60 * 7), (59, 60)):  # at least one draw is in memory
        monkeypatch.setattr(metrics, "_BLOCK", cells)
        assert numbers(scores(*case).to_json()) == pytest.approx(numbers(reference.to_json()))
        blocks = list(metrics._bootstrap_weights(60, 0))
        assert max(block.size for block in blocks) == most
        assert sum(map(len, blocks)) == 1000


@pytest.mark.parametrize("images", [MIN_IMAGES, 50])
def test_a_model_does_not_differ_from_itself(images: int) -> None:
    probabilities, labels = simulated(images, 3, seed=3)
    same = Figure(0.0, 0.0, 0.0)
    assert paired_difference(probabilities, probabilities.copy(), labels) == Difference(images, same, same, same)


def test_a_difference_changes_its_sign_with_the_order_of_the_models() -> None:
    first, labels = simulated(200, 3, seed=4, skill=2.0)
    second = answered(labels, 3, seed=5, skill=0.5)
    result, back = paired_difference(first, second, labels), paired_difference(second, first, labels)
    for name in ("accuracy", "balanced_accuracy", "auc"):
        figure, turned = getattr(result, name), getattr(back, name)
        assert close(figure, getattr(scores(first, labels), name).value - getattr(scores(second, labels), name).value)
        assert 0 < figure.low < figure.high
        assert (turned.value, turned.low, turned.high) == pytest.approx((-figure.value, -figure.high, -figure.low))


def test_pairing_makes_the_interval_of_two_models_that_err_alike_narrow() -> None:
    first, labels = simulated(300, 2, seed=6)
    second = first.copy()
    second[:5] = second[:5, ::-1]
    pair, unpaired = paired_difference(first, second, labels).accuracy, scores(first, labels).accuracy
    assert (pair.high or 0) - (pair.low or 0) < ((unpaired.high or 0) - (unpaired.low or 0)) / 2


def test_an_honest_model_is_calibrated_and_an_overconfident_one_is_not() -> None:
    random = np.random.default_rng(8)
    honest = random.dirichlet(np.ones(3), 20_000)
    labels = (honest.cumsum(1) > random.random((20_000, 1))).argmax(1)
    boasting = honest**6 / (honest**6).sum(1, keepdims=True)
    first, second = scores(honest[:4000], labels[:4000]).ece, scores(boasting[:4000], labels[:4000]).ece
    assert first.value is not None and first.value < 0.03
    assert second.value is not None and second.value > 0.2


def certain(random: np.random.Generator, count: int, surer: float) -> tuple[Any, Any]:
    """Answers of two classes, each right as often as it is sure, less so much."""
    certainty = random.uniform(0.65, 0.85, count)
    return np.stack([certainty, 1 - certainty], 1), (random.random(count) > certainty - surer).astype(int)


@pytest.mark.parametrize("images", [20, 50, 200])
def test_the_interval_of_certainty_less_accuracy_holds_the_truth_as_often_as_it_says(images: int) -> None:
    random, held = np.random.default_rng(images), []
    for surer in np.linspace(-0.1, 0.2, 400):
        figure = metrics.overconfidence(*certain(random, images, surer))
        assert figure.low is not None and figure.high is not None
        held.append(figure.low <= surer <= figure.high)
    assert 0.93 <= np.mean(held) <= 0.97


def test_certainty_less_accuracy_of_equal_certainties_has_the_interval_of_wilson() -> None:
    probabilities, labels = np.array([[0.8, 0.2]] * 30), np.array([0] * 21 + [1] * 9)
    surer, accuracy = metrics.overconfidence(probabilities, labels), metrics.proportion(21, 30)
    assert surer.value == pytest.approx(0.1)
    assert accuracy.low is not None and accuracy.high is not None
    assert (surer.low, surer.high) == pytest.approx((0.8 - accuracy.high, 0.8 - accuracy.low))
    assert metrics.overconfidence(probabilities[:9], labels[:9]).reason == "no interval: fewer than 10 images"


@pytest.mark.parametrize(("wrong", "reason"), [(4, "no interval: fewer than 5 wrong answers"), (5, None)])
def test_a_brier_score_of_few_wrong_answers_has_no_interval(wrong: int, reason: str | None) -> None:
    brier = scores(np.array([[0.9, 0.1]] * 40), [1] * wrong + [0] * (40 - wrong)).brier
    assert (brier.low is None, brier.reason) == (reason is not None, reason)


def test_no_interval_stands_beside_the_calibration_error_but_what_chance_makes_of_it() -> None:
    random = np.random.default_rng(3)
    for images in (20, 200):
        ece = scores(*certain(random, images, 0.0)).ece
        drawn = [scores(*certain(random, images, 0.0)).ece.value for _ in range(40)]
        assert (ece.low, ece.high) == (None, None)
        chance = re.fullmatch(r"no interval: chance alone shows (0\.\d{3}) of a calibrated model", ece.reason or "")
        assert chance and float(chance[1]) == pytest.approx(np.mean(drawn), rel=0.2)


def test_the_calibration_error_is_the_mean_gap_over_fifteen_bins() -> None:
    high = np.array([0.61, 0.62, 0.95, 0.96, 0.66, 0.67])  # two bins, one right in each; and two of one answer
    labels = np.array([0, 1, 0, 0, 0, 1])
    gap = (abs(2 - 0.61 - 0.62 - 0.66) + 0.67 + abs(2 - 0.95 - 0.96)) / 6
    assert close(scores(np.stack([high, 1 - high], 1), labels).ece, gap)


def test_the_first_and_the_last_bin_are_as_wide_as_the_others() -> None:
    unsure = np.full((2, 20), 0.94 / 19)
    unsure[0, 0], unsure[1, 0], unsure[1, 1:] = 0.06, 0.1, 0.9 / 19
    assert [bin_.images for bin_ in scores(unsure, [0, 0]).reliability] == [1, 1]
    rounded = [[1 + 1e-12, 0.0], [0.95, 0.05]]
    assert [bin_.images for bin_ in scores(rounded, [0, 0]).reliability] == [2]


def test_reliability_is_the_calibration_curve_of_scikit_learn() -> None:
    probabilities, labels = simulated(500, 3, seed=13)
    bins = scores(probabilities, labels).reliability
    right, sure = calibration_curve(probabilities.argmax(1) == labels, probabilities.max(1), n_bins=metrics.BINS)
    assert [bin_.sure for bin_ in bins] == pytest.approx(sure)
    assert [bin_.right.value for bin_ in bins] == pytest.approx(right)
    assert sum(bin_.images for bin_ in bins) == 500


@given(cases())
def test_the_calibration_error_is_the_mean_gap_between_confidence_and_accuracy(case: Case) -> None:
    result = scores(*case)
    gaps = [bin_.images * abs((bin_.right.value or 0) - bin_.sure) for bin_ in result.reliability]
    assert close(result.ece, sum(gaps) / result.images)
    assert all(
        (bin_.right.low or 0) <= (bin_.right.value or 0) <= (bin_.right.high or 0) for bin_ in result.reliability
    )


@pytest.mark.parametrize("shape", [(0, 3), (0,)])
def test_without_images_there_are_no_figures(shape: tuple[int, ...]) -> None:
    result = scores(np.zeros(shape), [])
    assert (result.images, result.accuracy) == (0, Figure(None, reason="no images"))
    assert len(result.classes) == (*shape, 0)[1]
    assert numbers(result.to_json()) == [0] * (1 + len(result.classes))
    assert paired_difference(np.zeros(shape), np.zeros(shape), []).auc == Figure(None, reason="no images")


def test_answers_with_nan_have_no_figures() -> None:
    probabilities, labels = simulated(20, 3, seed=9)
    broken = probabilities.copy()
    broken[3] = math.nan
    result = scores(broken, labels)
    figures = [getattr(result, name) for name in ("accuracy", "balanced_accuracy", "auc", "sensitivity", "f1", "ece")]
    figures += [
        figure
        for class_figures in result.classes
        for figure in (class_figures.sensitivity, class_figures.specificity, class_figures.auc, class_figures.f1)
    ]
    assert set(figures) == {Figure(None, reason="the model's answers contain NaN or infinite values")}
    assert paired_difference(probabilities, broken, labels).accuracy.value is None


def test_with_one_class_only_the_other_figures_are_still_given() -> None:
    probabilities, _ = simulated(20, 2, seed=10)
    labels, hits = np.ones(20, int), float(np.mean(probabilities.argmax(1)))
    result = scores(probabilities, labels)
    assert [result.accuracy.value, result.balanced_accuracy.value, result.sensitivity.value] == [hits] * 3
    assert (result.auc.value, result.specificity.value) == (None, None)
    assert [figures.auc.reason for figures in result.classes] == [
        "no image of this class",
        "every image is of this class",
    ]
    assert paired_difference(probabilities, probabilities, labels).auc.value is None


def test_less_than_ten_images_have_figures_and_no_drawn_interval() -> None:
    result = scores(*simulated(9, 2, seed=11))
    assert result.balanced_accuracy.value is not None and result.balanced_accuracy.low is None
    assert result.balanced_accuracy.reason == "no interval: fewer than 10 images"
    assert scores(*simulated(10, 2, seed=11)).balanced_accuracy.low is not None
    assert result.accuracy.low is not None
    pair = paired_difference(np.eye(2)[[0, 1]], np.eye(2)[[1, 0]], [0, 1]).accuracy
    assert (pair.value, pair.low, pair.high) == (1, None, None) and pair.reason


def test_a_class_of_few_images_has_no_interval_of_its_own() -> None:
    probabilities, _ = simulated(40, 2, seed=12)
    for few in (4, 36):
        figure = scores(probabilities, [0] * (40 - few) + [1] * few).classes[1].auc
        assert figure.value is not None and figure.low is None
        assert figure.reason == "no interval: fewer than 5 images of this class, or of others"
    assert scores(probabilities, [0] * 35 + [1] * 5).classes[1].auc.low is not None


def test_draws_that_all_agree_do_not_count_as_certainty() -> None:
    labels = np.arange(20) % 2
    result = scores(np.eye(2)[labels], labels)
    assert (result.auc.value, result.auc.low) == (1, None)
    assert result.accuracy.low is not None and result.accuracy.low < 0.9


def test_a_prior_is_exchanged_by_bayes_rule() -> None:
    likelihood = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    old, new = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.1, 0.8])
    learned, expected = ((likelihood * prior) / (likelihood * prior).sum(1, keepdims=True) for prior in (old, new))
    assert np.allclose(adjust_prior(learned, old * 100, new), expected)  # counts work as frequencies


@given(cases())
def test_changing_the_prior_gives_probabilities(case: Case) -> None:
    probabilities, labels = case
    counts = np.bincount(labels, minlength=probabilities.shape[1])  # some class may be missing
    even = np.ones(len(counts))
    for prior_from, prior_to in ((counts, even), (even, counts)):
        adjusted = adjust_prior(probabilities, prior_from, prior_to)
        assert np.allclose(adjusted.sum(1), 1) and (adjusted >= 0).all()
    assert np.allclose(adjust_prior(probabilities, even, even), probabilities)


def test_a_class_that_was_never_seen_keeps_its_weight_unless_it_is_absent() -> None:
    assert adjust_prior([[0.4, 0.4, 0.2]], [1, 1, 0], [1, 1, 2])[0] == pytest.approx([1 / 3] * 3)
    assert adjust_prior([[0.4, 0.4, 0.2]], [1, 1, 0], [1, 1, 0])[0] == pytest.approx([0.5, 0.5, 0])


def test_a_row_without_possible_classes_becomes_the_prior() -> None:
    assert adjust_prior([[0.0, 1.0, 0.0]], [1, 1, 1], [3, 0, 1]).tolist() == [[0.75, 0, 0.25]]


def test_the_interval_of_a_difference_covers_95_of_100_draws() -> None:
    """With many images it is that of the normal distribution: 1.96 standard errors on either side."""
    draw = np.random.default_rng(3)
    labels = draw.integers(0, 2, 2000)
    first, second = (np.eye(2)[np.where(draw.random(2000) < rate, labels, 1 - labels)] for rate in (0.8, 0.7))
    gaps = (first.argmax(1) == labels).astype(float) - (second.argmax(1) == labels)
    result = paired_difference(first, second, labels).accuracy
    assert result.low is not None and result.high is not None
    width = 2 * 1.96 * gaps.std() / math.sqrt(2000)
    assert result.high - result.low == pytest.approx(width, rel=0.08)


@settings(max_examples=50, deadline=None)
@given(cases())
def test_each_point_of_a_roc_is_the_best_one_that_scikit_learn_allows(case: Case) -> None:
    probabilities, labels = case
    for label, curve in enumerate(metrics.roc(probabilities, labels)):
        positive = labels == label
        if positive.all() or not positive.any():
            assert curve is None
            continue
        false, true, _ = theirs.roc_curve(positive, probabilities[:, label], drop_intermediate=False)
        assert curve == pytest.approx([true[false <= limit + 1e-9].max() for limit in metrics.ROC_LIMITS])


def test_predictions_that_cannot_be_judged_have_no_roc() -> None:
    assert metrics.roc([[math.nan, 1.0], [0.5, 0.5]], [0, 1]) == [None, None]
    assert metrics.roc(np.empty((0, 3)), []) == [None] * 3
