"""The coordinator's dashboard: one page, made here, without scripts and without anything from elsewhere.

The person who starts the front gets a link that works once; the browser then holds a cookie until the front ends. A
button only records a decision.
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

from fedhelp_edge import hints
from fedhelp_edge.errors import BadRequestError, DashboardLinkError, HttpMethodError, MediaTypeError
from fedhelp_edge.parcel.statement import format_time
from fedhelp_edge.report import pages
from fedhelp_edge.report.pages import Html
from fedhelp_edge.safe_text import counted
from server_ref.admin import decisions, status
from server_ref.hub.hub import Hub
from server_ref.hub.tables import log_table, rounds_table, updates_table
from server_ref.web import actions
from server_ref.web.bodies import read_body
from server_ref.web.context import get_front
from server_ref.web.limits import client_address
from server_ref.web.problems import problem_details

_COOKIE = "fedhelp_dashboard"
_LOG_LINES = 20
_STYLE = """
main { max-width: 80rem }
th, td { text-align: left }
td:first-child { white-space: nowrap }
td:nth-child(2) { max-width: 14em }
form { display: flex; flex-wrap: wrap; align-items: end; gap: .5rem; margin: 0 0 var(--space) }
label { display: grid; gap: .2rem }
input, select { min-height: 2.75rem; padding: 0 .6em; max-width: 100%; background: var(--surface) }
input, select { border: 1px solid var(--control); border-radius: .3em }
code { overflow-wrap: anywhere }
.empty { color: var(--quiet) }
@media (max-width: 30em) { td:nth-child(2) { max-width: 9em } }
"""
_KINDS = {"accepted": "good", "quarantined": "warn", "refused": "bad", "late": "bad"}
_REFRESH_SECONDS = 60  # seconds


class DashboardAccess:
    """Access to the dashboard: a link that works once, and the cookie that it sets."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(24)
        self._cookie = ""

    def enter(self, token: str) -> str:
        """Exchange the link's token for the cookie's value. The token works once."""
        if self._cookie or not hmac.compare_digest(token.encode(), self.token.encode()):
            raise DashboardLinkError("this link was used before, or is not from this hub")
        self._cookie = secrets.token_urlsafe(24)
        return self._cookie

    def check(self, request: Request) -> None:
        """Raise unless a request has the cookie."""
        cookie = request.cookies.get(_COOKIE, "")
        if not self._cookie or not hmac.compare_digest(cookie.encode(), self._cookie.encode()):
            raise DashboardLinkError("this page is for the coordinator")

    @property
    def form_token(self) -> str:
        """The token in each form of the page. It stops forms on other pages, which cannot know it (CSRF)."""
        return hmac.digest(self._cookie.encode(), b"form", "sha256").hex()


def _get_access(request: Request) -> DashboardAccess:
    access: DashboardAccess = request.app.state.access
    return access


async def enter(request: Request) -> Response:
    """Open the dashboard with its link."""
    get_front(request).address_rate.take(client_address(request))
    if request.method != "GET":  # of a program that previews links
        raise HttpMethodError("the link must be opened with GET")
    response = RedirectResponse("..", 303, {"Cache-Control": "no-store"})
    cookie = _get_access(request).enter(request.path_params["token"])
    response.set_cookie(_COOKIE, cookie, httponly=True, samesite="strict", secure=request.url.scheme == "https")
    return response


async def show(request: Request) -> Response:
    """Show the dashboard, or how to get its link."""
    get_front(request).address_rate.take(client_address(request))
    try:
        _get_access(request).check(request)
    except DashboardLinkError as error:
        if "text/html" not in request.headers.get("accept", ""):
            raise
        return _html_response(
            pages.page("fedhelp", pages.paragraph(f"{error.cause}: {error.remedy}.")), problem_details(error)["status"]
        )
    html = await get_front(request).reading.run(_render, _get_access(request).form_token)
    return _html_response(html, 200)


async def decide(request: Request) -> Response:
    """Record the decision of a button, and return to the page."""
    get_front(request).address_rate.take(client_address(request))
    _get_access(request).check(request)
    if request.headers.get("content-type") != "application/x-www-form-urlencoded":
        raise MediaTypeError("a decision must come from the form on the dashboard")
    fields = parse_qs((await read_body(request, 4096)).decode("ascii", "replace"))
    form, update, round_, decision = (fields.get(name, [""])[0] for name in ("form", "update", "round", "what"))
    if not hmac.compare_digest(form.encode(), _get_access(request).form_token.encode()):
        raise BadRequestError("this form is not from this page")
    record = decisions.record_round if round_ else decisions.record
    await get_front(request).writing.run(record, round_ or update, decision)
    return RedirectResponse(".", 303, {"Cache-Control": "no-store"})


async def invite(request: Request) -> Response:
    """Show the command that invites a site. It changes nothing."""
    get_front(request).address_rate.take(client_address(request))
    _get_access(request).check(request)
    html = await get_front(request).reading.run(actions.invite_page, dict(request.query_params), _STYLE)
    return _html_response(html, 200, refresh=False)  # which would take away what is typed


def _html_response(text: str, code: int, *, refresh: bool = True) -> Response:
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    style_hash = base64.b64encode(hashlib.sha256(style[1].encode() if style else b"").digest()).decode()
    return HTMLResponse(text, code, {
        "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{style_hash}'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'",
        "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
        **({"Refresh": str(_REFRESH_SECONDS)} if refresh else {}),
    })  # fmt: skip


# --- the page ------------------------------------------------------------------------------------------------------
def _render(hub: Hub, form: str) -> str:
    summary = status.summary(hub)
    no_sites = pages.paragraph("No site takes part yet. Invite one.")
    return pages.page(
        f"{summary['name']}: {status.round_text(summary)}",
        pages.tiles(_tiles(hub, summary)),
        *_missing_section(hub, summary),
        *_requests_section(summary["requests"]),
        *(pages.note(f"ALARM, {alarm['site']}: {alarm['cause']}.", "bad") for alarm in summary["alarms"]),
        *actions.quarantine_section(summary["quarantined"], form),
        *actions.round_section(hub, summary, form),
        pages.heading("Sites"),
        pages.table(
            ("site", "name", "tier", "status", "this round", "last message", "images claimed"), _site_rows(hub, summary)
        )
        if summary["sites"]
        else no_sites,
        Html('<p><a class="button" href="invite">Invite a site</a></p>'),
        pages.heading("Merged models"),
        *_models_section(hub),
        pages.heading("Latest lines of the log"),
        pages.table(("line", "time", "event", "subject"), _log_rows(hub)),
        pages.paragraph(f"Federation {summary['federation']}. It is {_readable_time(format_time(hub.now))}."),
        style=_STYLE,
    )


def _tiles(hub: Hub, summary: dict[str, Any]) -> list[tuple[str, object, str]]:
    """The state of the round at a glance."""
    rows: list[tuple[str, object, str]] = []
    if summary["state"] == "open":
        missing, is_over = summary["missing"], _is_over(hub, summary)
        accepted = f"{len(summary['accepted'])} of {len(summary['accepted']) + len(missing)}"
        rows.append(("updates accepted", accepted, "bad" if is_over and missing else "" if missing else "good"))
        closes = f"{_readable_time(summary['closes'])[:-7]} UTC"  # without seconds
        rows.append(("closed at" if is_over else "open until", closes, "bad" * is_over))
    for label, number, kind in (
        ("updates to be checked", summary["received"], "warn"),
        ("in quarantine", len(summary["quarantined"]), "warn"),
        ("requests to join", summary["requests"], "warn"),
    ):
        rows.append((label, number, kind if number else ""))
    if rates := status.accuracy_by_round(hub):
        rows.append((f"accuracy, model of round {rates[-1]['round']}", f"{rates[-1]['accuracy']:.3f}", ""))
    return rows


def _missing_section(hub: Hub, summary: dict[str, Any]) -> list[Html]:
    """Who is late, or still missing; not those whose update waits for a check or a decision."""
    names = {site["id"]: site["name"] for site in summary["sites"]}
    sent = {row["site"] for row in updates_table.trained_in(hub.database, summary["round"])}
    sites = ", ".join(f"{site} ({names.get(site, '')})" for site in summary["missing"] if site not in sent)
    if not sites:
        return []
    return [pages.note(*(f"Late: {sites}.", "bad") if _is_over(hub, summary) else (f"Still missing: {sites}.", "wait"))]


def _requests_section(count: int) -> list[Html]:
    """A request to join is judged by its words, which only a command shows: the front could show others."""
    if not count:
        return []
    what = f"{counted(count, 'request to join waits', 'requests to join wait')}. See the words, and compare by phone:"
    return [pages.note(f"{what} {hints.with_caller_options('fedhelp-coordinator requests')}", "warn")]


def _is_over(hub: Hub, summary: dict[str, Any]) -> bool:
    return bool(summary["closes"] <= format_time(hub.now))


def _site_rows(hub: Hub, summary: dict[str, Any]) -> list[tuple[object, ...]]:
    update_rows = updates_table.trained_in(hub.database, summary["round"])
    states = {row["site"]: (row["state"], row["code"]) for row in update_rows}
    missing = dict.fromkeys(summary["missing"], ("late" if _is_over(hub, summary) else "missing", ""))
    return [
        (
            site["id"], site["name"], site["tier"], site["status"],
            _state_cell(*(states.get(site["id"]) or missing.get(site["id"]) or ("", ""))),
            _readable_time(site["last_news"] or "") or "never", "–" if site["examples"] is None else site["examples"],
        )
        for site in summary["sites"]
    ]  # fmt: skip


def _state_cell(state: str, code: str) -> object:
    return pages.Chip(f"{state} {code}".strip(), _KINDS.get(state, "wait")) if state else "–"


def _models_section(hub: Hub) -> list[Html]:
    rates = {figures["round"]: figures for figures in status.accuracy_by_round(hub)}
    accuracies = {
        number: f"{rate['accuracy']:.3f} ({rate['lowest']:.3f} to {rate['highest']:.3f}"
        f" at {counted(rate['sites'], 'site')})"
        for number, rate in rates.items()
    }
    table_rows = [
        (row["round"], row["updates"], row["model"][:16], accuracies.get(row["round"], "–"))
        for row in rounds_table.models(hub.database)
    ]
    parts = [pages.table(("round", "updates", "model", "accuracy at the sites"), table_rows[::-1])]
    if rates:
        points = [(float(number), rate["accuracy"]) for number, rate in rates.items()]
        parts.append(pages.chart({"accuracy": points}, "round", "median accuracy on the sites' own images", whole=True))
    return parts


def _log_rows(hub: Hub) -> list[tuple[object, ...]]:
    rows = log_table.newest(hub.database, _LOG_LINES)
    subjects = {row["seq"]: json.loads(row["detail"]).get("site") or row["subject"][:24] for row in rows}
    return [(row["seq"], _readable_time(row["time"]), row["type"], subjects[row["seq"]]) for row in rows]


def _readable_time(text: str) -> str:
    return text.replace("T", " ").replace("Z", " UTC")
