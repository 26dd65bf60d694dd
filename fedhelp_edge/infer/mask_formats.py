"""Write outlines as a table, CSV, JSON or HTML pages. The masks themselves are files that these name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fedhelp_edge.infer import answer_formats
from fedhelp_edge.infer.answer_formats import AnswerRow, CsvFormat, HtmlFormat, JsonFormat, TableFormat
from fedhelp_edge.infer.bundle import AnyBundle
from fedhelp_edge.report import pages
from fedhelp_edge.safe_text import visible

FOLDER = "masks"  # of the files that a list names, beside it


class MaskTable(TableFormat):
    """A table for the terminal."""

    def text(self, bundle: AnyBundle, rows: Iterable[AnswerRow]) -> Iterator[str]:
        yield f"{'file':<40} {'outline':<10} {'uncertain':>9}  areas, and why not\n"
        for row in rows:
            code = f"{row['error']['code']}: " if row["error"] else ""
            file, words = map(visible, (row["file"], "; ".join(filter(None, [_sizes(row), code + row["reason"]]))))
            yield f"{file:<40} {row['verdict'] or '-':<10} {_share(row):>9}  {words}".rstrip() + "\n"
            yield from (f"  {visible(text)}\n" for text in answer_formats.remarks(row))


class MaskCsv(CsvFormat):
    """CSV with the pixels and the area (or volume) of each class."""

    def text(self, bundle: AnyBundle, rows: Iterable[AnswerRow]) -> Iterator[str]:
        names, measure = bundle.facts.classes, "mm3" if bundle.facts.image.is_volume else "mm2"
        headings = ["file", "verdict", "reason", "uncertain", "distance", *(f"pixels({name})" for name in names)]
        headings += [*(f"{measure}({name})" for name in names), "mask", "uncertain mask", "overlay", "error", "note"]
        yield self.line([*headings, *answer_formats.IDENTITY_KEYS, "model", "trusted"])
        for row in rows:
            classes = row["classes"] or [{"pixels": None}] * len(names)
            cells = [row["file"], row["verdict"], row["reason"], row["uncertain"], row["distance"]]
            cells += [*(each["pixels"] for each in classes), *map(_measured, classes)]
            cells += [row["mask"], row["uncertain_mask"], row["overlay"], row["error"] and row["error"]["code"]]
            identity = map(row.get, answer_formats.IDENTITY_KEYS)
            yield self.line([*cells, row["doubt"], *identity, bundle.sha256, "no" if bundle.why else "yes"])


class MaskHtml(HtmlFormat):
    """HTML pages with the overlays."""

    def explanation(self, bundle: AnyBundle) -> str:
        """What the pictures on a page show."""
        return "Outlines are drawn on each image, of a volume on the slice that shows most. Yellow dots are uncertain."

    def section(self, bundle: AnyBundle, row: AnswerRow) -> Iterator[pages.Html]:
        """What a page says of one image."""
        yield from answer_formats.section_head(row)
        if row["error"]:
            return
        yield pages.paragraph(f"{_VERDICTS[row['verdict']]}{': ' if row['reason'] else ''}{row['reason']}.")
        if row["doubt"]:
            yield pages.paragraph(f"Note: {row['doubt']}.")
        if row["classes"]:
            cells = [(each["name"], f"{each['pixels']}", _size(each)) for each in row["classes"]]
            yield pages.table(("class", "pixels", "size"), cells)


FORMATS: Mapping[str, TableFormat] = {
    "table": MaskTable(), "csv": MaskCsv(), "json": JsonFormat(), "html": MaskHtml(),
}  # fmt: skip
_VERDICTS = {"answered": "Outlined", "uncertain": "Outlined, but uncertain", "unlike": "Don't know"}


def _measured(each: Mapping[str, Any]) -> float | None:
    measured: float | None = each.get("volume_mm3", each.get("area_mm2"))
    return measured


def _size(each: Mapping[str, Any]) -> str:
    measured, unit = _measured(each), "mm3" if "volume_mm3" in each else "mm2"
    return f"{each['pixels']} pixels" if measured is None else f"{measured:g} {unit}"


def _sizes(row: AnswerRow) -> str:
    return ", ".join(f"{each['name']} {_size(each)}" for each in row["classes"])


def _share(row: AnswerRow) -> str:
    return "-" if row["uncertain"] is None else f"{row['uncertain']:.1%}"
