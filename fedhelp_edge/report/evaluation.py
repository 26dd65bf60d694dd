"""The evaluation of one round's nets, as a file for programs and as a page for people.

The record is the same for classes and for masks (`report.mask_evaluation`); scores and page differ.
"""

from __future__ import annotations

import itertools
import json
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from fedhelp_edge import files
from fedhelp_edge.report import error_gallery, pages
from fedhelp_edge.report.error_gallery import WrongAnswer
from fedhelp_edge.report.metrics import ROC_LIMITS, Figure, Scores, proportion
from fedhelp_edge.report.nets import NAMES, header, table, weighing_sentences
from fedhelp_edge.safe_text import counted

_NET_NAMES = {**NAMES, "without_prior": "without the prior"}
_FIGURE_NAMES = {
    "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "auc": "AUC", "f1": "F1",
    "ece": "calibration error", "overconfidence": "certainty less accuracy", "brier": "Brier score",
}  # fmt: skip


class NetScores(Protocol):
    """The scores of one net."""

    def to_json(self) -> dict[str, Any]: ...


S = TypeVar("S", bound=NetScores)


@dataclass(frozen=True)
class NetsEvaluation(ABC, Generic[S]):
    """The scores of a site's nets on its test images."""

    plan: str  # its name
    round: int
    tier: str
    classes: tuple[str, ...]
    nets: Mapping[str, S]  # "own", and what it is compared with
    findings: Sequence[Mapping[str, Any]] = ()  # what these images cannot tell
    figures: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)  # of each net, for the table
    chosen: str = ""  # by the validation images; "" without any
    weighing: Mapping[str, Any] = field(default_factory=dict)  # how much each net counts, where they are chosen

    def to_json(self) -> dict[str, Any]:
        """As in `evaluation.json`, and in a command's JSON."""
        about = {
            "plan": self.plan,
            "round": self.round,
            "tier": self.tier,
            "classes": list(self.classes),
            "findings": list(self.findings),
        }
        choice: dict[str, Any] = {}
        if self.figures:
            choice = {"chosen": self.chosen or None, "weighing": self.weighing or None, "figures": dict(self.figures)}
        return {**about, **choice, **{name: scores.to_json() for name, scores in self.nets.items()}}

    def write(self, folder: Path) -> Path:
        """Writes `evaluation.json` and `.html`, or, if they exist, `evaluation-2` and so on; returns the page."""
        folder.mkdir(parents=True, exist_ok=True)
        numbers = itertools.chain(("",), (f"-{number}" for number in itertools.count(2)))
        pairs = ([folder / f"evaluation{number}.{kind}" for kind in ("json", "html")] for number in numbers)
        data, page = next(pair for pair in pairs if not any(path.exists() for path in pair))
        with files.writing(data, private=False) as file:
            file.write(json.dumps({"schema_version": 1, **self.to_json()}, indent=1).encode())
        with files.writing(page, private=self.has_images) as file:
            file.write(self.html().encode())
        return page

    @property
    def has_images(self) -> bool:
        """Whether the page contains images, so that only its owner may read it."""
        return False

    @abstractmethod
    def html(self) -> str:
        """The page."""


@dataclass(frozen=True)
class Evaluation(NetsEvaluation[Scores]):
    """The evaluation of nets for classes."""

    roc: Mapping[str, Sequence[float] | None] = field(
        default_factory=dict
    )  # of the chosen net, by class: `metrics.roc`
    subgroups: Sequence[
        Mapping[str, Any]
    ] = ()  # of test images: by, name, images, and how many the chosen net has right
    wrong: Sequence[WrongAnswer] = ()  # images for the page, where a person asks for them

    @property
    def has_images(self) -> bool:
        return bool(self.wrong)

    def to_json(self) -> dict[str, Any]:
        more = {"roc": dict(self.roc), "subgroups": list(self.subgroups)}
        return {**super().to_json(), **{name: part for name, part in more.items() if part}}

    def html(self) -> str:
        """The page: a table of all nets, then the details of the chosen one."""
        name = self.chosen or "own"
        shown = self.nets[name]
        return pages.page(
            f"{self.plan}: evaluation after round {self.round}",
            *_headline(NAMES[name], "accuracy", shown.accuracy),
            pages.paragraph(f"{counted(shown.images, 'test image')}, {self.tier} site. In brackets: 95 % intervals."),
            *([pages.table(header(), table(self.figures, self.chosen))] if self.figures else []),
            *map(pages.paragraph, weighing_sentences(self.weighing)),
            pages.table(
                ("", *(_NET_NAMES[name] for name in self.nets)),
                [
                    (label, *(cell(getattr(scores, name)) for scores in self.nets.values()))
                    for name, label in _FIGURE_NAMES.items()
                ],
            ),
            *pages.findings(self.findings),
            pages.paragraph(f"Below: {NAMES[name]}."),
            *self._classes(shown),
            *self._subgroups(),
            *self._roc(),
            *self._confusion(shown),
            *self._calibration(shown),
            *(error_gallery.section(self.wrong, _wrong_total(shown)) if self.wrong else ()),
            style=error_gallery.STYLE if self.wrong else "",
        )

    def _classes(self, scores: Scores) -> Iterator[pages.Html]:
        yield pages.heading("Each class against the others")
        yield pages.table(
            ("class", "images", "sensitivity", "specificity", "AUC"),
            [
                (name, figures.images, cell(figures.sensitivity), cell(figures.specificity), cell(figures.auc))
                for name, figures in zip(self.classes, scores.classes, strict=True)
            ],
        )

    def _subgroups(self) -> Iterator[pages.Html]:
        if not self.subgroups:
            return
        yield pages.heading("Groups of images")
        yield pages.paragraph(
            "How often the likeliest class is the true one. Several images of one patient count as several."
        )
        yield pages.table(
            ("by", "group", "images", "right"),
            [
                (group["by"], group["name"], group["images"], cell(proportion(group["right"], group["images"])))
                for group in self.subgroups
            ],
        )

    def _roc(self) -> Iterator[pages.Html]:
        curves = {name: curve for name, curve in self.roc.items() if curve}
        if not curves:
            return
        yield pages.heading("Sensitivity against false alarms (ROC)")
        yield pages.paragraph("How many images of a class are found if so many of the others may be flagged too.")
        yield pages.chart(
            {"chance": [(0.0, 0.0), (1.0, 1.0)]}
            | {name: list(zip(ROC_LIMITS, curve, strict=True)) for name, curve in curves.items()},
            "part of the others flagged", "sensitivity", whole=True,
        )  # fmt: skip
        yield pages.table(
            ("class", *(f"{limit:g}" for limit in ROC_LIMITS)),
            [(name, *(f"{value:.2f}" for value in curve)) for name, curve in curves.items()],
        )

    def _confusion(self, scores: Scores) -> Iterator[pages.Html]:
        yield pages.heading("Confusion matrix")
        yield pages.paragraph("A row for each true class, a column for each answer.")
        yield pages.table(
            ("", *self.classes), [(name, *row) for name, row in zip(self.classes, scores.confusion, strict=False)]
        )

    def _calibration(self, scores: Scores) -> Iterator[pages.Html]:
        yield pages.heading("Calibration: is it right as often as it is sure?")
        yield pages.chart(
            {
                "as it should be": [(0.0, 0.0), (1.0, 1.0)],
                "this net": [(bin_.sure, bin_.right.value) for bin_ in scores.reliability],
            },
            "how sure", "how often right", whole=True,
        )  # fmt: skip
        yield pages.table(
            ("sure", "images", "right"),
            [(f"{bin_.sure:.2f}", bin_.images, cell(bin_.right)) for bin_ in scores.reliability],
        )


def _headline(net: str, name: str, figure: Figure) -> Iterator[pages.Html]:
    """The one figure that a reader should take away, with its interval."""
    if figure.value is not None:
        interval = "" if figure.low is None else f" ({figure.low:.3f} to {figure.high:.3f})"
        yield pages.tiles([(f"{name}: {net}", f"{figure.value:.3f}{interval}", "")])


def _wrong_total(scores: Scores) -> int:
    return scores.images - sum(row[index] for index, row in enumerate(scores.confusion))


def cell(figure: Figure) -> str:
    """A number, and below it its interval, or why it has none."""
    value = "–" if figure.value is None else f"{figure.value:.3f}"
    interval = f"({figure.low:.3f} to {figure.high:.3f})" if figure.low is not None else figure.reason or ""
    return f"{value}\n{textwrap.fill(interval, 20)}"
