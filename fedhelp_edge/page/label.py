"""The page for labelling a folder of images: one image, and a button and a key for each class.

Buttons are forms, so the page works without script; the script presses a button when its key is pressed.
"""

from __future__ import annotations

import string

from fedhelp_edge import errors
from fedhelp_edge.data.sorting import Sorting
from fedhelp_edge.errors import FedhelpError
from fedhelp_edge.page import texts
from fedhelp_edge.page.local_server import PageRequest, PageResponse
from fedhelp_edge.report import pages
from fedhelp_edge.report.pages import Html
from fedhelp_edge.safe_text import counted, visible_html

KEYS = string.digits[1:] + string.ascii_lowercase
_SIDE = 640  # pixels on the screen
_END = "end"
_STYLE = """
form { display: flex; flex-wrap: wrap; gap: .5em; margin: .5em 0 }
button { font: inherit; padding: .4em .8em; border: 2px solid #555; border-radius: .3em; background: #fff; color: #111 }
button[aria-pressed=true] { background: #0072b2; color: #fff }
kbd { font: inherit; font-weight: bold; margin-right: .4em }
img { max-width: 100%; height: auto; image-rendering: auto }
"""
_SCRIPT = """
addEventListener("keydown", event => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return
  const button = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`)
  if (button) { event.preventDefault(); button.click() }
})
"""


class LabelApp:
    """The labelling page as a `PageApp`."""

    limit = 1 << 10

    def __init__(self, sorting: Sorting) -> None:
        self.sorting = sorting

    def answer(self, request: PageRequest) -> PageResponse | None:
        """The page of an image, a choice of a class, or the end."""
        if request.path == "":
            return self._redirect(self.sorting.next_unlabelled())
        if request.path == _END:
            return self._end(request)
        if not request.path.isascii() or not request.path.isdecimal() or len(request.path) > 9:
            return None
        index = int(request.path) - 1
        if not 0 <= index < len(self.sorting.names):
            return None
        return (
            PageResponse(self._picture(index)) if request.body is None else self._assign(index, request.field("class"))
        )

    def too_large(self, asked: PageRequest) -> None:
        """No form of this page is that large."""

    def _redirect(self, index: int | None) -> PageResponse:
        return PageResponse(redirect=_END if index is None else str(index + 1))

    def _assign(self, index: int, value: str) -> PageResponse | None:
        name = self.sorting.names[index]
        if value == "":
            self.sorting.assign(name, None)
            return self._redirect(index)
        if value not in map(str, range(len(self.sorting.classes))):
            return None
        self.sorting.assign(name, int(value))
        return self._redirect(self.sorting.next_unlabelled(index))

    def _picture(self, index: int) -> str:
        name, total = self.sorting.names[index], len(self.sorting.names)
        label, counts = self.sorting.label(name), self.sorting.counts()
        template = texts.LABEL_OPEN if label is None else texts.LABEL_CALLED
        caption = template.format(file=name, name="" if label is None else self.sorting.classes[label])
        try:
            picture, buttons = _picture_html(self.sorting, name, caption), self._classes(index, label)
        except FedhelpError as error:
            picture, buttons = (
                pages.paragraph(texts.LABEL_BROKEN.format(cause=error.cause, remedy=error.remedy)),
                Html(""),
            )
        arrows = [
            _button(index and str(index), texts.LABEL_BACK, "ArrowLeft", "←"),
            _button(index + 2 <= total and str(index + 2), texts.LABEL_ON, "ArrowRight", "→"),
        ]
        return pages.page(
            texts.LABEL_TITLE.format(number=index + 1, total=total),
            pages.paragraph(texts.LABEL_PROGRESS.format(done=sum(counts), total=total)),
            buttons,
            picture,
            pages.paragraph(caption),
            Html(f'<form method="get">{"".join(arrows)}</form>'),
            pages.paragraph(texts.LABEL_HINT),
            self._stop(),
            *self._unread(),
            style=_STYLE,
            script=_SCRIPT,
        )

    def _classes(self, index: int, label: int | None) -> Html:
        parts = []
        for number, name in enumerate(self.sorting.classes):
            key = KEYS[number] if number < len(KEYS) else ""
            parts.append(
                f'<button name="class" value="{number}" data-key="{key}" aria-pressed="{str(number == label).lower()}">'
                f"<kbd>{key}</kbd>{visible_html(name)}</button>"
            )
        if label is not None:
            parts.append(f'<button name="class" value="" data-key="Delete">{visible_html(texts.LABEL_CLEAR)}</button>')
        return Html(f'<form method="post" action="{index + 1}">{"".join(parts)}</form>')

    def _end(self, request: PageRequest) -> PageResponse:
        unlabelled = len(self.sorting.names) - sum(self.sorting.counts())
        counts = pages.table(
            (texts.CLASS, texts.PICTURES), list(zip(self.sorting.classes, self.sorting.counts(), strict=True))
        )
        if request.body is not None:
            return PageResponse(
                pages.page(texts.LABEL_ENDED, counts, pages.paragraph(texts.LABEL_ENDED_HOW)), is_last=True
            )
        title = counted(unlabelled, *texts.LABEL_REST) if unlabelled else texts.LABEL_ALL_DONE
        back_form = Html(f'<form method="get">{_button("1", texts.LABEL_BACK, "ArrowLeft", "←")}</form>')
        return PageResponse(
            pages.page(title, counts, back_form, self._stop(), *self._unread(), style=_STYLE, script=_SCRIPT)
        )

    def _stop(self) -> Html:
        return Html(f'<form method="post" action="{_END}"><button>{visible_html(texts.LABEL_END)}</button></form>')

    def _unread(self) -> list[Html]:
        """A list of the files that cannot be read, with remedies."""
        if not self.sorting.problems:
            return []
        kinds = {kind.code: kind for kind in errors.tree() if kind.code}
        rows = [(problem.file, problem.cause, kinds[problem.code].remedy) for problem in self.sorting.problems]
        table = pages.table((texts.FILE, texts.CAUSE, texts.REMEDY), rows)
        head = visible_html(counted(len(rows), *texts.LABEL_UNREAD))
        return [Html(f"<details><summary>{head}</summary>{table}</details>")]


def _button(target: str | bool | int, text: str, key: str, mark: str) -> str:
    """A button that leads to another image; "" without a target."""
    if not target:
        return ""
    return f'<button formaction="{target}" data-key="{key}"><kbd>{mark}</kbd>{visible_html(text)}</button>'


def _picture_html(sorting: Sorting, name: str, caption: str) -> Html:
    decoded = sorting.decode_for_screen(name, _SIDE)
    scale = _SIDE / max(decoded.width, decoded.height)
    width, height = (max(1, round(length * scale)) for length in (decoded.width, decoded.height))
    return pages.picture(decoded.pixels, caption, width, height)
