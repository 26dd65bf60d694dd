"""Decisions on what sites sent, and the signed receipts in which sites learn of them."""

from __future__ import annotations

from dataclasses import dataclass

from fedhelp_edge.errors import FedhelpError
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.trust.log import Log
from server_ref.hub.database import Row
from server_ref.hub.hub import COORDINATOR, Hub
from server_ref.hub.states import State
from server_ref.hub.tables import requests_table, updates_table

RELEASABLE_CODES = (  # of updates that were opened and are well-formed: a person may release them
    "E_LAZY", "E_COPY", "E_OPPOSED", "E_TOO_FAR", "E_CLAIM",
)  # fmt: skip


@dataclass(frozen=True)
class Decision:
    """What becomes of a parcel, and the error code and cause if it is not accepted."""

    state: State
    code: str = ""
    cause: str = ""


def refusal(error: FedhelpError, state: State = State.REFUSED) -> Decision:
    """The decision that follows from an error: to refuse, or to quarantine."""
    return Decision(state, error.code, error.cause)


def decide_update(
    hub: Hub, coordinator_keys: Keys, row: Row, decision: Decision, counts: int, facts: str = ""
) -> dict[str, str]:
    """Write the decision on an update that counts in round `counts`, its line in the log and its receipt."""
    with hub.database.transaction():
        updates_table.decide(hub.database, row["hash"], decision.state, counts, decision.code, decision.cause, facts)
        log = hub.log(decision.state, row["hash"], site=row["site"], round=row["round"], code=decision.code)
        return publish_decision(hub, coordinator_keys, row, decision, row["site"], log)


def decide_request(hub: Hub, coordinator_keys: Keys, row: Row, decision: Decision, site: str) -> dict[str, str]:
    """Write the decision on a request, its line in the log and its receipt. `site` may be unknown: ""."""
    with hub.database.transaction():
        requests_table.decide(hub.database, row["hash"], decision.state, site, decision.code, decision.cause)
        log = hub.log(f"request {decision.state}", row["hash"], site=site, code=decision.code)
        return publish_decision(hub, coordinator_keys, row, decision, site, log)


def publish_decision(
    hub: Hub, coordinator_keys: Keys, row: Row, decision: Decision, site: str, log: Log
) -> dict[str, str]:
    """Sign the receipt that states a decision and the log with its line; returns the decision as JSON shows it."""
    state, code, cause = decision.state, decision.code, decision.cause
    hub.publish_receipt(coordinator_keys, COORDINATOR, row["hash"], state, log, code=code, cause=cause)
    return {"site": site, "state": state, "code": code, "cause": cause}
