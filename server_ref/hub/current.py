"""The parcels that a site needs now: the federation's, and its own receipts."""

from __future__ import annotations

from collections.abc import Sequence

from server_ref.hub import models
from server_ref.hub.hub import Hub
from server_ref.hub.tables import parcels_table

_RECEIPT_ROUNDS = 2  # before the newest: receipts about older updates are not given out again


def all_parcels(hub: Hub) -> list[str]:
    """The parcels that any site may need now."""
    return federation_parcels(hub, models.newest_parcels(hub)) + receipts(hub)


def federation_parcels(hub: Hub, model_parcels: Sequence[str]) -> list[str]:
    """All charters; the newest roster, task, knowledge pack and encoder; and the given parcels of the newest model."""
    hashes = parcels_table.hashes(hub.database, "charter")
    for kind in ("roster", "task", "global", "knowledge", "encoder"):
        if kind == "global":
            hashes += model_parcels
        elif row := parcels_table.newest(hub.database, kind):
            hashes.append(row["hash"])
    if named := hub.named_set():  # for the helper; the task's roster has the keys with which the seeds were signed
        number = hub.newest_round()["round"]
        hashes += [named, *({hub.tasks(number)[number].roster} - set(hashes))]
    return hashes


def receipts(hub: Hub, site: str = "") -> list[str]:
    """The receipts about requests and about the updates of recent rounds; with `site`, only about that site's."""
    since = hub.newest_round()["round"] - _RECEIPT_ROUNDS
    if site:
        return parcels_table.receipts_of_site_since(hub.database, site, since)
    return parcels_table.receipts_since(hub.database, since)
