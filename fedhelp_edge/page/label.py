"""The page for labelling a folder of images: one image, and a button and a key for each class.

Buttons are forms, so the page works without script. The script needs no reload, so that no key is lost.
"""

from __future__ import annotations

import json
import string
from dataclasses import asdict

from fedhelp_edge.data.sorting import Sorting
from fedhelp_edge.errors import FedhelpError
from fedhelp_edge.page import gallery, texts
from fedhelp_edge.page.local_server import PageRequest, PageResponse
from fedhelp_edge.page.texts import LabelTexts
from fedhelp_edge.report import design, pages
from fedhelp_edge.report.pages import Html
from fedhelp_edge.safe_text import counted, visible_html

KEYS = string.digits[1:] + string.ascii_lowercase
_SIDE = 640  # pixels on the screen
_A_PAGE = 60  # pictures of a page of small ones
_END, _ALL, _UNDO, _SAVE, _STATE, _PICTURE, _UNSURE = "end", "all", "undo", "save", "state", "picture/", "unsure"
_STYLE = gallery.STYLE + design.read("page/label.css")
_SCRIPT = design.read("page/zoom.js") + design.read("page/label.js")


class LabelApp:
    """The labelling page as a `PageApp`; with a second reader, `first` has what the first one chose."""

    limit = 1 << 10

    def __init__(self, sorting: Sorting, first: Sorting | None = None) -> None:
        self.sorting, self.first = sorting, first
        self._past: list[tuple[int, str]] = []  # what the script does not know: choices by forms

    def answer(self, request: PageRequest) -> PageResponse | None:
        """The page of an image, a choice of a class, or the end."""
        lang = texts.choose_language(request.languages)
        view = _LabelView(self, lang, texts.LABEL[lang])
        path, is_form = request.path, request.body is not None
        if path == "":
            return self._redirect(self.sorting.next_unlabelled())
        if path == _END:
            return view.end(is_last=is_form)
        if path == _UNDO and is_form:
            return self._undo()
        if path == _SAVE and is_form:
            return self._save(request.fields("set"))
        if path == _STATE:
            return PageResponse(json.dumps(view.state()), kind="application/json")
        if path == _ALL or path.startswith(f"{_ALL}/"):
            number = 0 if path == _ALL else gallery.index_of(path.removeprefix(f"{_ALL}/"), self._pages()) or None
            return None if number is None else PageResponse(view.all(number, self._pages()))
        index = gallery.index_of(path.removeprefix(_PICTURE), len(self.sorting.names))
        if index is None:
            return None
        if path.startswith(_PICTURE):
            return PageResponse(json.dumps(view.picture(index)), kind="application/json")
        return self._choose(index, request.field("class")) if is_form else PageResponse(view.page(index))

    def too_large(self, asked: PageRequest) -> None:
        """No form of this page is that large."""

    def label(self, index: int) -> str:
        """An image's class as a form's value: a number, `unsure`, or "" for none."""
        name = self.sorting.names[index]
        label = self.sorting.label(name)
        return str(label) if label is not None else _UNSURE * self.sorting.is_unsure(name)

    @property
    def has_past(self) -> bool:
        """Whether a choice can be undone."""
        return bool(self._past)

    def _pages(self) -> int:
        return -(-len(self.sorting.names) // _A_PAGE)

    def _redirect(self, index: int | None) -> PageResponse:
        return PageResponse(redirect=_END if index is None else str(index + 1))

    def _choice(self, index: int, value: str) -> tuple[str, int | None, bool] | None:
        if value not in ("", _UNSURE, *map(str, range(len(self.sorting.classes)))):
            return None
        return self.sorting.names[index], int(value) if value.isdecimal() else None, value == _UNSURE

    def _choose(self, index: int, value: str) -> PageResponse | None:
        choice = self._choice(index, value)
        if choice is None:
            return None
        self._past.append((index, self.label(index)))
        self.sorting.assign_all([choice])
        return self._redirect(self.sorting.next_unlabelled(index) if value else index)

    def _undo(self) -> PageResponse:
        if not self._past:
            return self._redirect(self.sorting.next_unlabelled())
        index, value = self._past.pop()
        choice = self._choice(index, value)
        self.sorting.assign_all([choice] if choice else [])
        return self._redirect(index)

    def _save(self, changes: list[str]) -> PageResponse | None:
        """Save choices of the script, each as `NUMBER:VALUE`; all or none."""
        choices = []
        for number, _, value in (change.partition(":") for change in changes):
            index = gallery.index_of(number, len(self.sorting.names))
            choice = None if index is None else self._choice(index, value)
            if choice is None:
                return None
            choices.append(choice)
        self.sorting.assign_all(choices)
        return PageResponse("", kind="text/plain")


class _LabelView:
    """The pages in one language."""

    def __init__(self, app: LabelApp, lang: str, wording: LabelTexts) -> None:
        self.app, self.sorting, self.lang, self.wording = app, app.sorting, lang, wording

    def page(self, index: int) -> str:
        """The page of one image."""
        wording, total = self.wording, len(self.sorting.names)
        shown = self.picture(index)
        caption = self._caption(index)
        size = f'width="{shown["width"]}" height="{shown["height"]}"'
        ratio = f"aspect-ratio:{shown['width']}/{shown['height']}"
        picture = f'<img src="{shown["src"]}" alt="{visible_html(caption)}" {size} style="{ratio}">'
        hidden = "" if shown["src"] else " hidden"
        progress = wording.progress.format(done=sum(self.sorting.counts()), total=total)
        return self._whole(
            wording.title.format(number=index + 1, total=total),
            Html(f'<p class="done">{visible_html(progress)}</p><p role="status" class="warn"></p>'),
            self._classes(index, hidden),
            Html(f'<span class="stage" data-index="{index}"{hidden}><span>{picture}</span></span>'),
            Html(f'<p class="problem">{visible_html(str(shown["error"]))}</p>'),
            Html(f'<p class="caption">{visible_html(caption)}</p>'),
            self._arrows(index, total),
            pages.paragraph(wording.hint),
            Html(f'<p><a href="{_ALL}">{visible_html(wording.all)}</a></p>'),
            self._stop(),
            *self._unread(),
        )

    def picture(self, index: int) -> dict[str, object]:
        """An image as the script needs it."""
        try:
            decoded = self.sorting.decode_for_screen(self.sorting.names[index], _SIDE)
        except FedhelpError as error:
            problem = self.wording.broken.format(cause=error.cause, remedy=error.remedy)
            return {"src": "", "width": 1, "height": 1, "error": problem}
        scale = _SIDE / max(decoded.width, decoded.height)
        width, height = (max(1, round(length * scale)) for length in (decoded.width, decoded.height))
        return {"src": pages.data_link(decoded.pixels), "width": width, "height": height, "error": ""}

    def state(self) -> dict[str, object]:
        """What the script begins with."""
        names = self.sorting.names
        return {
            "names": names, "classes": self.sorting.classes, "texts": asdict(self.wording),
            "labels": [self.app.label(index) for index in range(len(names))],
        }  # fmt: skip

    def all(self, number: int, count: int) -> str:
        """A page of small images."""
        first, up = number * _A_PAGE, "../" if number else ""
        items = [self._small(index, up) for index in range(first, min(first + _A_PAGE, len(self.sorting.names)))]
        title = self.wording.all_title.format(number=number + 1, total=count)
        turn = gallery.turn_pages(number, count, lambda page: f"{up}{_ALL}{f'/{page + 1}' * (page > 0)}")
        return self._whole(title, Html(f'<ul class="all">{"".join(items)}</ul>'), turn)

    def end(self, *, is_last: bool) -> PageResponse:
        """The page at the end; the last one if the person has stopped."""
        wording = self.wording
        classes = zip(self.sorting.classes, self.sorting.counts(), strict=True)
        parts = [pages.table(wording.column, list(classes)), *self._agreement()]
        if is_last:
            return PageResponse(self._whole(wording.ended, *parts, pages.paragraph(wording.ended_how)), is_last=True)
        aside = sum(map(self.sorting.is_unsure, self.sorting.names))
        unlabelled = len(self.sorting.names) - sum(self.sorting.counts())
        title = counted(unlabelled, *wording.rest) if unlabelled else wording.all_done
        if aside:
            parts.insert(0, pages.paragraph(f"{counted(aside, *wording.aside)}."))
        back = Html(f'<form method="get">{_button("1", wording.back, "ArrowLeft", "←")}</form>')
        links = Html(f'<p><a href="{_ALL}">{visible_html(wording.all)}</a></p>')
        return PageResponse(self._whole(title, *parts, back, links, self._stop(), *self._unread()))

    def _whole(self, title: str, *parts: Html) -> str:
        unreviewed = [] if self.wording.reviewed else [pages.note(self.wording.unreviewed, "warn")]
        return pages.page(
            title, *unreviewed, *parts, style=_STYLE, script=_SCRIPT, lang=self.lang, dark=True, asks=True
        )

    def _caption(self, index: int) -> str:
        name, label = self.sorting.names[index], self.app.label(index)
        template = {"": self.wording.open, _UNSURE: self.wording.put_aside}.get(label, self.wording.called)
        return template.format(file=name, name=self.sorting.classes[int(label)] if label.isdecimal() else "")

    def _classes(self, index: int, form_hidden: str) -> Html:
        label = self.app.label(index)
        buttons = [
            (str(number), KEYS[number] if number < len(KEYS) else "", name)
            for number, name in enumerate(self.sorting.classes)
        ]
        drawn = [
            f'<button name="class" value="{value}" data-key="{key}" aria-pressed="{str(value == label).lower()}">'
            f"<kbd>{key}</kbd>{visible_html(name)}</button>"
            for value, key, name in [*buttons, (_UNSURE, "0", self.wording.unsure)]
        ]
        hidden = "" if label else " hidden"
        clear = f'<button name="class" value="" data-key="Delete"{hidden}>{visible_html(self.wording.clear)}</button>'
        return Html(
            f'<form class="classes" method="post" action="{index + 1}"{form_hidden}>{"".join(drawn)}{clear}</form>'
        )

    def _arrows(self, index: int, total: int) -> Html:
        wording = self.wording
        arrows = _button(str(index) if index else "", wording.back, "ArrowLeft", "←")
        arrows += _button(str(index + 2) if index + 2 <= total else "", wording.on, "ArrowRight", "→")
        undo = "" if self.app.has_past else " hidden"
        arrows += (
            f'<button formmethod="post" formaction="{_UNDO}" data-key="Backspace"{undo}><kbd>⌫</kbd>'
            f"{visible_html(wording.undo)}</button>"
        )
        return Html(f'<form method="get">{arrows}</form>')

    def _small(self, index: int, up: str) -> str:
        name, label = self.sorting.names[index], self.app.label(index)
        text = self.sorting.classes[int(label)] if label.isdecimal() else self.wording.unsure if label else ""
        mark = pages.Chip(text, "good" if label.isdecimal() else "unsure").html if text else self.wording.no_class

        def decode() -> gallery.Small:
            decoded = self.sorting.decode_for_screen(name, gallery.SIDE)
            return decoded.pixels, decoded.width, decoded.height

        return gallery.thumbnail(f"{up}{index + 1}", name, decode, mark)

    def _agreement(self) -> list[Html]:
        """How far a second reader agrees with the first."""
        if self.app.first is None:
            return []
        agreement = self.sorting.agreement(self.app.first)
        lines = [self.wording.agreement.format(same=agreement.same, both=agreement.images)]
        if agreement.kappa is not None:
            lines.append(self.wording.kappa.format(kappa=f"{agreement.kappa:.2f}"))
        return [pages.paragraph(" ".join(lines))]

    def _stop(self) -> Html:
        return Html(f'<form method="post" action="{_END}"><button>{visible_html(self.wording.stop)}</button></form>')

    def _unread(self) -> list[Html]:
        """A list of the files that cannot be read, with remedies."""
        return gallery.problems_table(self.sorting.problems, self.wording.unread, self.wording.problem_columns)


def _button(target: str, text: str, key: str, mark: str) -> str:
    """A button that leads to another image; without a target only the script shows it."""
    leads = f'formaction="{target}"' if target else "hidden"
    return f'<button {leads} data-key="{key}"><kbd>{mark}</kbd>{visible_html(text)}</button>'
