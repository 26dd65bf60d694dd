"""Figures of a hub for a monitoring system: how many, never who. They need no key."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path

from fedhelp_edge import prometheus
from fedhelp_edge.parcel.statement import parse_time
from fedhelp_edge.prometheus import Metric
from fedhelp_edge.trust.roster import ACTIVE, REVOKED
from server_ref.admin import status
from server_ref.hub.hub import Hub
from server_ref.hub.states import State
from server_ref.hub.tables import log_table, requests_table, updates_table
from server_ref.rounds import lifecycle, review

_FINISHED = "finished"
_ROUND_STATES = (State.OPEN, State.SUMMING, State.MERGED, State.FAILED, _FINISHED)


def hub_metrics(home: Path) -> list[Metric]:
    """The round, the sites and what waits. Opens the hub anew: any thread may ask."""
    hub = Hub(home)
    with closing(hub.database):
        row = hub.newest_round()
        state = _FINISHED if lifecycle.is_finished(hub) else row["state"]
        accepted, missing = lifecycle.accepted_and_missing(hub, row) if lifecycle.is_under_way(row) else ([], [])
        updates = {
            "accepted": len(accepted), "missing": len(missing),
            "received": updates_table.count_received(hub.database), "quarantined": len(review.quarantined_updates(hub)),
        }  # fmt: skip
        closes = parse_time(row["closes"]).timestamp() if row["closes"] else 0
        sites = {ACTIVE: 0, REVOKED: 0, **Counter(site.status for site in hub.roster.sites)}
        return [
            Metric("fedhelp_hub_round", "The newest round; 0 before the first one.", row["round"]),
            Metric("fedhelp_hub_rounds", "The rounds of the plan.", hub.plan.rounds),
            Metric(
                "fedhelp_hub_round_state", "1 for the state of the newest round.",
                {str(known): int(known == state) for known in _ROUND_STATES}, "state",
            ),
            Metric("fedhelp_hub_round_closes_seconds", "When the newest round closes, in seconds since 1970.", closes),
            Metric("fedhelp_hub_updates", "Updates of the open round, and updates that wait.", updates, "state"),
            Metric("fedhelp_hub_sites", "Sites of the roster.", sites, "status"),
            Metric(
                "fedhelp_hub_requests", "Requests that wait for the coordinator.",
                requests_table.count_waiting(hub.database),
            ),
            Metric(
                "fedhelp_hub_held_sums", "Secure sums that wait for a person: 0 or 1.",
                int(lifecycle.held_sum(row) is not None),
            ),
            Metric("fedhelp_hub_alarms", "Sites whose invite somebody else knows too.", len(status.alarms(hub))),
            Metric("fedhelp_hub_log_lines", "Lines of the log.", log_table.head(hub.database).length),
            *prometheus.machine_metrics(home),
        ]  # fmt: skip
