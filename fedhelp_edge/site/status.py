"""The state of a site: how far its round is, and the next step. Read from its files alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from fedhelp_edge.merge.sum_outliers import ROUNDS_BEFORE, fallen_from
from fedhelp_edge.report.nets import weighing_lines
from fedhelp_edge.site import identity, inbox, layout, outbox, privacy_budget, receipts, verified
from fedhelp_edge.trust.state import TrustedState

JOINING, WAITING, READY, TRAINING, TRAINED, SENT, RECEIVED, JUDGED = (
    "joining", "waiting", "ready", "training", "trained", "sent", "received", "judged",
)  # fmt: skip
_MEANINGS = {
    JOINING: "this site asked to join and waits for the coordinator's approval",
    WAITING: "nothing to do until a new round and its model arrive",
    READY: "a round is open and has not been trained",
    TRAINING: "training was begun; it continues where it stopped",
    TRAINED: "the round is trained; its update has not been sent",
    SENT: "the update was sent; its receipt has not arrived",
    RECEIVED: "the coordinator has received the update and has not checked it yet",
    JUDGED: "the update was checked; nothing to do until the next round",
}
_RETRAIN = "the update was refused; correct the cause and train the round again"
_NEEDS_ENCODER = "a round is open; it needs the encoder, which is missing or damaged here"
_JOIN_AGAIN = "fedhelp-edge leave, then fedhelp-edge join INVITE, with a new invite"
_RECEIPT_FIELDS = ("state", "code", "cause")


def status(home: Path, clock: datetime | None = None) -> dict[str, Any]:
    """Returns this site's state, its meaning and the next step, as `status --json` prints them."""
    trusted = verified.require_state(home)
    site, task = identity.own_site(home, trusted), trusted.task
    state, receipts = _state(home, trusted), _latest_receipts(home)
    overdue = trusted.overdue(clock or datetime.now(timezone.utc)) if trusted.roster else timedelta(0)
    last_news = f"{trusted.latest_time(trusted.charter.created):%Y-%m-%d %H:%M}"
    request = _refused_request(home) if state == JOINING else None
    tier, meaning = site.tier if site else "", _MEANINGS[state]
    next_ = _next_step(state, tier)
    if request:
        meaning, next_ = "the coordinator refused the request to join", _JOIN_AGAIN
    elif state == WAITING and site and task and task.round >= site.from_round and inbox.lacks_encoder(home, task):
        meaning = _NEEDS_ENCODER
    elif state == JUDGED and task and outbox.may_retrain(home, layout.round_dir(home, task)):
        meaning, next_ = _RETRAIN, _next_step(READY, tier)
    return {
        "federation": trusted.charter.federation, "name": trusted.charter.name, "site": site.id if site else None,
        "tier": site.tier if site else None, "round": task.round if task else 0, "state": state,
        "means": meaning, "next": next_, "request": request, "last_news": last_news,
        "closes": f"{task.closes:%Y-%m-%d %H:%M}" if task else None, "orders_are_old": overdue > timedelta(0),
        "outbox": [path.stem for path in outbox.pending(home, trusted)], "receipts": receipts,
        "merged": _merged(home), "kept": _kept(home), "privacy": _privacy(home, trusted),
    }  # fmt: skip


def _privacy(home: Path, trusted: TrustedState) -> dict[str, Any] | None:
    """What this site or its images have spent of their epsilon; None: the plan protects them in another way."""
    task = trusted.task
    if task is None or not (plan := inbox.plan_of(task)).privacy.has_budget:
        return None
    return privacy_budget.spent(home, task.federation, plan, task.round - 1)


def _merged(home: Path) -> dict[str, Any] | None:
    """How good the last merged model was on this site's validation images as it came; None: none was measured.

    `fallen_from` is what those before it reached, if it is worse than chance explains: then a merge did harm.
    """
    reports: list[dict[str, Any]] = []
    for path in sorted((home / "rounds").glob("*/report.json"))[-1 - ROUNDS_BEFORE :]:
        with suppress(OSError, ValueError, KeyError, TypeError):
            report = json.loads(path.read_text(encoding="utf-8"))
            counts = {name: int(report["base"][name]) for name in ("val", "correct")}
            reports.append(
                {"round": int(path.parent.name[-6:]) - 1, "figure": report.get("figure", "accuracy"), **counts}
            )
    if not reports or not reports[-1]["val"]:
        return None
    *before, last = reports
    usual = fallen_from(last, before) if len(before) == ROUNDS_BEFORE else None
    return {**last, "fallen_from": usual}


def _kept(home: Path) -> dict[str, Any] | None:
    """What the last export kept; None: nothing was exported yet, or the file is damaged."""
    try:
        kept: dict[str, Any] = json.loads((home / layout.KEPT).read_text(encoding="utf-8"))
        weighing_lines(kept["weighing"])
        return {name: kept[name] for name in ("round", "weighing")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def next_command(home: Path, report: Mapping[str, Any]) -> str:
    """Returns the next step as a person types it: the first training needs the images."""
    trains = report["next"] in (_next_step(READY, "small"), _next_step(READY, "large"))
    return f"{report['next']} IMAGES" if trains and not (home / layout.IMAGES).exists() else str(report["next"])


def _state(home: Path, trusted: TrustedState) -> str:
    site, task = identity.own_site(home, trusted), trusted.task
    if site is None:
        return JOINING
    if task is None or task.round < site.from_round:
        return WAITING
    if (
        not layout.is_intact(layout.base_path(home, task))
        or inbox.lacks_pack(home, task)
        or inbox.lacks_encoder(home, task)
    ):
        return WAITING
    round_dir = layout.round_dir(home, task)
    if not round_dir.exists():
        return READY
    if not (round_dir / "report.json").exists():
        return TRAINING
    sealed = next(round_dir.glob("*.fhx"), None)
    if sealed is None:
        return TRAINED
    if states := [receipt["state"] for receipt in receipts.of_parcel(home, sealed.stem)]:
        return RECEIVED if states == ["received"] else JUDGED
    return SENT if layout.is_intact_parcel(sealed) else TRAINED


def _refused_request(home: Path) -> dict[str, str] | None:
    """Returns the receipt that refused the request to join, if there is one."""
    for sealed in (home / "request").glob("*.fhx"):
        for receipt in receipts.of_parcel(home, sealed.stem)[-1:]:
            if receipt["state"] == "refused":
                return {key: receipt[key] for key in _RECEIPT_FIELDS}
    return None


def _latest_receipts(home: Path) -> list[dict[str, str]]:
    """Returns the latest receipt of each update, newest round first."""
    rows = []
    for round_dir in sorted((home / "rounds").glob("*"), reverse=True):
        for receipt in receipts.latest(home, round_dir):
            fields = {key: receipt[key] for key in _RECEIPT_FIELDS}
            rows.append({"round": round_dir.name[-6:].lstrip("0"), **fields})
    return rows


def _next_step(state: str, tier: str) -> str:
    train = "fedhelp-edge distill" if tier == "large" else "fedhelp-edge train"
    return {
        JOINING: "fedhelp-edge upload, then wait for the coordinator and run fedhelp-edge download",
        WAITING: "fedhelp-edge download", READY: train, TRAINING: train, TRAINED: "fedhelp-edge upload",
        SENT: "fedhelp-edge upload", RECEIVED: "fedhelp-edge download", JUDGED: "fedhelp-edge download",
    }[state]  # fmt: skip
