"""The page on which a folder of pictures is sorted: one picture, and a button and a key for each class.

Buttons are forms, so that all works without script; the script presses a button when its key is pressed.
"""

from __future__ import annotations

import string

from fedhelp_edge import errors
from fedhelp_edge.data.sorting import Sorting
from fedhelp_edge.errors import FedhelpError
from fedhelp_edge.page import texts
from fedhelp_edge.page.local_server import Answer, Asked
from fedhelp_edge.report import pages
from fedhelp_edge.report.pages import Html
from fedhelp_edge.safe_text import visible_html

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
  const found = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`)
  if (found) { event.preventDefault(); found.click() }
})
"""


class Label:
    limit = 1 << 10

    def __init__(self, sorting: Sorting) -> None:
        self.sorting = sorting

    def answer(self, asked: Asked) -> Answer | None:
        if asked.path == "":
            return self._to(self.sorting.next())
        if asked.path == _END:
            return self._end(asked)
        if not asked.path.isascii() or not asked.path.isdecimal() or len(asked.path) > 9:
            return None
        place = int(asked.path) - 1
        if not 0 <= place < len(self.sorting.names):
            return None
        return Answer(self._picture(place)) if asked.body is None else self._put(place, asked.field("class"))

    def too_large(self, asked: Asked) -> None:
        """No form of ours is."""

    def _to(self, place: int | None) -> Answer:
        return Answer(to=_END if place is None else str(place + 1))

    def _put(self, place: int, said: str) -> Answer | None:
        name = self.sorting.names[place]
        if said == "":
            self.sorting.put(name, None)
            return self._to(place)
        if said not in map(str, range(len(self.sorting.classes))):
            return None
        self.sorting.put(name, int(said))
        return self._to(self.sorting.next(place))

    def _picture(self, place: int) -> str:
        name, total = self.sorting.names[place], len(self.sorting.names)
        label, counts = self.sorting.label(name), self.sorting.counts()
        called = texts.LABEL_OPEN if label is None else texts.LABEL_CALLED
        said = called.format(file=name, name="" if label is None else self.sorting.classes[label])
        try:
            shown, buttons = _shown(self.sorting, name, said), self._classes(place, label)
        except FedhelpError as fault:
            shown, buttons = (
                pages.paragraph(texts.LABEL_BROKEN.format(cause=fault.cause, remedy=fault.remedy)),
                Html(""),
            )
        ways = [
            _button(place and str(place), texts.LABEL_BACK, "ArrowLeft", "←"),
            _button(place + 2 <= total and str(place + 2), texts.LABEL_ON, "ArrowRight", "→"),
        ]
        return pages.page(
            texts.LABEL_TITLE.format(number=place + 1, total=total),
            pages.paragraph(texts.LABEL_PROGRESS.format(done=sum(counts), total=total)),
            buttons,
            shown,
            pages.paragraph(said),
            Html(f'<form method="get">{"".join(ways)}</form>'),
            pages.paragraph(texts.LABEL_HINT),
            self._stop(),
            *self._unread(),
            style=_STYLE,
            script=_SCRIPT,
        )

    def _classes(self, place: int, label: int | None) -> Html:
        parts = []
        for number, name in enumerate(self.sorting.classes):
            key = KEYS[number] if number < len(KEYS) else ""
            parts.append(
                f'<button name="class" value="{number}" data-key="{key}" aria-pressed="{str(number == label).lower()}">'
                f"<kbd>{key}</kbd>{visible_html(name)}</button>"
            )
        if label is not None:
            parts.append(f'<button name="class" value="" data-key="Delete">{visible_html(texts.LABEL_CLEAR)}</button>')
        return Html(f'<form method="post" action="{place + 1}">{"".join(parts)}</form>')

    def _end(self, asked: Asked) -> Answer:
        rest = len(self.sorting.names) - sum(self.sorting.counts())
        counts = pages.table(
            (texts.CLASS, texts.PICTURES), list(zip(self.sorting.classes, self.sorting.counts(), strict=True))
        )
        if asked.body is not None:
            return Answer(pages.page(texts.LABEL_ENDED, counts, pages.paragraph(texts.LABEL_ENDED_HOW)), last=True)
        title = texts.LABEL_REST.format(count=rest) if rest else texts.LABEL_ALL_DONE
        back = Html(f'<form method="get">{_button("1", texts.LABEL_BACK, "ArrowLeft", "←")}</form>')
        return Answer(pages.page(title, counts, back, self._stop(), *self._unread(), style=_STYLE, script=_SCRIPT))

    def _stop(self) -> Html:
        return Html(f'<form method="post" action="{_END}"><button>{visible_html(texts.LABEL_END)}</button></form>')

    def _unread(self) -> list[Html]:
        """What lies there and is no picture for us, with what to do."""
        if not self.sorting.problems:
            return []
        kinds = {kind.code: kind for kind in errors.tree() if kind.code}
        rows = [(one.file, one.cause, kinds[one.code].remedy) for one in self.sorting.problems]
        shown = pages.table((texts.FILE, texts.CAUSE, texts.REMEDY), rows)
        head = visible_html(texts.LABEL_UNREAD.format(count=len(rows)))
        return [Html(f"<details><summary>{head}</summary>{shown}</details>")]


def _button(to: str | bool | int, text: str, key: str, mark: str) -> str:
    """A way to another picture, if there is one."""
    if not to:
        return ""
    return f'<button formaction="{to}" data-key="{key}"><kbd>{mark}</kbd>{visible_html(text)}</button>'


def _shown(sorting: Sorting, name: str, said: str) -> Html:
    found = sorting.shown(name, _SIDE)
    scale = _SIDE / max(found.width, found.height)
    width, height = (max(1, round(length * scale)) for length in (found.width, found.height))
    return pages.picture(found.pixels, said, width, height)
