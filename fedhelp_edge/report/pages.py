"""The pieces of a report: one HTML file without script or anything from elsewhere, that reads well without colour too.

Every piece takes plain text and escapes it. A line break in a cell stays one.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NewType

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.report import design
from fedhelp_edge.safe_text import visible_html

Html = NewType("Html", str)
Points = Sequence[tuple[float, float | None]]  # across and up; None leaves a gap

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_WIDE, _HIGH, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 320, 60, 20, 30, 70
_MARKS = "●○■□▲△◆◇▼▽★☆"
_DASHES = ("none", "6 4", "2 3", "9 3 2 3", "12 4", "4 2")  # and the marks tell lines apart without their colours


def page(
    title: str,
    *parts: Html,
    style: str = "",
    script: str = "",
    lang: str = "en",
    dark: bool = False,
    asks: bool = False,
) -> str:
    """A whole page. A report has no script; a page that our own programs serve may bring one, and no other runs.

    Its script may ask the server that sent it where it `asks`, and nobody else.
    """
    policy = _POLICY
    if script:
        policy += f"; script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        policy += "; connect-src 'self'" * asks
    head = (
        f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{visible_html(title)}</title>\n'
        f"<style>{design.STYLE}{style}</style>" + (f"\n<script>{script}</script>" if script else "")
    )
    body = "\n".join((f"<h1>{visible_html(title)}</h1>", *parts))
    dark_class = ' class="dark"' * dark
    root = f'<html lang="{lang}"{dark_class}>'
    return f"<!doctype html>\n{root}\n<head>\n{head}\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"


def heading(text: str) -> Html:
    """A heading below the page's title."""
    return Html(f"<h2>{visible_html(text)}</h2>")


def paragraph(text: str) -> Html:
    """A paragraph of plain text."""
    return Html(f"<p>{visible_html(text)}</p>")


def preformatted(text: str) -> Html:
    """Text whose lines stay as they are, and scroll where they are wider than the page."""
    return Html(f'<div class="table" tabindex="0"><pre>{_escaped_lines(text)}</pre></div>')


def findings(rows: Sequence[Mapping[str, Any]]) -> list[Html]:
    """What a reader must know about the images behind the figures, a sentence each."""
    items = "".join(f"<li>{visible_html(finding['sentence'])}</li>" for finding in rows)
    return [heading("What these images cannot tell"), Html(f"<ul>{items}</ul>")] if rows else []


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Html:
    """A table that scrolls within itself where it is wider than the page."""
    lines = [_row("th", head), *(_row("td", row) for row in rows)]
    return Html('<div class="table" tabindex="0"><table>\n' + "\n".join(lines) + "\n</table></div>")


def note(text: str, kind: str) -> Html:
    """A sentence that stands out; `kind` is good, warn, bad or wait."""
    return Html(f'<p class="note {kind}">{design.icon(kind)}{visible_html(text)}</p>')


@dataclass(frozen=True)
class Chip:
    """A word for a state with its icon, as a cell of a table; `kind` is good, warn, bad or wait."""

    text: str
    kind: str

    @property
    def html(self) -> Html:
        return Html(f'<span class="chip {self.kind}">{design.icon(self.kind)}{visible_html(self.text)}</span>')


def tiles(rows: Sequence[tuple[str, object, str]]) -> Html:
    """Figures at a glance: what each is, its value, and its state (good, warn, bad, or "")."""
    items = (
        f'<li class="{kind}"><span class="quiet">{design.icon(kind) if kind else ""}{visible_html(label)}</span>'
        f"<strong>{visible_html(str(value))}</strong></li>"
        for label, value, kind in rows
    )
    return Html(f'<ul class="tiles">{"".join(items)}</ul>')


def picture(pixels: NDArray[np.uint8], alt: str, width: int, height: int, *, is_exact: bool = True) -> Html:
    """An image (height x width x 1, 3 or 4) within the page, shown at a size; `alt` is for people who cannot see it."""
    size = f'width="{width}" height="{height}" style="aspect-ratio:{width}/{height}"'
    return Html(f'<img src="{data_link(pixels, is_exact=is_exact)}" alt="{visible_html(alt)}" {size}/>')


def data_link(pixels: NDArray[np.uint8], *, is_exact: bool = True) -> str:
    """An image (height x width x 1, 3 or 4) as a link that holds it: a PNG, or else a JPEG, which is quicker."""
    from PIL import Image

    sink = io.BytesIO()
    array: NDArray[Any] = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    if is_exact:
        Image.fromarray(array).save(sink, "PNG", compress_level=1)  # four times as quick, a fifth larger
    else:
        Image.fromarray(array).save(sink, "JPEG", quality=95, subsampling=0)
    return f"data:image/{'png' if is_exact else 'jpeg'};base64,{base64.b64encode(sink.getvalue()).decode()}"


def chart(lines: Mapping[str, Points], across: str, up: str, *, whole: bool = False) -> Html:
    """Lines over common axes, from 0 to 1 upwards where they show the `whole`. A table should show the same numbers."""
    points = [(x, y) for line in lines.values() for x, y in line if y is not None]
    xs, ys = ([point[axis] for point in points] or [0.0] for axis in (0, 1))
    (left, right), (low, high) = _axis_range(xs), (0.0, 1.0) if whole else _axis_range(ys)

    def project(x: float, y: float) -> tuple[str, str]:
        plot_size = _WIDE - _LEFT - _RIGHT, _HIGH - _TOP - _BOTTOM
        position = (
            _LEFT + (x - left) / (right - left) * plot_size[0],
            _HIGH - _BOTTOM - (y - low) / (high - low) * plot_size[1],
        )
        return f"{position[0]:.1f}", f"{position[1]:.1f}"

    elements = [_text(up, 0, 12, "start"), _text(across, _WIDE / 2, _HIGH - 34, "middle")]
    for tick in _ticks(low, high):
        y = project(left, tick)[1]
        elements.append(
            f'<path d="M{_LEFT} {y}H{_WIDE - _RIGHT}" class="grid"/>{_text(f"{tick:g}", _LEFT - 8, y, "end")}'
        )
    columns = len(lines) if len(lines) <= len(_DASHES) else 3
    left_edge = _LEFT if len(lines) <= len(_DASHES) else 0  # names of many lines need the room
    height = _HIGH + 20 * (max(0, len(lines) - 1) // max(1, columns))
    whole_numbers = all(float(x).is_integer() for x in xs)
    for tick in _ticks(left, right):
        if not whole_numbers or float(tick).is_integer():
            elements.append(_text(f"{tick:g}", project(tick, low)[0], _HIGH - 54, "middle"))
    for index, (name, line) in enumerate(lines.items()):
        rotation, place = divmod(index, len(_MARKS))
        mark, style = _MARKS[place], (place + rotation) % len(_DASHES)
        projected = [project(x, y) if y is not None else None for x, y in line]
        steps = zip([None, *projected], projected, strict=False)
        path = "".join(f"{'L' if before else 'M'}{here[0]} {here[1]}" for before, here in steps if here)
        marks = "".join(_text(mark, *here, "middle") for here in filter(None, projected))
        row, column = divmod(index, columns)
        legend = _text(
            f"{mark} {name}", left_edge + column * (_WIDE - left_edge) / columns, _HIGH - 8 + 20 * row, "start"
        )
        elements.append(
            f'<g class="line-{style}"><path d="{path}" fill="none" stroke="currentColor" stroke-width="2" '
            f'stroke-dasharray="{_DASHES[style]}"/>{marks}{legend}</g>'
        )
    label = visible_html(f"{up}, {across}: {', '.join(lines)}")
    inside = "\n".join(elements)
    return Html(
        f'<figure><svg viewBox="0 0 {_WIDE} {height}" role="img" aria-label="{label}">\n{inside}\n</svg></figure>'
    )


def _escaped_lines(text: str) -> str:
    return "\n".join(map(visible_html, text.split("\n")))


def _row(kind: str, cells: Sequence[object]) -> str:
    return f"<tr>{''.join(_cell(kind, cell) for cell in cells)}</tr>"


def _cell(kind: str, cell: object) -> str:
    """A cell; a heading without a text is no heading."""
    if isinstance(cell, Chip):
        return f"<td>{cell.html}</td>"
    text = _escaped_lines(str(cell))
    return f'<th scope="col">{text}</th>' if kind == "th" and text else f"<td>{text}</td>"


def _text(text: str, x: float | str, y: float | str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" dominant-baseline="central">{visible_html(text)}</text>'


def _axis_range(values: Sequence[float]) -> tuple[float, float]:
    """From the smallest to the largest value, never of length 0."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    """Three to ten round numbers within a span."""
    step = 10.0 ** math.floor(math.log10(high - low))
    step /= next(part for part in (1, 2, 5) if (high - low) / step * part >= 3)
    return [round(step * n, 10) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
