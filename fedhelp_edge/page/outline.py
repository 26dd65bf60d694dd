"""The page for outlining a folder of pictures: polygon, brush and eraser, and a model that proposes.

The browser draws, and sends the whole mask after each change: a byte for each pixel, its class, compressed (zlib).
Masks travel so in both directions. Drawing needs the script; the list of pictures and the end work without it.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data import masks
from fedhelp_edge.data.outlining import Outlining
from fedhelp_edge.errors import FedhelpError, OtherClassesError, UsageError
from fedhelp_edge.infer import bundle, drawing, trained_kinds
from fedhelp_edge.infer.bundle import MaskBundle
from fedhelp_edge.page import gallery, texts
from fedhelp_edge.page.local_server import PageRequest, PageResponse
from fedhelp_edge.page.outline_texts import OUTLINE, OutlineTexts
from fedhelp_edge.report import design, pages
from fedhelp_edge.report.pages import Html
from fedhelp_edge.safe_text import counted, visible_html

_A_PAGE = 60  # pictures of a page of small ones
_END, _ALL, _STATE = "end", "all", "state"
_KINDS = {"": "", "draft": "wait", "done": "good"}  # of the sign of a state
_STYLE = gallery.STYLE + design.read("page/outline.css")
_SCRIPT = design.read("page/zoom.js") + design.read("page/outline.js")


def open_model(
    path: Path, classes: Sequence[str], check_signer: bundle.CheckSigner, *, threads: int | None = None
) -> MaskBundle:
    """Open a model that proposes outlines; raise unless it is for masks of these classes."""
    opened = bundle.load_any_checked(path, check_signer, threads=threads)
    if not isinstance(opened, MaskBundle):
        raise UsageError(f"{path.name} is a model for classes, not for masks", remedy="name a model for masks")
    if opened.facts.classes != tuple(classes):
        raise OtherClassesError(
            f"{path.name} outlines {', '.join(opened.facts.classes)}, and the plan {', '.join(classes)}",
            remedy="use a model of this plan's federation, or no model",
        )
    return opened


class OutlineApp:
    """The outlining page as a `PageApp`; with a model it proposes outlines."""

    limit = 32 << 20  # bytes of a compressed mask

    def __init__(self, outlining: Outlining, model: MaskBundle | None = None) -> None:
        self.outlining, self.model = outlining, model
        self._sizes: dict[int, tuple[int, int]] = {}  # rows and columns of the pictures that were shown

    def answer(self, request: PageRequest) -> PageResponse | None:
        """A page, what the script asks for, or what it saves."""
        lang = texts.choose_language(request.languages)
        view = _OutlineView(self, lang, OUTLINE[lang])
        path, _, number = request.path.partition("/")
        if path in (_ALL, "", _END, _STATE):
            return self._page(view, request)
        index = gallery.index_of(number or path, len(self.outlining.names))
        if index is None:
            return None
        if not number:
            return PageResponse(view.page(index)) if request.body is None else None
        if path == "picture" and request.body is None:
            return _json(self._picture(view, index))
        if request.body is None:
            return None
        if path == "propose":
            return _json(self._propose(view, self.model, index)) if self.model else None
        return self._save(path, index, request.body)

    def too_large(self, asked: PageRequest) -> None:
        """No mask of a picture is that large."""

    def _page(self, view: _OutlineView, request: PageRequest) -> PageResponse | None:
        if request.path == _STATE:
            return _json(view.state())
        if request.path == _END:
            return view.end(is_last=request.body is not None)
        if request.path == "":
            index = self.outlining.next_open()
            return PageResponse(redirect=_END if index is None else str(index + 1))
        count = -(-len(self.outlining.names) // _A_PAGE)
        number = 0 if request.path == _ALL else gallery.index_of(request.path.removeprefix(f"{_ALL}/"), count) or None
        return None if number is None else PageResponse(view.all(number, count))

    def _picture(self, view: _OutlineView, index: int) -> dict[str, object]:
        """A picture, and what is drawn on it so far."""
        name = self.outlining.names[index]
        try:
            pixels, size = self.outlining.decode_for_screen(name)
            labels = self.outlining.labels(name, size)
        except FedhelpError as error:
            problem = view.wording.broken.format(cause=error.cause, remedy=error.remedy)
            return {"src": "", "width": 1, "height": 1, "mask": "", "error": problem}
        self._sizes[index] = size
        about = {"width": size[1], "height": size[0], "mask": _packed(labels), "error": ""}
        return {"src": pages.data_link(pixels), **about}

    def _propose(self, view: _OutlineView, model: MaskBundle, index: int) -> dict[str, str]:
        """What the model outlines, and how far to trust it; no mask if it is unlike its training images."""
        try:
            decoded = self.outlining.decode(self.outlining.names[index], model.facts.image)
            trained_kinds.doubt(model, decoded)
            answer = drawing.outline(model, decoded.pixels, (decoded.height, decoded.width))
        except FedhelpError as error:
            return {"mask": "", "note": view.wording.refused.format(cause=error.cause, remedy=error.remedy)}
        if answer.verdict == "unlike":
            return {"mask": "", "note": view.wording.unlike.format(times=f"{answer.distance:.1f}")}
        share = f"{answer.drawn.uncertainty:.0%}"
        note = view.wording.uncertain.format(share=share) if answer.verdict == "uncertain" else view.wording.proposed
        return {"mask": _packed(answer.drawn.mask), "note": note}

    def _save(self, kind: str, index: int, body: bytes) -> PageResponse | None:
        """Save a draft or a mask; None unless it fits the picture and has no other values than classes."""
        size = self._sizes.get(index)
        labels = _unpacked(body, size) if size else None
        if labels is None or labels.max() > len(self.outlining.classes):
            return None
        name = self.outlining.names[index]
        if kind == "draft":
            self.outlining.save_draft(name, labels)
        elif kind == "done":
            self.outlining.finish(name, labels)
        else:
            return None
        return _json({"state": self.outlining.state(name)})


class _OutlineView:
    """The pages in one language."""

    def __init__(self, app: OutlineApp, lang: str, wording: OutlineTexts) -> None:
        self.app, self.outlining, self.lang, self.wording = app, app.outlining, lang, wording

    def page(self, index: int) -> str:
        """The page of one picture, which the script fills."""
        wording, total = self.wording, len(self.outlining.names)
        stage = (
            f'<div class="stage waiting" data-index="{index}" tabindex="0" role="application" '
            f'aria-label="{visible_html(wording.picture)}"><span><img alt=""><canvas></canvas></span><svg></svg></div>'
        )
        return self._whole(
            wording.title.format(number=index + 1, total=total),
            Html('<p class="done"></p>'),
            Html(f"<noscript>{pages.note(wording.script, 'warn')}</noscript>"),
            Html(f'<div class="desk" hidden><div class="panel">{self._panel()}</div><div>{stage}{_BELOW}</div></div>'),
            Html(f"<ul>{''.join(f'<li>{visible_html(hint)}</li>' for hint in wording.hints)}</ul>"),
            self._links(),
        )

    def state(self) -> dict[str, object]:
        """What the script begins with."""
        return {
            "names": self.outlining.names, "states": self.outlining.states(), "texts": asdict(self.wording),
            "colours": [_colour(number) for number in range(len(self.outlining.classes) + 1)],
        }  # fmt: skip

    def all(self, number: int, count: int) -> str:
        """A page of small pictures."""
        first, up = number * _A_PAGE, "../" if number else ""
        names = self.outlining.names
        items = [self._small(index, up) for index in range(first, min(first + _A_PAGE, len(names)))]
        title = self.wording.all_title.format(number=number + 1, total=count)
        turn = gallery.turn_pages(number, count, lambda page: f"{up}{_ALL}{f'/{page + 1}' * (page > 0)}")
        return self._whole(title, Html(f'<ul class="all">{"".join(items)}</ul>'), turn)

    def end(self, *, is_last: bool) -> PageResponse:
        """The page at the end; the last one if the person has stopped."""
        wording, states = self.wording, self.outlining.states()
        if is_last:
            return PageResponse(self._whole(wording.ended, pages.paragraph(wording.ended_how)), is_last=True)
        rest = len(states) - states.count("done")
        title = counted(rest, *wording.rest) if rest else wording.all_done
        return PageResponse(self._whole(title, self._links()))

    def _whole(self, title: str, *parts: Html) -> str:
        unreviewed = [] if self.wording.reviewed else [pages.note(self.wording.unreviewed, "warn")]
        return pages.page(title, *unreviewed, *parts, style=_STYLE, script=_SCRIPT, lang=self.lang, asks=True)

    def _panel(self) -> str:
        wording = self.wording
        classes = [
            (str(number), str(number) if number <= 9 else "", name)
            for number, name in enumerate((wording.background, *self.outlining.classes))
        ]
        drawn = "".join(
            f'<button data-class="{number}" data-key="{key}" aria-pressed="false">{f"<kbd>{key}</kbd>" * bool(key)}'
            f"{_swatch(int(number))}{visible_html(name)}</button>"
            for number, key, name in [*classes[1:], classes[0]]
        )
        tools = (("p", "polygon"), ("b", "brush"), ("e", "eraser"), ("v", "move"))
        chosen = "".join(_button(key, getattr(wording, tool), f'data-tool="{tool}" ') for key, tool in tools)
        size = (
            f'<label>{visible_html(wording.size)} <kbd>[</kbd><input type="range" min="1" max="60" value="12">'
            "<kbd>]</kbd></label>"
        )
        acts = [("u", wording.undo), ("r", wording.redo), ("h", wording.hide), ("c", wording.contrast)]
        acts += [("+", wording.zoom_in), ("-", wording.zoom_out), ("w", wording.whole)]
        acts += [("m", wording.propose)] if self.app.model else []
        steps = _button("PageUp", wording.back, shown="↑") + _button("PageDown", wording.on, shown="↓")
        steps += _button("d", wording.done, 'class="first" ')
        return "".join((
            f'<div role="group" aria-label="{visible_html(wording.classes)}">{drawn}</div>',
            f'<div role="group" aria-label="{visible_html(wording.tools)}">{chosen}{size}</div>',
            f'<div role="group">{"".join(_button(key, text) for key, text in acts)}</div>',
            f'<div role="group">{steps}</div>',
        ))  # fmt: skip

    def _small(self, index: int, up: str) -> str:
        name = self.outlining.names[index]
        state = self.outlining.state(name)
        word = self.wording.states[list(_KINDS).index(state)]
        mark = pages.Chip(word, _KINDS[state]).html if state else visible_html(word)

        def decode() -> gallery.Small:
            pixels, (rows, columns) = self.outlining.decode_for_screen(name, gallery.SIDE)
            return pixels, columns, rows

        return gallery.thumbnail(f"{up}{index + 1}", name, decode, mark)

    def _links(self) -> Html:
        """The way to the list, what cannot be used, and the way out."""
        wording = self.wording
        problems = gallery.problems_table(self.outlining.problems, wording.unread, wording.problem_columns)
        stop = f'<form method="post" action="{_END}"><button>{visible_html(wording.stop)}</button></form>'
        return Html(f'<p><a href="{_ALL}">{visible_html(wording.all)}</a></p>{stop}{"".join(problems)}')


_BELOW = '<p class="caption"></p><p role="status"></p><p class="problem"></p>'


def _button(key: str, text: str, more: str = "", shown: str = "") -> str:
    return f'<button {more}data-key="{key}"><kbd>{shown or key.upper()}</kbd>{visible_html(text)}</button>'


def _swatch(number: int) -> str:
    """The colour of a class, as the picture has it."""
    fill = f"rgb({','.join(map(str, _colour(number)))})" if number else "none"
    return (
        f'<svg class="swatch" viewBox="0 0 10 10" aria-hidden="true"><rect width="10" height="10" fill="{fill}"/></svg>'
    )


def _colour(number: int) -> list[int]:
    colour: list[int] = masks.COLOURS[(number - 1) % len(masks.COLOURS)].tolist()
    return colour


def _json(document: object) -> PageResponse:
    return PageResponse(json.dumps(document), kind="application/json")


def _packed(labels: NDArray[np.uint8]) -> str:
    return base64.b64encode(zlib.compress(labels.tobytes(), 1)).decode()


def _unpacked(body: bytes, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """The mask in a request; None if it is damaged, or has another number of pixels."""
    decompressor, pixels = zlib.decompressobj(), size[0] * size[1]
    try:
        data = decompressor.decompress(body, pixels)
        if len(data) < pixels or decompressor.decompress(decompressor.unconsumed_tail, 1) or not decompressor.eof:
            return None
    except zlib.error:
        return None
    return np.frombuffer(data, np.uint8).reshape(size)
