"""Checks an exported round without any key: its task, its updates, and what became of each.

The receipt of the model signs the log. The log names the model, the roster, the task and each update with its receipts.
The roster names the charter. So the audit names whatever was changed, left out or added. It trusts the charter in the
folder: compare `federation` with your own federation's id.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedhelp_edge import files
from fedhelp_edge.errors import AuditGapError, BadBodyError, FedhelpError, LogBrokenError
from fedhelp_edge.parcel import parcel as parcels
from fedhelp_edge.parcel import statement
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.trust import charter, roster
from fedhelp_edge.trust.charter import Charter
from fedhelp_edge.trust.log import Log, check_chain
from fedhelp_edge.trust.roster import Roster
from fedhelp_edge.trust.round_record import LOG_FILE, SIGNERS_FILE, LogLine, RoundRecord, is_of_these_keys, read_round

_ROUND_SUBJECT = re.compile(r"round ([0-9]{1,9})")
_PARCEL_NAME = re.compile(r"([0-9a-f]{64})\.fhx")


@dataclass
class AuditReport:
    """An exported round that holds: its model, its updates, and the state of the log."""

    federation: str = ""
    round: int = 0
    model: str = ""
    merged: list[dict[str, str]] = field(default_factory=list)  # site, update (also as `share`, its name before), state
    others: list[dict[str, str]] = field(default_factory=list)  # the updates that were not merged, and their state
    log: Log = field(default_factory=Log)


@dataclass(frozen=True)
class _Parcel:
    """A parcel whose signatures hold; `payload` is empty where it is encrypted."""

    statement: Statement
    signers: tuple[str, ...]
    payload: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.statement.hash}.fhx"


class _ExportedFolder:
    """The parcels of an exported folder. The audit takes each one that should be there; none may remain."""

    def __init__(self, folder: Path) -> None:
        self._parcels: dict[str, _Parcel] = {}
        for path in sorted(folder.iterdir()):
            if path.name in (LOG_FILE, SIGNERS_FILE):
                continue
            name = _PARCEL_NAME.fullmatch(path.name)
            if name is None or not stat.S_ISREG(path.lstat().st_mode):
                raise AuditGapError(f"{_shown(path.name)} does not belong to an exported round")
            with _naming_file(path.name):
                parcel = _read_parcel(path)
                if parcel.statement.hash != name[1]:
                    raise AuditGapError(f"it holds another parcel, the {parcel.statement.kind} {parcel.name}")
            self._parcels[name[1]] = parcel
        self._left = dict(self._parcels)

    def of_kind(self, *kinds: str) -> list[_Parcel]:
        return [parcel for parcel in self._parcels.values() if parcel.statement.kind in kinds]

    def take(self, hash_: str, kind: str, what: str) -> _Parcel:
        parcel = self._left.pop(hash_, None)
        if parcel is None or parcel.statement.kind != kind:
            raise AuditGapError(f"{what} is missing: {_shown(hash_)}.fhx")
        return parcel

    def check_empty(self, round_: int) -> None:
        for parcel in self._left.values():
            raise AuditGapError(f"{parcel.name}, a {parcel.statement.kind}, does not belong to round {round_}")


def check(folder: Path) -> AuditReport:
    """Returns what the round holds, or raises the first fault with the name of its file."""
    with os.scandir(folder):  # if it is not there, the error names it and not its log
        pass
    with _naming_file(LOG_FILE):
        lines = list(_read_lines(folder / LOG_FILE))
        log = check_chain((line, recorded_hash) for line, recorded_hash in lines)
    exported, heads = _ExportedFolder(folder), {line["seq"]: recorded_hash for line, recorded_hash in lines}
    for parcel in exported.of_kind("receipt", "task"):
        _check_head(parcel, heads)
    round_, record = _round_record([line for line, _ in lines])
    detail = record.model["detail"]
    round_charter, round_roster, charters, rosters = _charters_and_rosters(exported, str(detail.get("roster")))
    model = exported.take(str(detail["parcel"]), "global", "the round's model")
    signed_parcels = [model]
    signed_parcels += [exported.take(hash_, "global", "the model for other sites") for hash_ in _other_parcels(detail)]
    if "task" in detail:
        signed_parcels.append(exported.take(str(detail["task"]), "task", "the round's task"))
    for parcel in signed_parcels:
        with _naming_file(parcel.name):
            _check_signed_by_coordinator(parcel, charters, round_charter, round_roster)
    report = AuditReport(round_charter.federation, round_, str(detail["model"]), log=log)
    for hash_, decisions in record.updates.items():
        site = record.merged.get(hash_)
        missing = "the updates in the folder are not those that were merged: the update" if site else "an update"
        parcel = exported.take(hash_, "update", f"{missing} of {decisions[0]['detail'].get('site')}")
        with _naming_file(parcel.name):
            _check_update(parcel, rosters, round_, detail)
        sender, state = parcel.statement.context["sender"], decisions[-1]["type"]
        row = {"site": sender, "update": hash_, "share": hash_, "state": state}
        (report.merged if site else report.others).append(row)
    report.merged.sort(key=lambda row: row["site"])
    _check_receipts(exported, record, charters, rosters)
    exported.check_empty(round_)
    _check_signers(folder / SIGNERS_FILE, round_charter, round_roster)
    for parcel in exported.of_kind("global"):
        context = parcel.statement.context
        if (context["round"], context["base"]) != (round_, report.model):
            seq = record.model["seq"]
            raise LogBrokenError(f"{LOG_FILE}: line {seq} names another model than the parcel {parcel.name}")
        if context["inputs"] != statement.list_digest(record.inputs):
            raise AuditGapError(f"{parcel.name}: the model names other inputs than the log")
    return report


def _other_parcels(detail: dict[str, Any]) -> list[str]:
    """Returns the hashes of further parcels with the same model, for further groups of sites."""
    match detail.get("others", []):
        case list(hashes) if all(isinstance(hash_, str) for hash_ in hashes):
            return hashes
    raise LogBrokenError(f"{LOG_FILE}: the last line does not name the model's parcels")


@contextmanager
def _naming_file(name: str) -> Iterator[None]:
    """Puts the file's name in front of an error."""
    try:
        yield
    except FedhelpError as error:
        raise type(error)(f"{name}: {error.cause}", remedy=error.remedy) from error


def _shown(name: str) -> str:
    """Makes a foreign file name safe to print."""
    return re.sub(r"[^\w.,+@ ()-]", "?", name)[:80]


def _read_lines(path: Path) -> Iterator[tuple[LogLine, str]]:
    if not path.exists():
        raise AuditGapError("the log is missing")
    with files.reading(path) as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
                recorded_hash = line.pop("hash")
                is_canonical = json.dumps({**line, "hash": recorded_hash}, sort_keys=True) + "\n" == text.decode()
            except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
                raise LogBrokenError(f"line {number} of the log is not a JSON object") from error
            match line:
                case {"seq": int(), "time": str(), "type": str(), "subject": str(), "detail": dict()} if is_canonical:
                    yield line, recorded_hash
                case _:
                    raise LogBrokenError(f"line {number} of the log has unknown fields")


def _read_parcel(path: Path) -> _Parcel:
    inspected = parcels.inspect(path, parcels.any_signer)
    if inspected.statement.form == "age":
        return _Parcel(inspected.statement, inspected.keys, {})
    with parcels.open(path, parcels.any_signer) as opened:
        return _Parcel(opened.statement, opened.keys, opened.json())


def _round_record(lines: list[LogLine]) -> tuple[int, RoundRecord]:
    """Returns the round's number, and what the log says of it. An exported log ends with the round's model."""
    last = lines[-1] if lines else {"type": "", "subject": ""}
    number = _ROUND_SUBJECT.fullmatch(last["subject"])
    round_ = int(number[1]) if number else 0
    record = read_round(lines, round_)
    if record is None or record.model is not last or not isinstance(record.model["detail"].get("model"), str):
        raise LogBrokenError(f"{LOG_FILE}: the last line does not name a round's model")
    return round_, record


def _charters_and_rosters(
    exported: _ExportedFolder, roster_hash: str
) -> tuple[Charter, Roster, dict[str, Charter], list[Roster]]:
    """Returns the round's charter and roster, and all versions before them, each checked against its predecessor."""
    for kind in ("charter", "roster"):
        versions = sorted(int(parcel.statement.context["version"]) for parcel in exported.of_kind(kind))
        for number, version in enumerate(versions or [0], 1):
            if number != version:
                raise AuditGapError(f"{kind} {number} is missing")
    by_version = {
        kind: sorted(exported.of_kind(kind), key=lambda parcel: int(parcel.statement.context["version"]))
        for kind in ("charter", "roster")
    }
    charters: dict[str, Charter] = {}
    current: Charter | None = None
    for parcel in by_version["charter"]:
        with _naming_file(parcel.name):
            signed = parcel.statement, parcel.signers, parcel.payload
            current = charter.read_next(current, *signed) if current else charter.read_first(*signed)
        charters[current.hash] = current
        exported.take(current.hash, "charter", "a charter")
    rosters = []
    for parcel in by_version["roster"]:
        its_charter = charters.get(str(parcel.statement.context["charter"]))
        if its_charter is None:
            context = parcel.statement.context
            raise AuditGapError(f"the charter of roster {context['version']} is missing: {context['charter']}.fhx")
        with _naming_file(parcel.name):
            rosters.append(roster.read(parcel.statement, parcel.signers, parcel.payload, its_charter))
        exported.take(parcel.statement.hash, "roster", "a roster")
    round_roster = rosters[-1]
    if round_roster.hash != roster_hash:
        raise AuditGapError(
            f"the round's roster is missing: {_shown(roster_hash)}.fhx, or {round_roster.hash}.fhx came after it"
        )
    if current is None or current.hash != round_roster.charter:
        raise AuditGapError(f"{current.hash if current else ''}.fhx, a charter, is not that of the round's roster")
    return current, round_roster, charters, rosters


def _check_update(parcel: _Parcel, rosters: list[Roster], round_: int, detail: dict[str, Any]) -> None:
    """Checks that some roster held the sender's key. The site may have been revoked since."""
    context = parcel.statement.context
    listed = (each.site(context["sender"]) for each in rosters)
    if not any(site and (site.sign,) == parcel.signers for site in listed):
        roster.check_sender(parcel.statement, parcel.signers, rosters[-1], context["round"])
    if context["round"] == round_ and context["task"] != detail.get("task"):
        raise AuditGapError("it was made under another task than the round's")


def _check_receipts(
    exported: _ExportedFolder, record: RoundRecord, charters: dict[str, Charter], rosters: list[Roster]
) -> None:
    """Checks that each log line about the model or an update has its receipt, which signs the log of that time."""
    signed = exported.of_kind("receipt")
    receipts = {(parcel.statement.context["about"], _log_state(parcel).length): parcel for parcel in signed}
    model = {**record.model, "subject": record.model["detail"]["parcel"], "type": "published"}
    for line in (model, *(line for decisions in record.updates.values() for line in decisions)):
        missing = f"the receipt of line {line['seq']} of the log, {line['type']!r},"
        parcel = receipts.get((line["subject"], line["seq"]))
        if parcel is None or parcel.payload.get("state") != line["type"]:
            raise AuditGapError(f"{missing} is missing, about {line['subject']}.fhx")
        exported.take(parcel.statement.hash, "receipt", missing)
        with _naming_file(parcel.name):
            if parcel.statement.context["sender"] == "front":
                _check_signed_by_front(parcel, charters, rosters)
            else:
                _check_signed_by_coordinator(parcel, charters, list(charters.values())[-1], rosters[-1])


def _check_signed_by_front(parcel: _Parcel, charters: dict[str, Charter], rosters: list[Roster]) -> None:
    if parcel.payload.get("state") != "received" or not any((each.front,) == parcel.signers for each in rosters):
        roster.check_front(parcel.statement, parcel.signers, list(charters.values())[-1], rosters[-1])
        raise BadBodyError("the front may sign receipts that say 'received', and nothing else")


def _check_signed_by_coordinator(
    parcel: _Parcel, charters: dict[str, Charter], round_charter: Charter, round_roster: Roster
) -> None:
    if not any((each.coordinator,) == parcel.signers for each in charters.values()):
        roster.check_coordinator(parcel.statement, parcel.signers, round_charter, round_roster)


def _log_state(parcel: _Parcel) -> Log:
    match parcel.payload.get("log"):
        case {"length": int(length), "head": str(head)}:
            return Log(length, head)
    raise BadBodyError(f"{parcel.name}: it does not state the length and head of the log")


def _check_head(parcel: _Parcel, heads: dict[int, str]) -> None:
    log = _log_state(parcel)
    if log.length and heads.get(log.length) != log.head:
        what = "was another one" if log.length in heads else "is missing; it was there"
        kind = parcel.statement.kind
        raise LogBrokenError(f"{LOG_FILE}: line {log.length} {what} when {parcel.name} was signed, a {kind}")


def _check_signers(path: Path, round_charter: Charter, round_roster: Roster) -> None:
    if not path.exists():
        raise AuditGapError(f"the list of keys is missing: {SIGNERS_FILE}")
    with files.reading(path) as file:
        if not is_of_these_keys(file.read().decode("utf-8", "replace"), round_charter, round_roster):
            raise AuditGapError(f"{SIGNERS_FILE}: it does not match the keys of the charter and the roster")
