"""The pieces of a report: one HTML file without script or anything from elsewhere, that reads well without colour too.

Every piece takes plain text and escapes it. A line break in a cell stays one.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NewType

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.safe_text import visible_html

Html = NewType("Html", str)
Points = Sequence[tuple[float, float | None]]  # across and up; None leaves a gap

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_STYLE = """
body { max-width: 80ch; margin: 2em auto; padding: 0 1em; font: 16px/1.5 system-ui, sans-serif }
body { color: #111; background: #fff }
h1, h2 { line-height: 1.2 }
h1, h2, p, li { overflow-wrap: break-word }
div { overflow-x: auto }
table { border-collapse: collapse; font-size: .9em }
th, td { padding: .2em .6em; border-bottom: 1px solid #999; vertical-align: top }
th, td { text-align: right; white-space: pre-line; max-width: 24em; overflow-wrap: break-word }
th:first-child, td:first-child { padding-left: 0; text-align: left }
figure { margin: 1em 0 }
svg { width: 100%; font: 12px system-ui, sans-serif }
@media (max-width: 40em) {
  table { width: max-content; font-size: .8em }
  th, td { padding: .2em .4em; max-width: 13em }
  svg { font-size: 16px }
}
@media print { body { max-width: none; margin: 0; padding: 0 } tr, figure { break-inside: avoid } }
"""

_WIDE, _HIGH, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 320, 60, 20, 30, 70
_MARKS = "●○■□▲△◆◇▼▽★☆"
_LINE_STYLES = (  # dashes, colour: the mark, or the dashes, tell lines apart without the colour
    ("none", "#0072b2"),
    ("6 4", "#d55e00"),
    ("2 3", "#007a5e"),
    ("9 3 2 3", "#8b3a8b"),
    ("12 4", "#7a5c00"),
    ("4 2", "#444444"),
)


def page(title: str, *parts: Html, style: str = "", script: str = "", lang: str = "en") -> str:
    """A whole page. A report has no script; a page that our own programs serve may bring one, and no other runs."""
    policy = _POLICY
    if script:
        policy += f"; script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
    head = (
        f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{visible_html(title)}</title>\n'
        f"<style>{_STYLE}{style}</style>" + (f"\n<script>{script}</script>" if script else "")
    )
    body = "\n".join((f"<h1>{visible_html(title)}</h1>", *parts))
    return f'<!doctype html>\n<html lang="{lang}">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def heading(text: str) -> Html:
    """A heading below the page's title."""
    return Html(f"<h2>{visible_html(text)}</h2>")


def paragraph(text: str) -> Html:
    """A paragraph of plain text."""
    return Html(f"<p>{visible_html(text)}</p>")


def preformatted(text: str) -> Html:
    """Text whose lines stay as they are, and scroll where they are wider than the page."""
    return Html(f"<div><pre>{_escaped_lines(text)}</pre></div>")


def findings(rows: Sequence[Mapping[str, Any]]) -> list[Html]:
    """What a reader must know about the images behind the figures, a sentence each."""
    items = "".join(f"<li>{visible_html(finding['sentence'])}</li>" for finding in rows)
    return [heading("What these images cannot tell"), Html(f"<ul>{items}</ul>")] if rows else []


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Html:
    """A table that scrolls within itself where it is wider than the page."""
    lines = [_row("th", head), *(_row("td", row) for row in rows)]
    return Html("<div><table>\n" + "\n".join(lines) + "\n</table></div>")


def picture(pixels: NDArray[np.uint8], alt: str, width: int, height: int) -> Html:
    """An image (height x width x 1 or 3) within the page, shown at a size; `alt` is for people who cannot see it."""
    from PIL import Image

    sink = io.BytesIO()
    array: NDArray[Any] = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    Image.fromarray(array).save(sink, "PNG")
    data = base64.b64encode(sink.getvalue()).decode()
    size = f'width="{width}" height="{height}" style="aspect-ratio:{width}/{height}"'
    return Html(f'<img src="data:image/png;base64,{data}" alt="{visible_html(alt)}" {size}/>')


def chart(lines: Mapping[str, Points], across: str, up: str) -> Html:
    """Lines over common axes. A table should show the same numbers."""
    points = [(x, y) for line in lines.values() for x, y in line if y is not None]
    xs, ys = ([point[axis] for point in points] or [0.0] for axis in (0, 1))
    (left, right), (low, high) = _axis_range(xs), _axis_range(ys)

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
            f'<path d="M{_LEFT} {y}H{_WIDE - _RIGHT}" stroke="#ccc"/>{_text(f"{tick:g}", _LEFT - 8, y, "end")}'
        )
    columns = len(lines) if len(lines) <= len(_LINE_STYLES) else 3
    left_edge = _LEFT if len(lines) <= len(_LINE_STYLES) else 0  # names of many lines need the room
    height = _HIGH + 20 * (max(0, len(lines) - 1) // max(1, columns))
    whole_numbers = all(float(x).is_integer() for x in xs)
    for tick in _ticks(left, right):
        if not whole_numbers or float(tick).is_integer():
            elements.append(_text(f"{tick:g}", project(tick, low)[0], _HIGH - 54, "middle"))
    for index, (name, line) in enumerate(lines.items()):
        rotation, place = divmod(index, len(_MARKS))
        mark, (dashes, colour) = _MARKS[place], _LINE_STYLES[(place + rotation) % len(_LINE_STYLES)]
        projected = [project(x, y) if y is not None else None for x, y in line]
        steps = zip([None, *projected], projected, strict=False)
        path = "".join(f"{'L' if before else 'M'}{here[0]} {here[1]}" for before, here in steps if here)
        marks = "".join(_text(mark, *here, "middle") for here in filter(None, projected))
        row, column = divmod(index, columns)
        legend = _text(
            f"{mark} {name}", left_edge + column * (_WIDE - left_edge) / columns, _HIGH - 8 + 20 * row, "start"
        )
        elements.append(
            f'<g fill="{colour}"><path d="{path}" fill="none" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{dashes}"/>{marks}{legend}</g>'
        )
    label = visible_html(f"{up}, {across}: {', '.join(lines)}")
    inside = "\n".join(elements)
    return Html(
        f'<figure><svg viewBox="0 0 {_WIDE} {height}" role="img" aria-label="{label}">\n{inside}\n</svg></figure>'
    )


def _escaped_lines(text: str) -> str:
    return "\n".join(map(visible_html, text.split("\n")))


def _row(kind: str, cells: Sequence[object]) -> str:
    return "<tr>" + "".join(f"<{kind}>{_escaped_lines(str(cell))}</{kind}>" for cell in cells) + "</tr>"


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
