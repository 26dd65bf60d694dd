"""Records that are written once and in two places: in a home, and in a folder beside it.

A home that is restored from a backup may lack its newest records; the copy beside it has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedhelp_edge import files


def write(home: Path, kind: str, name: str, record: Mapping[str, Any]) -> None:
    """Writes a record to disk in both places, unless it is there."""
    for folder in reversed(_folders(home, kind)):
        folder.mkdir(mode=0o700, exist_ok=True)
        files.sync_folder(folder.parent)
        path = folder / f"{name}.json"
        files.remove_partials(path)
        if not path.exists():
            with files.writing(path) as file:
                file.write(json.dumps(record).encode())


def paths(home: Path, kind: str) -> list[Path]:
    """The files of all records of a kind; of one that is in both places, both."""
    return [path for folder in _folders(home, kind) for path in sorted(folder.glob("*.json"))]


def _folders(home: Path, kind: str) -> tuple[Path, Path]:
    return home / kind, home.with_name(f"{home.name}-{kind}")
