"""A table (CSV or TSV) of images: path, label and, if known, group, split and centre. DICOM also by identifiers."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath, PurePosixPath

from fedhelp_edge import files, plan
from fedhelp_edge.data import budget, dicom, folder, picture
from fedhelp_edge.data.images import Problem
from fedhelp_edge.data.source_row import Row, normal, patient, split_word
from fedhelp_edge.errors import (
    BadTableError,
    FedhelpError,
    FileMissingError,
    ImageBrokenError,
    ImageKindError,
    LabelUnknownError,
)

SUFFIXES = frozenset((".csv", ".tsv", ".txt"))
LIMIT = 256 << 20  # bytes
COLUMNS = {  # what each may be called, without accents; the first that is there counts
    "path": (
        "path", "file", "filename", "file_name", "image", "image_path", "image_id", "datei", "dateiname", "bild",
        "bilddatei", "pfad", "fichier", "nom_de_fichier", "nom_du_fichier", "chemin", "archivo", "nombre_de_archivo",
        "fichero", "imagen", "ruta",
    ),
    "label": (
        "label", "class", "class_name", "diagnosis", "dx", "target", "befund", "diagnose", "klasse", "diagnostic",
        "classe", "etiquette", "diagnostico", "clase", "etiqueta",
    ),
    "group": (
        "group", "patient", "patientid", "patient_id", "lesion", "lesion_id", "patienten_id", "patientennummer", "fall",
        "fallnummer", "patient_e", "id_patient", "numero_patient", "paciente", "id_paciente", "lasion", "caso", "cas",
    ),
    "split": ("split", "fold"),
    "centre": ("centre", "center", "site", "klinik", "zentrum", "hopital", "hospital", "clinica", "centro"),
    "instance": ("sopinstanceuid", "sop_instance_uid"),
    "patient": ("patientid", "patient_id"),
}  # fmt: skip
MAPPED = {"image": "path", "path": "path", "label": "label", "patient": "group", "group": "group", "lesion": "group",
          "split": "split", "centre": "centre"}  # fmt: skip  # what `--columns` calls each
_DELIMITERS = "\t;,"
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True)
class Sheet:
    """A table as it is written."""

    lines: list[dict[str, str | None]]
    headers: list[str]
    columns: Mapping[str, str]  # what each of ours is called there
    delimiter: str
    encoding: str = "utf-8"


def read(path: Path, image: plan.Image, named: Mapping[str, str] = {}) -> folder.Files:
    """Every row of a table. Paths are relative to it; an image's name alone, even without suffix, does if unique.

    `named` says what its columns are called, by the words of `MAPPED`.
    """
    root = path.parent
    written = sheet(path, named)
    stamps = dict(folder.listing(root))
    by = next(what for what in ("path", "instance", "patient") if what in written.columns)
    places = by_name(stamps) if by == "path" else _by_identifier(root, stamps, by)
    rows, problems = [], []
    for number, line in enumerate(written.lines, 2):
        cell = {what: (line.get(column) or "").strip() for what, column in written.columns.items()}
        try:
            split = _split(cell.get("split", ""))
            if not cell["label"]:
                raise LabelUnknownError("it has no label")
            names = [find(cell["path"], root, stamps, places)] if by == "path" else places[cell[by]]
            if not names:
                raise FileMissingError("no DICOM file below the table's folder has this identifier")
            for name in names:
                stamp = stamps.get(name) or _stamp(root / name)
                rows.append(
                    Row(name, cell["label"], stamp, patient(cell.get("group", "")), split, cell.get("centre", ""))
                )
        except FedhelpError as fault:  # identifiers are in no message: the line is
            file = PurePath(cell["path"].replace("\\", "/")).name if by == "path" else ""
            problems.append(Problem.of(file or f"line {number} of {path.name}", fault))
    return folder.Files(root, image, rows, problems)


def sheet(path: Path, named: Mapping[str, str] = {}) -> Sheet:
    """The rows, and which of their columns is what."""
    with files.reading(path) as file:
        data = file.read(LIMIT + 1)
    if len(data) > LIMIT:
        raise BadTableError(f"{path.name} is larger than {LIMIT >> 20} MiB")
    text, encoding = _text(data, path.name)
    del data
    if max(map(text.count, _DELIMITERS)) + text.count("\n") > budget.CELLS:
        raise BadTableError(f"{path.name} has more than {budget.CELLS:,} cells")
    first = text[: text.find("\n") + 1]
    if first.casefold().startswith("sep=") and len(first.strip()) == 5:  # a line for Excel alone
        text = text[len(first) :]
    first = text[: text.find("\n") + 1] or text
    delimiter = max(_DELIMITERS, key=lambda sign: _fields(first, sign))
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        width = len(reader.fieldnames or ())
        most = min(budget.ROWS, budget.CELLS // max(1, width)) if width <= budget.COLUMNS else -1
        lines = list(islice(reader, most + 1)) if most >= 0 else []
    except csv.Error as fault:
        raise BadTableError(f"{path.name}, line {reader.line_num}: {fault}") from None
    if most < 0:
        raise BadTableError(f"{path.name} has more than {budget.COLUMNS:,} columns")
    if len(lines) > most:
        raise BadTableError(f"{path.name} has more than {most:,} rows")
    headers = {_heading(header or ""): header for header in reversed(reader.fieldnames or ())}
    found = {what: next((headers[name] for name in names if name in headers), None) for what, names in COLUMNS.items()}
    columns = {what: header for what, header in found.items() if header is not None}
    for what, header in named.items():
        if _heading(header) not in headers:
            raise BadTableError(f"{path.name} has no column {header!r}; it has {', '.join(reader.fieldnames or ())}")
        columns[MAPPED[what]] = headers[_heading(header)]
    shown = f"; its columns are {', '.join(reader.fieldnames or ())}" if headers else ""
    if "label" not in columns:
        raise BadTableError(f"{path.name} has no column for the label ({', '.join(COLUMNS['label'][:6])}){shown}")
    if not columns.keys() & {"path", "instance", "patient"}:
        called = ", ".join(COLUMNS["path"][:7])
        raise BadTableError(f"{path.name} has no column for the image ({called}, or SOPInstanceUID){shown}")
    return Sheet(lines, list(reader.fieldnames or ()), columns, delimiter, encoding)


def _text(data: bytes, name: str) -> tuple[str, str]:
    """What a table says and how it is encoded: by its mark, else as UTF-8 or, as Excel writes, Windows-1252."""
    marked = next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), "")
    unmarked = ("utf-16-le",) if data[1:2] == b"\0" else ("utf-8", "cp1252")
    for encoding in (marked,) if marked else unmarked:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding != "cp1252" or "\0" not in text:
            return text.lstrip("\r\n"), encoding
    raise BadTableError(f"{name} is not a text in UTF-8, UTF-16 or Windows-1252")


def _fields(line: str, delimiter: str) -> int:
    """How many fields a line has."""
    try:
        return len(next(csv.reader([line.replace("\0", "")], delimiter=delimiter), []))
    except csv.Error:
        return 0


def _heading(text: str) -> str:
    """A heading without accents, in small letters, its words joined by "_"."""
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(sign))
    return re.sub(r"[^a-z0-9]+", "_", plain).strip("_") or text.strip()


def _split(word: str) -> str:
    if word and not split_word(word):
        raise BadTableError(f"its part {word!r} is not train, val or test")
    return split_word(word)


def by_name(names: Mapping[str, str]) -> dict[str, list[str]]:
    """Files by their path, and by what they are called with and without suffix."""
    places: dict[str, list[str]] = defaultdict(list)
    for name in names:
        last = PurePosixPath(name)
        for called in {normal(last.name), normal(last.stem), normal(name)}:
            places[called].append(name)
    return places


def _by_identifier(root: Path, names: Mapping[str, str], by: str) -> dict[str, list[str]]:
    """DICOM files by SOPInstanceUID or PatientID."""
    places: dict[str, list[str]] = defaultdict(list)
    with picture.quietly():
        for name in names:
            try:
                if folder.is_image(root, name):
                    instance, patient = dicom.who(root / name)
                    places[instance if by == "instance" else patient].append(name)
            except (ImageKindError, ImageBrokenError, FileMissingError):  # another kind of file, of which no row speaks
                continue
    return places


def find(wanted: str, root: Path, stamps: Mapping[str, str], places: Mapping[str, Sequence[str]]) -> str:
    """The file that a cell means, relative to the table's folder."""
    if not wanted:
        raise BadTableError("no image is named")
    path = PurePath(wanted if wanted in stamps else wanted.replace("\\", "/"))
    try:
        name = PurePath(os.path.relpath(root / path, root)).as_posix()
        if name in stamps or (root / name).is_file():
            return name
    except (OSError, ValueError):  # another drive, or no name that a file can have
        pass
    called = places.get(normal(path.as_posix())) or places.get(normal(path.name), ())
    if len(called) > 1:
        raise BadTableError(f"{len(called)} files are called so; give the path")
    if not called:
        raise FileMissingError("there is no such file")
    return called[0]


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}"
