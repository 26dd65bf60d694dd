"""A carrier folder: on a stick, synced, or on a network drive."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import FedhelpError, FileMissingError

TO_COORDINATOR, FROM_COORDINATOR = "to-coordinator", "from-coordinator"
CHARTER_PROOFS = "vouches.json"  # by an invite's id, the coordinator's proof that it knows the code


@dataclass(frozen=True)
class FolderCarrier:
    """A carrier folder at `root`, with one folder for each direction."""

    root: Path

    def check(self) -> None:
        """Raises where the folder is not there."""
        if not self.root.is_dir():
            raise FileMissingError(f"{self.root.name} is not there")

    def put(self, parcel: Path) -> None:
        """Copies the parcel into the folder for the coordinator."""
        self.check()
        with files.open_shared(self.root / TO_COORDINATOR, make=True) as folder, files.reading(parcel) as file:
            folder.put(parcel.name, file)  # also replaces what a pulled stick left half-written

    def fetch(self, have: frozenset[str]) -> Iterator[Path]:
        """Yields every file except our notes: a name does not prove what a file holds."""
        self.check()
        if os.path.lexists(self.root / FROM_COORDINATOR):
            with files.open_shared(self.root / FROM_COORDINATOR) as folder:
                names = [name for name in folder.names() if name != CHARTER_PROOFS and not name.startswith(".")]
            yield from (self.root / FROM_COORDINATOR / name for name in names)

    def receipts(self, have: frozenset[str]) -> Iterator[Path]:
        """Yields nothing: receipts come with the next trip of the stick."""
        return iter(())

    def charters(self) -> Iterator[Path]:
        """Yields every file: one of them may be the charter."""
        return self.fetch(frozenset())

    def charter_proof(self, invite_id: str) -> str:
        """Returns the proof that the coordinator left, or ""."""
        try:
            with files.open_shared(self.root / FROM_COORDINATOR) as folder, folder.reading(CHARTER_PROOFS) as file:
                return str(json.loads(file.read(4 << 20)).get(invite_id, ""))
        except (FedhelpError, OSError, ValueError, AttributeError, RecursionError):
            return ""
