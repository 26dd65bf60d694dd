"""Checking a round that a coordinator handed out, without any key: who ordered it, who gave what, what became of it.

Everything is judged by the charter in the folder; whether that is one's own federation's, `federation` says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedhelp_edge import files
from fedhelp_edge.errors import AuditGap, BadBody, LogBroken
from fedhelp_edge.parcel import parcel, statement
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.trust import charter, roster, task
from fedhelp_edge.trust.charter import Charter
from fedhelp_edge.trust.log import check_chain
from fedhelp_edge.trust.roster import Roster
from fedhelp_edge.trust.task import Log

LOG = "log.jsonl"
Line = dict[str, Any]


@dataclass
class Found:
    federation: str = ""
    round: int = 0
    model: str = ""
    merged: list[dict[str, str]] = field(default_factory=list)  # site and share
    others: list[dict[str, str]] = field(default_factory=list)  # what became of the rest
    log: Log = field(default_factory=Log)


@dataclass(frozen=True)
class _Parcel:
    said: Statement
    signers: tuple[str, ...]
    holds: dict[str, Any]


def check(folder: Path) -> Found:
    """Everything holds, or the first thing that does not is raised."""
    lines = list(_lines(folder / LOG))
    log = check_chain((line, kept) for line, kept in lines)
    heads = {line["seq"]: kept for line, kept in lines}
    parcels = [_read(path) for path in sorted(folder.glob("*.fhx"))]
    laws = _charters([one for one in parcels if one.said.kind == "charter"])
    rosters = _rosters([one for one in parcels if one.said.kind == "roster"], laws)
    newest, last = list(laws.values())[-1], rosters[-1]
    given = {one.said.hash: one for one in parcels if one.said.kind == "update"}
    for one in given.values():
        _check_share(one, rosters)
    for one in parcels:
        if one.said.kind == "receipt":
            _check_receipt(one, laws, rosters, heads)
    models = [one for one in parcels if one.said.kind == "global"]
    orders = [one for one in parcels if one.said.kind == "task"]
    for one in (*models, *orders):
        _signed_by_coordinator(one, laws, last)
    for one in orders:
        _check_head(task.Log(**one.holds["log"]), heads, "the task")
    if not models:
        raise AuditGap("the round's model is not in the folder")
    return _outcome(models, orders, given, [line for line, _ in lines], newest, log)


def _outcome(
    models: list[_Parcel], orders: list[_Parcel], given: dict[str, _Parcel], lines: list[Line], law: Charter, log: Log
) -> Found:
    """What the log says of this round is what the model's statement says that it was made of."""
    context = models[-1].said.context
    found = Found(law.federation, context["round"], context["base"], log=log)
    states: dict[str, str] = {}
    for line in lines:
        if line["subject"] in given:
            states[line["subject"]] = line["type"]
        if line["type"] == "merge" and line["subject"] == f"round {found.round}":
            if line["detail"]["model"] != found.model:
                raise LogBroken(f"line {line['seq']} names another model than the parcel")
            break
    for hash_, state in states.items():
        row = {"site": given[hash_].said.context["sender"], "share": hash_, "state": state}
        (found.merged if state == "accepted" else found.others).append(row)
    found.merged.sort(key=lambda row: row["site"])
    wanted = statement.counted([row["share"] for row in found.merged])
    if orders and wanted != context["inputs"]:
        raise AuditGap("the shares in the folder are not those that the model was made of")
    return found


def _lines(path: Path) -> Iterator[tuple[Line, str]]:
    with files.reading(path) as file:
        for text in file:
            try:
                line = json.loads(text)
                yield line, line.pop("hash")
            except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
                raise LogBroken("a line of the log is no JSON object") from None


def _read(path: Path) -> _Parcel:
    if statement.form_of(parcel.look(path, parcel.anyone).statement.kind) == "age":
        seen = parcel.look(path, parcel.anyone)
        return _Parcel(seen.statement, seen.keys, {})
    with parcel.open(path, parcel.anyone) as opened:
        return _Parcel(opened.statement, opened.keys, opened.json())


def _charters(found: list[_Parcel]) -> dict[str, Charter]:
    """Every charter by its hash, each following from the one before."""
    laws: dict[str, Charter] = {}
    law: Charter | None = None
    for one in sorted(found, key=lambda one: int(one.said.context["version"])):
        law = charter.follow(law, one.said, one.signers, one.holds) if law else charter.first(
            one.said, one.signers, one.holds
        )  # fmt: skip
        laws[law.hash] = law
    if not laws:
        raise AuditGap("the charter is not in the folder")
    return laws


def _rosters(found: list[_Parcel], laws: dict[str, Charter]) -> list[Roster]:
    known = []
    for one in sorted(found, key=lambda one: int(one.said.context["version"])):
        law = laws.get(one.said.context["charter"])
        if law is None:
            raise AuditGap(f"the charter of roster {one.said.context['version']} is not in the folder")
        known.append(roster.read(one.said, one.signers, one.holds, law))
    if not known:
        raise AuditGap("the roster is not in the folder")
    return known


def _check_share(one: _Parcel, rosters: list[Roster]) -> None:
    """Its sender's key stood in a roster; whether it may still send is no question here."""
    sender = one.said.context["sender"]
    if not any(site.id == sender and (site.sign,) == one.signers for known in rosters for site in known.sites):
        roster.of_site(one.said, one.signers, rosters[-1], one.said.context["round"])


def _check_receipt(one: _Parcel, laws: dict[str, Charter], rosters: list[Roster], heads: dict[int, str]) -> None:
    if one.said.context["sender"] == "front":
        if one.holds.get("state") != "received" or not any((known.front,) == one.signers for known in rosters):
            roster.of_front(one.said, one.signers, list(laws.values())[-1], rosters[-1])
            raise BadBody("the front may say that it received something, and nothing else")
    else:
        _signed_by_coordinator(one, laws, rosters[-1])
    _check_head(Log(**one.holds["log"]), heads, "a receipt")


def _signed_by_coordinator(one: _Parcel, laws: dict[str, Charter], known: Roster) -> None:
    if not any((law.coordinator,) == one.signers for law in laws.values()):
        roster.of_coordinator(one.said, one.signers, list(laws.values())[-1], known)


def _check_head(log: Log, heads: dict[int, str], what: str) -> None:
    if log.length and heads.get(log.length) != log.head:
        raise LogBroken(f"{what} was given when line {log.length} of the log was another one")
