"""The evaluation of one round's nets for masks, as a file for programs and as a page for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.report import evaluation, metrics, outlines, pages, seeds
from fedhelp_edge.report.metrics import Figure
from fedhelp_edge.report.nets import NAMES
from fedhelp_edge.report.scale import Segmentation
from fedhelp_edge.safe_text import counted

_NO_CASE, _CHOOSES = "no case has such a class", outlines.FIGURES[0]


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
class MaskEvaluation:
    """The scores of a site's nets on its test cases."""

    plan: str  # its name
    round: int
    tier: str
    classes: tuple[str, ...]
    nets: Mapping[str, MaskScores]
    validation: Mapping[str, float | None]  # the Dice of each net on validation cases
    findings: Sequence[Mapping[str, Any]] = ()

    @property
    def chosen(self) -> str:
        """The net with the best Dice on validation cases; "" without any."""
        known = {name: dice for name, dice in self.validation.items() if dice is not None}
        return max(known, key=lambda name: known[name]) if known else ""

    def to_json(self) -> dict[str, Any]:
        """As in `evaluation.json`, and in a command's JSON."""
        figures = {
            name: {
                _CHOOSES: self.validation.get(name),
                **{f"test_{key}": each.value for key, each in net.figures.items()},
            }
            for name, net in self.nets.items()
        }
        about = {"plan": self.plan, "round": self.round, "tier": self.tier, "classes": list(self.classes)}
        choice = {"chosen": self.chosen or None, "weighing": None, "figures": figures}
        return {**about, "findings": list(self.findings), **choice, **{n: s.to_json() for n, s in self.nets.items()}}

    def write(self, folder: Path) -> Path:
        """Writes `evaluation.json` and `.html`, or, if they exist, `evaluation-2` and so on; returns the page."""
        return evaluation.write(folder, self.to_json(), self.html())

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
            *pages.findings(self.findings),
            pages.heading(f"Each class: {NAMES[name]}"),
            pages.table(
                ("class", *(Segmentation.names[figure] for figure in outlines.FIGURES if figure != "accuracy")),
                [(label, *map(evaluation.cell, parts.values())) for label, parts in shown.classes.items()],
            ),
        )

    def rows(self) -> list[tuple[str, ...]]:
        """A row for each net, and one of headings above them."""
        head = ("net", "Dice, validation", *(f"{name}, test" for name in Segmentation.names.values()), "")
        return [
            head,
            *(
                (
                    NAMES[name],
                    evaluation.cell(Figure(self.validation.get(name))),
                    *map(evaluation.cell, net.figures.values()),
                    "chosen" if name == self.chosen else "",
                )
                for name, net in self.nets.items()
            ),
        ]

    def lines(self) -> list[str]:
        """The figures as lines for a terminal."""
        name = self.chosen or "own"
        shown = self.nets[name]
        lines = [f"{NAMES[net]:<22}Dice {_text(scores.figures[_CHOOSES])}" for net, scores in self.nets.items()]
        lines += ["", f"{NAMES[name]}, on {counted(shown.cases, 'test case')}:"]
        lines += [f"{Segmentation.names[figure]:<20}{_text(value)}" for figure, value in shown.figures.items()]
        return lines + [f"{label:<20}Dice {_text(parts[_CHOOSES])}" for label, parts in shown.classes.items()]


def _figure(values: NDArray[np.float64]) -> Figure:
    """A figure from its value on the cases as they are, and on draws of them."""
    return metrics.with_interval(float(values[0]), values[1:] if len(values) > 1 else None, _NO_CASE)


def _text(figure: Figure) -> str:
    if figure.value is None:
        return str(figure.reason)
    interval = f"  ({figure.low:.3f} to {figure.high:.3f})" if figure.low is not None else ""
    return f"{figure.value:.3f}{interval}"
