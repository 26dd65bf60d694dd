"""A gallery of wrong answers, each image beside its heat-map, and of wrong outlines beside the true ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
.swatch { display: inline-block; width: .9em; height: .9em; border-radius: .2em; margin: 0 .3em 0 .8em }
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


@dataclass(frozen=True)
class WrongOutline:
    """An image, or the worst slice of a volume, whose outline differs from its mask."""

    file: str
    dice: float  # the mean over classes
    truth: NDArray[np.uint8]  # the image with the outline of its mask
    answer: NDArray[np.uint8]  # with the net's


def section(wrong: Sequence[WrongAnswer], total: int) -> list[Html]:
    """The part of a page: these answers, of as many wrong ones in total."""
    about = f"{len(wrong)} of {counted(total, 'wrong answer')}, the surest first."
    legend = " Beside each image: what speaks for the given answer (orange), and what against it (blue)."
    about += legend * any(answer.heatmap is not None for answer in wrong)
    return _gallery("Wrong answers", pages.paragraph(about), map(_wrong_answer, wrong))


def outline_section(wrong: Sequence[WrongOutline], total: int, colours: Mapping[str, Sequence[int]]) -> list[Html]:
    """The part of a page: these outlines, of as many cases in total; `colours` (red, green, blue) of the classes."""
    about = f"{len(wrong)} of {counted(total, 'test image or volume', 'test images or volumes')}, the worst first."
    about += " On the left the mask, on the right what the net outlines. Of a volume: the slice that differs most."
    swatches = "".join(
        f'<span class="swatch" style="background:rgb{tuple(colour)}"></span>{visible_html(name)}'
        for name, colour in colours.items()
    )
    paragraph = Html(f"<p>{visible_html(about)}{swatches}</p>")
    return _gallery("Worst outlines", paragraph, map(_wrong_outline, wrong))


def _gallery(title: str, about: Html, figures: Iterable[str]) -> list[Html]:
    return [
        pages.heading(title),
        pages.note("This page contains images of patients: keep it at this site.", "warn"),
        about,
        Html(f'<div class="gallery">{"".join(figures)}</div>'),
    ]


def _wrong_answer(wrong: WrongAnswer) -> str:
    pictures = [(wrong.pixels, f"{wrong.file}: {wrong.truth}")]
    if wrong.heatmap is not None:
        pictures.append((wrong.heatmap, f"heat-map for {wrong.answer}"))
    answer = f"answer {wrong.answer}, {wrong.certainty:.0%} sure; true: {wrong.truth}"
    images = [pages.picture(pixels, alt, _SIDE, _SIDE) for pixels, alt in pictures]
    return _figure(images, answer, wrong.file)


def _wrong_outline(wrong: WrongOutline) -> str:
    pictures = [(wrong.truth, f"{wrong.file}: the mask"), (wrong.answer, "what the net outlines")]
    images = [
        pages.picture(pixels, alt, _SIDE, round(_SIDE * pixels.shape[0] / pixels.shape[1])) for pixels, alt in pictures
    ]
    return _figure(images, f"Dice {wrong.dice:.3f}", wrong.file)


def _figure(images: Iterable[Html], what: str, file: str) -> str:
    caption = f"<strong>{visible_html(what)}</strong>{visible_html(file)}"
    return f"<figure><div>{''.join(images)}</div><figcaption>{caption}</figcaption></figure>"
