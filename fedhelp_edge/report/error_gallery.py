"""A gallery of wrong answers: each image beside its heat-map, the surest one first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.report import pages
from fedhelp_edge.report.pages import Html
from fedhelp_edge.safe_text import counted, visible_html

STYLE = """
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); gap: var(--space) }
.gallery figure { margin: 0; padding: .7rem; background: var(--surface); border: 1px solid var(--line) }
.gallery figure { border-radius: var(--corner) }
.gallery div { display: grid; grid-template-columns: 1fr 1fr; gap: .4rem }
.gallery img { width: 100% }
.gallery figcaption strong { display: block; color: var(--text) }
"""
_SIDE = 160  # pixels on the screen


@dataclass(frozen=True)
class WrongAnswer:
    """An image whose likeliest class is not the true one."""

    file: str
    truth: str
    answer: str
    certainty: float
    pixels: NDArray[np.uint8]  # side x side x channels
    heatmap: NDArray[np.uint8] | None  # laid over the image; of models that have one


def section(wrong: Sequence[WrongAnswer], total: int) -> list[Html]:
    """The part of a page: these answers, of as many wrong ones in total."""
    about = f"{len(wrong)} of {counted(total, 'wrong answer')}, the surest first."
    legend = " Beside each image: what speaks for the given answer (orange), and what against it (blue)."
    return [
        pages.heading("Wrong answers"),
        pages.note("This page contains images of patients: keep it at this site.", "warn"),
        pages.paragraph(about + legend * any(answer.heatmap is not None for answer in wrong)),
        Html(f'<div class="gallery">{"".join(map(_figure, wrong))}</div>'),
    ]


def _figure(wrong: WrongAnswer) -> str:
    pictures = [(wrong.pixels, f"{wrong.file}: {wrong.truth}")]
    if wrong.heatmap is not None:
        pictures.append((wrong.heatmap, f"heat-map for {wrong.answer}"))
    images = "".join(pages.picture(pixels, alt, _SIDE, _SIDE) for pixels, alt in pictures)
    answer = visible_html(f"answer {wrong.answer}, {wrong.certainty:.0%} sure; true: {wrong.truth}")
    caption = f"<strong>{answer}</strong>{visible_html(wrong.file)}"
    return f"<figure><div>{images}</div><figcaption>{caption}</figcaption></figure>"
