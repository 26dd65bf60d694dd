"""Errors of a plan that protects images by noise, as people meet them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge import plan as plans
from fedhelp_edge.demo import phantoms
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.privacy import accountant
from tests import command
from tests.site_and_hub import SiteAndHub, fails_with, first_plan, succeeds

pytest.importorskip("torch")

NOISE = """patience = 0
[merge]
weight = "uniform"
[privacy]
mode = "dp"
sampling_rate = 1.0
"""
"""What follows [round] in the plan."""


def budget(text: str, trainings: int) -> str:
    """The plan with a budget for so many trainings."""
    plan = plans.read(text, METHODS)
    epsilon = accountant.epsilon([accountant.round_of(plan, trainings)], plan.privacy.delta)
    return f"{text}epsilon = {epsilon + 0.01:.2f}\n"


def draw(path: Path, count: int) -> None:
    images, labels = phantoms.draw(count, 2, size=8)
    np.savez(path, train_images=images, train_labels=labels)


def test_a_site_that_has_spent_its_budget_trains_no_more_and_copies_a_damaged_record(tmp_path: Path) -> None:
    plan = first_plan(("round", "lobed")).replace("rounds = 2", "rounds = 1")
    text = budget(plan.replace("[nets]", '[nets]\nnorm = "group"') + NOISE, 1)
    people = SiteAndHub(tmp_path, text, locked=False)
    people.join()
    succeeds(people.hub("open"))
    succeeds(people.hub("exchange", people.stick))
    succeeds(people.site("download"))
    draw(tmp_path / "images.npz", 20)
    trained = command.json_output(people.site("train", "images.npz", "--threads", "1", "--json"))
    status = command.json_output(people.site("status", "--json"))
    assert trained["privacy"] == status["privacy"]
    assert 0 < status["privacy"]["epsilon"] <= status["privacy"]["budget"]
    assert "Noise hides each training image: epsilon" in succeeds(people.site("status")).stdout
    (round_dir,) = (tmp_path / "site" / "rounds").iterdir()
    shutil.rmtree(round_dir)
    draw(tmp_path / "more.npz", 24)
    fails_with(people.site("train", "more.npz", "--threads", "1"), "E_PRIVACY_SPENT", "fedhelp-edge export")
    assert not round_dir.exists()
    (record,) = (tmp_path / "site" / "privacy").iterdir()
    saved = record.read_bytes()
    record.write_bytes(b"{")
    fails_with(people.site("train", "images.npz", "--threads", "1"), "E_PRIVACY_RECORD", "HOME-privacy beside the home")
    shutil.copy(tmp_path / "site-privacy" / record.name, record)
    assert record.read_bytes() == saved
    again = command.json_output(people.site("train", "images.npz", "--threads", "1", "--json"))
    assert again["val"] == trained["val"]  # the same training is paid for already
