"""The coordinator's receipts that a site has stored."""

from __future__ import annotations

from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any

from fedhelp_edge.errors import (
    FedhelpError,
)
from fedhelp_edge.parcel import parcel


def of_parcel(home: Path, about: str, epoch: int | None = None) -> list[dict[str, Any]]:
    """Returns the receipts of a parcel in the order of the coordinator's log, of all epochs or of one."""
    ranked = []
    for path in (home / "receipt").glob(f"{'*' if epoch is None else f'{epoch:04}'}-{about}-*.fhx"):
        with suppress(FedhelpError), parcel.open(path, parcel.any_signer) as opened:  # a damaged one is fetched again
            receipt = opened.json()
            ranked.append((opened.statement.context["epoch"], int(receipt["log"]["length"]), receipt))
    return [receipt for *_, receipt in sorted(ranked, key=itemgetter(0, 1))]


def latest(home: Path, round_dir: Path) -> list[dict[str, Any]]:
    """Returns the latest receipt of a round's update, if there is one."""
    return [receipt for sealed in round_dir.glob("*.fhx") for receipt in of_parcel(home, sealed.stem)[-1:]]
