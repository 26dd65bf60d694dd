"""Label a folder of images by hand; every decision is written to its `labels.csv` at once.

Columns, rows and order that another program wrote there stay. An image in a folder named after a class starts with that
class. A second reader has a table of his own, which starts empty: he does not see what the first one chose.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedhelp_edge import files, plan, safe_text
from fedhelp_edge.data import folder, table
from fedhelp_edge.data.images import Problem
from fedhelp_edge.data.labels import ClassNames
from fedhelp_edge.data.source_row import Decoded
from fedhelp_edge.errors import BadTableError, FedhelpError, NoImagesError

LABELS_FILE = "labels.csv"
_UNSURE = "unsure"  # a column


@dataclass(frozen=True)
class Agreement:
    """How far two readers agree on the images to which both gave a class."""

    images: int
    same: int
    kappa: float | None  # Cohen's; None where chance alone would make them agree


class Sorting:
    """A folder of images while a person labels it."""

    def __init__(self, root: Path, classes: Sequence[str], reader: str = "") -> None:
        """Read the images below a folder, in order, and their labels so far; those of a second `reader` if named."""
        self.root, self.classes = root, tuple(classes)
        self.file = root / (f"labels.{reader}.csv" if reader else LABELS_FILE)
        self._class_names = ClassNames(classes, {})
        image_folder = folder.read(root, plan.ImageSettings(), lambda name: self._class_names.index(name) is not None)
        self.names = tuple(row.name for row in image_folder.rows)
        self.problems: tuple[Problem, ...] = tuple(image_folder.problems)
        if not self.names:
            raise NoImagesError(f"{root.name} holds no images that can be read")
        self._sheet = _open_sheet(self.file, with_patients=any(row.group for row in image_folder.rows))
        self._lines: dict[str, dict[str, str | None]] = {}
        stamps = dict.fromkeys(self.names, "")
        index = table.index_names(stamps)
        for line in self._sheet.lines:
            try:
                name = table.find_file((line.get(self._path) or "").strip(), root, stamps, index)
            except FedhelpError:
                continue  # the image is not here: its row stays
            self._lines.setdefault(name, line)
        for row in [] if reader else image_folder.rows:
            if row.name not in self._lines and self._class_names.index(row.label) is not None:
                self._add(row.name, str(row.label), split=row.split, centre=row.centre, group=row.group)

    def label(self, name: str) -> int | None:
        """The index of an image's class, None if it has none."""
        return self._class_names.index(self._lines.get(name, {}).get(self._label) or "")

    def is_unsure(self, name: str) -> bool:
        """Whether a person has put an image aside."""
        return bool(self._lines.get(name, {}).get(_UNSURE))

    def assign(self, name: str, class_index: int | None, *, unsure: bool = False) -> None:
        """Give an image a class, or none, or put it aside, and write the table."""
        self.assign_all([(name, class_index, unsure)])

    def assign_all(self, choices: Iterable[tuple[str, int | None, bool]]) -> None:
        """The same for several images; the table is written once."""
        for name, class_index, unsure in choices:
            label = "" if class_index is None else str(safe_text.csv_cell(self.classes[class_index]))
            if name in self._lines:
                self._lines[name][self._label] = label
            else:
                self._add(name, label)
            if unsure and _UNSURE not in self._sheet.headers:
                self._sheet.headers.append(_UNSURE)
            self._lines[name][_UNSURE] = "yes" if unsure else ""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._sheet.headers, delimiter=self._sheet.delimiter, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(self._sheet.lines)
        try:
            data = text.getvalue().encode(self._sheet.encoding)
        except UnicodeEncodeError:  # a name that Windows-1252 lacks
            data = text.getvalue().encode("utf-8-sig")
        files.write_atomic(self.file, data)

    def agreement(self, other: Sorting) -> Agreement:
        """How far this reader agrees with another one."""
        pairs = [
            (mine, theirs)
            for name in self.names
            if (mine := self.label(name)) is not None and (theirs := other.label(name)) is not None
        ]
        same, total = sum(mine == theirs for mine, theirs in pairs), len(pairs)
        first, second = (Counter(labels) for labels in (zip(*pairs, strict=True) if pairs else ((), ())))
        chance = sum(first[label] * second[label] for label in first)  # agreements by chance, times the images
        kappa = (same * total - chance) / (total * total - chance) if total * total > chance else None
        return Agreement(total, same, kappa)

    def next_unlabelled(self, after: int = -1) -> int | None:
        """The next image without a label that is not put aside, wrapping around at the end; None if there is none."""
        indices = [*range(after + 1, len(self.names)), *range(after + 1)]
        names = self.names
        return next((i for i in indices if self.label(names[i]) is None and not self.is_unsure(names[i])), None)

    def counts(self) -> list[int]:
        """The number of images of each class."""
        by_class = Counter(self.label(name) for name in self.names)
        return [by_class[class_index] for class_index in range(len(self.classes))]

    def decode_for_screen(self, name: str, side: int) -> Decoded:
        """An image squeezed to a square of `side` pixels; the page restores its proportions."""
        return folder.decode(self.root / name, plan.ImageSettings(size=side))

    def _add(self, name: str, label: str, **columns: str) -> None:
        path = name if safe_text.csv_cell(name) == name else f"./{name}"  # a spreadsheet would evaluate `=1+1.png`
        line: dict[str, str | None] = {self._path: path, self._label: label}
        line |= {
            self._sheet.columns[column]: value for column, value in columns.items() if column in self._sheet.columns
        }
        self._lines[name] = line
        self._sheet.lines.append(line)

    @property
    def _path(self) -> str:
        return self._sheet.columns["path"]

    @property
    def _label(self) -> str:
        return self._sheet.columns["label"]


def _open_sheet(path: Path, *, with_patients: bool) -> table.Sheet:
    """The existing table, or a new one."""
    if not path.exists():
        names = ["path", "label", "split", "centre", *(["group"] if with_patients else [])]
        return table.Sheet([], names, dict(zip(names, names, strict=True)), ",")
    existing = table.read_sheet(path)
    if "path" not in existing.columns:
        raise BadTableError(
            f"{path.name} has no column for file names", remedy="move it to another folder; a new one is then created"
        )
    return existing
