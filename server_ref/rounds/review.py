"""Decide about updates in quarantine."""

from __future__ import annotations

import sqlite3

from fedhelp_edge.errors import (
    AmbiguousError,
    NotNowError,
)
from fedhelp_edge.parcel.keys import Keys
from server_ref.hub.hub import Hub
from server_ref.intake.judge import opened_path, opening_job, round_key
from server_ref.intake.receipts import RELEASABLE_CODES, decide_update
from server_ref.intake.receive import ACCEPTED, SUPERSEDED
from server_ref.intake.sandbox import Sandbox
from server_ref.intake.shown import SHOWN_DIGITS, check, is_hash_prefix
from server_ref.rounds import lifecycle


# --- a person decides ------------------------------------------------------------------------------
def quarantined_updates(hub: Hub) -> list[sqlite3.Row]:
    return hub.database.rows("SELECT * FROM shares WHERE state = 'quarantined' ORDER BY site, round, seq")


def find_update(hub: Hub, name: str) -> sqlite3.Row:
    """The quarantined update that a person means: by its hash, or by its site where only one waits, as it was shown."""
    rows = quarantined_updates(hub)
    if matches := [row for row in rows if is_hash_prefix(name, row["hash"])]:
        if len(matches) == 1:
            return matches[0]
    elif not (matches := [row for row in rows if row["site"] == name]):
        raise NotNowError(
            f"nothing of {name} waits for a decision", remedy="see what waits with 'fedhelp-coordinator review'"
        )
    if len(matches) > 1:
        listed = ", ".join(f"{row['hash'][:SHOWN_DIGITS]} of round {row['round']}" for row in matches)
        remedy = "see why with 'fedhelp-coordinator review', then decide on each by its hash in place of its site"
        raise AmbiguousError(f"{len(matches)} updates of {matches[0]['site']} wait: {listed}", remedy=remedy)
    check(hub, "updates", matches[0]["site"], matches[0]["hash"])
    return matches[0]


def decide(hub: Hub, coordinator_keys: Keys, name: str, *, release: bool) -> dict[str, str]:
    """Let a quarantined update in, or refuse it for good. `name` is its hash, or its site where only one waits."""
    with hub.database.transaction():
        hub.verify()
        return _decide(hub, coordinator_keys, find_update(hub, name), release=release)


def _decide(hub: Hub, coordinator_keys: Keys, row: sqlite3.Row, *, release: bool) -> dict[str, str]:
    site = row["site"]
    if not release:
        opened_path(hub, row["hash"]).unlink(missing_ok=True)
        return decide_update(hub, coordinator_keys, row, "refused", row["counts"], row["code"], row["cause"])
    if row["code"] not in RELEASABLE_CODES:
        raise NotNowError(
            f"a share with {row['code']} cannot be let in",
            remedy=f"'fedhelp-coordinator review {row['hash'][:SHOWN_DIGITS]} --refuse', then ask the site",
        )
    current = lifecycle.open_round(hub)
    if row["round"] < current["round"] - hub.plan.round.stale:
        raise NotNowError(f"the share is of round {row['round']}, too old to count now")
    facts = row["facts"]
    if row["counts"] != current["round"]:  # its round is over: it comes in as a late one
        with Sandbox() as sandbox:
            opened_update = sandbox.open(
                opening_job(hub, round_key(hub, coordinator_keys, row["round"]), row, current["base"])
            )
        facts = opened_update.told()
    hub.database.run("UPDATE shares SET released = 1 WHERE hash = ?", row["hash"])
    for other in hub.database.rows(
        "SELECT * FROM shares WHERE site = ? AND counts = ? AND state = 'accepted'", site, current["round"]
    ):
        newer = other["round"] > row["round"]
        decide_update(hub, coordinator_keys, row if newer else other, SUPERSEDED, current["round"])
        if newer:
            return {"site": site, "state": SUPERSEDED, "code": "", "cause": ""}
    return decide_update(hub, coordinator_keys, row, ACCEPTED, current["round"], facts=facts)
