"""A site's rounds: what each leaves for programs and for people."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge import plan as plans
from fedhelp_edge.data.images import Images
from fedhelp_edge.demo import phantoms
from fedhelp_edge.errors import UpdateError
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.site import local_training
from fedhelp_edge.train import loop
from tests.unit.report import reading

PLAN = """name = "lesions"
classes = ["round", "lobed"]
method = "fedavg"
rounds = 3
[image]
size = 8
[nets]
small = "resnet8"
[training]
epochs = 1
precision = "fp32"
"""
Learn = Callable[[int], dict[str, Any]]


@pytest.fixture
def round_of(tmp_path: Path) -> Learn:
    """Trains a round of a small site, each in a folder of its own, all from the same model."""
    plan = plans.read(PLAN, METHODS)
    pixels, labels = phantoms.draw(24, 2, size=8)
    splits, blank = ("train",) * 16 + ("val",) * 8, ("",) * 24
    context = local_training.TrainingContext(
        plan, "site-001", "small", Images(pixels, labels, splits, blank, blank, blank), None, Compute()
    )
    merged = METHODS["fedavg"].start(plan)

    def train(number: int) -> dict[str, Any]:
        before = tmp_path / f"round-{number - 1}"
        round_ = local_training.SiteRound(
            number, merged, tmp_path / f"round-{number}", before if before.exists() else None
        )
        return local_training.train_round(context, round_, lambda what: None)

    return train


def course(tmp_path: Path, number: int) -> list[str]:
    """The rounds that the page of a round shows."""
    page = (tmp_path / f"round-{number}" / "report.html").read_text(encoding="utf-8")
    return [row[0] for row in reading.tables(page)[-1][1:]]


def test_a_round_leaves_the_same_figures_for_programs_and_for_people(round_of: Learn, tmp_path: Path) -> None:
    report = round_of(1)
    assert json.loads((tmp_path / "round-1" / "report.json").read_text()) == report
    accuracy, losses, _ = reading.tables((tmp_path / "round-1" / "report.html").read_text(encoding="utf-8"))
    names, figures = zip(*accuracy[1:], strict=True)
    assert names == ("this site's own net", "trained alone")
    for figure, net in zip(figures, ("own", "alone"), strict=True):
        assert figure.startswith(f"{report['val'][net]:.2f} (n=8, ")
    assert losses[1:] == [["train", "loss", f"{report['loss']['train']['loss']:.3f}"]]


def test_a_round_shows_the_earlier_ones_and_these_stay_as_they_were(round_of: Learn, tmp_path: Path) -> None:
    round_of(1)
    first = (tmp_path / "round-1" / "report.html").read_bytes()
    round_of(2)
    assert course(tmp_path, 2) == ["1", "2"]
    round_of(1)
    assert (tmp_path / "round-1" / "report.html").read_bytes() == first
    assert course(tmp_path, 1) == ["1"]


def test_a_page_that_a_power_cut_left_out_is_made_without_training_again(
    round_of: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = round_of(1), round_of(2)
    page = tmp_path / "round-1" / "report.html"
    before = page.read_bytes()
    page.unlink()
    monkeypatch.setattr(loop, "train", lambda *at, **how: pytest.fail("trained again"))
    assert round_of(1) == reports[0]
    assert page.read_bytes() == before  # without the round that came later


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"conv1.weight": np.full((16, 3, 3, 3), np.nan, np.float32)}, "E_NONFINITE"),
        ({"conv1.weight": np.full((16, 3, 3, 3), 1e30, np.float32)}, "E_RANGE"),
        ({"conv1.weight": np.zeros((16, 3, 5, 5), np.float32)}, "E_SCHEMA_SHAPE"),
        ({"another": np.zeros(3, np.float32)}, "E_SCHEMA_NAMES"),
        ({"conv1.weight": None}, "E_SCHEMA_NAMES"),
    ],
)
def test_a_model_that_no_round_can_have_made_is_refused_before_training(
    wrong: dict[str, Any], code: str, tmp_path: Path
) -> None:
    plan = plans.read(PLAN, METHODS)
    pixels, labels = phantoms.draw(12, 2, size=8)
    blank = ("",) * 12
    images = Images(pixels, labels, ("train",) * 8 + ("val",) * 4, blank, blank, blank)
    context = local_training.TrainingContext(plan, "site-001", "small", images, None, Compute())
    merged = {name: array for name, array in {**METHODS["fedavg"].start(plan), **wrong}.items() if array is not None}
    with pytest.raises(UpdateError, match="the model that the coordinator sent") as raised:
        local_training.train_round(context, local_training.SiteRound(1, merged, tmp_path / "round"), lambda what: None)
    assert raised.value.code == code
    assert "phone the coordinator" in raised.value.remedy


def test_what_a_site_says_of_the_rounds_model_and_of_its_nets_is_measured_on_validation_images(tmp_path: Path) -> None:
    """Its test images are labelled by what the net does not say, its validation images by what it says."""
    plan = plans.read(
        PLAN.replace("epochs = 1", "epochs = 1\nlr = 1e-7").replace("[nets]", '[nets]\nnorm = "group"'), METHODS
    )  # nothing moves
    pixels, labels = phantoms.draw(36, 2, size=8)
    splits, blank = ("train",) * 16 + ("val",) * 8 + ("test",) * 12, ("",) * 36
    images = Images(pixels, labels, splits, blank, blank, blank)
    merged = METHODS["fedavg"].start(plan)
    learner = local_training.TrainingContext(plan, "site-001", "small", images, None, Compute()).learner()
    learner.receive(merged, 1)
    predicted = loop.probabilities(learner, learner.net, pixels).argmax(1)
    labels = np.concatenate([labels[:16], predicted[16:24], 1 - predicted[24:]])
    context = local_training.TrainingContext(plan, "site-001", "small", replace(images, labels=labels), None, Compute())
    round_ = local_training.SiteRound(1, merged, tmp_path / "round")
    report = local_training.train_round(context, round_, lambda what: None)
    assert report["base"] == {"val": 8, "correct": 8}
    assert report["val"] == {"own": 1.0, "alone": 1.0}
    assert report["val_images"] == 8
