"""A page as its reader has it: the text of its cells, and the widths they take."""

from __future__ import annotations

from xml.etree import ElementTree


def body(page: str) -> ElementTree.Element:
    """What is between the body's tags, which must be well-formed."""
    return ElementTree.fromstring(page[page.index("<body>") : page.index("</html>")])


def tables(page: str) -> list[list[list[str]]]:
    """Of each table the rows, of each row the cells."""
    return [[["".join(cell.itertext()) for cell in row] for row in table] for table in body(page).iter("table")]


def columns(page: str) -> int:
    """How many letters wide the widest table is, two spaces between its columns."""
    widest = 0
    for rows in tables(page):
        widths = [max(len(line) for cell in cells for line in cell.split("\n")) for cells in zip(*rows, strict=True)]
        widest = max(widest, sum(widths) + 2 * (len(widths) - 1))
    return widest
