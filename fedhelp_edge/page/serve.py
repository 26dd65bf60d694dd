"""The page for diagnosis by a model for classes: its answers and heat-maps."""

from __future__ import annotations

from dataclasses import replace

from fedhelp_edge.data import picture
from fedhelp_edge.data.source_row import Decoded
from fedhelp_edge.errors import ImageSizeError
from fedhelp_edge.infer import answer_formats, decide, trained_kinds
from fedhelp_edge.infer.bundle import AnyBundle, Bundle
from fedhelp_edge.infer.event_log import EventLog
from fedhelp_edge.page import texts
from fedhelp_edge.page.local_server import PageRequest, PageResponse
from fedhelp_edge.page.texts import DiagnosisTexts
from fedhelp_edge.page.viewer import END, DiagnosisView, Label, LastAnswers, Log, Shown, display_size
from fedhelp_edge.report import pages
from fedhelp_edge.report.pages import Html
from fedhelp_edge.safe_text import visible_html

_MAX_SIZE = 128 << 20  # bytes of all files of a form


class DiagnosisApp:
    """The diagnosis page as a `PageApp`."""

    limit = _MAX_SIZE

    def __init__(self, bundle: AnyBundle, language: str | None = None, events: EventLog | None = None) -> None:
        self.bundle, self._language, self._events = bundle, language, events
        self._kept = LastAnswers()

    def answer(self, request: PageRequest) -> PageResponse | None:
        """The page, with an answer for each file of a form; or another picture of one of them."""
        view = self._view(request)
        if request.path == END and request.body is not None:
            return PageResponse(view.ended(), is_last=True)
        with picture.without_warnings():
            if request.path:
                return view.other_picture(request.path)
            return PageResponse(view.page() if request.body is None else view.page(*view.files(request)))

    def too_large(self, request: PageRequest) -> PageResponse | None:
        """The page with an error."""
        view = self._view(request)
        error = ImageSizeError(f"the files are larger than {self.limit >> 20} MiB")
        return PageResponse(view.page(view.refused(Label(), error, 0)))

    def _view(self, request: PageRequest) -> DiagnosisView:
        return ClassView(self.bundle, self.choose_language(request), self._events, self._kept)

    def choose_language(self, request: PageRequest) -> str:
        """The language that was asked for, or the browser's."""
        return self._language or texts.choose_language(request.languages)


class ClassView(DiagnosisView):
    """The page of a model that names the class of an image."""

    bundle: Bundle

    def tool_names(self) -> tuple[str, str]:
        return self.wording.strength, self.wording.beside

    def frame(self, decoded: Decoded, log: Log) -> Shown:
        wording = self.wording
        doubt = trained_kinds.doubt(self.bundle, decoded)
        answer = decide.answer_images(self.bundle, decoded.pixels[None])[0]
        log(answer.to_json(), decoded)
        headline, kind = wording.answer.format(name=answer.answer), ""
        if answer.answer is None:
            headline, kind = wording.unknown.format(reason=_reason(wording, answer)), "unsure"
        size = display_size(decoded.width, decoded.height)
        shown = Shown(headline, kind, self.doubt(doubt), decoded.screen, size=size)
        if answer.verdict == "unlike":  # probabilities and heat-map mean nothing then
            return shown
        shown = replace(shown, details=self._possible(answer) + shown.details + self._bars(answer))
        if answer.heatmaps is None:
            return shown
        likeliest = _likeliest(answer)
        return replace(
            shown,
            over=answer_formats.overlay(decoded.screen, answer.heatmaps, self.bundle.facts.classes.index(likeliest)),
            over_name=wording.heatmap.format(name=likeliest),
            caption=wording.legend.format(name=likeliest, fields=answer.heatmaps.shape[-1]),
        )

    def _possible(self, answer: decide.Answer) -> Html:
        names = ", ".join(answer.remaining)
        return pages.paragraph(self.wording.set.format(names=names)) if names else Html("")

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
