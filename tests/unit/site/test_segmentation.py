"""A site whose images have masks: the same trial, reports and evaluation as for classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge.data import loading
from fedhelp_edge.data.images import Images
from fedhelp_edge.lab import run
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.parcel import keys
from fedhelp_edge.plan import Plan
from fedhelp_edge.report import outlines
from fedhelp_edge.report.mask_evaluation import MaskEvaluation
from fedhelp_edge.site import local_training, trial, wrong_answers
from fedhelp_edge.train.visit import judge
from tests import mask_bundles
from tests.bundles import run_command
from tests.command import check_schema
from tests.threads import one_thread as one_thread
from tests.unit.data.test_masks import npz, squares
from tests.unit.lab.test_segmentation import agreed


def images_of(folder: Path, plan: Plan, seed: int = 0) -> Images:
    folder.mkdir(parents=True, exist_ok=True)
    return loading.load(npz(folder / "own.npz", *squares(44, seed=seed)), plan, state_dir=folder / "kept")


def test_a_trial_is_the_laboratorys_run_with_that_site_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, tier, home = agreed("fedhelp"), "large", tmp_path / "home"
    images = images_of(tmp_path, plan)
    trained = trial.train(home, plan, tier, tmp_path / "own.npz", lambda what: None, rounds=2, threads=1)
    assert trained
    record = run.run(plan, [SiteImages(trial.SITE_ID, "here", tier, images)], tmp_path / "lab", compute=Compute())
    report = trained[1]
    assert (report["figure"], report["val_images"]) == ("dice", len(images.split("val")))
    assert report["val"]["own"] == record["curve"][-1]["own"]["dice"]
    assert report["base"]["val"] == 1000 * len(images.split("val"))
    assert report["val"]["alone"] is not None
    assert "Dice on validation images" in (trained[0] / "report.html").read_text(encoding="utf-8")
    evaluation = trial.evaluate(home, plan, tier, None, errors=3, threads=1)
    assert isinstance(evaluation, MaskEvaluation)
    own = evaluation.nets["own"]
    assert {name: figure.value for name, figure in own.figures.items()} == pytest.approx(
        {name: record["mean"][name] for name in own.figures}
    )
    assert own.classes.keys() == {"a", "b"}
    page = evaluation.write(tmp_path / "pages")
    text = page.read_text(encoding="utf-8")
    assert "Each class" in text
    assert 0 < len(evaluation.wrong) <= 3
    assert text.count("<img") == 2 * len(evaluation.wrong)
    assert page.stat().st_mode & 0o077 == 0
    assert "wrong" not in page.with_suffix(".json").read_text()
    assert json.loads(page.with_suffix(".json").read_text())["own"]["images"] == own.cases
    assert any(line.startswith("HD95") for line in evaluation.lines())
    elsewhere = trial.evaluate(home, plan, tier, tmp_path / "own.npz", threads=1)
    assert elsewhere.nets["own"].cases == 44  # type: ignore[union-attr]
    assert {finding["kind"] for finding in elsewhere.findings} == {"leak"}
    keys.save(home, keys.generate(), None)
    (tmp_path / "plan.toml").write_text(plan.text, encoding="utf-8")
    words = ("export", "--plan", tmp_path / "plan.toml", "--tier", tier, "--home", home, "--threads", "1", "--anyway")
    code, out, _ = run_command(capsys, *words, "--out", tmp_path / "a.onnx", "--json")
    check_schema("fedhelp-edge export", exported := json.loads(out))
    assert code == 0
    assert exported["figures"]["own"]["dice"] == pytest.approx(
        evaluation.figures["own"]["dice"], abs=0.05
    )  # by other blocks
    assert exported["figures"].keys() == evaluation.figures.keys() == {"own", "merged", "alone", "average", "kept"}
    assert (exported["net"], exported["weighing"]) == (evaluation.chosen, evaluation.weighing)
    code, out, messages = run_command(capsys, "evaluate", *words[1:-1], "--out", tmp_path / "pages", "--errors", "2")
    assert code == 0
    assert "how much each net counts: " in out
    assert "weighed together, on " in out
    assert "images of patients" in messages
    assert "makes a model to diagnose with" in messages
    assert "how much each net counts" in (tmp_path / "pages" / "evaluation-2.html").read_text(encoding="utf-8").lower()
    code, out, messages = run_command(capsys, *words, "--out", tmp_path / "b.onnx")
    assert (code, "Dice, validation" in out, "outlines" in out) == (0, True, True), messages
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    code, _, messages = run_command(capsys, *words, "--out", tmp_path / "c.onnx", "--int8")
    assert (code, "no 8-bit numbers" in messages) == (2, True)


@pytest.mark.parametrize("depth", [1, 8])
def test_the_worst_outlines_are_shown_beside_their_masks(depth: int) -> None:
    site = mask_bundles.site(depth)
    images = site.images.split("val")
    masks = np.array(images.masks)
    masks[:] = np.roll(masks, 5, -1)  # nobody would outline this
    images = replace(images, masks=masks)
    learner = local_training.TrainingContext(site.plan, "site-001", "small", images, None, Compute()).learner()
    rows = judge(learner, site.nets["own"], images)
    shown = wrong_answers.worst_outlines(learner, site.nets["own"], images, rows, 3)
    dice = sorted(outlines.dice_of_cases(rows[0]))
    assert [wrong.dice for wrong in shown] == dice[:3]
    assert len({wrong.file for wrong in shown}) == 3
    assert all("@" not in wrong.file for wrong in shown)  # a volume, not one of its blocks
    for wrong in shown:
        assert wrong.truth.shape == wrong.answer.shape
        assert max(wrong.truth.shape) == 512
        assert (wrong.truth != wrong.answer).any()
    assert wrong_answers.worst_outlines(learner, site.nets["own"], images, rows, 999)[-1].dice < 1


def test_intervals_of_an_evaluation_are_over_patients() -> None:
    from fedhelp_edge.report.mask_evaluation import MaskScores

    masks = squares(40)[1]
    moved = [np.roll(mask, index % 4, 0) for index, mask in enumerate(masks)]
    tally = outlines.tally(moved, masks, 3)
    alone, together = (
        MaskScores.of(tally, groups, ["a", "b"]).figures["dice"] for groups in (np.arange(40), np.arange(40) // 20)
    )
    assert alone.low is not None
    assert alone.high is not None
    assert alone.value is not None
    assert alone.low < alone.value < alone.high
    assert (together.low, together.reason) == (None, "no interval: fewer than 10 images")


def test_noise_of_a_training_depends_on_its_masks_too(tmp_path: Path) -> None:
    """A pixel that is corrected changes the update, but neither images nor the classes that they show."""
    plan = agreed()
    images = images_of(tmp_path, plan)
    corrected = replace(images, masks=np.array(images.masks))
    mask = corrected.masks[images.splits.index("train")]
    mask[tuple(np.argwhere(mask)[0])] = 0
    first, second = (
        [*local_training.TrainingContext(plan, "site-001", "small", each, None, Compute()).inputs(None)]
        for each in (images, corrected)
    )
    assert [one == other for one, other in zip(first, second, strict=True)] == [True, False, True]
