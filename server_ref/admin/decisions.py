"""What a person decided on the dashboard. The front writes it down; the next coordinator's command carries it out.

A decision names the update that was shown by its hash: whatever else comes of the same site is not decided by it.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedhelp_edge import console
from fedhelp_edge.errors import NotNowError
from fedhelp_edge.parcel.keys import Keys
from server_ref.hub.hub import Hub
from server_ref.intake import judge as intake_judge
from server_ref.intake.receipts import RELEASABLE
from server_ref.rounds import close, review, state

RELEASE, REFUSE = "release", "refuse"


def record(hub: Hub, hash_: str, what: str) -> None:
    row = hub.store.row("SELECT code FROM shares WHERE hash = ? AND state = 'quarantined'", hash_)
    if row is None or what not in (RELEASE, REFUSE):
        raise NotNowError("this update does not wait for a decision")
    if what == RELEASE and row["code"] not in RELEASABLE:
        raise NotNowError(f"a share with {row['code']} cannot be let in")
    with hub.store.changing():
        hub.store.run("INSERT OR REPLACE INTO decisions VALUES (?, ?)", hash_, what)


def waiting(hub: Hub) -> dict[str, str]:
    """By the hash of an update, what was decided on it."""
    return {row["hash"]: row["what"] for row in hub.store.rows("SELECT * FROM decisions ORDER BY rowid")}


def judge(hub: Hub, boss: Keys) -> list[dict[str, str]]:
    """All that waits: what a person decided, and what came in."""
    return carry_out(hub, boss) + intake_judge.judge(hub, boss)


def in_words(one: Mapping[str, str], before: str = "") -> list[str]:
    return console.error_lines(f"{before}{one['site'] or 'a request'}: {one['state']} ", one)


def carry_out(hub: Hub, boss: Keys) -> list[dict[str, str]]:
    """Before anything else is judged, so that what was decided is what was seen. Letting in waits for an open round."""
    done = []
    for hash_, what in waiting(hub).items():
        if what == RELEASE and state.newest(hub)["state"] != close.OPEN:
            continue
        try:
            done.append(review.review(hub, boss, hash_, release=what == RELEASE))
        except NotNowError as fault:
            with hub.store.changing():
                hub.log("decision void", hash_, what=what, code=fault.code)
        with hub.store.changing():
            hub.store.run("DELETE FROM decisions WHERE hash = ?", hash_)
    return done
