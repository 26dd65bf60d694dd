"""Reads a report page: the text of its cells and their widths."""

from __future__ import annotations

from xml.etree import ElementTree


def body(page: str) -> ElementTree.Element:
    """What the body of a page holds, its main element; checks that it is well-formed."""
    return ElementTree.fromstring(page[page.index("<body>") : page.index("</html>")])[0]


def tables(page: str) -> list[list[list[str]]]:
    """The cells of each row of each table."""
    return [[["".join(cell.itertext()) for cell in row] for row in table] for table in body(page).iter("table")]


def columns(page: str) -> int:
    """The width of the widest table in characters, with two spaces between columns."""
    widest = 0
    for rows in tables(page):
        widths = [max(len(line) for cell in cells for line in cell.split("\n")) for cells in zip(*rows, strict=True)]
        widest = max(widest, sum(widths) + 2 * (len(widths) - 1))
    return widest
