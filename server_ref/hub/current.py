"""The parcels that a site needs now: the federation's, and its own receipts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from server_ref.hub.hub import Hub

_RECEIPT_ROUNDS = 2  # whose receipts are left


def all_parcels(hub: Hub) -> list[str]:
    """The parcels that any site may need now: orders, the newest model for each group, the knowledge, receipts."""
    about_query = (
        "SELECT hash FROM shares WHERE round >= ? UNION SELECT hash FROM unkept WHERE round >= ?"
        " UNION SELECT hash FROM requests"
    )
    return federation_parcels(hub, hub.model_parcels()) + receipts_about(
        hub, about_query, first_receipt_round(hub), first_receipt_round(hub)
    )


def federation_parcels(hub: Hub, models: Sequence[str]) -> list[str]:
    """Charters, roster, task, models, knowledge."""
    hashes = [
        row["hash"] for row in hub.database.rows("SELECT hash FROM parcels WHERE kind = 'charter' ORDER BY number")
    ]
    for kind in ("roster", "task", "global", "knowledge"):
        query = "SELECT hash FROM parcels WHERE kind = ? ORDER BY number DESC, rowid DESC LIMIT 1"
        hashes += models if kind == "global" else [row["hash"] for row in hub.database.rows(query, kind)]
    return hashes


def receipts_about(hub: Hub, about_query: str, *values: Any) -> list[str]:
    """The receipts about the parcels that a query finds."""
    query = f"SELECT hash FROM parcels WHERE kind = 'receipt' AND site IN ({about_query}) ORDER BY rowid"  # noqa: S608 - ours
    return [row["hash"] for row in hub.database.rows(query, *values)]


def first_receipt_round(hub: Hub) -> int:
    """The first round whose receipts may still be wanted."""
    newest = hub.database.row("SELECT max(round) AS round FROM rounds")
    return int(newest["round"]) - _RECEIPT_ROUNDS if newest else 0
