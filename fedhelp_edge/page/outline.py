"""The page for outlining a folder of pictures or volumes: polygon, brush and eraser, and a model that proposes.

The browser draws, and sends the whole mask after each change: a byte for each pixel, its class, compressed (zlib).
Masks travel so in both directions, slice by slice. Drawing needs the script; the list and the end work without it.
"""

from __future__ import annotations

import base64
import json
import threading
import zlib
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data import masks
from fedhelp_edge.data.outlining import Outlining
from fedhelp_edge.data.source_row import Decoded
from fedhelp_edge.errors import FedhelpError, OtherClassesError, UsageError, from_os
from fedhelp_edge.infer import bundle, drawing, trained_kinds
from fedhelp_edge.infer.bundle import MaskBundle
from fedhelp_edge.infer.drawing import Outline
from fedhelp_edge.page import gallery, outline_texts, texts
from fedhelp_edge.page.local_server import PageRequest, PageResponse
from fedhelp_edge.page.outline_texts import OutlineTexts
from fedhelp_edge.page.viewer import HOUNSFIELD, SIDES, SIDES_STYLE
from fedhelp_edge.plan import Plan
from fedhelp_edge.report import design, pages
from fedhelp_edge.report.pages import Html
from fedhelp_edge.safe_text import counted, visible_html

_A_PAGE = 60  # pictures of a page of small ones
_PARTS = 4  # of an address: what, the number of the image and of its slice, and the window
_END, _ALL, _STATE = "end", "all", "state"
_KINDS = {"": "", "draft": "wait", "done": "good"}  # of the sign of a state
_STYLE = gallery.STYLE + design.read("page/outline.css") + SIDES_STYLE
_SCRIPT = design.read("page/zoom.js") + design.read("page/outline.js")


def open_model(path: Path, plan: Plan, check_signer: bundle.CheckSigner, *, threads: int | None = None) -> MaskBundle:
    """Open a model that proposes outlines; raise unless it is for masks of the plan's images and classes."""
    opened = bundle.load_any_checked(path, check_signer, threads=threads)
    if not isinstance(opened, MaskBundle):
        raise UsageError(f"{path.name} is a model for classes, not for masks", remedy="name a model for masks")
    of_model, of_plan = ("volumes" if each.image.is_volume else "pictures" for each in (opened.facts, plan))
    if of_model != of_plan:
        raise UsageError(
            f"{path.name} is a model for {of_model}, and the plan is for {of_plan}",
            remedy="use a model of this plan's federation, or no model",
        )
    if opened.facts.classes != tuple(plan.classes):
        raise OtherClassesError(
            f"{path.name} outlines {', '.join(opened.facts.classes)}, and the plan {', '.join(plan.classes)}",
            remedy="use a model of this plan's federation, or no model",
        )
    return opened


class OutlineApp:
    """The outlining page as a `PageApp`; with a model it proposes outlines."""

    limit = 32 << 20  # bytes of a compressed mask

    def __init__(self, outlining: Outlining, model: MaskBundle | None = None) -> None:
        self.outlining, self.model = outlining, model
        self._shown: dict[int, tuple[tuple[int, int], int]] = {}  # what was shown: rows and columns, and slices
        self._proposed: tuple[int, Outline | FedhelpError] | None = None  # of the image for which it was asked last
        self._running = threading.Lock()  # the model

    def answer(self, request: PageRequest) -> PageResponse | None:
        """A page, what the script asks for, or what it saves."""
        lang = texts.choose_language(request.languages)
        view = _OutlineView(self, lang, outline_texts.of(lang, has_slices=self.outlining.has_slices))
        parts = request.path.split("/")
        if parts[0] in (_ALL, "", _END, _STATE):
            return self._page(view, request)
        index = gallery.index_of(parts[:2][-1], len(self.outlining.names))
        if index is None or len(parts) > _PARTS:
            return None
        if len(parts) == 1:
            return PageResponse(view.page(index)) if request.body is None else None
        what, _, at, window = [*parts, "", ""][:_PARTS]
        if request.body is None:
            return self._picture(view, index, at, window) if what == "picture" else None
        return self._change(view, what, index, at, request.body)

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

    def _picture(self, view: _OutlineView, index: int, number: str, window: str) -> PageResponse | None:
        """A slice, the first one to show without a number, and what is drawn on it so far; None if there is none."""
        name = self.outlining.names[index]
        try:
            count = self.outlining.slices(name)
            at = gallery.index_of(number, count) if number else self.outlining.first_slice(name)
            if at is None:
                return None
            shown = self.outlining.on_screen(name, at, HOUNSFIELD.get(window))
            labels = self.outlining.labels(name, shown.size, at)
        except FedhelpError as error:
            return _json({"src": "", "error": view.wording.broken.format(cause=error.cause, remedy=error.remedy)})
        self._shown[index] = shown.size, count
        return _json({
            "src": pages.data_link(shown.pixels), "width": shown.size[1], "height": shown.size[0],
            "aspect": shown.aspect, "slice": at, "slices": count, "windows": shown.is_hounsfield,
            "mask": _packed(labels), "error": "",
        })  # fmt: skip

    def _change(self, view: _OutlineView, what: str, index: int, number: str, body: bytes) -> PageResponse | None:
        """Save what is drawn on a slice, or suggest something; None unless the slice was shown and all fits it."""
        size, count = self._shown.get(index, ((0, 0), 0))
        at = gallery.index_of(number or "1", count)
        if at is None:
            return None
        if what == "propose":
            return self._propose(view, self.model, index, at) if self.model else None
        name, labels = self.outlining.names[index], _unpacked(body, size)
        save = {"draft": self.outlining.save_draft, "done": self.outlining.finish}.get(what)
        try:
            if what == "between" and self.outlining.has_slices:
                suggested = self.outlining.between(name, at)
                if suggested is None:
                    return _json({"mask": "", "note": view.wording.alone})
                return _json({"mask": _packed(suggested), "note": view.wording.suggested})
            if save is None or labels is None or labels.max() > len(self.outlining.classes):
                return None
            save(name, labels, at)
            return _json({"state": self.outlining.state(name)})
        except (FedhelpError, OSError) as error:
            cause = (from_os(error) if isinstance(error, OSError) else error).cause
            return _json({"note": view.wording.not_saved.format(cause=cause)})

    def _propose(self, view: _OutlineView, model: MaskBundle, index: int, at: int) -> PageResponse:
        """What the model outlines on a slice, and how far to trust it; no mask if it is unlike its training images."""
        name = self.outlining.names[index]
        try:
            if self._proposed is None or self._proposed[0] != index:
                decoded = self.outlining.decode(name, model.facts.image)
                trained_kinds.doubt(model, decoded)
                return PageResponse(work=partial(self._run, model, index, decoded))
            if isinstance(answer := self._proposed[1], FedhelpError):
                self._proposed = None  # the next request tries again
                raise answer
            mask = self.outlining.as_shown(name, at, answer.drawn.mask)
        except FedhelpError as error:
            return _json({"mask": "", "note": view.wording.refused.format(cause=error.cause, remedy=error.remedy)})
        if answer.verdict == "unlike":
            return _json({"mask": "", "note": view.wording.unlike.format(times=f"{answer.distance:.1f}")})
        share = f"{answer.drawn.uncertainty:.0%}"
        note = view.wording.uncertain.format(share=share) if answer.verdict == "uncertain" else view.wording.proposed
        return _json({"mask": _packed(mask), "note": note})

    def _run(self, model: MaskBundle, index: int, decoded: Decoded) -> None:
        """Let the model outline an image, one at a time."""
        with self._running:
            if self._proposed is None or self._proposed[0] != index:
                size = None if self.outlining.has_slices else (decoded.height, decoded.width)
                try:
                    self._proposed = index, drawing.outline(model, decoded.pixels, size)
                except FedhelpError as error:
                    self._proposed = index, error


class _OutlineView:
    """The pages in one language."""

    def __init__(self, app: OutlineApp, lang: str, wording: OutlineTexts) -> None:
        self.app, self.outlining, self.lang, self.wording = app, app.outlining, lang, wording

    def page(self, index: int) -> str:
        """The page of one picture, which the script fills."""
        wording, total, sides = self.wording, len(self.outlining.names), SIDES * self.outlining.has_slices
        stage = (
            f'<div class="stage waiting" data-index="{index}" tabindex="0" role="application" '
            f'aria-label="{visible_html(wording.picture)}"><span><img alt=""><canvas></canvas></span><svg></svg>'
            f"{sides}</div>"
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
            "windows": [["", ""], *map(list, zip(HOUNSFIELD, texts.VIEWER[self.lang].presets, strict=True))],
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
            f'<label>{visible_html(wording.size)} <kbd>[</kbd><input type="range" name="size" min="1" max="60" '
            'value="12">'
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
            self._slices() if self.outlining.has_slices else "",
            f'<div role="group">{steps}</div>',
        ))  # fmt: skip

    def _slices(self) -> str:
        """What turns to another slice."""
        wording = self.wording
        chosen = (
            '<label><span class="position"></span><input type="range" name="slice" min="1" max="1" '
            f'aria-label="{visible_html(wording.higher)}, {visible_html(wording.lower)}"></label>'
        )
        turned = _button(",", wording.higher) + _button(".", wording.lower) + _button("n", wording.between)
        return f'<div role="group">{turned}{chosen}</div>'

    def _small(self, index: int, up: str) -> str:
        name = self.outlining.names[index]
        state = self.outlining.state(name)
        word = self.wording.states[list(_KINDS).index(state)]
        mark = pages.Chip(word, _KINDS[state]).html if state else visible_html(word)

        def decode() -> gallery.Small | None:
            small = self.outlining.small(name, gallery.SIDE)
            return (small.pixels, small.size[1], small.size[0]) if small else None

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
