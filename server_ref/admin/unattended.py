"""One step of the unattended coordinator: everything that is due now."""

from __future__ import annotations

from pathlib import Path

from fedhelp_edge import console, unattended
from fedhelp_edge.errors import FedhelpError, QuorumError, SetAnsweredError, SumRangeError
from fedhelp_edge.exchange.folder import FROM_COORDINATOR, TO_COORDINATOR
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.safe_text import counted
from server_ref.admin import decisions, exchange, status
from server_ref.hub.hub import Hub
from server_ref.hub.states import State
from server_ref.intake import partial_uploads
from server_ref.rounds import close, lifecycle, opening


def step(hub: Hub, coordinator_keys: Keys, via: Path | None, news: list[str] | None = None) -> tuple[bool, list[str]]:
    """Collect, judge, merge if due, open the next round, deliver. Returns whether all rounds are done, and the news.

    A carrier that cannot be reached hinders nothing else: its error is raised last, when `news` holds the rest.
    """
    news = [] if news is None else news
    carrier_error: FedhelpError | OSError | None = None
    if via:
        result = exchange.ExchangeResult()
        try:
            exchange.collect(hub, via / TO_COORDINATOR, result)
        except (FedhelpError, OSError) as error:
            if unattended.transient_error(error) is None:
                raise
            carrier_error = error
        news += [f"{taken.state}: {taken.hash[:12]}" for taken in result.taken if taken.new]
    news += [line for judged in decisions.apply_and_judge(hub, coordinator_keys) for line in decisions.describe(judged)]
    news += decisions.advance_round(hub, coordinator_keys)
    done = _advance_round(hub, coordinator_keys, news)
    if carrier_error:
        raise carrier_error
    if via:
        exchange.deliver(hub, via / FROM_COORDINATOR)
    return done, news


def _advance_round(hub: Hub, coordinator_keys: Keys, news: list[str]) -> bool:
    before = hub.newest_round()
    if lifecycle.is_under_way(before):
        try:
            outcome = close.aggregate(hub, coordinator_keys, in_transit=partial_uploads.awaited_senders(hub))
        except (QuorumError, SetAnsweredError, SumRangeError) as error:
            if hub.newest_round()["state"] == State.OPEN:
                return False  # not due yet
            news.append(f"the round failed: {error.cause}")
        else:
            updates = f"round {outcome['round']}: {counted(len(outcome['accepted']), 'update')}"
            if outcome["waiting"]:
                if before["state"] == State.OPEN:
                    news.append(f"{updates}; waiting for the helper")
                elif outcome["held"] and not lifecycle.held_sum(before):
                    news += console.error_lines(f"{updates}; their sum is held ", outcome["held"])
                return False
            news.append(f"{updates} merged")
            if outcome["best_round"]:
                news.append(f"the best is {status.best_round_text(outcome['best_round'])}")
    if lifecycle.is_finished(hub):
        return True
    if not hub.roster.active(hub.newest_round()["round"] + 1):
        return False  # no site would take part
    news.append(f"round {opening.open_next(hub, coordinator_keys).round} is open")
    return False
