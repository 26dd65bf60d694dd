"""Decide about updates in quarantine."""

from __future__ import annotations

import sqlite3

from fedhelp_edge.errors import (
    AmbiguousError,
    NotNowError,
)
from fedhelp_edge.parcel.keys import Keys
from server_ref.hub.hub import Hub
from server_ref.intake.enrolment import SHORT, check_shown, is_short
from server_ref.intake.judge import job, opened, round_key
from server_ref.intake.receipts import RELEASABLE, decide
from server_ref.intake.receive import ACCEPTED, SUPERSEDED
from server_ref.intake.sandbox import Opener
from server_ref.rounds import state


# --- a person decides ------------------------------------------------------------------------------
def quarantined(hub: Hub) -> list[sqlite3.Row]:
    return hub.store.rows("SELECT * FROM shares WHERE state = 'quarantined' ORDER BY site, round, seq")


def update_of(hub: Hub, name: str) -> sqlite3.Row:
    """The quarantined update that a person means: by its hash, or by its site where only one waits, as it was shown."""
    rows = quarantined(hub)
    if found := [row for row in rows if is_short(name, row["hash"])]:
        if len(found) == 1:
            return found[0]
    elif not (found := [row for row in rows if row["site"] == name]):
        raise NotNowError(
            f"nothing of {name} waits for a decision", remedy="see what waits with 'fedhelp-coordinator review'"
        )
    if len(found) > 1:
        listed = ", ".join(f"{row['hash'][:SHORT]} of round {row['round']}" for row in found)
        remedy = "see why with 'fedhelp-coordinator review', then decide on each by its hash in place of its site"
        raise AmbiguousError(f"{len(found)} updates of {found[0]['site']} wait: {listed}", remedy=remedy)
    check_shown(hub, "updates", found[0]["site"], found[0]["hash"])
    return found[0]


def review(hub: Hub, boss: Keys, name: str, *, release: bool) -> dict[str, str]:
    """Let a quarantined update in, or refuse it for good. `name` is its hash, or its site where only one waits."""
    with hub.store.changing():
        hub.verify()
        return _review(hub, boss, update_of(hub, name), release=release)


def _review(hub: Hub, boss: Keys, row: sqlite3.Row, *, release: bool) -> dict[str, str]:
    site = row["site"]
    if not release:
        opened(hub, row["hash"]).unlink(missing_ok=True)
        return decide(hub, boss, row, "refused", row["counts"], row["code"], row["cause"])
    if row["code"] not in RELEASABLE:
        raise NotNowError(
            f"a share with {row['code']} cannot be let in",
            remedy=f"'fedhelp-coordinator review {row['hash'][:SHORT]} --refuse', then ask the site",
        )
    now = state.current(hub)
    if row["round"] < now["round"] - hub.plan.round.stale:
        raise NotNowError(f"the share is of round {row['round']}, too old to count now")
    facts = row["facts"]
    if row["counts"] != now["round"]:  # its round is over: it comes in as a late one
        with Opener() as opener:
            found = opener.open(job(hub, round_key(hub, boss, row["round"]), row, now["base"]))
        facts = found.told()
    hub.store.run("UPDATE shares SET released = 1 WHERE hash = ?", row["hash"])
    for other in hub.store.rows(
        "SELECT * FROM shares WHERE site = ? AND counts = ? AND state = 'accepted'", site, now["round"]
    ):
        newer = other["round"] > row["round"]
        decide(hub, boss, row if newer else other, SUPERSEDED, now["round"])
        if newer:
            return {"site": site, "state": SUPERSEDED, "code": "", "cause": ""}
    return decide(hub, boss, row, ACCEPTED, now["round"], facts=facts)
