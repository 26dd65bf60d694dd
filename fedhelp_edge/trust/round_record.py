"""One round in the coordinator's log: its model, the updates in it, and the lines about each update.

The coordinator exports a round by this, and an auditor checks it by this: an export holds what the log names, no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedhelp_edge.parcel import statement
from fedhelp_edge.trust.charter import Charter
from fedhelp_edge.trust.roster import ACTIVE, Roster

LogLine = dict[str, Any]

LOG_FILE, SIGNERS_FILE = "log.jsonl", "allowed_signers"
DECISIONS = ("received", "accepted", "quarantined", "refused", "superseded")  # each has a receipt of its own
_PUBLISHING = ("start", "merge", "undo")


@dataclass(frozen=True)
class RoundRecord:
    """What the log says of one round. `model` is the line that published its model; an exported log ends there."""

    model: LogLine
    merged: dict[str, str]  # by update: the site that sent it
    updates: dict[str, list[LogLine]]  # by update, also of those that were not merged: the lines about it

    @property
    def inputs(self) -> list[str]:
        """The merged updates in the order of their sites, as the model's statement counts them."""
        return sorted(self.merged, key=lambda update: self.merged[update])


def read_round(lines: Sequence[LogLine], round_: int) -> RoundRecord | None:
    """Reads the log up to the model of a round. Returns None where no line publishes one."""
    subject = f"round {round_}"
    published_at = [index for index, line in enumerate(lines) if _publishes(line, subject, round_)]
    if not published_at:
        return None
    lines = lines[: published_at[-1] + 1]
    accepted: dict[str, str] = {}
    mentioned: set[str] = set()
    is_open = False
    for line in lines[:-1]:
        event, line_subject, detail = line["type"], line["subject"], line["detail"]
        if event == "open":
            is_open = line_subject == subject
        elif event in ("merge", "call off", "fail"):
            is_open, accepted = False, {}
        elif event in DECISIONS and "round" in detail and detail.get("kind", "update") == "update":
            if is_open or detail["round"] == round_:
                mentioned.add(line_subject)
            accepted.pop(line_subject, None)
            if event == "accepted":
                accepted[line_subject] = str(detail.get("site"))
    merged = accepted if lines[-1]["type"] == "merge" else {}
    mentioned |= merged.keys()
    updates: dict[str, list[LogLine]] = {update: [] for update in sorted(mentioned)}
    for line in lines:
        if line["type"] in DECISIONS and line["subject"] in updates:
            updates[line["subject"]].append(line)
    return RoundRecord(lines[-1], merged, updates)


def _publishes(line: LogLine, subject: str, round_: int) -> bool:
    published_subject = "coordinator" if not round_ else subject
    return line["type"] in _PUBLISHING and line["subject"] == published_subject and "parcel" in line["detail"]


def is_of_these_keys(signers: str, charter: Charter, roster: Roster) -> bool:
    """Whether a file is `allowed_signers` of these, or that of a version whose coordinators signed no encoders."""
    expected = allowed_signers(charter, roster)
    return signers in (expected, expected.replace(f",{statement.namespace('encoder')},", ",", 1))


def allowed_signers(charter: Charter, roster: Roster) -> str:
    """Returns the file for `ssh-keygen -Y verify -f`: each key, and the kinds of parcel that it may sign."""
    rows: list[tuple[str, str, tuple[str, ...]]] = [("root", key, ("charter",)) for key in charter.roots]
    rows += [
        ("coordinator", charter.coordinator, ("roster", "task", "global", "receipt", "knowledge", "encoder", "kit"))
    ]
    rows += [("front", roster.front, ("receipt",))]
    rows += [(site.id, site.sign, ("update", "enrol", "rotate")) for site in roster.sites if site.status == ACTIVE]
    return "".join(
        f'{principal} namespaces="{",".join(map(statement.namespace, kinds))}" {key}\n'
        for principal, key, kinds in rows
    )
