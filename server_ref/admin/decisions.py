"""Decisions that a person made on the dashboard. The front records them; the next coordinator command applies them.

A decision names an update by its hash, so it never applies to anything else that the same site sent later. It names a
round by its number, and a round opens and closes once. No decision makes an invite: whoever controls the front could
admit a site.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedhelp_edge import console
from fedhelp_edge.errors import FedhelpError, NotNowError
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.safe_text import counted
from server_ref.hub.hub import Hub
from server_ref.hub.states import State
from server_ref.hub.tables import decisions_table, updates_table
from server_ref.intake import judge as intake_judge
from server_ref.intake import partial_uploads
from server_ref.intake.receipts import RELEASABLE_CODES
from server_ref.rounds import close, lifecycle, opening, review

RELEASE, REFUSE = "release", "refuse"
CLOSE, OPEN, WITHDRAW = "close", "open", "withdraw"


def record(hub: Hub, hash_: str, decision: str) -> None:
    """Record what a person decided about a quarantined update: RELEASE or REFUSE."""
    row = updates_table.find(hub.database, hash_)
    if row is None or row["state"] != State.QUARANTINED or decision not in (RELEASE, REFUSE):
        raise NotNowError("this update does not wait for a decision")
    if decision == RELEASE and row["code"] not in RELEASABLE_CODES:
        raise NotNowError(f"an update with {row['code']} cannot be released")
    with hub.database.transaction():
        decisions_table.record(hub.database, hash_, decision)


def round_choice(hub: Hub) -> tuple[str, str] | None:
    """The one decision about rounds that a person can make now, and its round; None: there is none to make."""
    newest = hub.newest_round()
    if newest["state"] == State.OPEN:
        return CLOSE, f"round {newest['round']}"
    if newest["state"] == State.SUMMING or lifecycle.is_finished(hub):
        return None
    return OPEN, f"round {newest['round'] + 1}"


def is_decided(hub: Hub, choice: tuple[str, str] | None) -> bool:
    """Whether a choice about rounds is recorded."""
    return choice is not None and decisions_table.every(hub.database).get(choice[1]) == choice[0]


def decided_round(hub: Hub) -> str:
    """What is recorded about a round and waits for the next command, as "close round 3"; "" if nothing is."""
    choice = round_choice(hub)
    return " ".join(choice) if choice and is_decided(hub, choice) else ""


def record_round(hub: Hub, round_: str, decision: str) -> None:
    """Record what a person decided about a round: CLOSE or OPEN, or WITHDRAW the decision."""
    choice = round_choice(hub)
    if choice is None or round_ != choice[1] or decision not in (choice[0], WITHDRAW):
        raise NotNowError("the round changed since the page was shown, or it does not wait for this decision")
    if decision == OPEN:
        opening.check_ready(hub)
    with hub.database.transaction():
        if decision == WITHDRAW:
            decisions_table.remove(hub.database, round_)
        else:
            decisions_table.record(hub.database, round_, decision)


def advance_round(hub: Hub, coordinator_keys: Keys) -> list[str]:
    """Close or open the round as decided; returns lines for people. A decision that cannot be carried out is void.

    Call it last in a command: what the command itself did to the round makes a decision obsolete.
    """
    lines = []
    for round_, decision in decisions_table.every(hub.database).items():
        if decision not in (CLOSE, OPEN):
            continue
        if (decision, round_) == round_choice(hub):
            try:
                lines.append(f"decided on the dashboard: {_carry_out(hub, coordinator_keys, decision)}")
            except FedhelpError as error:
                cause = {"code": error.code, "cause": error.cause}
                lines += console.error_lines(f"decided on the dashboard, but void: {decision} {round_}: ", cause)
                with hub.database.transaction():
                    hub.log("decision void", round_, what=decision, **cause)
        with hub.database.transaction():
            decisions_table.remove(hub.database, round_)
    return lines


def _carry_out(hub: Hub, coordinator_keys: Keys, decision: str) -> str:
    if decision == OPEN:
        return f"round {opening.open_next(hub, coordinator_keys).round} is open"
    senders = partial_uploads.awaited_senders(hub)
    outcome = close.aggregate(hub, coordinator_keys, now=True, in_transit=senders)
    updates = counted(len(outcome["accepted"]), "update")
    return f"round {outcome['round']}: {updates} {'in the set' if outcome['waiting'] else 'merged'}"


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
        if decision not in (RELEASE, REFUSE):
            continue
        if decision == RELEASE and hub.newest_round()["state"] != State.OPEN:
            continue
        try:
            results.append(review.decide(hub, coordinator_keys, hash_, release=decision == RELEASE))
        except NotNowError as error:
            with hub.database.transaction():
                hub.log("decision void", hash_, what=decision, code=error.code, cause=error.cause)
        with hub.database.transaction():
            decisions_table.remove(hub.database, hash_)
    return results
