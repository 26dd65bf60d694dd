"""Decisions: an answer, or "don't know" with a reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedhelp_edge.infer import decide
from fedhelp_edge.infer.bundle import Bundle
from fedhelp_edge.infer.decide import Answer
from fedhelp_edge.infer.metadata import Threshold
from tests import bundles

A, B, C = bundles.CLASSES


@pytest.fixture
def ask(opened: Bundle) -> Any:
    calibration = replace(opened.facts.calibration, least=(0.2, 0.3, 0.5))
    facts = replace(opened.facts, calibration=calibration)

    def ask(*probabilities: float, distance: float = 0.5) -> Answer:
        return decide.decide(facts, np.array(probabilities, np.float32), distance, np.zeros((3, 2, 2), np.float32))

    return ask


def test_one_possible_class_is_the_answer(ask: Any) -> None:
    answer = ask(0.9, 0.06, 0.04)
    assert (answer.answer, answer.reason, answer.set) == (A, "", (A,))


def test_two_possible_classes_are_no_answer(ask: Any) -> None:
    answer = ask(0.55, 0.4, 0.05)
    assert (answer.answer, answer.set) == (None, (A, B))
    assert answer.reason == f"it may be {A} or {B}"


def test_no_sufficiently_likely_class_is_no_answer(ask: Any) -> None:
    answer = ask(0.15, 0.29, 0.45)
    assert (answer.answer, answer.set, answer.reason) == (None, (), "no class is likely enough")


def test_a_possible_class_that_is_not_the_likeliest_is_no_answer(ask: Any) -> None:
    answer = ask(0.3, 0.25, 0.45)
    assert (answer.answer, answer.set) == (None, (A,))
    assert C in answer.reason


def test_a_class_above_a_half_that_is_not_possible_is_no_answer(opened: Bundle) -> None:
    facts = replace(opened.facts, calibration=replace(opened.facts.calibration, least=(0.2, 0.3, 0.8)))
    answer = decide.decide(facts, np.array([0.3, 0.1, 0.6], np.float32), 0.5, np.zeros((3, 2, 2), np.float32))
    assert (answer.answer, answer.verdict, answer.set) == (None, "uncertain", (A,))


@pytest.mark.parametrize(
    "probabilities", [(0.51, 0.47, 0.02), (0.5, 0.48, 0.02), (0.59, 0.405, 0.005), (0.35, 0.33, 0.32)]
)
def test_an_even_probability_is_uncertain_and_both_classes_are_named(opened: Bundle, probabilities: Any) -> None:
    facts = replace(opened.facts, calibration=replace(opened.facts.calibration, least=(0.5, 0.5, 0.5)))
    answer = decide.decide(facts, np.array(probabilities, np.float32), 0.5, np.zeros((3, 2, 2), np.float32))
    assert (answer.answer, answer.verdict) == (None, "uncertain")
    assert answer.between == (A, B)
    assert answer.reason == f"uncertain between {A} ({probabilities[0]:.1%}) and {B} ({probabilities[1]:.1%})"


def test_two_close_classes_are_both_named_if_the_set_has_another_one(ask: Any) -> None:
    assert ask(0.26, 0.28, 0.46).set == (A,)
    assert ask(0.3, 0.3, 0.4).between == (C, A)
    assert ask(0.55, 0.4, 0.05).between == ()  # the set names both


@pytest.mark.parametrize(
    ("probabilities", "remaining"),
    [
        ((0.9, 0.06, 0.04), (A,)),
        ((0.55, 0.4, 0.05), (A, B)),
        ((0.26, 0.28, 0.46), (A, C)),  # the likeliest is not in the set
        ((0.15, 0.29, 0.45), ()),
        ((0.21, 0.38, 0.41), (A, B, C)),  # too close, and only one of them in the set
    ],
)
def test_no_class_that_a_person_is_told_of_is_ruled_out(ask: Any, probabilities: Any, remaining: Any) -> None:
    answer = ask(*probabilities)
    assert answer.remaining == remaining
    assert {name for name in (A, B, C) if remaining and name in answer.reason} <= set(remaining)


def test_an_answer_more_likely_wrong_than_right_is_not_given(opened: Bundle) -> None:
    facts = replace(opened.facts, calibration=replace(opened.facts.calibration, least=(0.4, 0.4, 0.4)))
    answer = decide.decide(facts, np.array([0.45, 0.28, 0.27], np.float32), 0.5, np.zeros((3, 2, 2), np.float32))
    assert (answer.answer, answer.verdict, answer.set) == (None, "uncertain", (A,))


def test_an_image_at_the_distance_limit_with_two_close_classes_is_uncertain_and_not_unlike(
    ask: Any,
) -> None:
    assert ask(0.55, 0.4, 0.05, distance=1.0).verdict == "uncertain"


@pytest.mark.parametrize("distance", [1.01, 40.0, float("nan")])
def test_an_image_unlike_the_training_images_gets_no_answer_however_certain_the_net_is(
    ask: Any, distance: float
) -> None:
    answer = ask(0.999, 0.0005, 0.0005, distance=distance)
    assert (answer.answer, answer.verdict) == (None, "unlike")
    assert answer.reason.startswith("unlike the training images")


def test_a_complete_answer_needs_only_a_model_and_pixels(opened: Bundle) -> None:
    pixels = np.asarray(bundles.site().images.split("test").pixels[:5])
    answers = decide.answer_images(opened, pixels)
    assert [len(answer.probabilities) for answer in answers] == [3] * 5
    outputs = opened.engine(pixels)
    for answer, logits in zip(answers, outputs.logits, strict=True):
        assert answer.heatmaps.mean((1, 2)) + opened.facts.bias == pytest.approx(logits, abs=1e-4)
    assert decide.answer_images(opened, pixels[:0]) == []


def test_noise_is_unlike_cells_and_most_cells_are_answered(opened: Bundle) -> None:
    test = bundles.site().images.split("test")
    assert all(
        answer.distance > 1 for answer in decide.answer_images(opened, bundles.noise(8, bundles.SIDE, bundles.SIDE, 3))
    )
    answers = decide.answer_images(opened, np.asarray(test.pixels[:]))
    assert sum(answer.distance <= 1 for answer in answers) >= 0.85 * len(answers)
    right = [
        answer.answer == bundles.CLASSES[label]
        for answer, label in zip(answers, test.labels, strict=True)
        if answer.answer
    ]
    assert len(right) >= 0.25 * len(answers)
    assert np.mean(right) > 0.8


def test_a_class_is_flagged_at_its_threshold_whatever_the_answer_and_never_without_one(opened: Bundle) -> None:
    none, half, tenth = (Threshold(probability, 20) for probability in (None, 0.5, 0.125))
    facts = replace(opened.facts, calibration=replace(opened.facts.calibration, thresholds=(half, none, tenth)))

    def flags(*probabilities: float) -> tuple[str, ...]:
        return decide.decide(facts, np.array(probabilities, np.float32), 0.5, np.zeros((3, 2, 2), np.float32)).flags

    assert flags(0.5, 0.4, 0.1) == (A,)
    assert flags(0.375, 0.5, 0.125) == (C,)
    assert flags(0.75, 0.125, 0.125) == (A, C)
    assert flags(0.0, 1.0, 0.0) == ()


def test_each_limit_itself_is_still_accepted(opened: Bundle) -> None:
    """A probability of one half, the required ratio to the next class, just possible, at the distance limit."""

    def answer(*probabilities: float, least: float = 0.5, distance: float = 0.5) -> str | None:
        facts = replace(opened.facts, calibration=replace(opened.facts.calibration, least=(least,) * 3))
        cam = np.zeros((3, 2, 2), np.float32)
        return decide.decide(facts, np.array(probabilities, np.float32), distance, cam).answer

    assert answer(0.5, 0.25, 0.25) == A
    assert answer(0.75, 0.5, 0.0, least=0.625) == A
    assert answer(0.75, 0.125, 0.125, least=0.75) == A
    assert answer(0.75, 0.125, 0.125, distance=1.0) == A
    assert answer(0.4375, 0.25, 0.25, least=0.375) is None
    assert answer(0.75, 0.625, 0.0, least=0.6875) is None


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "<0.1%"), (0.0009, "<0.1%"), (0.001, "0.1%"), (0.999, "99.9%"), (0.9991, ">99.9%")]
)
def test_a_probability_is_never_shown_as_0_or_100_percent(value: float, shown: str) -> None:
    assert decide.percent(value) == shown


def test_json_numbers_have_significant_digits_only(ask: Any) -> None:
    row = ask(0.1234567, 0.8, 0.0765433, distance=0.123456).to_json()
    assert (row["probabilities"][A], row["distance"]) == (0.123457, 0.1235)
    assert ask(1.0, 0.0, 0.0, distance=float("inf")).to_json()["distance"] is None
