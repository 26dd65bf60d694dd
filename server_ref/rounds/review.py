"""Decide on updates in quarantine, and on the sum of a round that is held."""

from __future__ import annotations

from fedhelp_edge.errors import AmbiguousError, NotNowError
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.secure_sum.arithmetic import SUM
from server_ref.hub.database import Row
from server_ref.hub.hub import Hub
from server_ref.hub.states import State
from server_ref.hub.tables import updates_table
from server_ref.intake import sandbox, shown
from server_ref.intake.judge import opened_path, opening_job, round_key
from server_ref.intake.receipts import RELEASABLE_CODES, Decision, decide_update
from server_ref.rounds import lifecycle, secure_sum


def quarantined_updates(hub: Hub) -> list[Row]:
    """The updates that wait for a person."""
    return updates_table.in_state(hub.database, State.QUARANTINED)


def find_update(hub: Hub, name: str) -> Row:
    """The quarantined update with this hash; or a site's only one, as the person was shown it."""
    rows = quarantined_updates(hub)
    named = [row for row in rows if shown.is_hash_prefix(name, row["hash"])]
    matches = named or [row for row in rows if row["site"] == name]
    if not matches:
        raise NotNowError(
            f"no update of {name} waits for a decision", remedy="see what waits with 'fedhelp-coordinator review'"
        )
    if len(matches) > 1:
        listed = ", ".join(f"{row['hash'][: shown.SHOWN_DIGITS]} of round {row['round']}" for row in matches)
        remedy = "see why with 'fedhelp-coordinator review', then decide on each by its hash in place of its site"
        raise AmbiguousError(f"{len(matches)} updates of {matches[0]['site']} wait: {listed}", remedy=remedy)
    if not named:
        shown.check(hub, "updates", matches[0]["site"], matches[0]["hash"])
    return matches[0]


def check(hub: Hub, name: str, *, release: bool) -> None:
    """Refuse a decision where nothing of this name waits for it."""
    if name == SUM:
        secure_sum.check_decision(hub, release=release)
    else:
        find_update(hub, name)


def decide(hub: Hub, coordinator_keys: Keys, name: str, *, release: bool) -> dict[str, str]:
    """Release a quarantined update, or refuse it for good. `name` is its hash, or its site where only one waits.

    `sum` names the sum of a round.
    """
    if name == SUM:
        return secure_sum.decide(hub, release=release)
    with hub.database.transaction():
        hub.check_rows()
        row = find_update(hub, name)
        if release:
            return _release(hub, coordinator_keys, row)
        opened_path(hub, row["hash"]).unlink(missing_ok=True)
        decision = Decision(State.REFUSED, row["code"], row["cause"])
        return decide_update(hub, coordinator_keys, row, decision, row["counts"])


def _release(hub: Hub, coordinator_keys: Keys, row: Row) -> dict[str, str]:
    """Let an update count in the open round. Of two updates of its site, the one for the newer round counts."""
    if row["code"] not in RELEASABLE_CODES:
        raise NotNowError(
            f"an update with {row['code']} cannot be released",
            remedy=f"'fedhelp-coordinator review {row['hash'][: shown.SHOWN_DIGITS]} --refuse', then ask the site",
        )
    round_row = lifecycle.open_round(hub)
    number = round_row["round"]
    if row["round"] < number - hub.stale_rounds:
        raise NotNowError(f"the update is of round {row['round']}, too old to count now")
    facts = row["facts"]
    if row["counts"] != number:  # its round is over: it counts as a late one
        with sandbox.Sandbox() as process:
            key = round_key(hub, coordinator_keys, row["round"])
            facts = process.open(opening_job(hub, key, row, round_row["base"])).facts_json()
    updates_table.release(hub.database, row["hash"])
    superseded = Decision(State.SUPERSEDED)
    for other in updates_table.accepted_from(hub.database, row["site"], number):
        if other["round"] > row["round"]:
            return decide_update(hub, coordinator_keys, row, superseded, number)
        decide_update(hub, coordinator_keys, other, superseded, number)
    return decide_update(hub, coordinator_keys, row, Decision(State.ACCEPTED), number, facts)
