"""The page for diagnosis: choose or drop files, and see the model's answers and heat-maps.

The page works without script; the script accepts dropped files, lays the heat-map over the image and adjusts its
strength. Images arrive in a form and are only in memory while it is answered.
"""

from __future__ import annotations

import io
import itertools
import re
from dataclasses import asdict

from fedhelp_edge import plan
from fedhelp_edge.data import folder, picture
from fedhelp_edge.data.source_row import Decoded
from fedhelp_edge.errors import FedhelpError, ImageSizeError, NoImagesError
from fedhelp_edge.infer import answer_formats, decide, trained_kinds
from fedhelp_edge.infer.bundle import Bundle
from fedhelp_edge.page import texts
from fedhelp_edge.page.local_server import PageRequest, PageResponse
from fedhelp_edge.page.texts import DiagnosisTexts
from fedhelp_edge.report import pages
from fedhelp_edge.report.pages import Html
from fedhelp_edge.safe_text import visible_html

_MAX_SIZE = 128 << 20  # bytes of all files of a form
_MAX_FILES = 20  # of a form
_SIDE = 480  # pixels on the screen
_END = "end"
_STYLE = """
form { margin: 1em 0 }
form, section { border: 1px solid #767676; border-radius: .4em; padding: .5em 1em 1em; margin: 1em 0 }
form { border: 2px dashed #767676 }
form.end { border: 0; padding: 0 }
form.over { outline: .3em solid #0072b2 }
button, input { font: inherit }
input { max-width: 100% }
button { padding: .4em 1em; border: 2px solid #555; border-radius: .3em; background: #fff; color: #111 }
button.first { background: #0072b2; border-color: #0072b2; color: #fff }
:focus-visible { outline: 3px solid #d55e00; outline-offset: 2px }
h2:focus-visible { outline: none }
figure .pair { display: flex; gap: .5em; margin-bottom: .5em }
figure .pair:not(.laid) img { max-width: calc(50% - .25em) }
figure .pair.laid { display: inline-grid }
figure .pair.laid > * { grid-area: 1 / 1 }
img { max-width: 100%; height: auto; display: block }
input[type=range] { width: 16em; max-width: 100%; vertical-align: middle }
.bar { display: block; height: 1.5em; background: #0072b2; min-width: 1px }
td.track { width: 12em; padding: .2em 0; background: #eee content-box }
@media (max-width: 40em) {
  table { width: 100% }
  td.track { min-width: 2em }
}
.warn { border-left: .4em solid #d55e00; padding-left: .6em }
.file { margin: 0; color: #444; overflow-wrap: anywhere }
summary { cursor: pointer; font-weight: bold }
"""
_SCRIPT = """
addEventListener("DOMContentLoaded", () => {
  for (const figure of document.querySelectorAll("figure")) {
    const slider = figure.querySelector("input"), pair = figure.querySelector(".pair")
    if (!slider) continue
    const show = () => { pair.lastElementChild.style.opacity = slider.value / 100 }
    pair.classList.add("laid")
    slider.closest("p").hidden = false
    slider.addEventListener("input", show)
    show()
  }
  const form = document.querySelector("form")
  const busy = () => {
    const status = form.querySelector("[role=status]")
    status.textContent = status.dataset.busy
  }
  form.addEventListener("submit", busy)
  addEventListener("dragover", event => { event.preventDefault(); form.classList.add("over") })
  addEventListener("dragleave", event => { if (!event.relatedTarget) form.classList.remove("over") })
  addEventListener("drop", event => {
    event.preventDefault()
    form.classList.remove("over")
    if (!event.dataTransfer.files.length) return
    form.elements.file.files = event.dataTransfer.files
    form.requestSubmit()
  })
})
"""


class DiagnosisApp:
    """The diagnosis page as a `PageApp`."""

    limit = _MAX_SIZE

    def __init__(self, bundle: Bundle, language: str | None = None) -> None:
        self.bundle, self._language = bundle, language

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
            view.page(view.refused("", ImageSizeError(f"the files are larger than {_MAX_SIZE >> 20} MiB"), 0))
        )

    def _view(self, request: PageRequest) -> _DiagnosisView:
        lang = self._language or texts.choose_language(request.languages)
        return _DiagnosisView(self.bundle, lang, texts.DIAGNOSIS[lang])


class _DiagnosisView:
    """The page in one language."""

    def __init__(self, bundle: Bundle, lang: str, wording: DiagnosisTexts) -> None:
        self.bundle, self.facts, self.lang, self.wording = bundle, bundle.facts, lang, wording

    def page(self, *answers: Html) -> str:
        """The whole page with these answers."""
        wording, facts = self.wording, self.facts
        return pages.page(
            wording.title.format(name=facts.name),
            pages.paragraph(wording.notice),
            *([_warning(wording.unreviewed)] if not wording.reviewed else []),
            *([_warning(wording.doubt, answer_formats.trust_warning(self.bundle))] if self.bundle.why else []),
            *answers,
            self._form(first=not answers),
            Html(f"<details><summary>{visible_html(wording.card)}</summary>{_render_card(self.bundle.card)}</details>"),
            pages.paragraph(wording.model.format(sha256=self.bundle.sha256[:16], round=facts.round)),
            Html(
                f'<form class="end" method="post" action="{_END}"><button>{visible_html(wording.stop)}</button></form>'
            ),
            style=_STYLE,
            script=_SCRIPT,
            lang=self.lang,
        )

    def ended(self) -> str:
        """The page after the server has stopped."""
        return pages.page(self.wording.ended, pages.paragraph(self.wording.ended_how), lang=self.lang)

    def files(self, request: PageRequest) -> list[Html]:
        """The section of each file of a form."""
        files = list(request.files())
        if not files:
            return [self.refused("", NoImagesError("no file was chosen", remedy="choose an image or a DICOM file"), 0)]
        if len(files) > _MAX_FILES:
            cause = f"{len(files)} files are too many at once; the limit is {_MAX_FILES}"
            return [self.refused("", NoImagesError(cause, remedy="use fedhelp-edge predict for many files"), 0)]
        return [self._file(name, data, number) for number, (name, data) in enumerate(files)]

    def _file(self, name: str, data: bytes, number: int) -> Html:
        def decoded(size: plan.ImageSettings) -> Decoded:
            with picture.translate_errors():
                return folder.decode_open(io.BytesIO(data), name, size)

        image = self.facts.image
        identity = folder.identify_open(io.BytesIO(data), name)
        shown_identity = answer_formats.describe_identity(asdict(identity)) if identity else ""
        label = _file_name(name) + _file_name(shown_identity)
        try:
            decoded_image = decoded(image)
            doubt = trained_kinds.doubt(self.bundle, decoded_image)
            display_image = decoded(plan.ImageSettings(_SIDE, image.channels, image.mean, image.std))
            answer = decide.answer_images(self.bundle, decoded_image.pixels[None])[0]
        except FedhelpError as error:
            return self.refused(label, error, number)
        except MemoryError:
            return self.refused(label, ImageSizeError("there is not enough memory to open it"), number)
        wording = self.wording
        headline = wording.answer.format(name=answer.answer)
        if answer.answer is None:
            headline = wording.unknown.format(reason=_reason(wording, answer))
        unlike = answer.verdict == "unlike"  # probabilities and heat-map mean nothing then
        figure = self._plain_figure(display_image) if unlike else self._figure(answer, display_image, number)
        note = _warning(wording.note, doubt) if doubt else ""
        return Html(
            f"<section>{label}{_heading(headline, number)}{'' if unlike else self._possible(answer)}"
            + note + figure + ("" if unlike else self._bars(answer)) + "</section>"
        )  # fmt: skip

    def refused(self, label: str, error: FedhelpError, number: int) -> Html:
        """The section of a file that cannot be used; `label` names it."""
        wording = self.wording
        translated = wording.codes.get(error.code)
        return Html(
            f'<section class="warn">{label}{_heading(f"{wording.refused} ({error.code})", number)}'
            + (pages.paragraph(translated) if translated else "")
            + f'<p>{visible_html(wording.cause)}: <span lang="en">{visible_html(error.cause)}</span></p>'
            f'<p>{visible_html(wording.remedy)}: <span lang="en">{visible_html(error.remedy)}</span></p></section>'
        )

    def _form(self, *, first: bool) -> Html:
        wording = self.wording
        return Html(
            f'<form method="post" action="./" enctype="multipart/form-data"><p>{visible_html(wording.choose)}</p>'
            f"<p><label>{visible_html(wording.file)} "
            f'<input type="file" name="file" multiple required{" autofocus" * first}>'
            f'</label></p><p><button class="first">{visible_html(wording.ask)}</button> '
            f'<span role="status" data-busy="{visible_html(wording.busy)}"></span></p>'
            f"<p>{visible_html(wording.private)}</p></form>"
        )

    def _possible(self, answer: decide.Answer) -> Html:
        names = ", ".join(answer.remaining)
        return pages.paragraph(self.wording.set.format(names=names)) if names else Html("")

    def _plain_figure(self, shown: Decoded) -> Html:
        return Html(f"<figure>{pages.picture(shown.pixels, self.wording.picture, *_display_size(shown))}</figure>")

    def _figure(self, answer: decide.Answer, shown: Decoded, number: int) -> Html:
        """The image and its heat-map for the likeliest class; the script lays one over the other."""
        if answer.heatmaps is None:
            return self._plain_figure(shown)
        wording, likeliest = self.wording, _likeliest(answer)
        over = answer_formats.overlay(shown.pixels, answer.heatmaps, self.facts.classes.index(likeliest))
        width, height = _display_size(shown)
        fields = answer.heatmaps.shape[-1]
        return Html(
            f'<figure><div class="pair">{pages.picture(shown.pixels, wording.picture, width, height)}'
            f"{pages.picture(over, wording.heatmap.format(name=likeliest), width, height)}</div>"
            f"<p hidden><label>{visible_html(wording.strength)} "
            f'<input type="range" min="0" max="100" step="5" value="60">'
            f"</label></p><figcaption>{visible_html(wording.legend.format(name=likeliest, fields=fields))}</figcaption>"
            "</figure>"
        )

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
        return Html(f"<div><table><tr>{head}</tr>{''.join(lines)}</table></div>")


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


def _heading(text: str, number: int) -> Html:
    """A heading; the first one gets the focus, for keyboards and screen readers."""
    return Html(f"<h2{' tabindex=-1 autofocus' * (number == 0)}>{visible_html(text)}</h2>")


def _file_name(name: str) -> str:
    return f'<p class="file">{visible_html(name)}</p>' if name else ""


def _warning(text: str, english: str = "") -> Html:
    detail = f': <span lang="en">{visible_html(english)}</span>' if english else ""
    return Html(f'<p class="warn">{visible_html(text)}{detail}</p>')


def _render_card(text: str) -> Html:
    """Render the model card: Markdown (headings, tables, lists, paragraphs) below a YAML header."""
    parts = []
    body = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S)
    for mark, lines in itertools.groupby(map(_plain_text, body.split("\n")), _line_kind):
        if mark == "#":
            levels = (line.partition(" ")[::2] for line in lines)
            parts += [f"<h{len(marks) + 1}>{title}</h{len(marks) + 1}>" for marks, title in levels]
        elif mark == "|":
            rows = [line.strip("|").split("|") for line in lines if not line.startswith("| ---")]
            cells = ("".join(f"<td>{cell.strip()}</td>" for cell in row) for row in rows)
            parts.append(f"<div><table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table></div>")
        elif mark == "-":
            parts.append(f"<ul>{''.join(f'<li>{line[2:]}</li>' for line in lines)}</ul>")
        elif mark:
            parts.append(f"<p>{' '.join(lines)}</p>")
    return Html(f'<div lang="en">{"".join(parts)}</div>')


def _line_kind(line: str) -> str:
    return line[:1] if line[:1] in "#|-" else " "  # "" for an empty line


def _plain_text(text: str) -> str:
    return visible_html(text.replace("**", "").replace("`", ""))
