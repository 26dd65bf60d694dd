"""Checking a round that a coordinator handed out, without any key: who ordered it, who gave what, what became of it.

The receipt of the model signs the log; the log names the model, the roster, the task and each update with its
receipts; the roster names the charter. So whatever is changed, left out or put in is found, and named.
Everything is judged by the charter in the folder; whether that is one's own federation's, `federation` says.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedhelp_edge import files
from fedhelp_edge.errors import AuditGapError, BadBodyError, FedhelpError, LogBrokenError
from fedhelp_edge.parcel import parcel, statement
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.trust import charter, roster
from fedhelp_edge.trust.account import LOG, SIGNERS, Account, Line, account, allowed_signers
from fedhelp_edge.trust.charter import Charter
from fedhelp_edge.trust.log import Log, check_chain
from fedhelp_edge.trust.roster import Roster

_ROUND = re.compile(r"round ([0-9]{1,9})")
_PARCEL = re.compile(r"([0-9a-f]{64})\.fhx")


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

    @property
    def name(self) -> str:
        return f"{self.said.hash}.fhx"


class _Folder:
    """An exported folder's parcels: each is taken by what should be there, and none may be left over."""

    def __init__(self, folder: Path) -> None:
        self._parcels: dict[str, _Parcel] = {}
        for path in sorted(folder.iterdir()):
            if path.name in (LOG, SIGNERS):
                continue
            name = _PARCEL.fullmatch(path.name)
            if name is None or not stat.S_ISREG(path.lstat().st_mode):
                raise AuditGapError(f"{_shown(path.name)} does not belong to an exported round")
            with _about(path.name):
                one = _read(path)
                if one.said.hash != name[1]:
                    raise AuditGapError(f"it holds another parcel, the {one.said.kind} {one.name}")
            self._parcels[name[1]] = one
        self._left = dict(self._parcels)

    def of(self, *kinds: str) -> list[_Parcel]:
        return [one for one in self._parcels.values() if one.said.kind in kinds]

    def take(self, hash_: str, kind: str, what: str) -> _Parcel:
        one = self._left.pop(hash_, None)
        if one is None or one.said.kind != kind:
            raise AuditGapError(f"{what} is missing: {_shown(hash_)}.fhx")
        return one

    def check_empty(self, round_: int) -> None:
        for one in self._left.values():
            raise AuditGapError(f"{one.name}, a {one.said.kind}, does not belong to round {round_}")


def check(folder: Path) -> Found:
    """Everything holds, or the first thing that does not is raised, with the name of its file."""
    with _about(LOG):
        lines = list(_lines(folder / LOG))
        log = check_chain((line, kept) for line, kept in lines)
    found, heads = _Folder(folder), {line["seq"]: kept for line, kept in lines}
    for one in found.of("receipt", "task"):
        _check_head(one, heads)
    round_, told = _told([line for line, _ in lines])
    detail = told.model["detail"]
    law, known, laws, rosters = _lawful(found, str(detail.get("roster")))
    model = found.take(str(detail["parcel"]), "global", "the round's model")
    signed = [model, *(found.take(hash_, "global", "the model for other sites") for hash_ in _others(detail))]
    if "task" in detail:
        signed.append(found.take(str(detail["task"]), "task", "the round's task"))
    for one in signed:
        with _about(one.name):
            _signed_by_coordinator(one, laws, law, known)
    result = Found(law.federation, round_, str(detail["model"]), log=log)
    for hash_, about in told.updates.items():
        site = told.merged.get(hash_)
        lost = "the shares in the folder are not those that the model was made of: the update"
        one = found.take(hash_, "update", f"{lost if site else 'an update'} of {about[0]['detail'].get('site')}")
        with _about(one.name):
            _check_update(one, rosters, round_, detail)
        row = {"site": one.said.context["sender"], "share": hash_, "state": about[-1]["type"]}
        (result.merged if site else result.others).append(row)
    result.merged.sort(key=lambda row: row["site"])
    _check_receipts(found, told, laws, rosters)
    found.check_empty(round_)
    _check_signers(folder / SIGNERS, law, known)
    for one in found.of("global"):
        context = one.said.context
        if (context["round"], context["base"]) != (round_, result.model):
            raise LogBrokenError(f"{LOG}: line {told.model['seq']} names another model than the parcel {one.name}")
        if context["inputs"] != statement.counted(told.inputs):
            raise AuditGapError(f"{one.name}: the model was made of other updates than the log says")
    return result


def _others(detail: dict[str, Any]) -> list[str]:
    """The parcels of the same model for further groups of sites, where there are several."""
    match detail.get("others", []):
        case list(hashes) if all(isinstance(hash_, str) for hash_ in hashes):
            return hashes
    raise LogBrokenError(f"{LOG}: the last line does not name the model's parcels")


@contextmanager
def _about(name: str) -> Iterator[None]:
    """Names the file in whatever is wrong with it."""
    try:
        yield
    except FedhelpError as fault:
        raise type(fault)(f"{name}: {fault.cause}", remedy=fault.remedy) from fault


def _shown(name: str) -> str:
    """A file's name from outside, safe to print."""
    return re.sub(r"[^\w.,+@ ()-]", "?", name)[:80]


def _lines(path: Path) -> Iterator[tuple[Line, str]]:
    if not path.exists():
        raise AuditGapError("the log is missing")
    with files.reading(path) as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
                kept = line.pop("hash")
                same = json.dumps({**line, "hash": kept}, sort_keys=True) + "\n" == text.decode()
            except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
                raise LogBrokenError(f"line {number} of the log is no JSON object") from None
            match line:
                case {"seq": int(), "time": str(), "type": str(), "subject": str(), "detail": dict()} if same:
                    yield line, kept
                case _:
                    raise LogBrokenError(f"line {number} of the log has another form")


def _read(path: Path) -> _Parcel:
    seen = parcel.look(path, parcel.anyone)
    if seen.statement.form == "age":
        return _Parcel(seen.statement, seen.keys, {})
    with parcel.open(path, parcel.anyone) as opened:
        return _Parcel(opened.statement, opened.keys, opened.json())


def _told(lines: list[Line]) -> tuple[int, Account]:
    """The round, and what the log says of it: an exported log ends with the round's model."""
    last = lines[-1] if lines else {"type": "", "subject": ""}
    number = _ROUND.fullmatch(last["subject"])
    round_ = int(number[1]) if number else 0
    told = account(lines, round_)
    if told is None or told.model is not last or not isinstance(told.model["detail"].get("model"), str):
        raise LogBrokenError(f"{LOG}: the last line does not name a round's model")
    return round_, told


def _lawful(found: _Folder, newest: str) -> tuple[Charter, Roster, dict[str, Charter], list[Roster]]:
    """The charter and roster of that time, and all before them, each following from the one before."""
    for kind in ("charter", "roster"):
        versions = sorted(int(one.said.context["version"]) for one in found.of(kind))
        for number, version in enumerate(versions or [0], 1):
            if number != version:
                raise AuditGapError(f"{kind} {number} is missing")
    by_version = {
        kind: sorted(found.of(kind), key=lambda one: int(one.said.context["version"])) for kind in ("charter", "roster")
    }
    laws: dict[str, Charter] = {}
    law: Charter | None = None
    for one in by_version["charter"]:
        with _about(one.name):
            law = charter.follow(law, one.said, one.signers, one.holds) if law else charter.first(
                one.said, one.signers, one.holds
            )  # fmt: skip
        laws[law.hash] = law
        found.take(law.hash, "charter", "a charter")
    rosters = []
    for one in by_version["roster"]:
        under = laws.get(str(one.said.context["charter"]))
        if under is None:
            raise AuditGapError(f"the charter of roster {one.said.context['version']} is missing: "
                           f"{one.said.context['charter']}.fhx")  # fmt: skip
        with _about(one.name):
            rosters.append(roster.read(one.said, one.signers, one.holds, under))
        found.take(one.said.hash, "roster", "a roster")
    known = rosters[-1]
    if known.hash != newest:
        raise AuditGapError(f"the round's roster is missing: {_shown(newest)}.fhx, or {known.hash}.fhx came after it")
    if law is None or law.hash != known.charter:
        raise AuditGapError(f"{law.hash if law else ''}.fhx, a charter, is not that of the round's roster")
    return law, known, laws, rosters


def _check_update(one: _Parcel, rosters: list[Roster], round_: int, detail: dict[str, Any]) -> None:
    """Its sender's key stood in a roster; whether it may still send is no question here."""
    context = one.said.context
    stood = (known.site(context["sender"]) for known in rosters)
    if not any(site and (site.sign,) == one.signers for site in stood):
        roster.of_site(one.said, one.signers, rosters[-1], context["round"])
    if context["round"] == round_ and context["task"] != detail.get("task"):
        raise AuditGapError("it was made for another task than the round's")


def _check_receipts(found: _Folder, told: Account, laws: dict[str, Charter], rosters: list[Roster]) -> None:
    """Each line about the model or an update has its receipt, and signs the log as it stood then."""
    receipts = {(one.said.context["about"], _log_of(one).length): one for one in found.of("receipt")}
    model = {**told.model, "subject": told.model["detail"]["parcel"], "type": "published"}
    for line in (model, *(line for about in told.updates.values() for line in about)):
        what = f"the receipt of line {line['seq']} of the log, {line['type']!r},"
        one = receipts.get((line["subject"], line["seq"]))
        if one is None or one.holds.get("state") != line["type"]:
            raise AuditGapError(f"{what} is missing, about {line['subject']}.fhx")
        found.take(one.said.hash, "receipt", what)
        with _about(one.name):
            if one.said.context["sender"] == "front":
                _signed_by_front(one, laws, rosters)
            else:
                _signed_by_coordinator(one, laws, list(laws.values())[-1], rosters[-1])


def _signed_by_front(one: _Parcel, laws: dict[str, Charter], rosters: list[Roster]) -> None:
    if one.holds.get("state") != "received" or not any((known.front,) == one.signers for known in rosters):
        roster.of_front(one.said, one.signers, list(laws.values())[-1], rosters[-1])
        raise BadBodyError("the front may say that it received something, and nothing else")


def _signed_by_coordinator(one: _Parcel, laws: dict[str, Charter], law: Charter, known: Roster) -> None:
    if not any((each.coordinator,) == one.signers for each in laws.values()):
        roster.of_coordinator(one.said, one.signers, law, known)


def _log_of(one: _Parcel) -> Log:
    match one.holds.get("log"):
        case {"length": int(length), "head": str(head)}:
            return Log(length, head)
    raise BadBodyError(f"{one.name}: it does not say how the log stood")


def _check_head(one: _Parcel, heads: dict[int, str]) -> None:
    log = _log_of(one)
    if log.length and heads.get(log.length) != log.head:
        what = "is missing" if log.length not in heads else "was another one"
        what = "was another one" if log.length in heads else "is missing; it was there"
        raise LogBrokenError(f"{LOG}: line {log.length} {what} when {one.name} was signed, a {one.said.kind}")


def _check_signers(path: Path, law: Charter, known: Roster) -> None:
    if not path.exists():
        raise AuditGapError(f"the list of keys is missing: {SIGNERS}")
    with files.reading(path) as file:
        if file.read() != allowed_signers(law, known).encode():
            raise AuditGapError(f"{SIGNERS}: these are not the keys of the charter and the roster")
