"""One site's part of a round: the same path in the lab, at a real site and in a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedhelp_edge.data.images import Images
from fedhelp_edge.merge.closing import NO_MERGE, LastMerge
from fedhelp_edge.methods.base import Learner
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets.net import Net
from fedhelp_edge.report import outlines
from fedhelp_edge.report.scale import SCALES, Tally
from fedhelp_edge.train import loop
from fedhelp_edge.update import Array


@dataclass(frozen=True)
class Visit:
    """What a site's part of a round gives."""

    update: dict[str, Array]
    facts: dict[str, int]  # that the update claims: its examples; and how many validation images the model got right
    report: loop.EpochReport
    tallies: Mapping[str, Tally]  # on validation images: of the "merged" net as it came, the "own" net and others


def visit(
    learner: Learner,
    sets: Mapping[str, loop.Set],
    validation: Images,
    merged: Mapping[str, Array],
    round_: int,
    merge: LastMerge = NO_MERGE,
    *,
    noise_key: bytes | None = None,
    checkpoints: Path | None = None,
    progress: loop.Progress | None = None,
) -> Visit:
    """Begins a round from the merged model, trains it, and gives the update. The net is judged before and after."""
    tallies: dict[str, Tally] = {}
    facts = {"examples": sum(learner.site.examples)}
    learner.receive(merged, round_, merge)
    if METHODS[learner.plan.method].exchanges:
        tallies["merged"] = judge(learner, learner.net, validation)
        facts["val"], facts["correct"] = SCALES[learner.plan.task].right([tallies["merged"]])
    report = loop.train(learner, sets, round_, noise_key=noise_key, checkpoints=checkpoints, progress=progress)
    for name, net in {"own": learner.model, **learner.others()}.items():
        tallies[name] = judge(learner, net, validation)
    return Visit(learner.give(), facts, report, tallies)


def judge(learner: Learner, net: Net, images: Images) -> Tally:
    """What a learner's net predicts for these images, and their truth."""
    plan = learner.plan
    if not plan.has_masks:
        return loop.probabilities(learner, net, images.pixels), images.labels
    spacing = plan.image.spacing if plan.image.is_volume else ()
    return outlines.tally(loop.masks(learner, net, images), images.case_masks(), plan.outputs, spacing)
