"""A folder as carrier: a stick, a synced folder, a network share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import FedhelpError, FileMissing

TO, FROM = "to-coordinator", "from-coordinator"
VOUCHES = "vouches.json"  # by an invite's id, what shows that the coordinator knows its code


@dataclass(frozen=True)
class Folder:
    root: Path

    def check(self) -> None:
        """Whether the folder is there."""
        if not self.root.is_dir():
            raise FileMissing(f"{self.root.name} is not there")

    def put(self, parcel: Path) -> None:
        self.check()
        place = self.root / TO / parcel.name
        place.parent.mkdir(exist_ok=True)
        if place.exists():
            if place.stat().st_size == parcel.stat().st_size:
                return
            place.unlink()  # a stick that was pulled out left a part of it
        with files.writing(place, private=False) as sink, files.reading(parcel) as file:
            shutil.copyfileobj(file, sink)

    def fetch(self, have: frozenset[str]) -> Iterator[Path]:
        self.check()
        for path in sorted((self.root / FROM).glob("*")):
            parcel = path.name != VOUCHES and not path.name.startswith(".")
            if parcel and path.stem not in have and path.is_file() and not path.is_symlink():
                yield path

    def receipts(self, have: frozenset[str]) -> Iterator[Path]:
        return iter(())

    def charters(self) -> Iterator[Path]:
        return self.fetch(frozenset())

    def vouch(self, invite: str) -> str:
        try:
            with files.reading(self.root / FROM / VOUCHES) as file:
                return str(json.loads(file.read(1 << 20)).get(invite, ""))
        except (FedhelpError, OSError, ValueError, AttributeError, RecursionError):
            return ""
