"""What a person decided on the dashboard. The front writes it down; the next coordinator's command carries it out."""

from __future__ import annotations

from collections.abc import Mapping

from fedhelp_edge import shell
from fedhelp_edge.errors import NotNow
from fedhelp_edge.parcel.keys import Keys
from server_ref import intake, rounds
from server_ref.hub import Hub
from server_ref.intake import RELEASABLE

RELEASE, REFUSE = "release", "refuse"


def record(hub: Hub, site: str, what: str) -> None:
    row = hub.store.row(
        "SELECT code FROM shares WHERE site = ? AND state = 'quarantined' ORDER BY round DESC, seq DESC LIMIT 1", site
    )
    if row is None or what not in (RELEASE, REFUSE):
        raise NotNow("nothing of this site waits for a decision")
    if what == RELEASE and row["code"] not in RELEASABLE:
        raise NotNow(f"a share with {row['code']} cannot be let in")
    with hub.store.changing():
        hub.store.run("INSERT OR REPLACE INTO decisions VALUES (?, ?)", site, what)


def waiting(hub: Hub) -> dict[str, str]:
    return {row["site"]: row["what"] for row in hub.store.rows("SELECT * FROM decisions ORDER BY site")}


def judge(hub: Hub, boss: Keys) -> list[dict[str, str]]:
    """All that waits: what a person decided, and what came in."""
    return carry_out(hub, boss) + intake.judge(hub, boss)


def in_words(one: Mapping[str, str], before: str = "") -> list[str]:
    return shell.told(f"{before}{one['site'] or 'a request'}: {one['state']} ", one)


def carry_out(hub: Hub, boss: Keys) -> list[dict[str, str]]:
    """Before anything else is judged, so that what was decided is what was seen. Letting in waits for an open round."""
    done = []
    for site, what in waiting(hub).items():
        if what == RELEASE and rounds.newest(hub)["state"] != rounds.OPEN:
            continue
        try:
            done.append(rounds.review(hub, boss, site, release=what == RELEASE))
        except NotNow as fault:
            with hub.store.changing():
                hub.log("decision void", site, what=what, code=fault.code)
        with hub.store.changing():
            hub.store.run("DELETE FROM decisions WHERE site = ?", site)
    return done
