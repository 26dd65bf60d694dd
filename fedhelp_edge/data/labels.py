"""Which class of the plan a folder's name, a table's label or a number means."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedhelp_edge import files, safe_text
from fedhelp_edge.data.source_row import normal
from fedhelp_edge.errors import LabelUnknownError

_NAMES, _COLUMNS = "names.json", "columns.json"


def keep_names(kept: Path, source: Path, mapping: Mapping[str, str]) -> None:
    """Remember other names for classes, in place of those that were given for the same source before."""
    _keep(kept, _NAMES, source, mapping)


def keep_columns(kept: Path, source: Path, columns: Mapping[str, str]) -> None:
    """Remember what the columns of a table are called."""
    _keep(kept, _COLUMNS, source, columns)


def kept_columns(kept: Path, source: Path) -> dict[str, str]:
    """What the columns of this table were said to be called."""
    return _kept(kept, _COLUMNS).get(str(source.absolute()), {})


def _keep(kept: Path, name: str, source: Path, given: Mapping[str, str]) -> None:
    kept.mkdir(parents=True, exist_ok=True)
    files.replace(kept / name, json.dumps({**_kept(kept, name), str(source.absolute()): dict(given)}).encode())


def kept_names(kept: Path, source: Path, classes: Sequence[str]) -> dict[str, str]:
    """The other names that were given, of those classes that there are; the name of a class is none of them. A word
    means the same everywhere, a number only in the source for which it was given."""
    known, given = set(map(normal, classes)), _kept(kept, _NAMES)
    words = {other: name for told in given.values() for other, name in told.items() if not other.strip().isdecimal()}
    names = words | given.get(str(source.absolute()), {})
    return {other: name for other, name in names.items() if normal(name) in known and normal(other) not in known}


def _kept(kept: Path, name: str) -> dict[str, dict[str, str]]:
    path = kept / name
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


class Classes:
    """The plan's classes as people name them; `mapping` has other names for them, as `--map` gives."""

    def __init__(self, names: Sequence[str], mapping: Mapping[str, str]) -> None:
        self.names = tuple(names)
        self._places = {normal(str(safe_text.cell(name))): place for place, name in enumerate(names)}  # as we write it
        self._places |= {normal(name): place for place, name in enumerate(names)}
        for other, name in mapping.items():
            if normal(name) not in self._places:
                raise LabelUnknownError(f"cannot map {other!r} to {name!r}: {self._unknown(name)}")
            if self._places.get(normal(other), self._places[normal(name)]) != self._places[normal(name)]:
                raise LabelUnknownError(f"cannot map {other!r} to {name!r}: it is a class of the plan itself")
        self._places |= {normal(other): self._places[normal(name)] for other, name in mapping.items()}

    def place(self, label: str | int) -> int | None:
        """The index of the class that a label means; None if it means none."""
        found = self._places.get(normal(str(label)))
        if found is None and isinstance(label, int) and 0 <= label < len(self.names):
            return label
        return found

    def why(self, label: str | int) -> str:
        """Why a label means no class."""
        if isinstance(label, int):
            return f"label {label} is out of range: the plan has {len(self.names)} classes, counted from 0"
        return self._unknown(label) if label.strip() else "it has no label, or stands in no class's folder"

    def _unknown(self, label: str) -> str:
        shown = label if label.isprintable() and len(label) <= 60 else f"{label[:60]!r}..."
        close = difflib.get_close_matches(normal(label), self._places, n=1)
        meant = f"; do you mean {self.names[self._places[close[0]]]!r}?" if close else ""
        return f"{shown!r} is no class of the plan{meant}"
