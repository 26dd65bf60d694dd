"""Measures the nets of a finished round, and says how much each counts in what an export would keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from export import calibrate, choose, choose_masks, subgroups
from fedhelp_edge.data import loading
from fedhelp_edge.data.findings import Finding, training_overlap
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.labels import load_aliases, load_columns, load_masks
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.encoder import Encoder, embed_images
from fedhelp_edge.errors import FedhelpError
from fedhelp_edge.infer import mask_files
from fedhelp_edge.plan import Plan
from fedhelp_edge.report import metrics, outlines
from fedhelp_edge.report.evaluation import Evaluation
from fedhelp_edge.report.mask_evaluation import CHOOSES, MaskEvaluation, MaskScores
from fedhelp_edge.report.scale import SCALES
from fedhelp_edge.site import layout, local_training, wrong_answers
from fedhelp_edge.train import machine
from fedhelp_edge.train.visit import judge
from fedhelp_edge.update import Array


def measure(
    home: Path, plan: Plan, site: str, tier: str, round_dir: Path, merged: Mapping[str, Array] | None,
    images: Path | None, *, pack: Pack | None = None, encoder: Encoder | None = None, errors: int = 0,
    threads: int | None = None,
) -> Evaluation | MaskEvaluation:  # fmt: skip
    """Measures on the test set, or on all of the other `images`. Shows at most so many wrongly answered ones.

    As in an export, the site's validation images weigh the nets and fit each net's temperature.
    """
    machine.configure(threads)
    own_images = _own_images(home, plan, encoder, required=images is None)
    measured = own_images if images is None else _other_images(home, plan, images, encoder)
    assert measured is not None  # noqa: S101 - without `images` own images are required
    compute, report = machine.compute(plan.training.precision), local_training.read_report(round_dir)
    context = local_training.TrainingContext(
        plan, site, tier, measured, pack, compute, encoder=encoder.facts(plan) if encoder else None
    )
    if plan.has_masks:
        findings = context.findings() if images is None else _seen_before(own_images, measured)
        return _measure_masks(context, round_dir, merged, own_images, report["round"], findings, errors)
    nets, prior = local_training.nets(context, round_dir, merged), report["prior"]
    test, val = measured.split("test"), own_images.split("val") if own_images else measured.only(np.array([], np.int64))
    distinct = choose.distinct(nets)
    choice = choose.choose(nets, val, test, plan.image, prior)
    scores = {name: choice.test[choose.name_of(distinct, net)] for name, net in nets.items()}
    scores |= {name: average for name, average in choice.test.items() if name in (choose.AVERAGE, choose.KEPT)}
    if prior:
        logits = choose.logits(nets["own"], test.pixels, plan.image, None)
        scores["without_prior"] = metrics.scores(calibrate.softmax(logits), test.labels)
    findings = context.findings() if images is None else _seen_before(own_images, measured)
    chosen, weighing = (choice.name, choice.kept.to_json()) if len(val) else ("", {})
    about = plan.name, report["round"], tier, plan.classes
    shown = chosen or choose.name_of(distinct, nets["own"])
    roc = dict(zip(plan.classes, choice.roc[shown], strict=True))
    is_right = choice.probabilities[shown].argmax(1) == test.labels
    groups = [
        {"by": by, "name": name, "images": len(inside), "right": int(is_right[inside].sum())}
        for by, name, inside in subgroups.members(test, plan.classes)
        if by != "class"  # whose sensitivity stands with its other figures
    ]
    scales = choice.kept.scales if chosen else {"own": 1.0}
    model = wrong_answers.Explained(choose.scaled(nets, scales), plan, prior, encoder)
    wrong = wrong_answers.surest(choice.probabilities[shown], test, model, errors) if errors else ()
    return Evaluation(*about, scores, findings, choice.figures, chosen, weighing, roc, groups, wrong)


def _measure_masks(
    context: local_training.TrainingContext, round_dir: Path, merged: Mapping[str, Array] | None, own: Images | None,
    round_: int, findings: Sequence[Mapping[str, Any]], errors: int,
) -> MaskEvaluation:  # fmt: skip
    """Measures nets for masks, each alone and together."""
    plan, learner, test = context.plan, context.learner(), context.images.split("test")
    val = own.split("val") if own else None
    scores, figures = dict[str, MaskScores](), dict[str, dict[str, float | None]]()
    nets, tallies = local_training.nets(context, round_dir, merged), dict[str, outlines.Tally]()
    kept = choose_masks.sample(nets, val, plan).weigh() if val and len(val) else None
    chosen, together = choose_masks.candidates(choose.distinct(nets), kept.scales if kept else {})
    measured = nets | {name: choose.together(parts) for name, parts in together.items()}
    for name, net in measured.items():
        tallies[name] = judge(learner, net, test)
        scores[name] = MaskScores.of(tallies[name], test.case_groups, plan.classes)
        dice = SCALES[plan.task].scores([judge(learner, net, val)])[CHOOSES] if kept and val else None
        figures[name] = {CHOOSES: dice, **{f"test_{key}": each.value for key, each in scores[name].figures.items()}}
    shown = chosen or "own"
    wrong = wrong_answers.worst_outlines(learner, measured[shown], test, tallies[shown], errors) if errors else ()
    colours = {name: mask_files.colour_of(label) for label, name in enumerate(plan.classes, 1)}
    about = plan.name, round_, context.tier, plan.classes
    weighing = kept.to_json() if kept else {}
    return MaskEvaluation(*about, scores, findings, figures, chosen, weighing, wrong=wrong, colours=colours)


def _own_images(home: Path, plan: Plan, encoder: Encoder | None, *, required: bool) -> Images | None:
    """Loads the site's images. They may be gone where other images are measured."""
    try:
        return local_training.load_images(home, plan, layout.resolve_images(home, None), encoder)
    except FedhelpError:
        if required:
            raise
        return None


def _other_images(home: Path, plan: Plan, images: Path, encoder: Encoder | None) -> Images:
    """Loads other images as one test set, with the class names and columns that the site's own images use."""
    names = load_aliases(home / "images", images, plan.classes)
    columns = load_columns(home / "images", images)
    masks = load_masks(home / "images", images)
    others = loading.load(
        images, plan, state_dir=home / "others", key_dir=home / "images", masks=masks, mapping=names, columns=columns
    )
    others = embed_images(others, plan, encoder, home / "others")
    return replace(others, splits=("test",) * len(others))


def _seen_before(own: Images | None, others: Images) -> list[dict[str, Any]]:
    """Returns findings about other images that also occur in the training set."""
    if own is None:
        text = "the training images cannot be read here, so these images may be among them"
        return [Finding("unknown-training-images", "test", len(others), len(others), text).to_json()]
    return [finding.to_json() for finding in training_overlap(others, own)]
