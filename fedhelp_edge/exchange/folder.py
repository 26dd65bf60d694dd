"""A folder as carrier: a stick, a synced folder, a network share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import FileMissing

TO, FROM = "to-coordinator", "from-coordinator"


@dataclass(frozen=True)
class Folder:
    root: Path

    def put(self, parcel: Path) -> None:
        if not self.root.is_dir():
            raise FileMissing(f"{self.root.name} is not there")
        place = self.root / TO / parcel.name
        place.parent.mkdir(exist_ok=True)
        if place.exists():
            if place.stat().st_size == parcel.stat().st_size:
                return
            place.unlink()  # a stick that was pulled out left a part of it
        with files.writing(place, private=False) as sink, files.reading(parcel) as file:
            shutil.copyfileobj(file, sink)

    def fetch(self, have: frozenset[str]) -> Iterator[Path]:
        if not self.root.is_dir():
            raise FileMissing(f"{self.root.name} is not there")
        for path in sorted((self.root / FROM).glob("*")):
            if path.stem not in have and path.is_file() and not path.is_symlink():
                yield path
