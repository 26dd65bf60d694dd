"""A comparison as one page to send: tables, curves and provenance in an HTML file without script or links."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fedhelp_edge.lab import tables
from fedhelp_edge.lab.results import Results
from fedhelp_edge.report import pages

_WIDE = "main { max-width: 80rem } td { white-space: pre }"
_LINE_LENGTH = 32  # characters
_WRAPPER = textwrap.TextWrapper(_LINE_LENGTH, break_long_words=False, break_on_hyphens=False)
_WRAPPER.wordsep_simple_re = re.compile(r"(\s+|(?<=\w\+)(?=\w))")  # a long name of a method breaks behind its plus
_COSTS = {"round": ("round", 1.0), "MB sent by all sites": ("bytes_up", 1e6), "seconds": ("seconds", 1.0)}


def html(results: Results) -> str:
    """The page."""
    name = _common(results, "settings").get("name", "")
    return pages.page(
        f"{name}: methods compared" if name else "Methods compared",
        *(pages.paragraph(note.strip("*")) for note in tables.notes(results)),
        *_tables(results),
        *_charts(results),
        *pages.findings([{"sentence": sentence} for sentence in tables.findings(results)]),
        *_provenance(results),
        style=_WIDE,
    )


def _tables(results: Results) -> Iterator[pages.Html]:
    for table in tables.all_of(results):
        if table.caption:
            yield pages.paragraph(table.caption)
        yield pages.table(table.head, [[*map(_in_lines, row)] for row in table.rows])


def _in_lines(cell: str) -> str:
    """A cell's text in lines, so that columns stay narrow: an interval, and each part, in lines of its own."""
    lines = re.sub(r"; | (?=[\[(])", "\n", cell).split("\n")
    return "\n".join(_WRAPPER.fill(line) for line in lines)


def _charts(results: Results) -> Iterator[pages.Html]:
    """The first figure on validation images, the mean over sites and seeds, against rounds and what they cost."""
    name = results.scale.names[results.scale.figures[0]]
    yield pages.heading(
        f"{name[0].upper()}{name[1:]} on validation images of the sites' own nets, by round and by cost"
    )
    for across, (key, unit) in _COSTS.items():
        lines = {method: _line(results, method, key, unit) for method in results.methods}
        if any(lines.values()):
            yield pages.chart(lines, across, name)


def _line(results: Results, method: str, key: str, unit: float) -> list[tuple[float, float | None]]:
    """A method's points, the mean over seeds, as far as all of them went."""
    curves = [run["curve"] for run in results.of(method)]
    points: list[tuple[float, float | None]] = []
    for same_round in zip(*curves, strict=False):
        accuracies = [point["own"][results.scale.figures[0]] for point in same_round]
        if all(key in point for point in same_round) and None not in accuracies:
            points.append((float(np.mean([point[key] for point in same_round])) / unit, float(np.mean(accuracies))))
    return points


def _provenance(results: Results) -> Iterator[pages.Html]:
    """What all runs have in common, and the plan."""
    yield pages.heading("Where these figures come from")
    names = ("command", "split", "noise", "commit", "versions", "machine", "data_sha256", "pack_sha256", "start_sha256")
    rows = [(name.replace("_", " "), _text(_common(results, name))) for name in names]
    known = [(name, text) for name, text in rows if text]
    if not known:
        yield pages.paragraph("These runs are of a version that kept no provenance.")
        return
    yield from (pages.paragraph(f"{name}: {text}") for name, text in known)
    yield pages.paragraph("The plan; a method's name carries what differs from it:")
    yield pages.preformatted(str(_common(results, "plan")))


def _common(results: Results, name: str) -> Any:
    """What the provenance of all runs says alike; of settings and the like, the first run's."""
    values = [run.get("provenance", {}).get(name) for run in results.runs]
    if name == "settings":
        return values[0] or {}
    return values[0] if all(value == values[0] for value in values) else "differs from run to run: see results.json"


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    return ", ".join(value) if isinstance(value, list) else "" if value is None else str(value)
