"""Finds the images that a site's nets answer or outline wrongly, and draws what they found in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export import graph
from fedhelp_edge.data.grid import as_viewed
from fedhelp_edge.data.images import Images
from fedhelp_edge.encoder import Encoder
from fedhelp_edge.infer import answer_formats, bundle, mask_files
from fedhelp_edge.methods.base import Learner
from fedhelp_edge.nets.net import Net
from fedhelp_edge.plan import Plan
from fedhelp_edge.report import outlines
from fedhelp_edge.report.error_gallery import WrongAnswer, WrongOutline
from fedhelp_edge.train import loop


@dataclass(frozen=True)
class Explained:
    """Nets whose mean answers, as an export would make it: the same graph draws the heat-maps."""

    nets: Sequence[Net]
    plan: Plan
    prior: Sequence[float] | None
    encoder: Encoder | None

    def heatmaps(self, images: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Images x classes x rows x columns; None of nets that have none."""
        data = graph.build(self.nets, self.plan.image, self.prior, self.encoder).SerializeToString()
        return bundle.open_engine(data, bundle.cost_of(data, self.plan.image))(images).cam


def surest(
    probabilities: NDArray[np.float64], images: Images, explained: Explained, limit: int
) -> tuple[WrongAnswer, ...]:
    """At most `limit` of the wrong answers, the surest first."""
    answers, certainty = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(answers != images.labels)
    shown = wrong[np.argsort(-certainty[wrong], kind="stable")][:limit]
    if not len(shown):
        return ()
    pictures, classes = np.asarray(images.pictures[shown]), explained.plan.classes
    heatmaps = explained.heatmaps(pictures)
    return tuple(
        WrongAnswer(
            images.names[index], classes[images.labels[index]], classes[answers[index]], float(certainty[index]),
            pixels,
            None if heatmaps is None else answer_formats.overlay(pixels, heatmaps[row], int(answers[index])),
        )
        for row, (index, pixels) in enumerate(zip(shown, pictures, strict=True))
    )  # fmt: skip


def worst_outlines(
    learner: Learner, net: Net, images: Images, tally: outlines.Tally, limit: int
) -> tuple[WrongOutline, ...]:
    """At most `limit` of the cases that a net outlines otherwise than their masks, the worst first."""
    dice, cases = outlines.dice_of_cases(tally[0]), images.cases
    worst = [int(case) for case in np.argsort(dice, kind="stable") if dice[case] < 1][:limit]
    return tuple(_wrong_outline(learner, net, images.only(cases[case]), float(dice[case])) for case in worst)


def _wrong_outline(learner: Learner, net: Net, images: Images, dice: float) -> WrongOutline:
    """The drawings of one case, of an image or of the blocks of a volume."""
    picture, mask = next(images.case_pictures()), next(images.case_masks())
    answer = next(loop.masks(learner, net, images))
    if answer.ndim == 3:
        at = int((answer != mask).sum((1, 2)).argmax())
        picture, mask, answer = (as_viewed(part[at]) for part in (picture, mask, answer))
    truth, drawn = (mask_files.draw_over(picture, each, np.zeros_like(each, np.bool_)) for each in (mask, answer))
    return WrongOutline(images.blocks[0].volume if images.blocks else images.names[0], dice, truth, drawn)
