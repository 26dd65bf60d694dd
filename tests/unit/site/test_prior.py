"""A loss with a separate class prior: the prior is stored with the round and used for answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge import plan as plans
from fedhelp_edge.data import loading
from fedhelp_edge.data.images import Images
from fedhelp_edge.demo import phantoms
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.plan import Plan
from fedhelp_edge.report import metrics
from fedhelp_edge.site import local_training as learning
from fedhelp_edge.site import trial
from fedhelp_edge.train import checkpoint, loop
from tests.command import json_output, run_in_process
from tests.threads import one_thread  # noqa: F401 - a fixture

PLAN = """
classes = ["round", "lobed"]
method = "fedavg"
rounds = 2
[image]
size = 8
[nets]
small = "resnet8"
[training]
epochs = 1
precision = "fp32"
"""
TRAINED, MEASURED = (40, 10), (6, 6)  # images of each class


def plan(loss: str) -> Plan:
    return plans.read(PLAN + f'loss = "{loss}"\n', METHODS)


def images(path: Path, counts: tuple[int, int], part: str, seed: int) -> Path:
    pixels, labels = phantoms.draw(200, 2, size=8, seed=seed)
    chosen = np.concatenate([np.flatnonzero(labels == class_)[:count] for class_, count in enumerate(counts)])
    arrays = {f"{part}_images": pixels[chosen], f"{part}_labels": labels[chosen]}
    empty = {f"{name}_{what}": array[:0] for name in ("train", "val", "test") if name != part
             for what, array in (("images", pixels), ("labels", labels))}  # fmt: skip
    np.savez(path, **arrays, **empty)
    return path


def other_images(path: Path) -> Images:
    """All images of a file, for evaluation."""
    loaded = loading.load(path, plan("ce"), state_dir=path.with_suffix(".kept"))
    return replace(loaded, splits=("test",) * len(loaded))


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    return images(tmp_path / "own.npz", TRAINED, "train", 1)


def learn(home: Path, loss: str, source: Path) -> tuple[Path, dict[str, Any]]:
    return trial.train(home, plan(loss), "small", source, lambda _: None, threads=1)


def test_the_prior_is_stored_in_the_rounds_report(trained: Path, tmp_path: Path) -> None:
    folder, report = learn(tmp_path / "home", "logit-adjusted", trained)
    assert report["prior"] == pytest.approx([37 / 47, 10 / 47])  # a tenth is in val
    assert json.loads((folder / "report.json").read_text())["prior"] == report["prior"]


@pytest.mark.parametrize("loss", ["ce", "symmetric"])
def test_other_losses_store_no_prior(loss: str, trained: Path, tmp_path: Path) -> None:
    assert learn(tmp_path / "home", loss, trained)[1]["prior"] is None
    other = images(tmp_path / "other.npz", MEASURED, "test", 2)
    evaluation = trial.evaluate(tmp_path / "home", plan(loss), "small", other, threads=1)
    assert set(evaluation.nets) >= {"own", "alone"}
    assert "without_prior" not in evaluation.nets


def test_the_prior_is_that_of_the_training_images_whatever_images_are_evaluated(trained: Path, tmp_path: Path) -> None:
    folder, _ = learn(tmp_path / "home", "logit-adjusted", trained)
    other = images(tmp_path / "other.npz", MEASURED, "test", 2)
    context = learning.TrainingContext(
        plan("logit-adjusted"), trial.SITE_ID, "small", other_images(other), None, Compute()
    )
    predicted = learning.predictions(context, folder, "test")["own"]
    learner, state = context.learner(), checkpoint.newest(folder / "own")
    assert state is not None
    learner.load(state[1], 1)
    learner.prior = None
    without_prior = loop.probabilities(learner, learner.model, context.images.pixels)
    assert np.allclose(predicted, metrics.adjust_prior(without_prior, [1, 1], [37, 10]), atol=1e-6)


def test_evaluate_marks_the_figures_with_the_prior(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(plan("logit-adjusted").text)
    learn(tmp_path / "fedhelp", "logit-adjusted", trained)
    images(tmp_path / "other.npz", MEASURED, "test", 2)
    arguments = ("evaluate", "--plan", "plan.toml", "--images", "other.npz", "--threads", "1")
    printed, figures_by_net = (
        run_in_process(*arguments, home=tmp_path),
        json_output(run_in_process(*arguments, "--json", home=tmp_path)),
    )
    without_prior = figures_by_net["without_prior"]
    assert figures_by_net["own"] != without_prior
    figures = (without_prior[name]["value"] for name in ("accuracy", "balanced_accuracy"))
    assert "without the prior   accuracy {:.3f}, balanced accuracy {:.3f}\n".format(*figures) in printed.stdout
    assert "the figures above include it" in printed.stderr
