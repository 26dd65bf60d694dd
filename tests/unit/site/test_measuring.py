"""Measuring the nets of a round: what is measured on has no say in which of them is the chosen one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedhelp_edge import plan as plans
from fedhelp_edge.data import loading
from fedhelp_edge.demo import phantoms
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.report.evaluation import Evaluation
from fedhelp_edge.site import local_training, trial
from tests.threads import one_thread as one_thread

PLAN = """
classes = ["round", "lobed"]
method = "fedprox"
rounds = 1
[image]
size = 8
[nets]
small = "resnet8"
[training]
epochs = 1
precision = "fp32"
[fedprox]
mu = 100.0
"""


def archive(path: Path, pixels: np.ndarray, labels: np.ndarray, train: int = 0, val: int = 0) -> Path:
    """So many images to train with, so many to choose by, the rest to measure by."""
    parts = {"train": slice(0, train), "val": slice(train, train + val), "test": slice(train + val, None)}
    held = {f"{name}_images": pixels[part] for name, part in parts.items()}
    np.savez(path, **held, **{f"{name}_labels": labels[part] for name, part in parts.items()})
    return path


def test_the_chosen_net_is_that_of_the_validation_images_whichever_net_knows_the_other_images(tmp_path: Path) -> None:
    """Other images are labelled by what one net says of them, then by what the other says."""
    plan, home = plans.read(PLAN, METHODS), tmp_path / "home"
    trained = trial.train(home, plan, "small", archive(tmp_path / "own.npz", *phantoms.draw(60, 2, size=8), 48, 12),
                          lambda what: None, threads=1)  # fmt: skip
    assert trained
    pixels, labels = phantoms.draw(60, 2, size=8, seed=9)
    evaluation = loading.load(archive(tmp_path / "all.npz", pixels, labels), plan, state_dir=tmp_path / "kept")
    context = local_training.TrainingContext(plan, trial.SITE_ID, "small", evaluation, None, Compute())
    predicted = {
        name: answers.argmax(1) for name, answers in local_training.predictions(context, trained[0], "test").items()
    }
    assert (predicted["own"] != predicted["alone"]).sum() > 2
    chosen = {}
    for name, labels in predicted.items():
        labels[:2] = 0, 1  # a file has images of both
        others = archive(tmp_path / f"{name} knows.npz", evaluation.pixels[:], labels)
        measured = trial.evaluate(home, plan, "small", others, threads=1)
        rights = {each: scores.accuracy.value for each, scores in measured.nets.items()}
        assert max(rights, key=lambda each: rights[each] or 0) == name, rights
        chosen[name] = measured.chosen, measured.weighing
    assert chosen["own"] == chosen["alone"] != ("", {}), chosen
    assert measured.wrong == ()
    upside_down = archive(tmp_path / "nobody knows.npz", evaluation.pixels[:], 1 - labels)
    np.savez(upside_down, **dict(np.load(upside_down)), test_centers=np.arange(len(labels)) % 2)
    shown = trial.evaluate(home, plan, "small", upside_down, errors=4, threads=1)
    assert isinstance(shown, Evaluation)
    assert len(shown.wrong) == 4
    assert all(each.answer != each.truth for each in shown.wrong)
    assert [each.certainty for each in shown.wrong] == sorted((each.certainty for each in shown.wrong), reverse=True)
    assert len({each.file for each in shown.wrong}) == 4
    assert all(each.heatmap is not None and each.heatmap.shape == (8, 8, 3) for each in shown.wrong)
    assert [(group["by"], group["name"], group["images"]) for group in shown.subgroups] == [
        ("centre", "0", 30), ("centre", "1", 30),
    ]  # fmt: skip
    assert sum(group["right"] for group in shown.subgroups) / 60 == shown.nets[shown.chosen].accuracy.value
    page = shown.write(tmp_path / "out")
    assert page.read_text("utf-8").count("<img") == 8
    assert "4 of " in page.read_text("utf-8")
    assert page.stat().st_mode & 0o077 == 0
    assert "certainty" not in page.with_suffix(".json").read_text("utf-8")
