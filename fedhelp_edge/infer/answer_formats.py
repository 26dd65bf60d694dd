"""Write answers as a table, CSV, JSON or HTML pages, as a stream of any length."""

from __future__ import annotations

import base64
import codecs
import csv
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedhelp_edge import files, plan, safe_text
from fedhelp_edge.data.source_row import Decoded, DicomIdentity
from fedhelp_edge.infer.bundle import AnyBundle
from fedhelp_edge.infer.decide import Answer, percent
from fedhelp_edge.infer.metadata import Facts
from fedhelp_edge.parcel import sshsig
from fedhelp_edge.report import pages
from fedhelp_edge.safe_text import visible, visible_html
from fedhelp_edge.trust import key_words

AnswerRow = Mapping[str, Any]

IDENTITY_KEYS = tuple(field.name for field in fields(DicomIdentity))

NOTICE = "Not a medical device: a help for trained staff, who decide."
SIDE = 144  # pixels of an image on a page
_IMAGES_PER_PAGE = 200  # images
# orange and blue, which colour-blind people can distinguish
_FOR_COLOUR, _AGAINST_COLOUR = np.array([[230, 120, 0], [0, 90, 200]], np.float32)
_STYLE = "img { vertical-align: top } section { border-top: 1px solid var(--line) }"


def describe_identity(row: AnswerRow) -> str:
    """Which image of which study a DICOM file is, for people; "" for another file."""
    kind = " ".join(filter(None, (row.get("modality"), row.get("body_part"))))
    named = {
        "accession number": row.get("accession_number"), "study": row.get("study_instance_uid"),
        "series": row.get("series_instance_uid"), "instance": row.get("sop_instance_uid"),
    }  # fmt: skip
    return ", ".join(filter(None, [kind, *(f"{what} {value}" for what, value in named.items() if value)]))


def identity_keys(identity: DicomIdentity | None) -> dict[str, Any]:
    """The identity's part of a row: of a file that is no DICOM, null."""
    return asdict(identity) if identity else dict.fromkeys(IDENTITY_KEYS)


def remarks(row: AnswerRow) -> list[str]:
    """What a table says below a row: which image it is, and why it may be the wrong one."""
    note = f"note: {row['doubt']}" if row["doubt"] else ""
    return [text for text in (describe_identity(row), note) if text]


def describe_model(bundle: AnyBundle) -> dict[str, Any]:
    """The model's part of every answer."""
    return {
        "name": bundle.facts.name, "sha256": bundle.sha256, "round": bundle.facts.round,
        "signer": sshsig.fingerprint(bundle.signer), "words": " ".join(key_words.of_text(bundle.signer)),
        "trusted": not bundle.why, "why": bundle.why,
    }  # fmt: skip


def trust_warning(bundle: AnyBundle) -> str:
    """The warning about a model whose signer is not trusted, or ""."""
    if not bundle.why:
        return ""
    facts = describe_model(bundle)
    return f"not trusted: {bundle.why}; signed by {facts['signer']}, in words: {facts['words']}"


class TableFormat:
    """A table for the terminal; the base of the other formats."""

    suffix = "txt"

    def text(self, bundle: AnyBundle, rows: Iterable[AnswerRow]) -> Iterator[str]:
        """Yield the text piece by piece."""
        yield f"{'file':<40} {'answer':<16} {'sure':>6}  why not\n"
        for row in rows:
            shown = percent(row["probabilities"][row["answer"]]) if row["answer"] else "-"
            code = f"{row['error']['code']}: " if row["error"] else ""
            answer = row["answer"] or (row["verdict"] if not row["error"] else "-")
            file, answer, reason = map(visible, (row["file"], answer, code + row["reason"]))
            yield f"{file:<40} {answer:<16} {shown:>6}  {reason}".rstrip() + "\n"
            yield from (f"  {visible(text)}\n" for text in remarks(row))

    def write(self, folder: Path, bundle: AnyBundle, rows: Iterable[AnswerRow]) -> Path:
        """Write the file into a folder, in place of an earlier one; return its path."""
        path = folder / f"answers.{self.suffix}"
        _write_file(path, self.text(bundle, rows))
        return path


class CsvFormat(TableFormat):
    """CSV; cells that a spreadsheet would evaluate are escaped."""

    suffix = "csv"

    def text(self, bundle: AnyBundle, rows: Iterable[AnswerRow]) -> Iterator[str]:
        names, trusted = bundle.facts.classes, "no" if bundle.why else "yes"
        headings = ["file", "answer", "verdict", "reason", "set", "flags", "distance"]
        probability_headings = [f"p({name})" for name in names]
        yield self.line([*headings, *probability_headings, "error", "note", *IDENTITY_KEYS, "model", "trusted"])
        for row in rows:
            meaning = {"set": [], "flags": [], "probabilities": {}} if row["verdict"] == "unlike" else row
            numbers = [row["distance"], *map(meaning["probabilities"].get, names)]
            error = row["error"]["code"] if row["error"] else ""
            yield self.line(
                [row["file"], row["answer"], row["verdict"], row["reason"], ";".join(meaning["set"]),
                 ";".join(meaning["flags"]), *numbers, error, row["doubt"], *map(row.get, IDENTITY_KEYS), bundle.sha256,
                 trusted]
            )  # fmt: skip

    def line(self, cells: Iterable[object]) -> str:
        sink = io.StringIO()
        csv.writer(sink, lineterminator="\n").writerow([safe_text.csv_cell(cell) for cell in cells])
        return sink.getvalue()

    def write(self, folder: Path, bundle: AnyBundle, rows: Iterable[AnswerRow]) -> Path:
        """Write with a byte order mark: without it Excel misreads names of other scripts."""
        path = folder / f"answers.{self.suffix}"
        _write_file(path, itertools.chain([codecs.BOM_UTF8.decode()], self.text(bundle, rows)))
        return path


class JsonFormat(TableFormat):
    """One JSON object (docs/spec/json-output.json)."""

    suffix = "json"

    def text(self, bundle: AnyBundle, rows: Iterable[AnswerRow]) -> Iterator[str]:
        yield f'{{"schema_version": 1, "model": {json.dumps(describe_model(bundle))}, "results": ['
        for number, row in enumerate(rows):
            shown = {name: value for name, value in row.items() if name not in ("stamp", "picture")}
            yield (", " if number else "") + json.dumps(shown)
        yield "]}\n"


class HtmlFormat(TableFormat):
    """HTML pages that link to each other; the first is answers.html."""

    suffix = "html"

    def text(self, bundle: AnyBundle, rows: Iterable[AnswerRow]) -> Iterator[str]:
        yield self._page(bundle, list(rows), 1, last=True)

    def write(self, folder: Path, bundle: AnyBundle, rows: Iterable[AnswerRow]) -> Path:
        rows = iter(rows)
        batch, number = list(itertools.islice(rows, _IMAGES_PER_PAGE)), 1
        while True:
            next_batch = list(itertools.islice(rows, _IMAGES_PER_PAGE))
            _write_file(folder / self._name(number), [self._page(bundle, batch, number, last=not next_batch)])
            if not next_batch:
                return folder / self._name(1)
            batch, number = next_batch, number + 1

    def _name(self, number: int) -> str:
        return "answers.html" if number == 1 else f"answers-{number}.html"

    def _page(self, bundle: AnyBundle, rows: list[AnswerRow], number: int, *, last: bool) -> str:
        facts = bundle.facts
        links = [(number - 1, "earlier")] if number > 1 else []
        links += [] if last else [(number + 1, "later")]
        return pages.page(
            f"{facts.name}: answers" + (f", page {number}" if number > 1 else ""),
            pages.paragraph(NOTICE),
            *([pages.paragraph(f"This model is {trust_warning(bundle)}.")] if bundle.why else []),
            pages.paragraph(self.explanation(bundle)),
            *(
                part
                for row in rows
                for part in (pages.Html("<section>"), *self.section(bundle, row), pages.Html("</section>"))
            ),
            *(pages.Html(f'<p><a href="{self._name(to)}">{word} images</a></p>') for to, word in links),
            pages.paragraph(f"Model {bundle.sha256}, round {facts.round}."),
            style=_STYLE,
        )

    def explanation(self, bundle: AnyBundle) -> str:
        """What the pictures on a page show."""
        fields = -(-bundle.facts.image.size // 4)
        return (
            "Beside each image: the evidence for the likeliest class (orange) and against it (blue), compared with "
            f"the mean of all classes ({fields} x {fields} fields)."
        )

    def section(self, bundle: AnyBundle, row: AnswerRow) -> Iterator[pages.Html]:
        """What a page says of one image."""
        yield from section_head(row)
        if row["error"]:
            return
        yield pages.paragraph(f"Answer: {row['answer']}." if row["answer"] else f"Don't know: {row['reason']}.")
        if row["doubt"]:
            yield pages.paragraph(f"Note: {row['doubt']}.")
        if row["verdict"] != "unlike":  # else no probability means anything
            cells = list(_class_rows(bundle.facts.classes, row))
            yield pages.table(("class", "probability", "possible", "flagged"), cells)


FORMATS: Mapping[str, TableFormat] = {
    "table": TableFormat(),
    "csv": CsvFormat(),
    "json": JsonFormat(),
    "html": HtmlFormat(),
}
LISTS = {"dicom": "json"}  # formats that are files for each image: which format lists them


def section_head(row: AnswerRow) -> Iterator[pages.Html]:
    """Which image a section of a page is about, its picture, or why it could not be used."""
    yield pages.heading(row["file"])
    if identity := describe_identity(row):
        yield pages.paragraph(f"{identity}.")
    if row["error"]:
        yield pages.paragraph(f"{row['error']['code']}: {row['reason']}; {row['error']['remedy']}.")
    elif row.get("picture"):
        yield _img_tag(row["picture"])


def display_size(image: plan.ImageSettings, side: int = SIDE) -> plan.ImageSettings:
    """The plan of an image for display."""
    return plan.ImageSettings(side, image.channels, image.mean, image.std)


def overlay(pixels: NDArray[np.uint8], heatmaps: NDArray[np.float32], class_index: int) -> NDArray[np.uint8]:
    """Side x side x 3: the image in grey, overlaid with evidence for and against a class, relative to all classes."""
    evidence = heatmaps[class_index] - heatmaps.mean(0)
    strength = evidence / max(float(np.abs(evidence).max()), 1e-9)
    side = pixels.shape[0]
    smooth = np.asarray(Image.fromarray(strength.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR))
    opacity = 0.6 * np.abs(smooth)
    channels = pixels.transpose(2, 0, 1).astype(np.float32, order="C")  # each at once: four times as quick
    grey = channels.mean(0) * (1 - opacity)
    colours = zip(_FOR_COLOUR, _AGAINST_COLOUR, strict=True)
    return np.stack([(grey + np.where(smooth > 0, *pair) * opacity).astype(np.uint8) for pair in colours], 2)


def render_picture(facts: Facts, answer: Answer, shown: Decoded) -> dict[str, Any]:
    """Render an image for a page, beside it the heat-map, unless the image is unlike the training images."""
    likeliest = max(range(len(facts.classes)), key=lambda index: answer.probabilities[facts.classes[index]])
    parts, description = [shown.pixels.repeat(3, 2) if shown.pixels.shape[2] == 1 else shown.pixels], "the image"
    if answer.verdict != "unlike" and answer.heatmaps is not None:
        parts.append(overlay(shown.pixels, answer.heatmaps, likeliest))
        description = f"the image, and beside it what speaks for {facts.classes[likeliest]}"
    width = round(min(max(len(parts) * SIDE * shown.width / max(shown.height, 1), SIDE), 2 * len(parts) * SIDE))
    return page_picture(np.concatenate(parts, 1), width, description)


def page_picture(pixels: NDArray[np.uint8], width: int, description: str) -> dict[str, Any]:
    """A picture for a page, `width` wide there. As JPEG, because there may be thousands."""
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=85)
    return {"jpeg": base64.b64encode(sink.getvalue()).decode(), "width": width, "alt": description}


def _class_rows(classes: Sequence[str], row: AnswerRow) -> Iterator[tuple[str, ...]]:
    for name in classes:
        marks = ("yes" if name in row[key] else "" for key in ("set", "flags"))
        yield visible(name), percent(row["probabilities"][name]), *marks


def _img_tag(jpeg: Mapping[str, Any]) -> pages.Html:
    source, alt, width = (visible_html(str(jpeg[name])) for name in ("jpeg", "alt", "width"))
    return pages.Html(f'<img src="data:image/jpeg;base64,{source}" alt="{alt}" width="{width}" height="{SIDE}">')


def _write_file(path: Path, texts: Iterable[str]) -> None:
    """Write a file piece by piece, and replace an earlier one when it is complete."""
    files.remove_partials(path)
    with files.writing(path, private=False, replace=True) as file:
        for text in texts:
            file.write(text.encode("utf-8", "replace"))
