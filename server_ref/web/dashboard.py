"""What a coordinator looks at in a browser: one page, made here, without script and without anything from elsewhere.

Whoever starts the front gets a link that works once; the browser then holds a cookie until the front ends. A button
only writes a decision down.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from fedhelp_edge import errors
from fedhelp_edge.errors import BadRequestError, DashboardLinkError, HttpMethodError, MediaTypeError
from fedhelp_edge.parcel.statement import iso
from fedhelp_edge.report import pages
from fedhelp_edge.report.pages import Html
from fedhelp_edge.safe_text import visible_html
from server_ref.admin import decisions, status
from server_ref.hub.hub import Hub
from server_ref.intake.enrolment import SHORT
from server_ref.intake.receipts import RELEASABLE
from server_ref.web.bodies import body
from server_ref.web.context import front
from server_ref.web.limits import address
from server_ref.web.problems import problem

_COOKIE = "fedhelp_dashboard"
_LINES = 20
_STYLE = """
th, td { text-align: left }
td:first-child { white-space: nowrap }
td:nth-child(2) { max-width: 14em }
@media (max-width: 30em) { td:nth-child(2) { max-width: 9em } }
"""
_REFRESH = 60  # seconds


class Door:
    """Who may look: a link that opens once, and the cookie that it gives."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(24)
        self._cookie = ""

    def enter(self, token: str) -> str:
        if self._cookie or not hmac.compare_digest(token.encode(), self.token.encode()):
            raise DashboardLinkError("this link was used before, or is not of this hub")
        self._cookie = secrets.token_urlsafe(24)
        return self._cookie

    def check(self, request: Request) -> None:
        given = request.cookies.get(_COOKIE, "")
        if not self._cookie or not hmac.compare_digest(given.encode(), self._cookie.encode()):
            raise DashboardLinkError("this page is for the coordinator")

    @property
    def form(self) -> str:
        """What a form of ours brings back, and nobody else's can."""
        return hmac.digest(self._cookie.encode(), b"form", "sha256").hex()


def _door(request: Request) -> Door:
    found: Door = request.app.state.door
    return found


async def enter(request: Request) -> Response:
    front(request).addresses.take(address(request))
    if request.method != "GET":  # of a program that looks where a link leads
        raise HttpMethodError("a link is opened with GET")
    answer = RedirectResponse("..", 303, {"Cache-Control": "no-store"})
    cookie = _door(request).enter(request.path_params["token"])
    answer.set_cookie(_COOKIE, cookie, httponly=True, samesite="strict", secure=request.url.scheme == "https")
    return answer


async def show(request: Request) -> Response:
    front(request).addresses.take(address(request))
    try:
        _door(request).check(request)
    except DashboardLinkError as fault:
        if "text/html" not in request.headers.get("accept", ""):
            raise
        return _html(
            pages.page("fedhelp", pages.paragraph(f"{fault.cause}: {fault.remedy}.")), problem(fault)["status"]
        )
    made = await front(request).reading.ask(_page, _door(request).form)
    return _html(made, 200)


async def decide(request: Request) -> Response:
    front(request).addresses.take(address(request))
    _door(request).check(request)
    if request.headers.get("content-type") != "application/x-www-form-urlencoded":
        raise MediaTypeError("a decision comes from the form on the dashboard")
    given = parse_qs((await body(request, 4096)).decode("ascii", "replace"))
    form, update, what = (given.get(name, [""])[0] for name in ("form", "update", "what"))
    if not hmac.compare_digest(form.encode(), _door(request).form.encode()):
        raise BadRequestError("this form is not of this page")
    await front(request).writing.ask(decisions.record, update, what)
    return RedirectResponse(".", 303, {"Cache-Control": "no-store"})


def _html(text: str, code: int) -> Response:
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    mark = base64.b64encode(hashlib.sha256(style[1].encode() if style else b"").digest()).decode()
    return HTMLResponse(text, code, {
        "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{mark}'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'",
        "Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "Refresh": str(_REFRESH),
    })  # fmt: skip


# --- the page ------------------------------------------------------------------------------------------------------
def _page(hub: Hub, form: str) -> str:
    told = status.status(hub)
    until = f", open until {_time(told['closes'])}" if told["state"] == "open" else ""
    expected = len(told["accepted"]) + len(told["missing"])
    stands = (
        f"round {told['round']} of {told['rounds']}, {told['state']}" if told["round"] else "no round was opened yet"
    )
    none = pages.paragraph("No site takes part yet. Invite one: fedhelp-coordinator invite NAME --tier small")
    return pages.page(
        f"{told['name']}: {stands}",
        pages.paragraph(f"Federation {told['federation']}{until}. It is {_time(iso(hub.now))}."),
        pages.paragraph(
            f"{len(told['accepted'])} of {expected} shares accepted, {told['received']} wait to be judged, "
            f"{len(told['quarantined'])} in quarantine, {told['requests']} sites ask to join."
        ),
        *(pages.paragraph(f"ALARM, {one['site']}: {one['cause']}.") for one in told["alarms"]),
        *_quarantine(told["quarantined"], form),
        pages.heading("Sites"),
        pages.table(
            ("site", "name", "tier", "standing", "this round", "last news", "images claimed"), _sites(hub, told)
        )
        if told["sites"]
        else none,
        pages.heading("Merged models"),
        *_models(hub),
        pages.heading("Last lines of the log"),
        pages.table(("line", "time", "what", "about"), _log(hub)),
        style=_STYLE,
    )


def _sites(hub: Hub, told: dict[str, Any]) -> list[tuple[object, ...]]:
    shares = hub.store.rows("SELECT site, state, code FROM shares WHERE round = ? ORDER BY seq", told["round"])
    given = {row["site"]: f"{row['state']} {row['code']}".strip() for row in shares}
    over = told["closes"] <= iso(hub.now)
    missing = dict.fromkeys(told["missing"], "late" if over else "missing")
    return [
        (
            one["id"], one["name"], one["tier"], one["status"], given.get(one["id"]) or missing.get(one["id"], "–"),
            _time(one["last_news"] or "") or "never", "–" if one["examples"] is None else one["examples"],
        )
        for one in told["sites"]
    ]  # fmt: skip


def _quarantine(shares: list[dict[str, Any]], form: str) -> list[Html]:
    if not shares:
        return []
    remedies = {kind.code: kind.remedy for kind in errors.tree() if kind.code}
    parts = [pages.heading("In quarantine")]
    for one in shares:
        claimed = "" if one["examples"] is None else f" It claims {one['examples']} training images."
        about = f"{one['code']}, update {one['hash'][:SHORT]}"
        said = f"{one['site']}, round {one['round']}: {one['cause']} ({about}).{claimed}"
        parts.append(pages.paragraph(f"{said} What to do: {remedies.get(one['code'], '')}."))
        if one["decided"]:
            parts.append(pages.paragraph(f"Decided: {one['decided']}. The next coordinator's command carries it out."))
        choices = [decisions.REFUSE] + [decisions.RELEASE] * (one["code"] in RELEASABLE)
        parts.append(_form(one, choices, form))
    return parts


def _form(update: dict[str, Any], choices: list[str], form: str) -> Html:
    said = visible_html(update["site"])
    buttons = " ".join(f'<button name="what" value="{what}">{what.title()} {said}</button>' for what in choices)
    hidden = "".join(
        f'<input type="hidden" name="{name}" value="{visible_html(value)}">'
        for name, value in (("update", update["hash"]), ("form", form))
    )
    return Html(f'<form method="post" action="decisions">{hidden}{buttons}</form>')


def _models(hub: Hub) -> list[Html]:
    rows = hub.store.rows(
        "SELECT r.round, r.model, count(s.hash) AS shares FROM rounds r LEFT JOIN shares s"
        " ON s.counts = r.round AND s.state = 'merged' WHERE r.state = 'merged' GROUP BY r.round ORDER BY r.round"
    )
    rates = {one["round"]: one for one in status.accuracy(hub)}
    said = {
        number: f"{rate['accuracy']:.3f} ({rate['lowest']:.3f} to {rate['highest']:.3f} at {rate['sites']} sites)"
        for number, rate in rates.items()
    }
    listed = [(row["round"], row["shares"], row["model"][:16], said.get(row["round"], "–")) for row in rows]
    parts = [pages.table(("round", "shares", "model", "accuracy at the sites"), listed[::-1])]
    if rates:
        line = [(float(number), rate["accuracy"]) for number, rate in rates.items()]
        parts.append(pages.chart({"accuracy": line}, "round", "middle accuracy on the sites' own images"))
    return parts


def _log(hub: Hub) -> list[tuple[object, ...]]:
    rows = hub.store.rows("SELECT seq, time, type, subject, detail FROM log ORDER BY seq DESC LIMIT ?", _LINES)
    about = {row["seq"]: json.loads(row["detail"]).get("site") or row["subject"][:24] for row in rows}
    return [(row["seq"], _time(row["time"]), row["type"], about[row["seq"]]) for row in rows]


def _time(text: str) -> str:
    return text.replace("T", " ").replace("Z", " UTC")
