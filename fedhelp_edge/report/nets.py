"""The nets that a site has: everywhere the same names and table, with the number of images beside each figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedhelp_edge.report import metrics
from fedhelp_edge.report.metrics import Figure, Scores
from fedhelp_edge.safe_text import counted

NAMES = {
    "own": "this site's own net", "merged": "the merged net", "alone": "trained alone", "average": "their average",
    "kept": "weighed together", "teacher": "this site's teacher",
}  # fmt: skip
_FIGURE_NAMES = {"accuracy": "accuracy", "dice": "Dice"}
SEVERAL_ALONE = "several nets trained alone and averaged may gain as much; that is not measured here"
_THREE_DIGITS_FROM = 1000  # images, from which on a third digit says something

Figures = Mapping[str, float | None]


def figures(scores: Scores | None, prefix: str = "") -> dict[str, float | None]:
    """A net's figures on one split, for tables and programs; without images each is None."""
    values: dict[str, float | None] = {f"{prefix}images": scores.images if scores else 0}
    for name in ("accuracy", "balanced_accuracy", "auc"):
        figure = getattr(scores, name) if scores else Figure(None)
        parts = {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
        values |= {f"{prefix}{key}": None if value is None else round(value, 4) for key, value in parts.items()}
    return values


def table(nets: Mapping[str, Figures], chosen: str, figure: str = "accuracy") -> list[tuple[str, ...]]:
    """A row for each net, as the terminal, the report, the card and the page show it; `header` is above them."""
    prefixes = ("", "test_")
    return [
        (NAMES[name], *(_cell(nets[name], prefix, figure) for prefix in prefixes), "chosen" if name == chosen else "")
        for name in NAMES
        if name in nets
    ]  # fmt: skip


def header(figure: str = "accuracy") -> tuple[str, ...]:
    """The headings of a table of nets."""
    return ("net", *(f"{_FIGURE_NAMES[figure]}, {split}" for split in ("validation", "test")), "")


def weighing_lines(weighing: Mapping[str, Any]) -> list[str]:
    """How much each net counts and what that is worth, in words; an older model does not say."""
    if not weighing:
        return []
    what = "accuracy of pixels" if weighing.get("of") == "pixels" else "accuracy"
    weights = sorted(weighing["weights"].items(), key=lambda pair: -pair[1])
    parts = [f"{NAMES.get(name, name)} {100 * weight:.0f} %" for name, weight in weights]
    images, accuracy = counted(weighing["images"], "validation image"), weighing["gain"]["accuracy"]
    value, low, high = (accuracy[part] for part in ("value", "low", "high"))
    if value is None:
        worth = f"what this gains over training alone is not known: {accuracy['reason']}"
    else:
        interval = f" ({low:+.2f} to {high:+.2f})" if low is not None and high is not None else ""
        worth = f"expected gain over one net trained alone: {what} {value:+.2f}{interval}, from {images}"
    lines = [f"how much each net counts: {', '.join(parts)}", worth]
    return lines if value is None else [*lines, SEVERAL_ALONE]


def weighing_sentences(weighing: Mapping[str, Any]) -> list[str]:
    """The same for a page or a card."""
    return [f"{line[0].upper()}{line[1:]}." for line in weighing_lines(weighing)]


def lines(nets: Mapping[str, Figures], chosen: str, figure: str = "accuracy") -> list[str]:
    """The table as lines for a terminal."""
    rows = [header(figure), *table(nets, chosen, figure)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def figure_text(value: float | None, images: int, low: float | None = None, high: float | None = None) -> str:
    """A figure with the number of images that it comes from and its 95 % interval: 0.93 (n=14, 0.69-0.99)."""
    if value is None:
        return "–"
    digits = 3 if images >= _THREE_DIGITS_FROM else 2
    interval = f", {low:.{digits}f}-{high:.{digits}f}" if low is not None and high is not None else ""
    return f"{value:.{digits}f} (n={images}{interval})"


def accuracy_text(value: float | None, images: int, figure: str = "accuracy") -> str:
    """An accuracy on this number of images, with Wilson's interval; another figure has none."""
    if figure != "accuracy":
        return figure_text(value, images)
    if value is None or not images:
        return "–" if value is None else f"{value:.2f}"  # an old report has no number
    proportion = metrics.proportion(round(value * images), images)
    return figure_text(value, images, proportion.low, proportion.high)


def answering_text(figures: Mapping[str, float | None], split: str) -> str:
    """How many images of a split a model answers, how many of these wrongly, and why it does not answer the others."""
    images, answered, right, unlike = (
        int(figures.get(name) or 0) for name in ("images", "answered", "right", "unlike")
    )
    wrong = f", {answered - right} of them wrongly (error {rate_text(answered - right, answered)})" if answered else ""
    unanswered = images - answered
    uncertain = counted(unanswered - unlike, "is", "are")
    reasons = f"; of the other {unanswered}, {uncertain} uncertain and {unlike} unlike" if unanswered else ""
    return f"answers {answered} of {counted(images, f'{split} image')}{wrong}{reasons}"


def outlining_text(figures: Mapping[str, float | None], split: str) -> str:
    """How many cases of a split a model outlines, and why it does not stand for the others."""
    images, answered, uncertain, unlike = (
        int(figures.get(name) or 0) for name in ("images", "answered", "uncertain", "unlike")
    )
    others = (
        f"; {counted(uncertain, 'outline is', 'outlines are')} uncertain, and {unlike} unlike"
        if images > answered
        else ""
    )
    return f"outlines {answered} of {counted(images, f'{split} case')}{others}"


def rate_text(hits: int, total: int) -> str:
    """A proportion with its number of images and its interval."""
    figure = metrics.proportion(hits, total)
    return figure_text(figure.value, total, figure.low, figure.high)


def _cell(net: Mapping[str, Any], prefix: str, figure: str) -> str:
    names = (figure, "images", f"{figure}_low", f"{figure}_high")
    value, images, low, high = (net.get(f"{prefix}{name}") for name in names)
    return figure_text(value, images or 0, low, high)
