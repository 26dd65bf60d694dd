"""fedhelp_edge.site.receipts"""

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
    """What the coordinator said of a parcel, in the order in which its log has it; in every epoch, or in one."""
    ranked = []
    for path in (home / "receipt").glob(f"{'*' if epoch is None else f'{epoch:04}'}-{about}-*.fhx"):
        with suppress(FedhelpError), parcel.open(path, parcel.any_signer) as opened:  # a damaged one is fetched again
            receipt = opened.json()
            ranked.append((opened.statement.context["epoch"], int(receipt["log"]["length"]), receipt))
    return [receipt for *_, receipt in sorted(ranked, key=itemgetter(0, 1))]


def latest(home: Path, round_dir: Path) -> list[dict[str, Any]]:
    """The last word on the share of a round, if there is one."""
    return [receipt for sealed in round_dir.glob("*.fhx") for receipt in of_parcel(home, sealed.stem)[-1:]]
