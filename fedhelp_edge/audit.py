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
from fedhelp_edge.trust.charter import Charter
from fedhelp_edge.trust.log import Log, check_chain
from fedhelp_edge.trust.roster import Roster
from fedhelp_edge.trust.round_record import LOG_FILE, SIGNERS_FILE, LogLine, RoundRecord, allowed_signers, read_round

_ROUND_SUBJECT = re.compile(r"round ([0-9]{1,9})")
_PARCEL_NAME = re.compile(r"([0-9a-f]{64})\.fhx")


@dataclass
class AuditReport:
    federation: str = ""
    round: int = 0
    model: str = ""
    merged: list[dict[str, str]] = field(default_factory=list)  # site, update (also as `share`, its name before), state
    others: list[dict[str, str]] = field(default_factory=list)  # what became of the rest
    log: Log = field(default_factory=Log)


@dataclass(frozen=True)
class _Parcel:
    statement: Statement
    signers: tuple[str, ...]
    payload: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.statement.hash}.fhx"


class _ExportedFolder:
    """An exported folder's parcels: each is taken by what should be there, and none may be left over."""

    def __init__(self, folder: Path) -> None:
        self._parcels: dict[str, _Parcel] = {}
        for path in sorted(folder.iterdir()):
            if path.name in (LOG_FILE, SIGNERS_FILE):
                continue
            name = _PARCEL_NAME.fullmatch(path.name)
            if name is None or not stat.S_ISREG(path.lstat().st_mode):
                raise AuditGapError(f"{_shown(path.name)} does not belong to an exported round")
            with _naming_file(path.name):
                parcel_ = _read_parcel(path)
                if parcel_.statement.hash != name[1]:
                    raise AuditGapError(f"it holds another parcel, the {parcel_.statement.kind} {parcel_.name}")
            self._parcels[name[1]] = parcel_
        self._left = dict(self._parcels)

    def of_kind(self, *kinds: str) -> list[_Parcel]:
        return [parcel_ for parcel_ in self._parcels.values() if parcel_.statement.kind in kinds]

    def take(self, hash_: str, kind: str, what: str) -> _Parcel:
        parcel_ = self._left.pop(hash_, None)
        if parcel_ is None or parcel_.statement.kind != kind:
            raise AuditGapError(f"{what} is missing: {_shown(hash_)}.fhx")
        return parcel_

    def check_empty(self, round_: int) -> None:
        for parcel_ in self._left.values():
            raise AuditGapError(f"{parcel_.name}, a {parcel_.statement.kind}, does not belong to round {round_}")


def check(folder: Path) -> AuditReport:
    """Everything holds, or the first thing that does not is raised, with the name of its file."""
    with _naming_file(LOG_FILE):
        lines = list(_read_lines(folder / LOG_FILE))
        log = check_chain((line, recorded_hash) for line, recorded_hash in lines)
    exported, heads = _ExportedFolder(folder), {line["seq"]: recorded_hash for line, recorded_hash in lines}
    for parcel_ in exported.of_kind("receipt", "task"):
        _check_head(parcel_, heads)
    round_, record = _round_record([line for line, _ in lines])
    detail = record.model["detail"]
    round_charter, round_roster, charters, rosters = _charters_and_rosters(exported, str(detail.get("roster")))
    model = exported.take(str(detail["parcel"]), "global", "the round's model")
    signed_parcels = [
        model,
        *(exported.take(hash_, "global", "the model for other sites") for hash_ in _other_parcels(detail)),
    ]
    if "task" in detail:
        signed_parcels.append(exported.take(str(detail["task"]), "task", "the round's task"))
    for parcel_ in signed_parcels:
        with _naming_file(parcel_.name):
            _check_signed_by_coordinator(parcel_, charters, round_charter, round_roster)
    report = AuditReport(round_charter.federation, round_, str(detail["model"]), log=log)
    for hash_, decisions in record.updates.items():
        site = record.merged.get(hash_)
        mismatch = "the updates in the folder are not those that the model was made of: the update"
        parcel_ = exported.take(
            hash_, "update", f"{mismatch if site else 'an update'} of {decisions[0]['detail'].get('site')}"
        )
        with _naming_file(parcel_.name):
            _check_update(parcel_, rosters, round_, detail)
        sender, state = parcel_.statement.context["sender"], decisions[-1]["type"]
        row = {"site": sender, "update": hash_, "share": hash_, "state": state}
        (report.merged if site else report.others).append(row)
    report.merged.sort(key=lambda row: row["site"])
    _check_receipts(exported, record, charters, rosters)
    exported.check_empty(round_)
    _check_signers(folder / SIGNERS_FILE, round_charter, round_roster)
    for parcel_ in exported.of_kind("global"):
        context = parcel_.statement.context
        if (context["round"], context["base"]) != (round_, report.model):
            raise LogBrokenError(
                f"{LOG_FILE}: line {record.model['seq']} names another model than the parcel {parcel_.name}"
            )
        if context["inputs"] != statement.list_digest(record.inputs):
            raise AuditGapError(f"{parcel_.name}: the model was made of other updates than the log says")
    return report


def _other_parcels(detail: dict[str, Any]) -> list[str]:
    """The parcels of the same model for further groups of sites, where there are several."""
    match detail.get("others", []):
        case list(hashes) if all(isinstance(hash_, str) for hash_ in hashes):
            return hashes
    raise LogBrokenError(f"{LOG_FILE}: the last line does not name the model's parcels")


@contextmanager
def _naming_file(name: str) -> Iterator[None]:
    """Names the file in whatever is wrong with it."""
    try:
        yield
    except FedhelpError as error:
        raise type(error)(f"{name}: {error.cause}", remedy=error.remedy) from error


def _shown(name: str) -> str:
    """A file's name from outside, safe to print."""
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
            except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
                raise LogBrokenError(f"line {number} of the log is no JSON object") from None
            match line:
                case {"seq": int(), "time": str(), "type": str(), "subject": str(), "detail": dict()} if is_canonical:
                    yield line, recorded_hash
                case _:
                    raise LogBrokenError(f"line {number} of the log has another form")


def _read_parcel(path: Path) -> _Parcel:
    inspected = parcel.inspect(path, parcel.any_signer)
    if inspected.statement.form == "age":
        return _Parcel(inspected.statement, inspected.keys, {})
    with parcel.open(path, parcel.any_signer) as opened:
        return _Parcel(opened.statement, opened.keys, opened.json())


def _round_record(lines: list[LogLine]) -> tuple[int, RoundRecord]:
    """The round, and what the log says of it: an exported log ends with the round's model."""
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
    """The charter and roster of that time, and all before them, each following from the one before."""
    for kind in ("charter", "roster"):
        versions = sorted(int(parcel_.statement.context["version"]) for parcel_ in exported.of_kind(kind))
        for number, version in enumerate(versions or [0], 1):
            if number != version:
                raise AuditGapError(f"{kind} {number} is missing")
    by_version = {
        kind: sorted(exported.of_kind(kind), key=lambda parcel_: int(parcel_.statement.context["version"]))
        for kind in ("charter", "roster")
    }
    charters: dict[str, Charter] = {}
    current: Charter | None = None
    for parcel_ in by_version["charter"]:
        with _naming_file(parcel_.name):
            current = charter.read_next(current, parcel_.statement, parcel_.signers, parcel_.payload) if current else charter.read_first(
                parcel_.statement, parcel_.signers, parcel_.payload
            )  # fmt: skip
        charters[current.hash] = current
        exported.take(current.hash, "charter", "a charter")
    rosters = []
    for parcel_ in by_version["roster"]:
        its_charter = charters.get(str(parcel_.statement.context["charter"]))
        if its_charter is None:
            raise AuditGapError(f"the charter of roster {parcel_.statement.context['version']} is missing: "
                           f"{parcel_.statement.context['charter']}.fhx")  # fmt: skip
        with _naming_file(parcel_.name):
            rosters.append(roster.read(parcel_.statement, parcel_.signers, parcel_.payload, its_charter))
        exported.take(parcel_.statement.hash, "roster", "a roster")
    round_roster = rosters[-1]
    if round_roster.hash != roster_hash:
        raise AuditGapError(
            f"the round's roster is missing: {_shown(roster_hash)}.fhx, or {round_roster.hash}.fhx came after it"
        )
    if current is None or current.hash != round_roster.charter:
        raise AuditGapError(f"{current.hash if current else ''}.fhx, a charter, is not that of the round's roster")
    return current, round_roster, charters, rosters


def _check_update(parcel_: _Parcel, rosters: list[Roster], round_: int, detail: dict[str, Any]) -> None:
    """Its sender's key stood in a roster; whether it may still send is no question here."""
    context = parcel_.statement.context
    listed = (each.site(context["sender"]) for each in rosters)
    if not any(site and (site.sign,) == parcel_.signers for site in listed):
        roster.check_sender(parcel_.statement, parcel_.signers, rosters[-1], context["round"])
    if context["round"] == round_ and context["task"] != detail.get("task"):
        raise AuditGapError("it was made for another task than the round's")


def _check_receipts(
    exported: _ExportedFolder, record: RoundRecord, charters: dict[str, Charter], rosters: list[Roster]
) -> None:
    """Each line about the model or an update has its receipt, and signs the log as it stood then."""
    receipts = {
        (parcel_.statement.context["about"], _log_state(parcel_).length): parcel_
        for parcel_ in exported.of_kind("receipt")
    }
    model = {**record.model, "subject": record.model["detail"]["parcel"], "type": "published"}
    for line in (model, *(line for decisions in record.updates.values() for line in decisions)):
        missing = f"the receipt of line {line['seq']} of the log, {line['type']!r},"
        parcel_ = receipts.get((line["subject"], line["seq"]))
        if parcel_ is None or parcel_.payload.get("state") != line["type"]:
            raise AuditGapError(f"{missing} is missing, about {line['subject']}.fhx")
        exported.take(parcel_.statement.hash, "receipt", missing)
        with _naming_file(parcel_.name):
            if parcel_.statement.context["sender"] == "front":
                _check_signed_by_front(parcel_, charters, rosters)
            else:
                _check_signed_by_coordinator(parcel_, charters, list(charters.values())[-1], rosters[-1])


def _check_signed_by_front(parcel_: _Parcel, charters: dict[str, Charter], rosters: list[Roster]) -> None:
    if parcel_.payload.get("state") != "received" or not any((each.front,) == parcel_.signers for each in rosters):
        roster.check_front(parcel_.statement, parcel_.signers, list(charters.values())[-1], rosters[-1])
        raise BadBodyError("the front may say that it received something, and nothing else")


def _check_signed_by_coordinator(
    parcel_: _Parcel, charters: dict[str, Charter], round_charter: Charter, round_roster: Roster
) -> None:
    if not any((each.coordinator,) == parcel_.signers for each in charters.values()):
        roster.check_coordinator(parcel_.statement, parcel_.signers, round_charter, round_roster)


def _log_state(parcel_: _Parcel) -> Log:
    match parcel_.payload.get("log"):
        case {"length": int(length), "head": str(head)}:
            return Log(length, head)
    raise BadBodyError(f"{parcel_.name}: it does not say how the log stood")


def _check_head(parcel_: _Parcel, heads: dict[int, str]) -> None:
    log = _log_state(parcel_)
    if log.length and heads.get(log.length) != log.head:
        what = "is missing" if log.length not in heads else "was another one"
        what = "was another one" if log.length in heads else "is missing; it was there"
        raise LogBrokenError(
            f"{LOG_FILE}: line {log.length} {what} when {parcel_.name} was signed, a {parcel_.statement.kind}"
        )


def _check_signers(path: Path, round_charter: Charter, round_roster: Roster) -> None:
    if not path.exists():
        raise AuditGapError(f"the list of keys is missing: {SIGNERS_FILE}")
    with files.reading(path) as file:
        if file.read() != allowed_signers(round_charter, round_roster).encode():
            raise AuditGapError(f"{SIGNERS_FILE}: these are not the keys of the charter and the roster")
