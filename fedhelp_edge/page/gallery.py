"""Many pictures on a page: small ones that lead to their pages, and the list of files that cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import errors
from fedhelp_edge.data.images import Problem
from fedhelp_edge.errors import FedhelpError
from fedhelp_edge.report import design, pages
from fedhelp_edge.report.pages import Html
from fedhelp_edge.safe_text import counted, visible_html

STYLE = design.read("page/gallery.css")
SIDE = 96  # pixels on the screen

Small = tuple[NDArray[np.uint8], int, int]  # pixels, and width and height in any unit


def index_of(text: str, count: int) -> int | None:
    """The index that a number from 1 to `count` means."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= count):
        return None
    return int(text) - 1


def thumbnail(link: str, name: str, decode: Callable[[], Small | None], mark: str) -> str:
    """A small picture, if there is one, its name and a mark; the code of the error where it cannot be decoded."""
    try:
        picture = Html("")
        if small := decode():
            pixels, width, height = small
            scale = SIDE / max(width, height)
            picture = pages.picture(pixels, "", max(1, round(width * scale)), max(1, round(height * scale)))
    except FedhelpError as error:
        picture = Html(f"<span>{design.icon('bad')}{visible_html(error.code)}</span>")
    return f'<li><a href="{link}">{picture}<span>{visible_html(name)}</span>{mark}</a></li>'


def turn_pages(number: int, count: int, link: Callable[[int], str]) -> Html:
    """Links from a page of small pictures to the ones before and after it."""
    links = [
        f'<a class="button" href="{link(page)}">{page + 1}</a> '
        for page in (number - 1, number + 1)
        if 0 <= page < count
    ]
    return Html(f"<p>{''.join(links)}</p>")


def problems_table(problems: Sequence[Problem], counting: tuple[str, str], columns: Sequence[str]) -> list[Html]:
    """A list of the files that cannot be used, with remedies."""
    if not problems:
        return []
    kinds = {kind.code: kind for kind in errors.tree() if kind.code}
    rows = [(problem.file, problem.cause, kinds[problem.code].remedy) for problem in problems]
    head = visible_html(counted(len(rows), *counting))
    return [Html(f"<details><summary>{head}</summary>{pages.table(columns, rows)}</details>")]
