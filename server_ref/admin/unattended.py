"""One look of the unattended coordinator: everything that is due now, and no more."""

from __future__ import annotations

from pathlib import Path

from fedhelp_edge import unattended
from fedhelp_edge.errors import FedhelpError, QuorumError
from fedhelp_edge.exchange.folder import FROM, TO
from fedhelp_edge.parcel.keys import Keys
from server_ref.admin import decisions, exchange
from server_ref.hub.hub import Hub
from server_ref.rounds import close, open, state


def step(hub: Hub, boss: Keys, via: Path | None, news: list[str] | None = None) -> tuple[bool, list[str]]:
    """Take in, judge, merge what is due, open the next round, hand out; whether all is done, and what is new.

    A carrier that is away hinders nothing else: it is told of once the rest is done, and `news` has what was done.
    """
    news = [] if news is None else news
    away: FedhelpError | OSError | None = None
    if via:
        found = exchange.Exchanged()
        try:
            exchange.take_in(hub, via / TO, found)
        except (FedhelpError, OSError) as fault:
            if unattended.passing(fault) is None:
                raise
            away = fault
        news += [f"{answer.state}: {answer.hash[:12]}" for answer in found.taken if answer.new]
    news += [line for one in decisions.judge(hub, boss) for line in decisions.in_words(one)]
    done = _move_on(hub, boss, news)
    if away:
        raise away
    if via:
        exchange.leave(hub, via / FROM)
    return done, news


def _move_on(hub: Hub, boss: Keys, news: list[str]) -> bool:
    if state.newest(hub)["state"] == close.OPEN:
        try:
            told = close.aggregate(hub, boss)
        except QuorumError as fault:
            if state.newest(hub)["state"] == close.OPEN:
                return False  # it is not due
            news.append(f"the round failed: {fault.cause}")
        else:
            news.append(f"round {told['round']}: {len(told['accepted'])} shares merged")
    if state.is_finished(hub):
        return True
    if not hub.roster.active(state.newest(hub)["round"] + 1):
        return False  # nobody would come
    news.append(f"round {open.open_next(hub, boss).round} is open")
    return False
