"""The task: the signed order for one round. And the judgement of a share that says it was made under it."""

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
from fedhelp_edge.trust import log as trust_log
from fedhelp_edge.trust import roster
from fedhelp_edge.trust.charter import Charter
from fedhelp_edge.trust.roster import Roster, Site
from fedhelp_edge.update import Schema

_HASH_OR_NONE = re.compile(r"[0-9a-f]{64}|")
_SHAPE = {
    "plan": str, "schema": [str], "recipients": [str], "limit": int, "knowledge": _HASH_OR_NONE,
    "opens": str, "closes": str, "log": {"length": int, "head": _HASH_OR_NONE},
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    federation: str
    epoch: int
    round: int
    roster: str
    roster_version: int
    base: str
    plan: str  # the TOML, byte for byte
    schema: Schema
    recipients: tuple[str, ...]  # the round's key, and the archive's
    limit: int  # bytes of a share's payload
    knowledge: str  # the SHA-256 of the pack, or ""
    opens: datetime
    closes: datetime
    log: trust_log.Log
    hash: str
    created: datetime

    @property
    def rank(self) -> tuple[int, int]:
        return self.epoch, self.round


def body(
    plan: str, schema: Schema, recipients: Sequence[str], limit: int, knowledge: str,
    opens: datetime, closes: datetime, log: trust_log.Log,
) -> dict[str, Any]:  # fmt: skip
    return {
        "plan": plan, "schema": schema.lines(), "recipients": list(recipients), "limit": limit, "knowledge": knowledge,
        "opens": format_time(opens), "closes": format_time(closes), "log": {"length": log.length, "head": log.head},
    }  # fmt: skip


def read(
    statement: Statement, signers: tuple[str, ...], payload: dict[str, Any], charter: Charter, current_roster: Roster
) -> Task:
    """A task that the coordinator signed. Whether it fits the roster and is not old is for `Floor` to say."""
    if statement.kind != "task":
        raise ParcelKindError(f"a {statement.kind}, where a task is wanted")
    roster.check_coordinator(statement, signers, charter, current_roster)
    if complaint := shape_error(payload, _SHAPE, "the task"):
        raise BadBodyError(complaint)
    for recipient in payload["recipients"]:
        age.check_recipient(recipient)
    if not payload["recipients"]:
        raise BadBodyError("the task names nobody to encrypt to")
    context = statement.context
    return Task(
        context["federation"], context["epoch"], context["round"], context["roster"], context["roster_version"],
        context["base"], payload["plan"], Schema.parse(payload["schema"]), tuple(payload["recipients"]), payload["limit"],
        payload["knowledge"], parse_time(payload["opens"]), parse_time(payload["closes"]), trust_log.Log(**payload["log"]),
        statement.hash, parse_time(context["created"]),
    )  # fmt: skip


@dataclass(frozen=True)
class SenderHistory:
    """What came before from one sender."""

    seq: int = 0
    nonces: frozenset[str] = field(default_factory=frozenset)

    def check_not_replayed(self, statement: Statement) -> None:
        if statement.context["seq"] <= self.seq or statement.context["nonce"] in self.nonces:
            raise ReplayError(
                f"number {statement.context['seq']} or its nonce was seen from {statement.context['sender']} before"
            )


def round_identity(round_: int, identities: Mapping[int, str]) -> str:
    """The identity that opens the shares of a round, while it is kept."""
    if round_ not in identities:
        raise RoundKeyGoneError(f"the key of round {round_} was destroyed when the round was over")
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
    """The sender of a share that may be received, judged by its statement alone: no byte of payload is needed.

    `tasks` are those that were opened, by round; a share of an older round is taken while it is at most `stale` behind.
    """
    if statement.kind != "update":
        raise ParcelKindError(f"a {statement.kind}, where a share is wanted")
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
        raise RecipientsError("encrypted for others than the task names")
    if statement.size > task.limit:
        raise PayloadSizeError(f"larger than the {task.limit} bytes that the task allows")
    history.check_not_replayed(statement)
    return sender
