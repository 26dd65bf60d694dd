"""Decisions that a person made on the dashboard. The front records them; the next coordinator command applies them.

A decision names an update by its hash, so it never applies to anything else that the same site sent later.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedhelp_edge import console
from fedhelp_edge.errors import NotNowError
from fedhelp_edge.parcel.keys import Keys
from server_ref.hub.hub import Hub
from server_ref.hub.states import State
from server_ref.hub.tables import decisions_table, updates_table
from server_ref.intake import judge as intake_judge
from server_ref.intake.receipts import RELEASABLE_CODES
from server_ref.rounds import review

RELEASE, REFUSE = "release", "refuse"


def record(hub: Hub, hash_: str, decision: str) -> None:
    """Record what a person decided about a quarantined update: RELEASE or REFUSE."""
    row = updates_table.find(hub.database, hash_)
    if row is None or row["state"] != State.QUARANTINED or decision not in (RELEASE, REFUSE):
        raise NotNowError("this update does not wait for a decision")
    if decision == RELEASE and row["code"] not in RELEASABLE_CODES:
        raise NotNowError(f"an update with {row['code']} cannot be released")
    with hub.database.transaction():
        decisions_table.record(hub.database, hash_, decision)


def apply_and_judge(hub: Hub, coordinator_keys: Keys) -> list[dict[str, str]]:
    """Apply the recorded decisions, then judge every parcel that waits. Returns one result for each."""
    return apply(hub, coordinator_keys) + intake_judge.judge_waiting(hub, coordinator_keys)


def describe(result: Mapping[str, str], prefix: str = "") -> list[str]:
    """Lines for people about one result of judging."""
    return console.error_lines(f"{prefix}{result['site'] or 'a request'}: {result['state']} ", result)


def apply(hub: Hub, coordinator_keys: Keys) -> list[dict[str, str]]:
    """Apply the recorded decisions. A release waits until a round is open.

    Call it before anything else is judged, so that each decision applies to the state that the person saw.
    """
    results = []
    for hash_, decision in decisions_table.every(hub.database).items():
        if decision == RELEASE and hub.newest_round()["state"] != State.OPEN:
            continue
        try:
            results.append(review.decide(hub, coordinator_keys, hash_, release=decision == RELEASE))
        except NotNowError as error:
            with hub.database.transaction():
                hub.log("decision void", hash_, what=decision, code=error.code)
        with hub.database.transaction():
            decisions_table.remove(hub.database, hash_)
    return results
