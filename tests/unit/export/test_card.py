"""The model card: each sentence appears if it is true, and only then."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from export import card
from fedhelp_edge.errors import BadBundleError
from fedhelp_edge.infer import metadata
from fedhelp_edge.infer.metadata import Facts, Rate, Threshold
from tests import bundles
from tests.sentences import markdown, too_long

A, B, C = bundles.CLASSES


@pytest.fixture
def facts() -> Facts:
    return bundles.export_result().facts


def lines(facts: Facts, heading: str) -> list[str]:
    """The lines below a heading, up to the next."""
    text = card.text(facts).split("\n")
    begin = text.index(heading) + 1
    end = next((index for index in range(begin, len(text)) if text[index].startswith("## ")), len(text))
    return text[begin:end]


def test_no_sentence_of_a_card_has_more_than_25_words(facts: Facts) -> None:
    assert not too_long(markdown(card.text(facts)))


def test_the_card_names_the_missing_guarantee_of_a_class_of_few_images(facts: Facts) -> None:
    calibration = replace(facts.calibration, images=(3, 12, 99), own=(False, True, True), level=(0.05, 1 / 13, 0.05))
    warnings = [
        line for line in lines(replace(facts, calibration=calibration), "## When it does not know") if line[:2] == "- "
    ]
    assert warnings == [
        f"- {A}: 3 images; nothing is promised of this class by itself.",
        f"- {B}: 12 images; no more than 92% can be promised.",
        f"- {C}: 99 images are few; the true rate may lie some per cent off.",
    ]


def test_a_class_of_many_images_has_no_such_line(facts: Facts) -> None:
    calibration = replace(facts.calibration, images=(100, 100, 5000), own=(True,) * 3, level=(0.05,) * 3)
    assert not [
        line for line in lines(replace(facts, calibration=calibration), "## When it does not know") if line[:2] == "- "
    ]


def test_each_class_has_its_probability_limit_and_coverage(facts: Facts) -> None:
    own_level, level = (True, False, True), (0.05, 0.1, 0.05)
    calibration = replace(facts.calibration, images=(40, 3, 40), least=(0.25, 0.3, 0.5), level=level, own=own_level)
    rows = lines(replace(facts, calibration=calibration), "## When it does not know")
    assert f"| {A} | 40 | 0.250 | 95.0% |" in rows
    assert f"| {B} | 3 | 0.300 | 90.0% (of all classes together) |" in rows


def test_an_unknown_calibration_error_is_left_out(facts: Facts) -> None:
    with_error = card.text(replace(facts, calibration=replace(facts.calibration, ece=(0.25, 0.125), temperature=1.5)))
    assert "(temperature 1.50, calibration error 0.250 before and 0.125 after)" in with_error
    unknown = card.text(replace(facts, calibration=replace(facts.calibration, ece=None, temperature=1.5)))
    assert "Probabilities are calibrated (temperature 1.50)." in unknown


def test_the_card_says_how_much_surer_than_right_the_model_is(facts: Facts) -> None:
    known = replace(facts, calibration=replace(facts.calibration, overconfidence=(0.02, -0.05, 0.08)))
    sentence = "Mean certainty less accuracy: +0.020 (-0.050 to +0.080)."
    assert sentence in lines(known, "## When it does not know")
    older = replace(facts, calibration=replace(facts.calibration, overconfidence=None), test={})
    assert "ertainty less accuracy" not in card.text(older)


def test_thresholds_have_their_measured_figures_or_the_reason_for_having_none(facts: Facts) -> None:
    rate, other = Rate(0.9, 0.8, 0.95), Rate(0.7, 0.6, 0.75)
    thresholds = (
        Threshold(0.25, 30, rate, other),
        Threshold(None, 3, reason="too few"),
        Threshold(0.5, 20, reason="20 images"),
    )
    calibration = replace(facts.calibration, thresholds=thresholds, wanted=0.9)
    rows = lines(replace(facts, calibration=calibration), "## Thresholds for a sensitivity of 90%")
    assert f"| {A} | 0.250 | 0.900 (0.800 to 0.950) | 0.700 (0.600 to 0.750) |" in rows
    assert f"| {B} | none: too few | – | – |" in rows
    assert f"| {C} | 0.500 (20 images) | – | – |" in rows


def test_a_target_close_to_1_is_not_called_100_per_cent(facts: Facts) -> None:
    calibration = replace(facts.calibration, wanted=0.999)
    assert "## Thresholds for a sensitivity of 99.9%" in card.text(replace(facts, calibration=calibration))


@pytest.mark.parametrize(
    ("sites", "federation", "sentence"),
    [(1, "", "Trained by one site, by itself;"), (2, "fh-1", "Trained by 2 sites;")],
)
def test_the_card_names_who_trained_the_model(facts: Facts, sites: int, federation: str, sentence: str) -> None:
    text = card.text(replace(facts, sites=sites, federation=federation))
    assert sentence in text
    assert ("Federation `fh-1`." in text) == bool(federation)


def test_the_card_has_epsilon_where_noise_hid_the_training_images_and_reads_it_back(facts: Facts) -> None:
    hidden = replace(facts, privacy={"epsilon": 3.2, "delta": 1e-5, "budget": 8.0})
    sentence = "epsilon 3.2 of 8 is spent, with delta 1e-05. That is of updates and merged models."
    assert sum(sentence in line for line in lines(hidden, "## Where it comes from")) == 1
    assert not too_long(markdown(card.text(hidden)))
    assert metadata.read(hidden.text()).privacy == hidden.privacy
    assert "epsilon" not in card.text(facts)
    assert "privacy" not in facts.text()


def test_the_card_says_whether_images_are_grey_or_in_colour(facts: Facts) -> None:
    assert "Tells apart, in colour images" in card.text(facts)
    grey = replace(facts, image=replace(facts.image, channels=1))
    assert "Tells apart, in grey images" in card.text(grey)


def test_missing_figures_and_findings_are_left_out(facts: Facts) -> None:
    bare = replace(facts, test={}, validation={}, findings=(), likeness=replace(facts.likeness, looks={}))
    assert lines(bare, "## How it did on images that played no part in it")[1] == (
        "This site has no such images, so nothing is known."
    )
    text = card.text(bare)
    assert "validation images:" not in text and "What these images cannot tell" not in text
    assert "what its pixels look like" not in text
    full = replace(facts, findings=({"sentence": "Two patients are in both parts."},))
    assert "- Two patients are in both parts." in lines(full, "## What these images cannot tell")
    assert f"The true class was possible for {facts.test['in_set']:.0f} of 40." in card.text(full)


def test_a_class_name_cannot_draw_a_table(facts: Facts) -> None:
    named = replace(facts, classes=("a|b", B, C))
    assert any(line.startswith("| a/b | ") for line in lines(named, "## When it does not know"))


def test_groups_have_their_interval_and_a_site_without_groups_has_no_such_part(facts: Facts) -> None:
    group = {"part": "test", "by": "centre", "name": "North", "images": 40, "answered": 30, "right": 20}
    rows = lines(replace(facts, subgroups=(group,)), "## Groups of test images")
    assert "| centre | North | 40 | 30 | 0.500 (0.352 to 0.648) |" in rows
    assert "## Groups of" not in card.text(replace(facts, subgroups=()))


def test_a_card_says_what_is_known_of_patients(facts: Facts) -> None:
    assert "Sex, age and origin of patients are not known" in card.text(facts)
    groups = tuple(
        {"part": "test", "by": by, "name": name, "images": 40, "answered": 30, "right": 20}
        for by, name in (("sex", "female"), ("sex", "male"), ("age", "0-17"), ("age", "18-39"))
    )
    known = replace(facts, subgroups=groups)
    text = card.text(known)
    assert "Known of patients: sex and age, as a table or DICOM files state it. Their origin is not known." in text
    assert "A sex or an age of fewer than 5 patients is left out" in text
    assert "of patients by sex and age" in text
    assert "Sex, age and origin" not in text
    assert not too_long(markdown(text))


def test_the_groups_of_a_model_are_those_of_its_test_images(facts: Facts) -> None:
    assert [(group["by"], group["name"]) for group in facts.subgroups] == [("class", name) for name in facts.classes]
    assert sum(group["images"] for group in facts.subgroups) == facts.test["images"]
    assert sum(group["answered"] for group in facts.subgroups) == facts.test["answered"]
    right = sum(group["right"] for group in facts.subgroups)
    assert right / 40 == facts.test["accuracy"]


def test_the_change_log_has_a_row_for_each_earlier_round(facts: Facts) -> None:
    entry = {"round": 2, "examples": 120, "images": 60, "figure": "accuracy", "value": 0.75}
    changed = replace(facts, history=(entry, {**entry, "round": 3, "value": None}))
    rows = lines(changed, "## What changes from round to round")
    assert rows[-4:-1] == ["| --- | --- | --- | --- |", "| 2 | 120 | 60 | 0.750 |", "| 3 | 120 | 60 | – |"]
    assert "This site trained no earlier round." in card.text(replace(facts, history=()))


def test_every_part_that_the_table_for_regulators_names_is_on_the_card(facts: Facts) -> None:
    headings = [line.strip("# ") for line in card.text(facts).split("\n") if line.startswith("#")]
    named = [row.split(" | ")[1].rstrip(" |") for row in lines(facts, "## Where to find what rules ask for")[4:-1]]
    parts = [re.split("[;:]", place)[0] for place in named]
    assert len([part for part in parts if any(heading.startswith(part) for heading in headings)]) == 7


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("history", [{"round": "2", "examples": 1, "images": 1, "figure": "accuracy", "value": 0.5}]),
        ("history", [{"round": 2}]),
        ("subgroups", [{"part": "test", "by": "class", "name": "a", "images": 1, "answered": 1, "right": 2}]),
        ("subgroups", [{"part": "test"}]),
    ],
)
def test_groups_and_changes_that_make_no_sense_are_refused(facts: Facts, member: str, value: object) -> None:
    document = json.loads(facts.text())
    assert metadata.read(json.dumps(document)).history == ()
    with pytest.raises(BadBundleError):
        metadata.read(json.dumps(document | {member: value}))
