"""The evaluation of one round's nets for masks, as a file for programs and as a page for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.report import error_gallery, metrics, outlines, pages, seeds
from fedhelp_edge.report.error_gallery import WrongOutline
from fedhelp_edge.report.evaluation import NetsEvaluation, cell
from fedhelp_edge.report.metrics import Figure
from fedhelp_edge.report.nets import NAMES, weighing_lines, weighing_sentences
from fedhelp_edge.report.scale import Segmentation
from fedhelp_edge.safe_text import counted

CHOOSES = outlines.FIGURES[0]  # the figure that chooses among nets
_NO_CASE = "no case has such a class"


@dataclass(frozen=True)
class MaskScores:
    """A net's figures on test cases: means over classes, and each class. Intervals are over patients."""

    cases: int
    figures: Mapping[str, Figure]
    classes: Mapping[str, Mapping[str, Figure]]  # each without accuracy, which is of all classes together

    @classmethod
    def of(cls, tally: outlines.Tally, groups: NDArray[np.int64], classes: Sequence[str]) -> MaskScores:
        """The scores of a tally; cases of one group are drawn together."""
        rows, _ = tally
        if not len(rows):
            nothing = dict.fromkeys(outlines.FIGURES, Figure(None, reason="no images"))
            return cls(0, nothing, {})
        weights, _ = seeds.weights(np.zeros(len(rows), np.int64), groups)
        means, of_classes = outlines.figures(rows, weights), outlines.class_figures(rows, weights)
        parts = {
            name: {figure: _figure(of_classes[figure][:, index]) for figure in outlines.FIGURES if figure != "accuracy"}
            for index, name in enumerate(classes)
        }
        return cls(len(rows), {figure: _figure(values) for figure, values in means.items()}, parts)

    def to_json(self) -> dict[str, Any]:
        figures = {name: asdict(figure) for name, figure in self.figures.items()}
        of_classes = [
            {"name": name, **{figure: asdict(value) for figure, value in parts.items()}}
            for name, parts in self.classes.items()
        ]
        return {"images": self.cases, **figures, "classes": of_classes}


@dataclass(frozen=True)
class MaskEvaluation(NetsEvaluation[MaskScores]):
    """The evaluation of nets for masks."""

    wrong: Sequence[WrongOutline] = ()  # cases for the page, where a person asks for them
    colours: Mapping[str, Sequence[int]] = field(default_factory=dict)  # of the classes there

    @property
    def has_images(self) -> bool:
        return bool(self.wrong)

    def html(self) -> str:
        """The page: a table of all nets, then each class of the chosen one."""
        name = self.chosen or "own"
        shown = self.nets[name]
        cases = counted(shown.cases, "test image or volume", "test images or volumes")
        head, *rows = self.rows()
        return pages.page(
            f"{self.plan}: evaluation after round {self.round}",
            pages.paragraph(f"{cases}, {self.tier} site. In brackets: 95 % intervals."),
            pages.table(head, rows),
            *map(pages.paragraph, weighing_sentences(self.weighing)),
            *pages.findings(self.findings),
            pages.heading(f"Each class: {NAMES[name]}"),
            pages.table(
                ("class", *(Segmentation.names[figure] for figure in outlines.FIGURES if figure != "accuracy")),
                [(label, *map(cell, parts.values())) for label, parts in shown.classes.items()],
            ),
            *(error_gallery.outline_section(self.wrong, shown.cases, self.colours) if self.wrong else ()),
            style=error_gallery.STYLE if self.wrong else "",
        )

    def rows(self) -> list[tuple[str, ...]]:
        """A row for each net, and one of headings above them."""
        head = ("net", "Dice, validation", *(f"{name}, test" for name in Segmentation.names.values()), "")
        return [
            head,
            *(
                (
                    NAMES[name],
                    cell(Figure(self.figures[name][CHOOSES])),
                    *map(cell, net.figures.values()),
                    "chosen" if name == self.chosen else "",
                )
                for name, net in self.nets.items()
            ),
        ]

    def lines(self) -> list[str]:
        """The figures as lines for a terminal."""
        name = self.chosen or "own"
        shown = self.nets[name]
        lines = [f"{NAMES[net]:<22}Dice {_text(scores.figures[CHOOSES])}" for net, scores in self.nets.items()]
        lines += [*weighing_lines(self.weighing), "", f"{NAMES[name]}, on {counted(shown.cases, 'test case')}:"]
        lines += [f"{Segmentation.names[figure]:<20}{_text(value)}" for figure, value in shown.figures.items()]
        return lines + [f"{label:<20}Dice {_text(parts[CHOOSES])}" for label, parts in shown.classes.items()]


def _figure(values: NDArray[np.float64]) -> Figure:
    """A figure from its value on the cases as they are, and on draws of them."""
    return metrics.with_interval(float(values[0]), values[1:] if len(values) > 1 else None, _NO_CASE)


def _text(figure: Figure) -> str:
    if figure.value is None:
        return str(figure.reason)
    interval = f"  ({figure.low:.3f} to {figure.high:.3f})" if figure.low is not None else ""
    return f"{figure.value:.3f}{interval}"
