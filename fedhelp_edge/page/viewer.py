"""The viewer of the diagnosis page, whatever a model answers: files in, and answers with their pictures.

It works without script. The script makes a viewer of it: one answer at a time, zoom, brightness and contrast. It lays
what a model shows over the image or beside it, and accepts dropped files. Images arrive in a form, and are only in
memory while it is answered. What has slices or frames stays there until the next form, and is drawn picture by picture.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data import dicom, folder, picture
from fedhelp_edge.data.source_row import Decoded
from fedhelp_edge.errors import FedhelpError, ImageSizeError, NoImagesError, from_os
from fedhelp_edge.infer import answer_formats
from fedhelp_edge.infer.bundle import AnyBundle
from fedhelp_edge.infer.event_log import EventLog
from fedhelp_edge.page import texts
from fedhelp_edge.page.local_server import PageRequest, PageResponse
from fedhelp_edge.report import design, pages
from fedhelp_edge.report.pages import Html
from fedhelp_edge.safe_text import visible_html

_MAX_FILES = 20  # of a form
_SIDE = 480  # pixels on the screen without script
END = "end"
_SIDES = (("left", "R"), ("right", "L"), ("top", "A"), ("bottom", "P"))  # of the patient, as DICOM names them
SIDES = "".join(f'<span class="side {place}">{name}</span>' for place, name in _SIDES)
SIDES_STYLE = design.read("page/sides.css")
_STYLE = design.read("page/viewer.css") + SIDES_STYLE
_SCRIPT = design.read("page/zoom.js") + design.read("page/viewer.js")
_WINDOWS = ("stored", "contrast", "dark", "bright")
HOUNSFIELD = {"lung": (-1350.0, 150.0), "bone": (-500.0, 1300.0), "soft": (-160.0, 240.0), "brain": (0.0, 80.0)}
_NUMBER = "([0-9]{1,6})"
_OTHER_PICTURE = re.compile(
    rf"(?:slice|draw)-(?P<form>{_NUMBER})-(?P<file>{_NUMBER})-(?P<index>{_NUMBER})(?:-(?P<window>[a-z]{{1,9}}))?"
)
NOTHING = np.zeros((1, 1, 4), np.uint8)  # a transparent pixel

Limits: TypeAlias = tuple[float, float]  # the numbers that are black and white
Log: TypeAlias = Callable[[dict[str, Any], Decoded], None]


@dataclass(frozen=True)
class Label:
    """What names an answer: its file, and the identity of a DICOM image."""

    file: str = ""
    identity: str = ""
    uid: str = ""  # of a DICOM instance, by which the log names it

    def __str__(self) -> str:
        parts = (visible_html(part) for part in (self.file, self.identity) if part)
        return "".join(f'<p class="identity">{part}</p>' for part in parts)


@dataclass(frozen=True)
class Section:
    """The answer for one file."""

    label: Label
    kind: str  # "", unsure, or bad
    number: int
    about: str
    figure: str = ""

    @property
    def inside(self) -> str:
        """What names it, and what the page says of it."""
        return f"{self.label}{self.about}"

    @property
    def html(self) -> Html:
        about = f'<div class="about">{self.inside}</div>'
        return Html(f'<section id="file-{self.number}">{about}{self.figure}</section>')

    @property
    def link(self) -> str:
        mark = design.icon(self.kind) if self.kind else ""
        return f'<a href="#file-{self.number}"><span>{mark}{visible_html(self.label.file)}</span></a>'


@dataclass(frozen=True)
class Shown:
    """One picture of an answer: what the page says of it, the image, and what lies over it."""

    headline: str
    kind: str  # "", unsure, or bad
    details: str  # below the heading
    image: NDArray[np.uint8] = field(default_factory=lambda: NOTHING)
    is_exact: bool = True  # to the pixel; a photograph is not, which a camera compressed
    size: tuple[int, int] = (1, 1)  # width and height on the screen
    over: NDArray[np.uint8] | None = None
    over_name: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Answered:
    """The answer for one file or volume, with its pictures, which are drawn when they are asked for."""

    label: Label
    show: Callable[[int, Limits | None], Shown]  # of a slice or frame, by what is black and white
    count: int = 1  # slices or frames
    first: int = 0  # which one is shown first
    is_volume: bool = False
    is_hounsfield: bool = False

    @property
    def is_kept(self) -> bool:
        """Whether other pictures of it may be asked for."""
        return self.count > 1 or self.is_hounsfield


class LastAnswers:
    """The answers of the last form whose other pictures may be asked for. The next form forgets them.

    An address holds the form's number. So a page of an earlier form never shows a picture of a later one.
    """

    def __init__(self) -> None:
        self.form, self._answers = 0, dict[int, Answered]()

    def next_form(self) -> None:
        self.form += 1
        self._answers.clear()

    def add(self, number: int, answered: Answered) -> None:
        if answered.is_kept:
            self._answers[number] = answered

    def find(self, form: int, number: int, index: int) -> Answered | None:
        answered = self._answers.get(number) if form == self.form else None
        return answered if answered and 0 <= index < answered.count else None


class DiagnosisView:
    """The page in one language, whatever the model answers."""

    is_laid = False  # what lies over an image shows nothing without it
    strength = 60  # percent: how much it covers the image at first

    def __init__(self, bundle: AnyBundle, lang: str, events: EventLog | None, kept: LastAnswers) -> None:
        self.bundle, self.lang, self.wording, self.viewer = bundle, lang, texts.DIAGNOSIS[lang], texts.VIEWER[lang]
        self._events, self._kept = events, kept

    def page(self, *answers: Section) -> str:
        """The whole page with these answers."""
        wording, facts = self.wording, self.bundle.facts
        return pages.page(
            wording.title.format(name=facts.name),
            pages.paragraph(wording.notice),
            *([warning(wording.unreviewed)] if not wording.reviewed else []),
            *([warning(wording.doubt, answer_formats.trust_warning(self.bundle))] if self.bundle.why else []),
            self._form(first=not answers),
            *self._files_bar(answers),
            *(answer.html for answer in answers),
            Html(f"<details><summary>{visible_html(wording.card)}</summary>{_render_card(self.bundle.card)}</details>"),
            pages.paragraph(wording.model.format(sha256=self.bundle.sha256[:16], round=facts.round)),
            Html(
                f'<form class="end" method="post" action="{END}"><button>{visible_html(wording.stop)}</button></form>'
            ),
            style=_STYLE,
            script=_SCRIPT,
            lang=self.lang,
            dark=True,
            asks=True,
        )

    def ended(self) -> str:
        """The page after the server has stopped."""
        return pages.page(self.wording.ended, pages.paragraph(self.wording.ended_how), lang=self.lang, dark=True)

    def files(self, request: PageRequest) -> list[Section]:
        """The section of each file of a form."""
        self._kept.next_form()
        files = list(request.files())
        if not files:
            return [
                self.refused(Label(), NoImagesError("no file was chosen", remedy="choose an image or a DICOM file"), 0)
            ]
        return self.sections(files)

    def sections(self, files: list[tuple[str, bytes]]) -> list[Section]:
        """The section of each of these files."""
        if len(files) > _MAX_FILES:
            cause = f"{len(files)} files are too many at once; the limit is {_MAX_FILES}"
            return [self.refused(Label(), NoImagesError(cause, remedy="use fedhelp-edge predict for many files"), 0)]
        return [self._file(name, data, number) for number, (name, data) in enumerate(files)]

    def other_picture(self, path: str) -> PageResponse | None:
        """Another slice or frame of an answer, or another window: for the script, or as a page."""
        asked = _OTHER_PICTURE.fullmatch(path)
        if not asked:
            return None
        form, number, index = (int(asked[part]) for part in ("form", "file", "index"))
        answered = self._kept.find(form, number, index)
        if not answered:
            return None
        if not asked["window"]:
            return PageResponse(self.page(self.section(answered, number, index)))
        return PageResponse(json.dumps(self._drawing(answered, index, asked["window"])), kind="application/json")

    def section(self, answered: Answered, number: int, index: int) -> Section:
        """The section of an answer, with one of its pictures."""
        shown = answered.show(index, None)
        about = heading(shown.headline, shown.kind, number) + shown.details
        return Section(answered.label, shown.kind, number, about, self._figure(answered, shown, number, index))

    def answered(self, label: Label, number: int, make: Callable[[], Answered]) -> Section:
        """The section of what `make` answers, or of why it cannot."""
        try:
            answered = make()
            section = self.section(answered, number, answered.first)
        except FedhelpError as error:
            return self.unusable(label, error, number)
        except OSError as error:  # the log cannot be written, and nothing is answered without it
            return self.refused(label, from_os(error), number)
        except MemoryError:
            return self.unusable(label, ImageSizeError("there is not enough memory to open it"), number)
        self._kept.add(number, answered)
        return section

    def frame(self, decoded: Decoded, log: Log) -> Shown:
        """Answer one image, and log the answer."""
        raise NotImplementedError

    def _file(self, name: str, data: bytes, number: int) -> Section:
        identity = folder.identify_open(io.BytesIO(data), name)
        label = Label(name)
        if identity:
            label = Label(name, answer_formats.describe_identity(asdict(identity)), identity.sop_instance_uid)
        return self.answered(label, number, lambda: self._frames(label, data))

    def _frames(self, label: Label, data: bytes) -> Answered:
        """The answer for the image of a file, or one for each of its frames."""
        name, image, logged = label.file, self.bundle.facts.image, set[int]()
        is_dicom = folder.is_dicom_open(io.BytesIO(data), name)
        frames = dicom.frames_of(io.BytesIO(data)) if is_dicom else dicom.Frames(1, False)

        def show(index: int, limits: Limits | None) -> Shown:
            frame = dicom.Frame(index, limits)
            with picture.translate_errors():
                decoded = folder.decode_open(io.BytesIO(data), name, image, frame, for_screen=True)

            def log(answer: dict[str, Any], decoded: Decoded) -> None:
                if index not in logged:
                    self.log(name, answer, decoded)
                    logged.add(index)

            return replace(self.frame(decoded, log), is_exact=not decoded.is_lossy)

        return Answered(label, show, frames.count, is_hounsfield=frames.is_hounsfield)

    def log(self, name: str, answer: dict[str, Any], decoded: Decoded) -> None:
        """Log an answer, where somebody has asked for it."""
        if self._events:
            identity = answer_formats.identity_keys(decoded.identity)
            self._events.add({"file": name, "error": None, **identity, **answer})

    def doubt(self, text: str) -> Html:
        """Why it may be the wrong image, if there is a reason."""
        return warning(self.wording.note, text) if text else Html("")

    def unusable(self, label: Label, error: FedhelpError, number: int) -> Section:
        """The section of a file that cannot be used, logged where somebody has asked for it."""
        if self._events:
            row = {"file": label.file, "sop_instance_uid": label.uid, "verdict": None, "reason": error.cause}
            with suppress(OSError, FedhelpError):  # of the log, which may be the error itself
                self._events.add({**row, "error": {"code": error.code}})
        return self.refused(label, error, number)

    def refused(self, label: Label, error: FedhelpError, number: int) -> Section:
        """The section of a file that cannot be used; `label` names it."""
        wording = self.wording
        translated = wording.codes.get(error.code)
        about = (
            heading(f"{wording.refused} ({error.code})", "bad", number)
            + (pages.paragraph(translated) if translated else "")
            + f'<p>{visible_html(wording.cause)}: <span lang="en">{visible_html(error.cause)}</span></p>'
            f'<p>{visible_html(wording.remedy)}: <span lang="en">{visible_html(error.remedy)}</span></p>'
        )
        return Section(label, "bad", number, about)

    def _files_bar(self, answers: tuple[Section, ...]) -> list[Html]:
        """A link to each of several answers."""
        links = "".join(answer.link for answer in answers)
        name = visible_html(self.wording.files)
        return [Html(f'<nav aria-label="{name}">{links}</nav>')] if len(answers) > 1 else []

    def _form(self, *, first: bool) -> Html:
        wording = self.wording
        return Html(
            '<form class="ask" method="post" action="./" enctype="multipart/form-data">'
            f"<p>{visible_html(self.choose)}</p>"
            f"<p><label>{visible_html(self.file_label)} "
            f'<input type="file" name="file" multiple required{" autofocus" * first}>'
            f'</label></p><p><button class="first">{visible_html(wording.ask)}</button> '
            f'<span role="status" data-busy="{visible_html(wording.busy)}"></span></p>'
            f'<p class="private">{visible_html(wording.logged if self._events else wording.private)}</p></form>'
        )

    @property
    def choose(self) -> str:
        """How files are chosen."""
        return self.wording.choose

    @property
    def file_label(self) -> str:
        """Which files are meant."""
        return self.wording.file

    def tool_names(self) -> tuple[str, str]:
        """The name of the slider, and of the button that puts pictures side by side, "" for none."""
        raise NotImplementedError

    @property
    def keys(self) -> str:
        """What mouse and keys do."""
        return self.wording.keys

    def _figure(self, answered: Answered, shown: Shown, number: int, index: int) -> Html:
        """The image and what lies over it; the script lays one over the other, and asks for other pictures."""
        over = shown.over if shown.over is not None or answered.count == 1 else NOTHING
        panes = [pages.picture(shown.image, self.wording.picture, *shown.size, is_exact=shown.is_exact)]
        if over is not None:
            alt = shown.over_name or self.wording.picture
            panes.append(pages.picture(over, alt, *shown.size, is_exact=_is_clear(over)))
        pair = "".join(f'<span class="pane">{pane}</span>' for pane in panes)
        sides = SIDES * answered.is_volume
        width, height = shown.size
        asks = f' data-address="draw-{self._kept.form}-{number}-"' if answered.is_kept else ""
        laid = " laid" * self.is_laid
        pair = f'<div class="pair{laid}" style="--aspect:{width / height:.4f}"{asks}>{pair}{sides}</div>'
        steps = self._steps(answered, number, index) if answered.count > 1 else ""
        caption = f"<figcaption>{visible_html(shown.caption)}</figcaption>"
        return Html(f"<figure>{steps}{pair}{self._tools(answered, over is not None)}{caption}</figure>")

    def _steps(self, answered: Answered, number: int, index: int) -> str:
        """Which slice is shown, a slider to the others for the script, and links without it."""
        viewer, count = self.viewer, answered.count
        name = viewer.slice if answered.is_volume else viewer.frame
        position = visible_html(viewer.position.format(what=name, number=index + 1, count=count))
        targets = (0, index - 10, index - 1, index + 1, index + 10, count - 1)
        links = " ".join(
            f'<a href="slice-{self._kept.form}-{number}-{target}">{target + 1}</a>'
            for target in sorted({target for target in targets if 0 <= target < count} - {index})
        )
        return (
            f'<div class="steps"><p class="position">{position}</p><input type="range" name="slice" min="1" '
            f'max="{count}" value="{index + 1}" aria-label="{visible_html(name)}" hidden>'
            f'<p class="links">{visible_html(viewer.others)}: {links}</p>'
            f'<p role="status" data-gone="{visible_html(viewer.gone)}"></p></div>'
        )

    def _drawing(self, answered: Answered, index: int, window: str) -> dict[str, Any]:
        """Another picture for the script."""
        name = self.viewer.slice if answered.is_volume else self.viewer.frame
        position = self.viewer.position.format(what=name, number=index + 1, count=answered.count)
        try:
            shown = answered.show(index, HOUNSFIELD.get(window))
        except FedhelpError as error:
            section = self.refused(answered.label, error, 0)
            links = dict.fromkeys(("image", "over"), pages.data_link(NOTHING))
            return {**links, "alt": "", "caption": "", "position": position, "about": section.inside}
        over = NOTHING if shown.over is None else shown.over
        about = f"{answered.label}{heading(shown.headline, shown.kind, 0)}{shown.details}"
        links = {
            "image": pages.data_link(shown.image, is_exact=shown.is_exact),
            "over": pages.data_link(over, is_exact=_is_clear(over)),
        }
        return links | {
            "alt": shown.over_name, "caption": shown.caption, "position": position,
            "about": "" if answered.is_volume else about,
        }  # fmt: skip

    def _tools(self, answered: Answered, has_slider: bool) -> str:
        """What the script's viewer needs; hidden without it."""
        wording, viewer = self.wording, self.viewer
        strength, beside = self.tool_names()
        windows = [*zip(_WINDOWS, wording.windows, strict=True)]
        windows += [*zip(HOUNSFIELD, viewer.presets, strict=True)] if answered.is_hounsfield else []
        options = "".join(f'<option value="{value}">{visible_html(text)}</option>' for value, text in windows)
        field = f'<input type="range" min="0" max="100" step="5" value="{self.strength}">'
        slider = f"<label>{visible_html(strength)} {field}</label>"
        buttons = [("beside", beside)] if beside and has_slider else []
        buttons += [("in", wording.zoom_in), ("out", wording.zoom_out), ("whole", wording.whole)]
        buttons += [("invert", wording.invert), ("print", wording.print)]
        marks = {"in": "+&nbsp;", "out": "−&nbsp;", "print": design.icon("print")}
        drawn = "".join(
            f'<button type="button" data-do="{name}">{marks.get(name, "")}{visible_html(text)}</button>'
            for name, text in buttons
        )
        window = f"<label>{visible_html(wording.window)} <select>{options}</select></label>"
        keys = [viewer.slice_keys] * (answered.count > 1) + [viewer.preset_keys] * answered.is_hounsfield
        key_hints = f'<p class="quiet">{visible_html(" ".join([self.keys, *keys]))}</p>'
        return f'<div class="tools" hidden>{slider * has_slider}{drawn}{window}{key_hints}</div>'


def _is_clear(over: NDArray[np.uint8]) -> bool:
    """Whether the image shows through. A heat-map hides it, and need not be exact."""
    return bool(over.shape[-1] == 4)


def display_size(width: int, height: int) -> tuple[int, int]:
    """Width and height on the screen, in the original proportions."""
    scale = _SIDE / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def heading(text: str, kind: str, number: int) -> str:
    """A heading; the first one gets the focus, for keyboards and screen readers."""
    shown = {"unsure": "warn"}.get(kind, kind)
    mark = design.icon(kind) if kind else ""
    return f'<h2 class="{shown}" tabindex="-1"{" autofocus" * (number == 0)}>{mark}{visible_html(text)}</h2>'


def warning(text: str, english: str = "") -> Html:
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
