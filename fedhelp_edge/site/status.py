"""A site that takes part: how far it is, what comes next, and training by order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from fedhelp_edge import exchange, files
from fedhelp_edge.errors import NoCarrierError
from fedhelp_edge.exchange.folder import Folder
from fedhelp_edge.exchange.http import Http
from fedhelp_edge.parcel import keys
from fedhelp_edge.site import inbox, layout, membership, outbox, verified
from fedhelp_edge.trust import enrol
from fedhelp_edge.trust.state import Floor

JOINING, WAITING, READY, TRAINING, TRAINED, SENT, RECEIVED, JUDGED = (
    "joining", "waiting", "ready", "training", "trained", "sent", "received", "judged",
)  # fmt: skip
_MEANS = {
    JOINING: "this site asked to join and was not let in yet",
    WAITING: "nothing to do until a new round, or its model, is here",
    READY: "a round is open, and nothing was trained for it yet",
    TRAINING: "training was begun; it goes on where it stopped",
    TRAINED: "trained; the share was not sent yet",
    SENT: "the share was sent, and its receipt is not here yet",
    RECEIVED: "the coordinator has the share, and has not judged it yet",
    JUDGED: "the share was judged; nothing to do until the next round",
}
_ANEW = "fedhelp-edge leave, then fedhelp-edge join INVITE, with a new invite"


def invited(
    home: Path, told: str, via: Path | None = None, url: str = "", ca_file: Path | None = None
) -> membership.Invite:
    """An invite from its file; or its code as typed, with the charter that lies in a folder or at an address."""
    if _is_file(told):
        found = membership.read_invite(Path(told))
    else:
        code = enrol.read_code(told)  # a mistyped letter is told before anything else
        if via is None and not url:
            raise NoCarrierError(
                "a code alone does not say where the coordinator is", remedy="add --url URL or --via DIR"
            )
        way = Folder(via) if via else Http(url, "", lambda: keys.load(home, str), home / "incoming", ca_file)
        found = membership.typed_invite(code, way, url)
    if via is not None:
        files.check_apart(via, home)
    return found


def code_of(told: str) -> str:
    """The code of an invite, from its file or as typed."""
    return membership.read_invite(Path(told)).code if _is_file(told) else enrol.read_code(told)


def _is_file(told: str) -> bool:
    return not told.upper().startswith("FH1") or Path(told).exists()


def carriers(
    home: Path, ask: Callable[[], str], via: Path | None = None, url: str = "", ca_file: Path | None = None,
    *, patience: float = 60,
) -> list[exchange.Carrier]:  # fmt: skip
    """The folder or address that is named, and remembered; else what was named last, else the invite's address."""
    known = verified.state_of_member(home)
    if via is not None:
        files.check_apart(via, home)
    membership.remember(home, via, url, ca_file)
    note = layout.note(home)
    if named := note.get("via"):
        return [Folder(Path(named))]
    if not note.get("url"):
        raise NoCarrierError("nobody said how parcels travel to the coordinator")
    own = functools.cache(lambda: keys.load(home, ask))  # asked for once, and only where a read must be signed
    made = home / layout.NEXT_KEYS
    new = functools.cache(lambda: keys.load(made, ask)) if made.exists() else None
    authority = note.get("ca_file")
    return [
        Http(
            note["url"], known.charter.federation, own, home / "incoming", authority and Path(authority), new, patience,
            2 * inbox.largest_model(known),
        )
    ]  # fmt: skip


def seal(home: Path, ask: Callable[[], str]) -> None:
    """Seal the share of the round that is ordered now, if it was trained and the keys are not being changed."""
    if status(home)["state"] == TRAINED and not (home / layout.NEXT_KEYS).exists():
        outbox.seal_newest(home, ask)


def status(home: Path, clock: datetime | None = None) -> dict[str, Any]:
    """Where this site stands, read from its files alone."""
    known = verified.state_of_member(home)
    site, order = verified.me(home, known), known.task
    state, receipts = _state(home, known), _receipts(home)
    overdue = known.overdue(clock or datetime.now(timezone.utc)) if known.roster else timedelta(0)
    news = f"{known.now(known.charter.created):%Y-%m-%d %H:%M}"
    request = _refused_request(home) if state == JOINING else None
    tier, means = site.tier if site else "", _MEANS[state]
    next_ = _next(state, tier)
    if request:
        means, next_ = "the request to join was refused", _ANEW
    elif state == JUDGED and order and outbox.may_be_made_again(home, layout.round_folder(home, order)):
        means, next_ = "the share was refused; with that put right, the round can be trained again", _next(READY, tier)
    return {
        "federation": known.charter.federation, "name": known.charter.name, "site": site.id if site else None,
        "tier": site.tier if site else None, "round": order.round if order else 0, "state": state,
        "means": means, "next": next_, "request": request, "last_news": news,
        "closes": f"{order.closes:%Y-%m-%d %H:%M}" if order else None, "orders_are_old": overdue > timedelta(0),
        "outbox": [path.stem for path in outbox.waiting(home, known)], "receipts": receipts,
    }  # fmt: skip


def next_typed(home: Path, told: Mapping[str, Any]) -> str:
    """The next step as a person types it: the first time, training must be told which images."""
    learns = told["next"] in (_next(READY, "small"), _next(READY, "large"))
    return f"{told['next']} IMAGES" if learns and not (home / layout.IMAGES).exists() else str(told["next"])


def _state(home: Path, known: Floor) -> str:
    site, order = verified.me(home, known), known.task
    if site is None:
        return JOINING
    if (
        order is None
        or order.round < site.from_round
        or not layout.is_whole(layout.base_of(home, order))
        or inbox.lacks_pack(home, order)
    ):
        return WAITING
    at = layout.round_folder(home, order)
    if not at.exists():
        return READY
    if not (at / "report.json").exists():
        return TRAINING
    sealed = next(at.glob("*.fhx"), None)
    if sealed is None:
        return TRAINED
    if states := [receipt["state"] for receipt in verified.receipts(home, sealed.stem)]:
        return RECEIVED if states == ["received"] else JUDGED
    return SENT if layout.is_parcel(sealed) else TRAINED


def _refused_request(home: Path) -> dict[str, str] | None:
    """Why the coordinator did not let this site in, if it said so."""
    for sealed in (home / "request").glob("*.fhx"):
        for receipt in verified.receipts(home, sealed.stem)[-1:]:
            if receipt["state"] == "refused":
                return {k: receipt[k] for k in ("state", "code", "cause")}
    return None


def _receipts(home: Path) -> list[dict[str, str]]:
    """The last word on each share, newest round first."""
    found = []
    for at in sorted((home / "rounds").glob("*"), reverse=True):
        for receipt in verified.last_receipts(home, at):
            found.append({"round": at.name[-6:].lstrip("0"), **{k: receipt[k] for k in ("state", "code", "cause")}})
    return found


def _next(state: str, tier: str) -> str:
    learn = "fedhelp-edge distill" if tier == "large" else "fedhelp-edge train"
    return {
        JOINING: "fedhelp-edge upload, then wait for the coordinator and run fedhelp-edge download",
        WAITING: "fedhelp-edge download", READY: learn, TRAINING: learn, TRAINED: "fedhelp-edge upload",
        SENT: "fedhelp-edge upload", RECEIVED: "fedhelp-edge download", JUDGED: "fedhelp-edge download",
    }[state]  # fmt: skip
