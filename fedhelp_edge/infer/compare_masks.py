"""Compare two models for masks on the same outlined images, by Dice: of all classes together, and of each.

Distances are left out: they need scipy, which a site that only diagnoses lacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data.images import Images
from fedhelp_edge.infer import drawing
from fedhelp_edge.infer.bundle import MaskBundle
from fedhelp_edge.infer.compare import same_images
from fedhelp_edge.report import metrics, outlines, seeds
from fedhelp_edge.report.metrics import Figure
from fedhelp_edge.safe_text import counted

_NO_CASE = "no image has such a class"


@dataclass(frozen=True)
class MaskFigures:
    """The figures of one model: means over images or volumes, then over classes."""

    round: int
    sha256: str
    dice: Figure
    iou: Figure
    accuracy: Figure  # of pixels
    unknown: int  # images without an answer


@dataclass(frozen=True)
class MaskDifference:
    """How far the new model is above the old one."""

    dice: Figure
    iou: Figure
    accuracy: Figure


@dataclass(frozen=True)
class OutlinedClass:
    """The Dice of a class by each model, and the difference (new minus old)."""

    name: str
    images: int  # whose mask shows it
    old: float | None
    new: float | None
    difference: Figure

    @property
    def rates(self) -> tuple[float | None, float | None]:
        """The Dice of the old and of the new model."""
        return self.old, self.new


@dataclass(frozen=True)
class MaskComparison:
    """Two models for masks on the same images or volumes."""

    figures: ClassVar = {"dice": "Dice", "iou": "IoU", "accuracy": "pixel accuracy"}

    images: int
    left_out: int  # that this site used for training or validation
    old: MaskFigures
    new: MaskFigures
    difference: MaskDifference
    classes: tuple[OutlinedClass, ...]
    better: int  # images that the new model outlines with the higher Dice
    worse: int

    @property
    def verdict(self) -> str:
        """One sentence: which model outlines better, and which classes the new one outlines worse."""
        dice = self.difference.dice
        worse = [each.name for each in self.classes if each.difference.high is not None and each.difference.high < 0]
        if dice.low is None or dice.high is None:
            sentence = f"{counted(self.images, 'image is', 'images are')} too few to tell them apart"
        elif dice.low > 0:
            sentence = "the new model outlines better"
        elif dice.high < 0:
            sentence = "the new model outlines worse"
        else:
            sentence = f"{counted(self.images, 'image does', 'images do')} not tell them apart"
        return f"{sentence}; it outlines {', '.join(worse)} worse" if worse else sentence

    @property
    def changes(self) -> str:
        """On how many images each model has the higher Dice."""
        return f"the new one has the higher Dice on {counted(self.better, 'image')}, the old one on {self.worse}"


def compare(
    old: MaskBundle, new: MaskBundle, source: Path, *, cache_dir: Path, state_dir: Path | None = None,
    masks: Path | None = None,
) -> MaskComparison:  # fmt: skip
    """Compare two models on images with masks, as `same_images` reads them. Intervals are over patients."""
    images = same_images(old, new, source, cache_dir=cache_dir, state_dir=state_dir, masks=masks)
    (old_rows, old_unknown), (new_rows, new_unknown) = _draw(old, images.old), _draw(new, images.new)
    weights, _ = seeds.weights(np.zeros(len(old_rows), np.int64), images.old.case_groups)
    old_drawn, new_drawn = (outlines.figures(rows, weights) for rows in (old_rows, new_rows))
    difference = {name: _difference(new_drawn[name], old_drawn[name]) for name in MaskComparison.figures}
    old_dice, new_dice = (outlines.class_figures(rows, weights)["dice"] for rows in (old_rows, new_rows))
    shown = images.old.cases_show(len(old.facts.classes)).sum(0)
    gained = outlines.dice_of_cases(new_rows) - outlines.dice_of_cases(old_rows)
    return MaskComparison(
        images=len(old_rows),
        left_out=images.left_out,
        old=_figures(old, old_drawn, old_unknown),
        new=_figures(new, new_drawn, new_unknown),
        difference=MaskDifference(**difference),
        classes=tuple(
            OutlinedClass(
                name, int(shown[index]), _figure(old_dice[:, index]).value, _figure(new_dice[:, index]).value,
                _difference(new_dice[:, index], old_dice[:, index]),
            )
            for index, name in enumerate(old.facts.classes)
        ),
        better=int((gained > 0).sum()),
        worse=int((gained < 0).sum()),
    )  # fmt: skip


def _draw(model: MaskBundle, images: Images) -> tuple[NDArray[np.float64], int]:
    """A row of `outlines` for each case, and the number of cases without an answer."""
    unknown = []

    def masks() -> Iterator[NDArray[np.uint8]]:
        for pixels in images.case_pictures():
            answer = drawing.outline(model, pixels)
            unknown.append(answer.verdict != "answered")
            yield answer.drawn.mask

    rows, _ = outlines.tally(masks(), images.case_masks(), len(model.facts.classes) + 1, distances=False)
    return rows, sum(unknown)


def _figures(model: MaskBundle, drawn: Mapping[str, NDArray[np.float64]], unknown: int) -> MaskFigures:
    figures = {name: _figure(drawn[name]) for name in MaskComparison.figures}
    return MaskFigures(model.facts.round, model.sha256, **figures, unknown=unknown)


def _figure(values: NDArray[np.float64]) -> Figure:
    """A figure from its value on the cases as they are, and on draws of them."""
    return metrics.with_interval(float(values[0]), values[1:] if len(values) > 1 else None, _NO_CASE)


def _difference(new: NDArray[np.float64], old: NDArray[np.float64]) -> Figure:
    """The same of a difference, which may be 0 in every draw."""
    draws = new[1:] - old[1:] if len(new) > 1 else None
    return metrics.with_interval(float(new[0] - old[0]), draws, _NO_CASE, even_if_equal=True)
