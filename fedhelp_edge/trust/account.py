"""What the coordinator's log says of one round: the model, the updates in it, and the lines about each.

The coordinator exports by this, and an auditor checks by it: what the log names must be there, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedhelp_edge.parcel import statement
from fedhelp_edge.trust.charter import Charter
from fedhelp_edge.trust.roster import ACTIVE, Roster

Line = dict[str, Any]

LOG, SIGNERS = "log.jsonl", "allowed_signers"
DECISIONS = ("received", "accepted", "quarantined", "refused", "superseded")  # each has a receipt of its own
_MODELS = ("start", "merge", "undo")


@dataclass(frozen=True)
class Account:
    """`model` is the line that published the round's model; the log of an export ends with it."""

    model: Line
    merged: dict[str, str]  # update: its site
    updates: dict[str, list[Line]]  # all updates of the round, and the lines about each

    @property
    def inputs(self) -> list[str]:
        return sorted(self.merged, key=lambda update: self.merged[update])


def account(lines: Sequence[Line], round_: int) -> Account | None:
    """Reads the log up to the model of a round; None if it names none."""
    subject = f"round {round_}"
    ends = [place for place, line in enumerate(lines) if _publishes(line, subject, round_)]
    if not ends:
        return None
    lines = lines[: ends[-1] + 1]
    accepted: dict[str, str] = {}
    named: set[str] = set()
    is_open = False
    for line in lines[:-1]:
        type_, about, detail = line["type"], line["subject"], line["detail"]
        if type_ == "open":
            is_open = about == subject
        elif type_ in ("merge", "call off", "fail"):
            is_open, accepted = False, {}
        elif type_ in DECISIONS and "round" in detail and detail.get("kind", "update") == "update":
            if is_open or detail["round"] == round_:
                named.add(about)
            accepted.pop(about, None)
            if type_ == "accepted":
                accepted[about] = str(detail.get("site"))
    merged = accepted if lines[-1]["type"] == "merge" else {}
    named |= merged.keys()
    updates: dict[str, list[Line]] = {update: [] for update in sorted(named)}
    for line in lines:
        if line["type"] in DECISIONS and line["subject"] in updates:
            updates[line["subject"]].append(line)
    return Account(lines[-1], merged, updates)


def _publishes(line: Line, subject: str, round_: int) -> bool:
    about = "coordinator" if not round_ else subject
    return line["type"] in _MODELS and line["subject"] == about and "parcel" in line["detail"]


def allowed_signers(law: Charter, known: Roster) -> str:
    """For `ssh-keygen -Y verify -f`: each key, and the kinds of parcel that it may sign."""
    rows: list[tuple[str, str, tuple[str, ...]]] = [("root", key, ("charter",)) for key in law.roots]
    rows += [("coordinator", law.coordinator, ("roster", "task", "global", "receipt", "knowledge", "kit"))]
    rows += [("front", known.front, ("receipt",))]
    rows += [(site.id, site.sign, ("update", "enrol", "rotate")) for site in known.sites if site.status == ACTIVE]
    return "".join(
        f'{who} namespaces="{",".join(map(statement.namespace, kinds))}" {key}\n' for who, key, kinds in rows
    )
