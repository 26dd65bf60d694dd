"""The page for diagnosis by a model for masks: outlines over pictures, and over volumes slice by slice."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data import picture, resample, shading, volume_files
from fedhelp_edge.data.grid import as_viewed
from fedhelp_edge.data.source_row import Decoded
from fedhelp_edge.data.volume_files import VolumeFile
from fedhelp_edge.errors import FedhelpError, NoImagesError
from fedhelp_edge.infer import answer_formats, drawing, mask_answering, mask_files, trained_kinds
from fedhelp_edge.infer.bundle import AnyBundle, MaskBundle
from fedhelp_edge.infer.drawing import Outline
from fedhelp_edge.infer.event_log import EventLog
from fedhelp_edge.page.local_server import PageRequest
from fedhelp_edge.page.serve import DiagnosisApp
from fedhelp_edge.page.viewer import (
    Answered,
    DiagnosisView,
    Label,
    Limits,
    Log,
    Section,
    Shown,
    display_size,
)
from fedhelp_edge.report.pages import Html
from fedhelp_edge.safe_text import visible_html

_MAX_VOLUMES_SIZE = 512 << 20  # bytes of all files of a form
_MAX_VOLUMES = 4  # of a form: they stay in memory
_KINDS = {".png": "image/png", ".nii.gz": "application/gzip"}
_PER_ML = 1000  # mm3


class MaskApp(DiagnosisApp):
    """The diagnosis page of a model for masks."""

    bundle: MaskBundle

    def __init__(self, bundle: AnyBundle, language: str | None = None, events: EventLog | None = None) -> None:
        super().__init__(bundle, language, events)
        if bundle.facts.image.is_volume:
            self.limit = _MAX_VOLUMES_SIZE

    def _view(self, request: PageRequest) -> DiagnosisView:
        return MaskView(self.bundle, self.choose_language(request), self._events, self._kept)


class MaskView(DiagnosisView):
    """The page of a model that names the class of each pixel."""

    bundle: MaskBundle
    is_laid = True
    strength = 100

    @property
    def choose(self) -> str:
        return self.viewer.choose_volumes if self.bundle.facts.image.is_volume else super().choose

    @property
    def file_label(self) -> str:
        return self.viewer.volume_file if self.bundle.facts.image.is_volume else super().file_label

    @property
    def keys(self) -> str:
        return self.viewer.keys

    def tool_names(self) -> tuple[str, str]:
        return self.viewer.strength, ""

    def sections(self, files: list[tuple[str, bytes]]) -> list[Section]:
        """The section of each picture; or of each volume, of which a series has many files."""
        if not self.bundle.facts.image.is_volume:
            return super().sections(files)
        volumes = [*volume_files.of_contents(files)]
        if not volumes:
            return [self.refused(Label(), NoImagesError("none of the files is an image"), 0)]
        if len(volumes) > _MAX_VOLUMES:
            cause = f"{len(volumes)} volumes are too many at once; the limit is {_MAX_VOLUMES}"
            return [self.refused(Label(), NoImagesError(cause, remedy="use fedhelp-edge predict for many files"), 0)]
        return [self._volume(each, number) for number, each in enumerate(volumes)]

    def frame(self, decoded: Decoded, log: Log) -> Shown:
        doubt = trained_kinds.doubt(self.bundle, decoded)
        answer = drawing.outline(self.bundle, decoded.pixels, (decoded.height, decoded.width))
        shown = self._answer(decoded, answer, doubt, log)
        shown = replace(shown, image=decoded.screen, size=display_size(decoded.width, decoded.height))
        return self._with_outlines(shown, answer, answer.drawn.mask, answer.drawn.uncertain)

    def _volume(self, volume: VolumeFile | tuple[str, FedhelpError], number: int) -> Section:
        if not isinstance(volume, VolumeFile):
            return self.unusable(Label(volume[0]), volume[1], number)
        identity = asdict(volume.slices[0].identity) if volume.slices else {}
        identity["sop_instance_uid"] = ""  # it has one for each slice
        label = Label(volume.name, answer_formats.describe_identity(identity))
        return self.answered(label, number, lambda: self._slices(label, volume))

    def _slices(self, label: Label, volume: VolumeFile) -> Answered:
        """The answer for a volume. What is kept of it are its own voxels, and the mask at the plan's distances."""
        with picture.translate_errors():
            voxels = volume.read()
            decoded = voxels.decoded(self.bundle.facts.image)
        doubt = trained_kinds.doubt(self.bundle, decoded)
        answer = drawing.outline(self.bundle, decoded.pixels)
        drawn, limits = answer.drawn, voxels.limits()
        shown = self._answer(decoded, answer, doubt, partial(self.log, label.file))
        slices, rows, columns = voxels.values.shape
        size = display_size(columns * voxels.grid.spacing[2], rows * voxels.grid.spacing[1])
        nearest = resample.nearest(len(drawn.mask), slices)
        is_unlike = answer.verdict == "unlike"
        fullest = slices // 2 if is_unlike else int(abs(nearest - mask_files.fullest(drawn)).argmin())

        def show(index: int, window: Limits | None) -> Shown:
            at = slices - 1 - index  # the first one is the topmost
            grey = shading.shade(as_viewed(voxels.values[at]), *(window or limits))
            mask, uncertain = (as_viewed(part[nearest[at]]) for part in (drawn.mask, drawn.uncertain))
            return self._with_outlines(replace(shown, image=grey[..., None], size=size), answer, mask, uncertain)

        return Answered(label, show, slices, slices - 1 - fullest, is_volume=True, is_hounsfield=voxels.is_hounsfield)

    def _answer(self, decoded: Decoded, answer: Outline, doubt: str, log: Log) -> Shown:
        """What the page says of an outline, without a picture."""
        row = mask_answering.numbers(self.bundle, decoded, answer)
        log(row, decoded)
        texts, names = self.viewer, [each["name"] for each in row["classes"] if each["pixels"]]
        headline, kind = texts.outlined.format(names=", ".join(names)) if names else texts.nothing, ""
        if answer.verdict == "unlike":
            reason = self.wording.unlike.format(times=f"{answer.distance:.1f}")
            return Shown(self.wording.unknown.format(reason=reason), "unsure", self.doubt(doubt))
        if answer.verdict == "uncertain":
            headline, kind = texts.doubtful.format(reason=self.reason(answer)), "unsure"
        return Shown(headline, kind, self.doubt(doubt) + self._sizes(row) + self._files(decoded, answer))

    def reason(self, answer: Outline) -> str:
        """Why an outline is uncertain; in English the same as the reason of `predict`."""
        usual = self.bundle.facts.calibration.most_uncertain
        return self.viewer.share.format(share=f"{answer.drawn.uncertainty:.0%}", limit=f"{usual:.0%}")

    def _with_outlines(
        self, shown: Shown, answer: Outline, mask: NDArray[np.uint8], uncertain: NDArray[np.bool_]
    ) -> Shown:
        """With the outlines over the image; none of an image that is unlike the training images."""
        if answer.verdict == "unlike":
            return shown
        width, height = (round(side * picture.SHARP_SIDE / max(shown.size)) for side in shown.size)
        over = mask_files.outlines(mask, uncertain, (max(1, height), max(1, width)))
        return replace(shown, over=over, over_name=self.viewer.outlines, caption=self.viewer.legend)

    def _sizes(self, row: Mapping[str, Any]) -> Html:
        """How large each class is, and how much of it is uncertain."""
        class_column, area, volume, uncertain = map(visible_html, self.viewer.columns)
        measured = volume if self.bundle.facts.image.is_volume else area
        lines = [
            (label, each["name"], self._measured(each), _share(each["uncertain_pixels"], each["pixels"]))
            for label, each in enumerate(row["classes"], 1)
        ]
        lines.append((0, self.viewer.uncertain, "", f"{row['uncertain']:.1%}"))
        head = "".join(f'<th scope="col">{column}</th>' for column in (class_column, measured, uncertain))
        body = "".join(
            f'<tr><th scope="row"><span class="swatch" style="background:rgb{mask_files.colour_of(label)}"></span>'
            f"{visible_html(name)}</th><td>{visible_html(size)}</td><td>{share}</td></tr>"
            for label, name, size, share in lines
        )
        return Html(f'<div class="table"><table><tr>{head}</tr>{body}</table></div>')

    def _measured(self, each: Mapping[str, Any]) -> str:
        """A class's volume or area; its pixels where the file does not say how large they are."""
        if (volume := each.get("volume_mm3")) is not None:
            return f"{volume / _PER_ML:,.1f} ml" if volume >= _PER_ML else f"{volume:,.0f} mm³"
        if (area := each.get("area_mm2")) is not None:
            return f"{area:,.0f} mm²"
        return self.viewer.pixels.format(count=f"{each['pixels']:,}")

    def _files(self, decoded: Decoded, answer: Outline) -> Html:
        """Links that hold the mask and the uncertain pixels as files."""
        links = []
        names = {"mask": self.viewer.save, "uncertain_mask": self.viewer.save_uncertain}
        for what, (suffix, data) in mask_files.encode(answer.drawn, decoded.grid).items():
            source = f"data:{_KINDS[suffix]};base64,{base64.b64encode(data).decode()}"
            links.append(f'<a download="{what}{suffix}" href="{source}">{visible_html(names[what])}</a>')
        return Html(f'<p class="save">{" ".join(links)}</p>')


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"
