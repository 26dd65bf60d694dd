"""What a person can do from the dashboard. The page says before what an action does, and after what became of it.

A button records a decision for the next coordinator command, and only a form sends it. The page does not make invites.
It shows the command for one instead: whoever controls the front could admit a site of their own.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from fedhelp_edge import errors, hints
from fedhelp_edge.errors import FedhelpError, NotNowError
from fedhelp_edge.methods.registry import check_tier
from fedhelp_edge.report import pages
from fedhelp_edge.report.pages import Html
from fedhelp_edge.safe_text import check_name, counted, visible_html
from server_ref.admin import decisions, invites
from server_ref.hub.hub import Hub
from server_ref.hub.states import State
from server_ref.hub.tables import log_table
from server_ref.intake.receipts import RELEASABLE_CODES
from server_ref.intake.shown import SHOWN_DIGITS
from server_ref.rounds import opening

_TIERS = {"small": "small: a clinic", "large": "large: a hospital"}
_MAX_DAYS = 365
_LATEST = {
    "open": "{subject} was opened",
    "merge": "{subject} was closed: its updates are merged, and the model is published",
    "set": "{subject} was closed: the helper's answer is awaited",
    "hold sum": "the sum of {subject} is unusual, and waits for a person. {code}: {cause}",
    "release sum": "the sum of {subject} was released: the next coordinator command merges it",
    "refuse sum": "the sum of {subject} was refused, and the model stays",
    "fail": "{subject} was closed without a new model",
    "decision void": "{what} {subject}: it was not possible. {code}: {cause}",
}


# --- quarantine ----------------------------------------------------------------------------------------------------
def quarantine_section(updates: Sequence[Mapping[str, Any]], form: str) -> list[Html]:
    """The updates in quarantine, with buttons that release or refuse them."""
    if not updates:
        return []
    parts = [pages.heading("In quarantine")]
    for update in updates:
        claimed = "" if update["examples"] is None else f" It claims {counted(update['examples'], 'training image')}."
        details = f"{update['code']}, update {update['hash'][:SHOWN_DIGITS]}"
        text = f"{update['site']}, round {update['round']}: {update['cause']} ({details}).{claimed}"
        parts.append(pages.paragraph(f"{text} What to do: {errors.remedy_of(update['code'])}."))
        if update["decided"]:
            parts.append(
                pages.note(f"Decided: {update['decided']}. The next coordinator command carries it out.", "good")
            )
        choices = [decisions.REFUSE] + [decisions.RELEASE] * (update["code"] in RELEASABLE_CODES)
        buttons = {choice: f"{choice.title()} {update['site']}" for choice in choices}
        parts.append(_decision_form({"update": update["hash"], "form": form}, buttons))
    return parts


# --- rounds --------------------------------------------------------------------------------------------------------
def round_section(hub: Hub, summary: Mapping[str, Any], form: str) -> list[Html]:
    """What became of the last step, and the next one: to close the open round or to open the next."""
    parts = [pages.heading("Next step"), *_latest_step(hub)]
    choice = decisions.round_choice(hub)
    if choice is None:
        if summary["held"]:
            parts.append(_typed("See it, and decide on the hub's computer:", "fedhelp-coordinator review"))
        return parts if summary["state"] == State.SUMMING else []
    decision, round_ = choice
    command = f"fedhelp-coordinator {'open' if decision == decisions.OPEN else 'aggregate --now'}"
    if decisions.is_decided(hub, choice):
        waits = "The next coordinator command carries it out; 'fedhelp-coordinator run' does so by itself."
        parts.append(pages.note(f"Decided: {decision} {round_}. {waits}", "good"))
        buttons = {decisions.WITHDRAW: f"Do not {decision} {round_}"}
    else:
        try:
            parts.append(pages.paragraph(_consequence(hub, summary, decision, round_)))
        except FedhelpError as error:
            return [*parts, pages.note(f"{error.cause}. What to do: {error.remedy}.", "warn")]
        buttons = {decision: f"{decision.title()} {round_}"}
    parts.append(_decision_form({"round": round_, "form": form}, buttons))
    return [*parts, _typed("Or type on the hub's computer:", command)]


def _latest_step(hub: Hub) -> list[Html]:
    row = log_table.newest_of_types(hub.database, tuple(_LATEST))
    if row is None:
        return []
    values = defaultdict(str, json.loads(row["detail"]), subject=row["subject"][:24])
    text = _LATEST[row["type"]].format_map(values)
    kind = "good" if row["type"] in ("open", "merge", "set", "release sum") else "bad"
    return [pages.note(f"{row['time'].replace('T', ' ').replace('Z', ' UTC')}: {text}.", kind)]


def _consequence(hub: Hub, summary: Mapping[str, Any], decision: str, round_: str) -> str:
    """What the button does. Refuses where the step would fail."""
    if decision == decisions.OPEN:
        opening.check_ready(hub)
        active = hub.roster.active(summary["round"] + 1)
        if not active:
            raise NotNowError("no site can take part yet", remedy="'fedhelp-coordinator invite NAME --tier small'")
        sites, days = counted(len(active), "site"), counted(hub.plan.round.days, "day")
        return f"'Open {round_}' publishes its task. {sites} can take part, and the round stays open for {days}."
    accepted, missing = counted(len(summary["accepted"]), "accepted update"), len(summary["missing"])
    what = f"merges {accepted} and publishes the model"
    if hub.plan.privacy.is_secure_sum:
        what = f"asks the helper for the sum of {accepted}"
    text = f"'Close {round_}' {what}. It needs at least {hub.plan.round.quorum}."
    if missing:
        late = "count in the next round" if hub.stale_rounds else "count no more"
        text += f" Updates of {counted(missing, 'other site')} then {late}."
    return text


# --- invites -------------------------------------------------------------------------------------------------------
def invite_page(hub: Hub, query: Mapping[str, str], style: str) -> str:
    """A form for a site's name and tier, the command that invites it, and the invites that are open."""
    name, tier, days = (
        query.get(field, default) for field, default in (("name", ""), ("tier", "small"), ("days", "14"))
    )
    open_invites = [row for row in invites.list_all(hub) if row["state"] in ("open", "asked")]
    rows = [[row[field] for field in ("site", "name", "tier", "until", "state")] for row in open_invites]
    return pages.page(
        "Invite a site",
        pages.paragraph("An invite admits one site. Only the coordinator's keys make one, and this page has none."),
        _invite_form(name, tier, days),
        *_invite_command(hub, name, tier, days),
        pages.heading("Open invites"),
        pages.table(("site", "name", "tier", "until", "state"), rows)
        if rows
        else pages.paragraph("No invite is open."),
        Html('<p><a href="./">Back to the dashboard</a></p>'),
        style=style,
    )  # fmt: skip


def _invite_form(name: str, tier: str, days: str) -> Html:
    options = "".join(
        f'<option value="{value}"{" selected" * (value == tier)}>{label}</option>' for value, label in _TIERS.items()
    )
    return Html(
        '<form method="get" action="invite">'
        f'<label>Name of the site<input name="name" required maxlength="200" value="{visible_html(name)}"></label>'
        f'<label>Tier<select name="tier">{options}</select></label>'
        f'<label>Valid for days<input name="days" type="number" min="1" max="{_MAX_DAYS}" value="{visible_html(days)}">'
        '</label><button class="first">Show the command</button></form>'
    )


def _invite_command(hub: Hub, name: str, tier: str, days: str) -> list[Html]:
    """The command for an invite, as the person types it; or why there can be none."""
    name = " ".join(name.split())
    if not name:
        return []
    try:
        check_name(name)
        if tier not in _TIERS or not days.isdecimal() or not 1 <= int(days) <= _MAX_DAYS or name.startswith("-"):
            raise errors.UsageError(
                f"the tier is small or large, the days are 1 to {_MAX_DAYS}, and no name begins with -"
            )
        check_tier(hub.plan, tier, name)
    except FedhelpError as error:
        return [pages.note(f"{error.cause}. What to do: {error.remedy}.", "bad")]
    command = f"fedhelp-coordinator invite {hints.quoted(name)} --tier {tier} --days {int(days)} --out site.invite"
    after = "It prints a code for the phone, and writes a file for a stick. The invite then stands in the list below."
    return [_typed("Type on the hub's computer:", command), pages.paragraph(after)]


# --- forms ---------------------------------------------------------------------------------------------------------
def _decision_form(hidden: Mapping[str, str], buttons: Mapping[str, str]) -> Html:
    fields = "".join(
        f'<input type="hidden" name="{name}" value="{visible_html(value)}">' for name, value in hidden.items()
    )
    items = " ".join(
        f'<button name="what" value="{value}">{visible_html(label)}</button>' for value, label in buttons.items()
    )
    return Html(f'<form method="post" action="decisions">{fields}{items}</form>')


def _typed(text: str, command: str) -> Html:
    """A command to type, with the options that the front was started with."""
    return Html(f"<p>{visible_html(text)} <code>{visible_html(hints.with_caller_options(command))}</code></p>")
