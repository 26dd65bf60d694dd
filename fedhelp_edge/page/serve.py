"""The page for diagnosis: choose or drop files, and see the model's answers and heat-maps.

The page works without script. The script makes a viewer of it: one answer at a time, zoom, brightness and contrast. It
lays the heat-map over or beside the image, and accepts dropped files. Images arrive in a form and are only in memory
while it is answered.
"""

from __future__ import annotations

import io
import itertools
import re
from dataclasses import asdict, dataclass
from typing import Any

from fedhelp_edge import plan
from fedhelp_edge.data import folder, picture
from fedhelp_edge.data.source_row import Decoded, DicomIdentity
from fedhelp_edge.errors import FedhelpError, ImageSizeError, NoImagesError, from_os
from fedhelp_edge.infer import answer_formats, decide, trained_kinds
from fedhelp_edge.infer.bundle import Bundle
from fedhelp_edge.infer.event_log import EventLog
from fedhelp_edge.page import texts
from fedhelp_edge.page.local_server import PageRequest, PageResponse
from fedhelp_edge.page.texts import DiagnosisTexts
from fedhelp_edge.report import design, pages
from fedhelp_edge.report.pages import Html
from fedhelp_edge.safe_text import visible_html

_MAX_SIZE = 128 << 20  # bytes of all files of a form
_MAX_FILES = 20  # of a form
_SIDE = 480  # pixels on the screen without script
_PIXELS = 960  # of the image, for zooming
_END = "end"
_STYLE = design.read("page/viewer.css")
_SCRIPT = design.read("page/zoom.js") + design.read("page/viewer.js")
_WINDOWS = ("stored", "contrast", "dark", "bright")


class DiagnosisApp:
    """The diagnosis page as a `PageApp`."""

    limit = _MAX_SIZE

    def __init__(self, bundle: Bundle, language: str | None = None, events: EventLog | None = None) -> None:
        self.bundle, self._language, self._events = bundle, language, events

    def answer(self, request: PageRequest) -> PageResponse | None:
        """The page, with an answer for each file of a form."""
        view = self._view(request)
        if request.path == _END and request.body is not None:
            return PageResponse(view.ended(), is_last=True)
        if request.path:
            return None
        if request.body is None:
            return PageResponse(view.page())
        with picture.without_warnings():
            return PageResponse(view.page(*view.files(request)))

    def too_large(self, request: PageRequest) -> PageResponse | None:
        """The page with an error."""
        view = self._view(request)
        return PageResponse(
            view.page(view.refused(_Label(), ImageSizeError(f"the files are larger than {_MAX_SIZE >> 20} MiB"), 0))
        )

    def _view(self, request: PageRequest) -> _DiagnosisView:
        lang = self._language or texts.choose_language(request.languages)
        return _DiagnosisView(self.bundle, lang, texts.DIAGNOSIS[lang], self._events)


class _DiagnosisView:
    """The page in one language."""

    def __init__(self, bundle: Bundle, lang: str, wording: DiagnosisTexts, events: EventLog | None) -> None:
        self.bundle, self.facts, self.lang, self.wording = bundle, bundle.facts, lang, wording
        self._events = events

    def page(self, *answers: _Section) -> str:
        """The whole page with these answers."""
        wording, facts = self.wording, self.facts
        return pages.page(
            wording.title.format(name=facts.name),
            pages.paragraph(wording.notice),
            *([_warning(wording.unreviewed)] if not wording.reviewed else []),
            *([_warning(wording.doubt, answer_formats.trust_warning(self.bundle))] if self.bundle.why else []),
            self._form(first=not answers),
            *self._files_bar(answers),
            *(answer.html for answer in answers),
            Html(f"<details><summary>{visible_html(wording.card)}</summary>{_render_card(self.bundle.card)}</details>"),
            pages.paragraph(wording.model.format(sha256=self.bundle.sha256[:16], round=facts.round)),
            Html(
                f'<form class="end" method="post" action="{_END}"><button>{visible_html(wording.stop)}</button></form>'
            ),
            style=_STYLE,
            script=_SCRIPT,
            lang=self.lang,
            dark=True,
        )

    def ended(self) -> str:
        """The page after the server has stopped."""
        return pages.page(self.wording.ended, pages.paragraph(self.wording.ended_how), lang=self.lang, dark=True)

    def files(self, request: PageRequest) -> list[_Section]:
        """The section of each file of a form."""
        files = list(request.files())
        if not files:
            return [
                self.refused(_Label(), NoImagesError("no file was chosen", remedy="choose an image or a DICOM file"), 0)
            ]
        if len(files) > _MAX_FILES:
            cause = f"{len(files)} files are too many at once; the limit is {_MAX_FILES}"
            return [self.refused(_Label(), NoImagesError(cause, remedy="use fedhelp-edge predict for many files"), 0)]
        return [self._file(name, data, number) for number, (name, data) in enumerate(files)]

    def _file(self, name: str, data: bytes, number: int) -> _Section:
        def decoded(size: plan.ImageSettings) -> Decoded:
            with picture.translate_errors():
                return folder.decode_open(io.BytesIO(data), name, size)

        image = self.facts.image
        identity = folder.identify_open(io.BytesIO(data), name)
        shown_identity = answer_formats.describe_identity(asdict(identity)) if identity else ""
        label = _Label(name, shown_identity)
        try:
            decoded_image = decoded(image)
            doubt = trained_kinds.doubt(self.bundle, decoded_image)
            display_image = decoded(plan.ImageSettings(_PIXELS, image.channels, image.mean, image.std))
            answer = decide.answer_images(self.bundle, decoded_image.pixels[None])[0]
            self._log(name, identity, answer.to_json())
        except (FedhelpError, OSError, MemoryError) as error:
            match error:
                case FedhelpError():
                    refusal = error
                case OSError():  # the log cannot be written, and nothing is answered without it
                    refusal = from_os(error)
                case _:
                    refusal = ImageSizeError("there is not enough memory to open it")
            return self.refused(label, refusal, number)
        wording = self.wording
        headline, kind = wording.answer.format(name=answer.answer), ""
        if answer.answer is None:
            headline, kind = wording.unknown.format(reason=_reason(wording, answer)), "unsure"
        unlike = answer.verdict == "unlike"  # probabilities and heat-map mean nothing then
        figure = self._figure(None if unlike else answer, display_image)
        about = _heading(headline, kind, number) + ("" if unlike else self._possible(answer))
        about += (_warning(wording.note, doubt) if doubt else "") + ("" if unlike else self._bars(answer))
        return _Section(label, kind, number, about, figure)

    def _log(self, name: str, identity: DicomIdentity | None, answer: dict[str, Any]) -> None:
        if self._events:
            self._events.add({"file": name, "error": None, **answer_formats.identity_keys(identity), **answer})

    def refused(self, label: _Label, error: FedhelpError, number: int) -> _Section:
        """The section of a file that cannot be used; `label` names it."""
        wording = self.wording
        translated = wording.codes.get(error.code)
        about = (
            _heading(f"{wording.refused} ({error.code})", "bad", number)
            + (pages.paragraph(translated) if translated else "")
            + f'<p>{visible_html(wording.cause)}: <span lang="en">{visible_html(error.cause)}</span></p>'
            f'<p>{visible_html(wording.remedy)}: <span lang="en">{visible_html(error.remedy)}</span></p>'
        )
        return _Section(label, "bad", number, about)

    def _files_bar(self, answers: tuple[_Section, ...]) -> list[Html]:
        """A link to each of several answers."""
        links = "".join(answer.link for answer in answers)
        name = visible_html(self.wording.files)
        return [Html(f'<nav aria-label="{name}">{links}</nav>')] if len(answers) > 1 else []

    def _form(self, *, first: bool) -> Html:
        wording = self.wording
        return Html(
            '<form class="ask" method="post" action="./" enctype="multipart/form-data">'
            f"<p>{visible_html(wording.choose)}</p>"
            f"<p><label>{visible_html(wording.file)} "
            f'<input type="file" name="file" multiple required{" autofocus" * first}>'
            f'</label></p><p><button class="first">{visible_html(wording.ask)}</button> '
            f'<span role="status" data-busy="{visible_html(wording.busy)}"></span></p>'
            f'<p class="private">{visible_html(wording.logged if self._events else wording.private)}</p></form>'
        )

    def _possible(self, answer: decide.Answer) -> Html:
        names = ", ".join(answer.remaining)
        return pages.paragraph(self.wording.set.format(names=names)) if names else Html("")

    def _figure(self, answer: decide.Answer | None, shown: Decoded) -> Html:
        """The image and, with an answer, its heat-map for the likeliest class; the script lays one over the other."""
        wording, size = self.wording, _display_size(shown)
        panes, caption, strength = [pages.picture(shown.pixels, wording.picture, *size)], "", ""
        if answer and answer.heatmaps is not None:
            likeliest = _likeliest(answer)
            over = answer_formats.overlay(shown.pixels, answer.heatmaps, self.facts.classes.index(likeliest))
            panes.append(pages.picture(over, wording.heatmap.format(name=likeliest), *size))
            text = wording.legend.format(name=likeliest, fields=answer.heatmaps.shape[-1])
            caption = f"<figcaption>{visible_html(text)}</figcaption>"
            strength = (
                f"<label>{visible_html(wording.strength)} "
                f'<input type="range" min="0" max="100" step="5" value="60"></label>'
                f'<button type="button" data-do="beside">{visible_html(wording.beside)}</button>'
            )
        pair = "".join(f'<span class="pane">{pane}</span>' for pane in panes)
        return Html(f'<figure><div class="pair">{pair}</div>{self._tools(strength)}{caption}</figure>')

    def _tools(self, first: str) -> str:
        """What the script's viewer needs; hidden without it."""
        wording = self.wording
        options = "".join(
            f'<option value="{value}">{visible_html(text)}</option>'
            for value, text in zip(_WINDOWS, wording.windows, strict=True)
        )
        buttons = [("in", wording.zoom_in), ("out", wording.zoom_out), ("whole", wording.whole)]
        buttons += [("invert", wording.invert), ("print", wording.print)]
        marks = {"in": "+&nbsp;", "out": "−&nbsp;", "print": design.icon("print")}
        drawn = "".join(
            f'<button type="button" data-do="{name}">{marks.get(name, "")}{visible_html(text)}</button>'
            for name, text in buttons
        )
        window = f"<label>{visible_html(wording.window)} <select>{options}</select></label>"
        keys = f'<p class="quiet">{visible_html(wording.keys)}</p>'
        return f'<div class="tools" hidden>{first}{drawn}{window}{keys}</div>'

    def _bars(self, answer: decide.Answer) -> Html:
        class_column, probability, *marks = map(visible_html, self.wording.columns)
        lines = []
        for name, p in answer.probabilities.items():
            yes = "".join(
                f"<td>{visible_html(self.wording.yes) if name in names else ''}</td>"
                for names in (answer.remaining, answer.flags)
            )
            bar = f'<span class="bar" style="width:{100 * p:.1f}%"></span>'
            lines.append(
                f'<tr><th scope="row">{visible_html(name)}</th><td class="track" aria-hidden="true">{bar}</td>'
                f"<td>{visible_html(decide.percent(p))}</td>{yes}</tr>"
            )
        head = f'<th scope="col">{class_column}</th><td></td>' + "".join(
            f'<th scope="col">{column}</th>' for column in (probability, *marks)
        )
        return Html(f'<div class="table"><table><tr>{head}</tr>{"".join(lines)}</table></div>')


def _display_size(shown: Decoded) -> tuple[int, int]:
    """Width and height on the screen, in the original proportions."""
    scale = _SIDE / max(shown.width, shown.height)
    return max(1, round(shown.width * scale)), max(1, round(shown.height * scale))


def _likeliest(answer: decide.Answer) -> str:
    return max(answer.probabilities, key=lambda name: answer.probabilities[name])


def _reason(wording: DiagnosisTexts, answer: decide.Answer) -> str:
    """Why there is no answer; in English the same as the reason of `predict`."""
    if not answer.distance <= 1:
        return wording.unlike.format(times=f"{answer.distance:.1f}")
    if answer.between:
        return wording.near.format(
            names=wording.also.join(decide.with_probabilities(answer.between, answer.probabilities))
        )
    if not answer.set:
        return wording.none
    if len(answer.set) > 1:
        return wording.several.format(names=wording.either.join(answer.set))
    return wording.unsure.format(name=_likeliest(answer))


@dataclass(frozen=True)
class _Label:
    """What names an answer: its file, and the identity of a DICOM image."""

    file: str = ""
    identity: str = ""

    def __str__(self) -> str:
        parts = (visible_html(part) for part in (self.file, self.identity) if part)
        return "".join(f'<p class="identity">{part}</p>' for part in parts)


@dataclass(frozen=True)
class _Section:
    """The answer for one file."""

    label: _Label
    kind: str  # "", unsure, or bad
    number: int
    about: str
    figure: str = ""

    @property
    def html(self) -> Html:
        inside = f'<div class="about">{self.label}{self.about}</div>{self.figure}'
        return Html(f'<section id="file-{self.number}">{inside}</section>')

    @property
    def link(self) -> str:
        mark = design.icon(self.kind) if self.kind else ""
        return f'<a href="#file-{self.number}"><span>{mark}{visible_html(self.label.file)}</span></a>'


def _heading(text: str, kind: str, number: int) -> str:
    """A heading; the first one gets the focus, for keyboards and screen readers."""
    shown = {"unsure": "warn"}.get(kind, kind)
    mark = design.icon(kind) if kind else ""
    return f'<h2 class="{shown}" tabindex="-1"{" autofocus" * (number == 0)}>{mark}{visible_html(text)}</h2>'


def _warning(text: str, english: str = "") -> Html:
    detail = f': <span lang="en">{visible_html(english)}</span>' if english else ""
    return Html(f'<p class="note warn">{design.icon("warn")}{visible_html(text)}{detail}</p>')


def _render_card(text: str) -> Html:
    """Render the model card: Markdown (headings, tables, lists, paragraphs) below a YAML header."""
    parts = []
    body = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S)
    for mark, lines in itertools.groupby(map(_plain_text, body.split("\n")), _line_kind):
        if mark == "#":
            levels = (line.partition(" ")[::2] for line in lines)
            parts += [f"<h{len(marks) + 1}>{title}</h{len(marks) + 1}>" for marks, title in levels]
        elif mark == "|":
            cells = (line.strip("|").split("|") for line in lines if not line.startswith("| ---"))
            rows = "".join(f"<tr>{''.join(f'<td>{cell.strip()}</td>' for cell in row)}</tr>" for row in cells)
            parts.append(f'<div class="table" tabindex="0"><table>{rows}</table></div>')
        elif mark == "-":
            parts.append(f"<ul>{''.join(f'<li>{line[2:]}</li>' for line in lines)}</ul>")
        elif mark:
            parts.append(f"<p>{' '.join(lines)}</p>")
    return Html(f'<div class="card" lang="en">{"".join(parts)}</div>')


def _line_kind(line: str) -> str:
    return line[:1] if line[:1] in "#|-" else " "  # "" for an empty line


def _plain_text(text: str) -> str:
    return visible_html(text.replace("**", "").replace("`", ""))
