"""Read a table (CSV or TSV) of images: path, label and, if known, group, split, centre, sex and age.

DICOM images may be named by an identifier, as the accession number: a label then counts for all images that have it.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeAlias

from fedhelp_edge import files, plan
from fedhelp_edge.data import budget, folder, people, studies
from fedhelp_edge.data.images import Problem
from fedhelp_edge.data.source_row import SourceRow, normalise, parse_patient, parse_split
from fedhelp_edge.errors import (
    BadTableError,
    FedhelpError,
    FileMissingError,
    LabelConflictError,
    LabelUnknownError,
)

SUFFIXES = frozenset((".csv", ".tsv", ".txt"))
LIMIT = 256 << 20  # bytes
COLUMN_NAMES = {  # headings of each column, without accents; the first one found counts
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
    "sex": ("sex", "gender", "patientsex", "patient_sex", "geschlecht", "sexe", "genre", "sexo", "genero"),
    "age": ("age", "patientage", "patient_age", "age_years", "age_approx", "alter", "edad", "idade"),
    "instance": ("sopinstanceuid", "sop_instance_uid"),
    "series": ("seriesinstanceuid", "series_instance_uid", "series_uid"),
    "study": ("studyinstanceuid", "study_instance_uid", "study_uid"),
    "accession": (
        "accessionnumber", "accession_number", "accession", "accession_no", "auftragsnummer", "numero_d_acces",
        "numero_de_acceso", "numero_de_acesso",
    ),
    "patient": ("patientid", "patient_id"),
    "modality": ("modality", "modalitat", "modalite", "modalidad", "modalidade"),
}  # fmt: skip
COLUMN_OPTIONS = {  # the words of `--columns`
    "image": "path", "path": "path", "label": "label", "patient": "group", "group": "group", "lesion": "group",
    "split": "split", "centre": "centre", "sex": "sex", "age": "age", "accession": "accession", "study": "study",
    "series": "series", "modality": "modality",
}  # fmt: skip
_Finder: TypeAlias = Callable[[int, Mapping[str, str]], Sequence[str]]  # a line's number and cells -> its files
_DELIMITERS = "\t;,"
_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True)
class Sheet:
    """A table as it is in its file."""

    lines: list[dict[str, str | None]]
    headers: list[str]
    columns: Mapping[str, str]  # our name of a column -> its heading
    delimiter: str
    encoding: str = "utf-8"


def read(path: Path, image: plan.ImageSettings, column_options: Mapping[str, str] = {}) -> folder.ImageFolder:
    """Read every row of a table. Paths are relative to it; a unique file name, even without suffix, is enough.

    `column_options` gives the headings of its columns, by the words of `COLUMN_OPTIONS`.
    """
    root = path.parent
    sheet = read_sheet(path, column_options)
    stamps = dict(folder.list_files(root))
    key = next(kind for kind in ("path", *studies.KEYWORDS) if kind in sheet.columns)
    all_cells = [
        {kind: (line.get(column) or "").strip() for kind, column in sheet.columns.items()} for line in sheet.lines
    ]
    rows, problems = [], []
    if key == "path":
        find = _path_finder(root, stamps)
    else:
        index = studies.StudyIndex(root, stamps, key)
        find = _study_finder(index, key, all_cells)
        if error := index.why_left_out({cells[key] for cells in all_cells}):
            problems.append(Problem.from_error(path.name, error))
    for line_number, cells in enumerate(all_cells, 2):
        try:
            split = _parse_split(cells.get("split", ""))
            if not cells["label"]:
                raise LabelUnknownError("it has no label")
            for name in find(line_number, cells):
                stamp = stamps.get(name) or _stamp(root / name)
                group, centre = parse_patient(cells.get("group", "")), cells.get("centre", "")
                sex, age = people.parse_sex(cells.get("sex", "")), people.parse_age(cells.get("age", ""))
                rows.append(SourceRow(name, cells["label"], stamp, group, split, centre, sex, age))
        except FedhelpError as error:  # messages show the line number, never an identifier
            file = PurePath(cells["path"].replace("\\", "/")).name if key == "path" else ""
            problems.append(Problem.from_error(file or f"line {line_number} of {path.name}", error))
    return folder.ImageFolder(root, image, rows, problems)


def read_sheet(path: Path, column_options: Mapping[str, str] = {}) -> Sheet:
    """Read a table and recognise its columns."""
    with files.reading(path) as file:
        data = file.read(LIMIT + 1)
    if len(data) > LIMIT:
        raise BadTableError(f"{path.name} is larger than {LIMIT >> 20} MiB")
    text, encoding = _decode_text(data, path.name)
    del data
    if max(map(text.count, _DELIMITERS)) + text.count("\n") > budget.CELLS:
        raise BadTableError(f"{path.name} has more than {budget.CELLS:,} cells")
    first_line = text[: text.find("\n") + 1]
    if first_line.casefold().startswith("sep=") and len(first_line.strip()) == 5:  # a line only for Excel
        text = text[len(first_line) :]
    first_line = text[: text.find("\n") + 1] or text
    delimiter = max(_DELIMITERS, key=lambda character: _count_fields(first_line, character))
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        width = len(reader.fieldnames or ())
        max_rows = min(budget.ROWS, budget.CELLS // max(1, width)) if width <= budget.COLUMNS else -1
        lines = list(islice(reader, max_rows + 1)) if max_rows >= 0 else []
    except csv.Error as error:
        raise BadTableError(f"{path.name}, line {reader.line_num}: {error}") from error
    if max_rows < 0:
        raise BadTableError(f"{path.name} has more than {budget.COLUMNS:,} columns")
    if len(lines) > max_rows:
        raise BadTableError(f"{path.name} has more than {max_rows:,} rows")
    headers = {_normalise_heading(header or ""): header for header in reversed(reader.fieldnames or ())}
    matched = {
        kind: next((headers[name] for name in names if name in headers), None) for kind, names in COLUMN_NAMES.items()
    }
    columns = {kind: header for kind, header in matched.items() if header is not None}
    for kind, header in column_options.items():
        if _normalise_heading(header) not in headers:
            raise BadTableError(f"{path.name} has no column {header!r}; it has {', '.join(reader.fieldnames or ())}")
        columns[COLUMN_OPTIONS[kind]] = headers[_normalise_heading(header)]
    listed = f"; its columns are {', '.join(reader.fieldnames or ())}" if headers else ""
    if "label" not in columns:
        raise BadTableError(f"{path.name} has no column for the label ({', '.join(COLUMN_NAMES['label'][:6])}){listed}")
    if not columns.keys() & {"path", *studies.KEYWORDS}:
        examples = ", ".join(COLUMN_NAMES["path"][:7])
        raise BadTableError(f"{path.name} has no column for the image ({examples}, or AccessionNumber){listed}")
    return Sheet(lines, list(reader.fieldnames or ()), columns, delimiter, encoding)


def _decode_text(data: bytes, name: str) -> tuple[str, str]:
    """Decode a table by its byte order mark, else as UTF-8 or (Excel) Windows-1252; return also the encoding."""
    marked = next((encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), "")
    unmarked = ("utf-16-le",) if data[1:2] == b"\0" else ("utf-8", "cp1252")
    for encoding in (marked,) if marked else unmarked:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding != "cp1252" or "\0" not in text:
            return text.lstrip("\r\n"), encoding
    raise BadTableError(f"{name} is not text in UTF-8, UTF-16 or Windows-1252")


def _count_fields(line: str, delimiter: str) -> int:
    """The number of fields of a line."""
    try:
        return len(next(csv.reader([line.replace("\0", "")], delimiter=delimiter), []))
    except csv.Error:
        return 0


def _normalise_heading(text: str) -> str:
    """A heading without accents, in lower case, its words joined by "_"."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(character for character in decomposed if not unicodedata.combining(character))
    return re.sub(r"[^a-z0-9]+", "_", plain).strip("_") or text.strip()


def _parse_split(word: str) -> str:
    if word and not parse_split(word):
        raise BadTableError(f"its split {word!r} is not train, val or test")
    return parse_split(word)


def index_names(names: Mapping[str, str]) -> dict[str, list[str]]:
    """Index files by path, by name and by name without suffix."""
    index: dict[str, list[str]] = defaultdict(list)
    for name in names:
        path = PurePosixPath(name)
        for key in {normalise(path.name), normalise(path.stem), normalise(name)}:
            index[key].append(name)
    return index


def _path_finder(root: Path, stamps: Mapping[str, str]) -> _Finder:
    """Find the file that a line names."""
    index = index_names(stamps)
    return lambda _, cells: [find_file(cells["path"], root, stamps, index)]


def _study_finder(index: studies.StudyIndex, key: str, all_cells: Sequence[Mapping[str, str]]) -> _Finder:
    """Find the DICOM images that a line names. A line that repeats an earlier one finds none."""
    first_lines: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)  # of each label of the same images
    for line_number, cells in enumerate(all_cells, 2):
        if cells["label"]:
            first_lines[cells[key], cells.get("modality", "")].setdefault(normalise(cells["label"]), line_number)

    def find(line_number: int, cells: Mapping[str, str]) -> Sequence[str]:
        own_label, modality = normalise(cells["label"]), cells.get("modality", "")
        lines = first_lines[cells[key], modality]
        for label, other in lines.items():
            if label != own_label:
                raise LabelConflictError(f"line {other} gives the same images another label")
        return index.find(cells[key], modality) if lines[own_label] == line_number else ()

    return find


def find_file(cell: str, root: Path, stamps: Mapping[str, str], index: Mapping[str, Sequence[str]]) -> str:
    """Find the file that a cell names; the path is relative to the table's folder."""
    if not cell:
        raise BadTableError("the row names no image")
    path = PurePath(cell if cell in stamps else cell.replace("\\", "/"))
    try:
        name = PurePath(os.path.relpath(root / path, root)).as_posix()
        if name in stamps or (root / name).is_file():
            return name
    except (OSError, ValueError):  # another drive, or an impossible file name
        pass
    candidates = index.get(normalise(path.as_posix())) or index.get(normalise(path.name), ())
    if len(candidates) > 1:
        raise BadTableError(f"{len(candidates)} files have this name; give the path")
    if not candidates:
        raise FileMissingError("there is no such file")
    return candidates[0]


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}"
