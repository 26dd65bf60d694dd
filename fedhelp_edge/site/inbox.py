"""Receives parcels at a site: verifies them, stores them, and opens the model that the task names. No torch."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from fedhelp_edge import exchange, files, lock, update
from fedhelp_edge import plan as plans
from fedhelp_edge.codec import CODECS
from fedhelp_edge.errors import (
    AgeError,
    FedhelpError,
    NoMatchError,
    NotYetError,
    ParcelError,
    PayloadSizeError,
    from_os,
)
from fedhelp_edge.merge.closing import NO_MERGE, LastMerge
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import age, keys, parcel
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.plan import Plan
from fedhelp_edge.site import identity, layout, verified
from fedhelp_edge.trust.state import TrustedState
from fedhelp_edge.trust.task import Task
from fedhelp_edge.update import Array

_RECEIPT_LIMIT, _FIRST_MODEL_LIMIT = 64 << 10, 4 << 30  # bytes
_MODEL_OVERHEAD = 16 << 20  # bytes of a model's parcel besides its numbers
_DEPENDENCY_ORDER = (
    "charter",
    "roster",
    "task",
    "knowledge",
    "encoder",
    "global",
    "receipt",
)  # each may need those before it


@dataclass
class DownloadResult:
    """What a download brought: the parcels stored, and the files refused with code and cause."""

    new: list[str] = field(default_factory=list)  # what arrived, in words
    refused: list[dict[str, str]] = field(default_factory=list)


def download(home: Path, carriers: Sequence[exchange.Carrier], ask_passphrase: Callable[[], str]) -> DownloadResult:
    """Fetches, verifies and stores parcels, and opens the model that the newest task names."""
    result = DownloadResult()
    with lock.exclusive(home / layout.LOCK):
        result.refused += verified.repair(home)
        _forget_damaged(home)
        identity.adopt_new_keys(home, verified.require_state(home))  # in case an earlier download was interrupted
        paths = (path for carrier in carriers for path in carrier.fetch(held_hashes(home)))
        trusted = import_files(home, paths, result, functools.cache(lambda: _identities(home, ask_passphrase)))
        identity.adopt_new_keys(home, trusted)
        _open_base_model(home, trusted, ask_passphrase)
    return result


def import_files(
    home: Path, paths: Iterable[Path], result: DownloadResult, identities: Callable[[], Sequence[str]] = list
) -> TrustedState:  # fmt: skip
    """Verifies files from a carrier and stores the new ones. Of what no trusted key signed it reads the prologue alone.

    Several files may hold one statement, for anybody can sign it again: the first valid one counts. Of a model that was
    sealed to several groups of sites, only the parcel that `identities` open is stored.
    """
    trusted, held = verified.require_state(home), set(held_hashes(home))
    listed: list[tuple[tuple[int, int, int], Path]] = []
    parcels_by_model: dict[tuple[int, str], set[str]] = {}  # by round and base: the parcels that hold this model
    imported: list[tuple[Statement, Path]] = []  # downloads whose content is stored
    for path in paths:
        with collecting_refusals(home, path, result), open_prologue(path) as (_, statement, _):
            if statement.kind == "global":
                parcels_by_model.setdefault(_model_key(statement), set()).add(statement.hash)
            if statement.kind in _DEPENDENCY_ORDER and statement.hash not in held:
                listed.append((_import_order(statement), path))
    with layout.scratch(home) as scratch:
        copy = scratch / "copy"  # the carrier may change a file while it is verified
        for _, path in sorted(listed):
            with collecting_refusals(home, path, result), open_prologue(path) as (file, statement, signers):
                is_new = statement.hash not in held and not _is_stored(home, statement)
                is_download = statement.kind in layout.OPENED and path.parent == home / layout.INCOMING
                if is_new and _is_for_us(home, trusted, statement):
                    _check_signers_and_size(trusted, statement, signers)
                    groups = parcels_by_model[_model_key(statement)] if statement.kind == "global" else set()
                    is_group_unopened = len(groups) > 1 and not _is_opened(home, statement, groups)
                    if len(groups) < 2 or (is_group_unopened and age.can_open(file, identities())):
                        parcel.check_payload(file, statement)
                        if not is_download:
                            _copy_parcel(file, copy, statement)
                        trusted = _accept(home, trusted, path if is_download else copy, statement, result)
                held.add(statement.hash)
                if is_download:
                    imported.append((statement, path))
            copy.unlink(missing_ok=True)
    for statement, path in imported:
        note = layout.opened_path(home, statement.kind, statement.sha256).with_suffix(layout.PARCEL_NOTE)
        files.write_atomic(note, statement.hash.encode())  # first: without it the parcel would be fetched again
        path.unlink()
    return trusted


def _forget_damaged(home: Path) -> None:
    """Removes the notes of opened packs and encoders that are damaged or gone, so that they are fetched again."""
    for note, path in layout.parcel_notes(home).items():
        if not layout.is_intact(path):
            note.unlink()


@contextmanager
def collecting_refusals(home: Path, path: Path, result: DownloadResult) -> Iterator[None]:
    """Adds a refused file to the result; the other files are still read."""
    try:
        yield
    except FileNotFoundError:  # the file is gone, or the whole stick
        path.parent.stat()
    except (FedhelpError, OSError) as error:
        if isinstance(error, OSError) and (error.errno in files.LOCAL_ERRNOS or _is_own_disk(home, error)):
            raise
        refusal = from_os(error) if isinstance(error, OSError) else error
        result.refused.append({"file": files.printable_name(path.name), "code": refusal.code, "cause": refusal.cause})
        if isinstance(refusal, ParcelError) and path.parent == home / layout.INCOMING:
            path.unlink()  # damaged here: the next download fetches it again


def _is_own_disk(home: Path, error: OSError) -> bool:
    """Whether this computer's disk fails, and not the carrier."""
    return error.filename is not None and Path(os.fsdecode(error.filename)).is_relative_to(home)


@contextmanager
def open_prologue(path: Path) -> Iterator[tuple[BinaryIO, Statement, tuple[str, ...]]]:
    """Opens a carrier's file whose length matches its statement; yields the file, the statement and its signers."""
    with files.open_shared(path.parent) as folder, folder.reading(path.name) as file:
        statement, signers = parcel.read_prologue(file)
        parcel.check_length(file, statement)
        yield file, statement, signers


def _check_signers_and_size(trusted: TrustedState, statement: Statement, signers: tuple[str, ...]) -> None:
    """Raises unless a trusted key signed it, and its size fits its kind: strangers cannot fill the disk."""
    trusted.check_signers(statement, signers)
    limit = statement.format.limit
    if statement.kind == "receipt":
        limit = _RECEIPT_LIMIT
    elif statement.kind == "global":
        limit = model_limit(trusted)
    if statement.size > limit:
        raise PayloadSizeError(f"larger than the {limit} bytes that a {statement.kind} can need")


def model_limit(trusted: TrustedState) -> int:
    """Returns the largest size of a merged model's parcel in bytes, by the newest task's schema if there is one."""
    return 2 * trusted.task.schema.size + _MODEL_OVERHEAD if trusted.task else _FIRST_MODEL_LIMIT


def _copy_parcel(file: BinaryIO, copy: Path, statement: Statement) -> None:
    left = file.tell() + statement.size
    file.seek(0)
    with files.writing(copy) as sink:
        while left and (chunk := file.read(min(left, 1 << 18))):
            sink.write(chunk)
            left -= len(chunk)


def _accept(
    home: Path, trusted: TrustedState, copy: Path, statement: Statement, result: DownloadResult
) -> TrustedState:
    if statement.kind in layout.OPENED:
        parcel.inspect(copy, trusted.check_signers)
        _save_opened(home, copy, statement)
        result.new.append(f"{statement.kind}, {statement.size / 1e6:.1f} MB")
        return trusted
    trusted = verified.accept(trusted, copy)
    verified.check_not_older(home, statement)  # after the signers were checked
    verified.save(home, copy, statement)
    result.new.append(_describe(statement))
    return trusted


def _describe(statement: Statement) -> str:
    if statement.kind == "global":
        return f"model after round {statement.context['round']}" if statement.context["round"] else "the first model"
    if statement.kind == "task":
        return f"task for round {statement.context['round']}"
    return f"{statement.kind} {statement.context['version']}" if "version" in statement.context else statement.kind


def _save_opened(home: Path, copy: Path, statement: Statement) -> None:
    path = layout.opened_path(home, statement.kind, statement.sha256)
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)  # a damaged copy
    with parcel.open(copy, parcel.any_signer) as opened, files.writing(path) as sink:
        shutil.copyfileobj(opened.body, sink)


def _open_base_model(home: Path, trusted: TrustedState, ask_passphrase: Callable[[], str]) -> None:
    """Opens the model that the newest task names, once. No model is sealed for a site that is not in the roster."""
    if trusted.task is None or layout.is_intact(layout.base_path(home, trusted.task)):
        return
    if identity.own_site(home, trusted) is None:
        return
    base, base_path = trusted.task.base, layout.base_path(home, trusted.task)
    sealed = sorted((home / "global").glob(f"{trusted.charter.epoch:04}-*.fhx"))
    candidates = [path for path in sealed if parcel.inspect(path, parcel.any_signer).statement.context["base"] == base]
    if not candidates:
        return
    site_keys = keys.load(home, ask_passphrase)
    error: FedhelpError = NoMatchError("the base model of this round is not sealed for this site's keys")
    for path in candidates:
        try:
            with parcel.open(path, trusted.check_signers, [site_keys.identity]) as opened:
                base_path.parent.mkdir(exist_ok=True)
                base_path.unlink(missing_ok=True)  # a damaged copy
                _note_merge(home, base_path, opened)
                with files.writing(base_path) as sink:
                    shutil.copyfileobj(opened.body, sink)
                return
        except NoMatchError:
            continue
        except (AgeError, ParcelError) as sealing_error:  # it may have been sealed again
            error = sealing_error
    raise error


def lacks_pack(home: Path, task: Task) -> bool:
    path = layout.pack_path(home, task)
    return path is not None and not layout.is_intact(path)


def lacks_encoder(home: Path, task: Task) -> bool:
    plan = plan_of(task)
    return bool(plan.nets.encoder) and not layout.is_intact(layout.encoder_path(home, plan))


def base_model(home: Path, task: Task, plan: Plan) -> dict[str, Array]:
    """Returns the arrays of the model that a round starts from."""
    path = layout.base_path(home, task)
    if not layout.is_intact(path):
        raise NotYetError(f"the base model of round {task.round} is {'damaged' if path.exists() else 'missing'} here")
    return dict(CODECS[plan.wire.down].decode(update.load(path), {}))


def _note_merge(home: Path, base_path: Path, opened: parcel.Opened) -> None:
    """Notes beside an opened model what the coordinator says of the merge that made it.

    It lists the merged updates where there are few enough; in a longer list one site's own weighs next to nothing.
    """
    listed = opened.facts.get("inputs")
    inputs = listed if isinstance(listed, list) else []
    own = next((path for path in (home / "rounds").glob("*/*.fhx") if path.stem in inputs), None)
    merge = {"updates": opened.statement.context["inputs"]["count"], "own": own.parent.name if own else ""}
    files.write_atomic(base_path.with_suffix(".json"), json.dumps(merge).encode())


def last_merge(home: Path, task: Task, last_trained: Path | None) -> LastMerge:
    """Returns what this site knows of the merge that made the round's base model."""
    path = layout.base_path(home, task).with_suffix(".json")
    try:
        note = json.loads(path.read_bytes())
        of = note["own"]  # the folder of the round whose update was merged
        return LastMerge(note["updates"], bool(of), last_trained is None or of == last_trained.name)
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # the note is missing or damaged
        return NO_MERGE


def stale_rounds(task: Task) -> int:
    """Returns how many rounds late an update may arrive."""
    plan = plan_of(task)
    return METHODS[plan.method].stale_rounds(plan)


def plan_of(task: Task) -> Plan:
    return plans.read(task.plan, METHODS)


def agreed_plan(home: Path, path: Path | None) -> Plan:
    """Returns the plan of a file, or that of the current task; raises where neither is known."""
    if path:
        return plans.load(path, METHODS)
    task = verified.require_state(home).task
    if task is None:
        raise NotYetError("no round is open yet, so the classes are not known", remedy="name a plan with --plan")
    return plan_of(task)


def held_hashes(home: Path) -> frozenset[str]:
    """Returns the hashes of parcels that need not be fetched again."""
    hashes = [path.stem.rsplit("-", 1)[-1] for kind in ("global", "receipt") for path in (home / kind).glob("*.fhx")]
    opened = [note.read_bytes().decode("ascii", "replace") for note in layout.parcel_notes(home)]
    return frozenset([*hashes, *opened])


def _model_key(statement: Statement) -> tuple[int, str]:
    return statement.context["round"], statement.context["base"]


def _is_opened(home: Path, statement: Statement, parcels: Iterable[str]) -> bool:
    """Whether one of the parcels that hold this model was stored and opened."""
    base_path = home / "base" / f"{statement.context['base']}.safetensors"
    return not held_hashes(home).isdisjoint(parcels) and layout.is_intact(base_path)


def _identities(home: Path, ask_passphrase: Callable[[], str]) -> list[str]:
    """Returns the private keys that open parcels for this site, requested new keys included."""
    return [
        keys.load(folder, ask_passphrase).identity for folder in (home, home / layout.NEXT_KEYS) if keys.exist(folder)
    ]


def _is_for_us(home: Path, trusted: TrustedState, statement: Statement) -> bool:
    """False for receipts of other sites, and for receipts of earlier epochs."""
    if statement.kind != "receipt":
        return True
    return statement.context["epoch"] >= trusted.charter.epoch and _is_ours(home, statement.context["about"])


def _is_ours(home: Path, hash_: str) -> bool:
    return (home / "request" / f"{hash_}.fhx").exists() or any((home / "rounds").glob(f"*/{hash_}.fhx"))


def _is_stored(home: Path, statement: Statement) -> bool:
    if statement.kind in layout.OPENED:
        return layout.is_intact(layout.opened_path(home, statement.kind, statement.sha256))
    path = layout.parcel_path(home, statement)
    return path.exists() and layout.parcel_hash(path) == statement.hash


def _import_order(statement: Statement) -> tuple[int, int, int]:
    context = statement.context
    number = context.get("version", context.get("round", 0))
    return _DEPENDENCY_ORDER.index(statement.kind), context.get("epoch", 0), number


def sealed_models(home: Path, trusted: TrustedState, round_: int) -> list[Path]:
    """Returns the stored parcels of a round's merged model: one, or one for each group of readers."""
    return sorted((home / "global").glob(f"{trusted.charter.epoch:04}-{round_:06}-*.fhx"))


def merged_model(
    home: Path, trusted: TrustedState, round_: int, site_keys: Keys, plan: Plan
) -> tuple[dict[str, Array] | None, int]:
    """Returns the merged model of a round, or None, and the number of updates in it."""
    for path in sealed_models(home, trusted, round_):
        try:
            with parcel.open(path, trusted.check_signers, [site_keys.identity]) as opened:
                wire = update.load(opened.body)
                return dict(CODECS[plan.wire.down].decode(wire, {})), int(opened.statement.context["inputs"]["count"])
        except NoMatchError:  # sealed before this site was admitted
            continue
    return None, 0
