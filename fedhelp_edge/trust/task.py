"""The task of a round, signed by the coordinator, and the checks of an update against it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fedhelp_edge.errors import (
    BadBodyError,
    BaseModelError,
    ParcelKindError,
    PayloadSizeError,
    RecipientsError,
    ReplayError,
    RoundClosedError,
    RoundKeyGoneError,
    RoundUnknownError,
    WrongTaskError,
)
from fedhelp_edge.parcel import age
from fedhelp_edge.parcel.canon import shape_error
from fedhelp_edge.parcel.statement import Statement, format_time, parse_time
from fedhelp_edge.trust import roster
from fedhelp_edge.trust.charter import Charter
from fedhelp_edge.trust.log import Log
from fedhelp_edge.trust.roster import Roster, Site
from fedhelp_edge.update import Schema

_HASH_OR_NONE = re.compile(r"[0-9a-f]{64}|")
_SHAPE = {
    "plan": str, "schema": [str], "recipients": [str], "limit": int, "knowledge": _HASH_OR_NONE,
    "opens": str, "closes": str, "log": {"length": int, "head": _HASH_OR_NONE},
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """What sites train in one round: the plan, the base model, and whom to encrypt the update to."""

    federation: str
    epoch: int
    round: int
    roster: str
    roster_version: int
    base: str  # the SHA-256 of the model that the round starts from
    plan: str  # the TOML, byte for byte
    schema: Schema
    recipients: tuple[str, ...]  # the round's key, and the archive's
    limit: int  # bytes of an update's payload
    knowledge: str  # the SHA-256 of the knowledge pack, or ""
    opens: datetime
    closes: datetime
    log: Log
    hash: str
    created: datetime

    @property
    def rank(self) -> tuple[int, int]:
        """Orders tasks: by epoch, then by round."""
        return self.epoch, self.round


def body(
    plan: str, schema: Schema, recipients: Sequence[str], limit: int, knowledge: str,
    opens: datetime, closes: datetime, log: Log,
) -> dict[str, Any]:  # fmt: skip
    """Returns the payload of a task."""
    return {
        "plan": plan, "schema": schema.lines(), "recipients": list(recipients), "limit": limit, "knowledge": knowledge,
        "opens": format_time(opens), "closes": format_time(closes), "log": {"length": log.length, "head": log.head},
    }  # fmt: skip


def read(
    statement: Statement, signers: tuple[str, ...], payload: dict[str, Any], charter: Charter, current_roster: Roster
) -> Task:
    """Reads a task that the coordinator signed. `TrustedState.with_task` checks its age and its roster."""
    if statement.kind != "task":
        raise ParcelKindError(f"a {statement.kind}, where a task is expected")
    roster.check_coordinator(statement, signers, charter, current_roster)
    if complaint := shape_error(payload, _SHAPE, "the task"):
        raise BadBodyError(complaint)
    for recipient in payload["recipients"]:
        age.check_recipient(recipient)
    if not payload["recipients"]:
        raise BadBodyError("the task names no recipient")
    context = statement.context
    return Task(
        context["federation"], context["epoch"], context["round"], context["roster"], context["roster_version"],
        context["base"], payload["plan"], Schema.parse(payload["schema"]), tuple(payload["recipients"]),
        payload["limit"], payload["knowledge"], parse_time(payload["opens"]), parse_time(payload["closes"]),
        Log(**payload["log"]), statement.hash, parse_time(context["created"]),
    )  # fmt: skip


@dataclass(frozen=True)
class SenderHistory:
    """The sequence number and the nonces that one sender has used."""

    seq: int = 0
    nonces: frozenset[str] = field(default_factory=frozenset)

    def check_not_replayed(self, statement: Statement) -> None:
        """Raises unless the sequence number rises and the nonce is new."""
        context = statement.context
        if context["seq"] <= self.seq or context["nonce"] in self.nonces:
            raise ReplayError(f"number {context['seq']} or its nonce was seen from {context['sender']} before")


def round_identity(round_: int, identities: Mapping[int, str]) -> str:
    """Returns the private key that opens a round's updates, until the round is over."""
    if round_ not in identities:
        raise RoundKeyGoneError(f"the key of round {round_} was destroyed when the round ended")
    return identities[round_]


def judge_update(
    statement: Statement,
    signers: tuple[str, ...],
    current_roster: Roster,
    tasks: Mapping[int, Task],
    history: SenderHistory,
    *,
    stale_rounds: int = 0,
) -> Site:
    """Returns the sender of an update that may be received. Reads its statement alone, no byte of the payload.

    `tasks` holds the open tasks by round. An update may be at most `stale_rounds` behind the newest.
    """
    if statement.kind != "update":
        raise ParcelKindError(f"a {statement.kind}, where an update is expected")
    context = statement.context
    sender = roster.check_sender(statement, signers, current_roster, context["round"])
    newest = max(tasks, default=0)
    if context["round"] < newest - stale_rounds:
        raise RoundClosedError(f"round {context['round']} is over; this is round {newest}")
    task = tasks.get(context["round"])
    if task is None:
        raise RoundUnknownError(f"round {context['round']} has not been opened")
    if context["task"] != task.hash:
        raise WrongTaskError(f"made under another task than that of round {task.round}")
    if context["base"] != task.base:
        raise BaseModelError(f"made from another model than that of round {task.round}")
    if tuple(context["recipients"]) != task.recipients:
        raise RecipientsError("encrypted to other recipients than the task names")
    if statement.size > task.limit:
        raise PayloadSizeError(f"larger than the {task.limit} bytes that the task allows")
    history.check_not_replayed(statement)
    return sender
