"""The parcels that a site needs now: the federation's, and its own receipts."""

from __future__ import annotations

from collections.abc import Sequence

from server_ref.hub import models
from server_ref.hub.hub import Hub

_RECEIPT_ROUNDS = 2  # before the newest: receipts about older updates are not given out again
_SUBJECTS = (
    "SELECT hash FROM shares WHERE round >= ? UNION SELECT hash FROM unkept WHERE round >= ?"
    " UNION SELECT hash FROM requests"
)
_SUBJECTS_OF_SITE = (
    "SELECT hash FROM shares WHERE round >= ? AND site = ? UNION SELECT hash FROM unkept WHERE round >= ? AND site = ?"
    " UNION SELECT hash FROM requests WHERE site = ?"
)


def all_parcels(hub: Hub) -> list[str]:
    """The parcels that any site may need now."""
    return federation_parcels(hub, models.newest_parcels(hub)) + receipts(hub)


def federation_parcels(hub: Hub, model_parcels: Sequence[str]) -> list[str]:
    """All charters; the newest roster, task and knowledge pack; and the given parcels of the newest model."""
    charters = hub.database.rows("SELECT hash FROM parcels WHERE kind = 'charter' ORDER BY number")
    hashes = [row["hash"] for row in charters]
    for kind in ("roster", "task", "global", "knowledge"):
        query = "SELECT hash FROM parcels WHERE kind = ? ORDER BY number DESC, rowid DESC LIMIT 1"
        hashes += model_parcels if kind == "global" else [row["hash"] for row in hub.database.rows(query, kind)]
    return hashes


def receipts(hub: Hub, site: str = "") -> list[str]:
    """The receipts about requests and about the updates of recent rounds; with `site`, only about that site's."""
    since = hub.newest_round()["round"] - _RECEIPT_ROUNDS
    subjects, values = (_SUBJECTS_OF_SITE, [since, site, since, site, site]) if site else (_SUBJECTS, [since, since])
    query = f"SELECT hash FROM parcels WHERE kind = 'receipt' AND site IN ({subjects}) ORDER BY rowid"  # noqa: S608
    return [row["hash"] for row in hub.database.rows(query, *values)]


def receipts_about(hub: Hub, subject: str) -> list[str]:
    """The receipts about one parcel."""
    query = "SELECT hash FROM parcels WHERE kind = 'receipt' AND site = ? ORDER BY rowid"
    return [row["hash"] for row in hub.database.rows(query, subject)]
