"""Map folder names, labels of tables and numbers to the classes of a plan."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedhelp_edge import files, safe_text
from fedhelp_edge.data.source_row import normalise
from fedhelp_edge.errors import LabelUnknownError

_ALIASES_FILE, _COLUMNS_FILE, _MASKS_FILE = "names.json", "columns.json", "masks.json"
_MASKS = "masks"


def save_aliases(state_dir: Path, source: Path, mapping: Mapping[str, str]) -> None:
    """Save aliases of classes for a source, in place of earlier ones."""
    _save(state_dir, _ALIASES_FILE, source, mapping)


def save_columns(state_dir: Path, source: Path, columns: Mapping[str, str]) -> None:
    """Save the headings of the columns of a table."""
    _save(state_dir, _COLUMNS_FILE, source, columns)


def load_columns(state_dir: Path, source: Path) -> dict[str, str]:
    """Load the headings of the columns of this table."""
    return _load(state_dir, _COLUMNS_FILE).get(str(source.absolute()), {})


def save_masks(state_dir: Path, source: Path, masks: Path) -> None:
    """Save where the masks of a source's images are."""
    _save(state_dir, _MASKS_FILE, source, {_MASKS: str(masks.absolute())})


def load_masks(state_dir: Path, source: Path) -> Path | None:
    """Load where they are; None: beside the images."""
    saved = _load(state_dir, _MASKS_FILE).get(str(source.absolute()), {})
    return Path(saved[_MASKS]) if saved else None


def _save(state_dir: Path, name: str, source: Path, words: Mapping[str, str]) -> None:
    state_dir.mkdir(parents=True, exist_ok=True)
    files.write_atomic(
        state_dir / name, json.dumps({**_load(state_dir, name), str(source.absolute()): dict(words)}).encode()
    )


def load_aliases(state_dir: Path, source: Path, classes: Sequence[str]) -> dict[str, str]:
    """Aliases of known classes; a class name itself is never an alias. A word means the same in every source, a number
    only in the source for which it was given."""
    class_names, saved = set(map(normalise, classes)), _load(state_dir, _ALIASES_FILE)
    words = {
        other: name for aliases in saved.values() for other, name in aliases.items() if not other.strip().isdecimal()
    }
    names = words | saved.get(str(source.absolute()), {})
    return {
        other: name
        for other, name in names.items()
        if normalise(name) in class_names and normalise(other) not in class_names
    }


def _load(state_dir: Path, name: str) -> dict[str, dict[str, str]]:
    path = state_dir / name
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


class ClassNames:
    """The plan's classes and their aliases (`mapping`, from `--map`)."""

    def __init__(self, names: Sequence[str], mapping: Mapping[str, str]) -> None:
        self.names = tuple(names)
        # names as they are, and as our tables write them
        self._indices = {normalise(str(safe_text.csv_cell(name))): index for index, name in enumerate(names)}
        self._indices |= {normalise(name): index for index, name in enumerate(names)}
        for other, name in mapping.items():
            if normalise(name) not in self._indices:
                raise LabelUnknownError(f"cannot map {other!r} to {name!r}: {self._unknown(name)}")
            if self._indices.get(normalise(other), self._indices[normalise(name)]) != self._indices[normalise(name)]:
                raise LabelUnknownError(f"cannot map {other!r} to {name!r}: it is a class of the plan itself")
        self._indices |= {normalise(other): self._indices[normalise(name)] for other, name in mapping.items()}

    def index(self, label: str | int) -> int | None:
        """The index of the class that a label names, None if it names none."""
        index = self._indices.get(normalise(str(label)))
        if index is None and isinstance(label, int) and 0 <= label < len(self.names):
            return label
        return index

    def why_unknown(self, label: str | int) -> str:
        """Explain why a label names no class."""
        if isinstance(label, int):
            return f"label {label} is out of range: the plan has {len(self.names)} classes, counted from 0"
        return self._unknown(label) if label.strip() else "it has no label, or is not in a class folder"

    def _unknown(self, label: str) -> str:
        shown = label if label.isprintable() and len(label) <= 60 else f"{label[:60]!r}..."
        close = difflib.get_close_matches(normalise(label), self._indices, n=1)
        hint = f"; do you mean {self.names[self._indices[close[0]]]!r}?" if close else ""
        return f"{shown!r} is not a class of the plan{hint}"
