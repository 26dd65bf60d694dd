"""Carriers: how parcels travel between a site and its coordinator.

A carrier is never trusted: parcels are verified by their signatures. Sending a parcel twice does no harm.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class Carrier(Protocol):
    """A way to the coordinator: a folder (`FolderCarrier`) or its web front (`HttpCarrier`)."""

    def check(self) -> None:
        """Raises where the coordinator cannot be reached this way now."""

    def put(self, parcel: Path) -> None:
        """Sends a parcel, whose file is named by its statement's hash. Sending it again changes nothing."""

    def fetch(self, have: frozenset[str]) -> Iterator[Path]:
        """Yields files that may be parcels for this site, except those whose hashes it has."""

    def receipts(self, have: frozenset[str]) -> Iterator[Path]:
        """Yields receipts for what was just sent, where the carrier has them at once."""

    def charters(self) -> Iterator[Path]:
        """Yields files that may be the charter, which is public."""

    def charter_proof(self, invite_id: str) -> str:
        """Returns the coordinator's proof that it knows an invite's code, or ""."""
