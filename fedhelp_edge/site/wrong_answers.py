"""Finds the images that a site's nets answer wrongly, and draws what in each speaks for the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export import graph
from fedhelp_edge.data.images import Images
from fedhelp_edge.encoder import Encoder
from fedhelp_edge.infer import answer_formats, bundle
from fedhelp_edge.nets.net import Net
from fedhelp_edge.plan import Plan
from fedhelp_edge.report.error_gallery import WrongAnswer


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
