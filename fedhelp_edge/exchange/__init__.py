"""How parcels travel between a site and its coordinator: a carrier takes what is to be sent, and brings what is there.

Nothing is trusted for having come by a carrier, and sending twice is no harm.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class Carrier(Protocol):
    def check(self) -> None:
        """Raise what is wrong, if the coordinator cannot be reached this way now."""

    def put(self, parcel: Path) -> None:
        """Send a parcel, whose file is named by its statement's hash; one that was sent before is done."""

    def fetch(self, have: frozenset[str]) -> Iterator[Path]:
        """Files that may be parcels for this site, but for those that it has, by their hash."""

    def receipts(self, have: frozenset[str]) -> Iterator[Path]:
        """Those among them that say what became of what was just sent, where that is known at once."""

    def charters(self) -> Iterator[Path]:
        """Files that may be the charter, which anybody may see."""

    def charter_proof(self, invite: str) -> str:
        """What the coordinator left to show that it knows an invite's code, by the invite's id; or ""."""
