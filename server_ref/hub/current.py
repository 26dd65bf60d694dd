"""The parcels that a site needs now: the federation's, and its own receipts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from server_ref.hub.hub import Hub

_ROUNDS = 2  # whose receipts are left


def current(hub: Hub) -> list[str]:
    """The parcels that any site may need now: orders, the newest model for each group, the knowledge, receipts."""
    about = (
        "SELECT hash FROM shares WHERE round >= ? UNION SELECT hash FROM unkept WHERE round >= ?"
        " UNION SELECT hash FROM requests"
    )
    return orders(hub, hub.model_parcels()) + receipts(hub, about, since(hub), since(hub))


def orders(hub: Hub, models: Sequence[str]) -> list[str]:
    """Charters, roster, task, models, knowledge."""
    found = [row["hash"] for row in hub.store.rows("SELECT hash FROM parcels WHERE kind = 'charter' ORDER BY number")]
    for kind in ("roster", "task", "global", "knowledge"):
        query = "SELECT hash FROM parcels WHERE kind = ? ORDER BY number DESC, rowid DESC LIMIT 1"
        found += models if kind == "global" else [row["hash"] for row in hub.store.rows(query, kind)]
    return found


def receipts(hub: Hub, about: str, *values: Any) -> list[str]:
    """The receipts about the parcels that a query finds."""
    query = f"SELECT hash FROM parcels WHERE kind = 'receipt' AND site IN ({about}) ORDER BY rowid"  # noqa: S608 - ours
    return [row["hash"] for row in hub.store.rows(query, *values)]


def since(hub: Hub) -> int:
    """The first round whose receipts may still be wanted."""
    newest = hub.store.row("SELECT max(round) AS round FROM rounds")
    return int(newest["round"]) - _ROUNDS if newest else 0
