"""What comes into a site: orders and models, verified and kept; what an order needs, opened. No torch."""

from __future__ import annotations

import functools
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
from fedhelp_edge.methods.registry import TABLES
from fedhelp_edge.parcel import age, keys, parcel, statement
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.plan import Plan
from fedhelp_edge.site import layout, verified
from fedhelp_edge.trust.state import Floor
from fedhelp_edge.trust.task import Task
from fedhelp_edge.update import Array

_RECEIPT, _FIRST_MODEL, _AROUND = 64 << 10, 4 << 30, 16 << 20  # bytes; the last: what stands around a model's numbers
_ORDER = ("charter", "roster", "task", "knowledge", "global", "receipt")  # each rests on those before it


@dataclass
class Taken:
    new: list[str] = field(default_factory=list)  # what came, in words
    refused: list[dict[str, str]] = field(default_factory=list)


def download(home: Path, carriers: Sequence[exchange.Carrier], ask: Callable[[], str]) -> Taken:
    """Fetch what is there, verify it, keep it; open the model that the order names."""
    taken = Taken()
    with lock.held(home / layout.LOCK):
        taken.refused += verified.repair(home)
        verified.take_up_new_keys(home, verified.state_of_member(home))  # where that was cut off
        found = (path for carrier in carriers for path in carrier.fetch(have(home)))
        known = take_in(home, found, taken, functools.cache(lambda: _identities(home, ask)))
        verified.take_up_new_keys(home, known)
        _open_base(home, known, ask)
    return taken


def take_in(
    home: Path, found: Iterable[Path], taken: Taken, identities: Callable[[], Sequence[str]] = list
) -> Floor:  # fmt: skip
    """Judge what a carrier brought, and keep what is news. Of what nobody trusted sent, only the prologue is read.

    Of several files with one statement the first that holds counts: anybody can sign another's statement once more.
    Of one model that was sealed to several groups of sites, only the parcel that the `identities` open is kept.
    """
    known, kept = verified.state_of_member(home), set(have(home))
    listed: list[tuple[tuple[int, int, int], Path]] = []
    models: dict[tuple[int, str], set[str]] = {}  # by round and base, the parcels that hold this model
    for path in found:
        with _told(home, path, taken), prologue(path) as (_, said, _):
            if said.kind == "global":
                models.setdefault(_model(said), set()).add(said.hash)
            if said.kind in _ORDER and said.hash not in kept:
                listed.append((_rank(said), path))
    with layout.scratch(home) as work:
        copy = work / "copy"  # what is judged must not change meanwhile
        for _, path in sorted(listed):
            with _told(home, path, taken), prologue(path) as (file, said, signers):
                if said.hash not in kept and not _is_kept(home, said) and _is_for_us(home, known, said):
                    _check_sender(known, said, signers)
                    groups = models[_model(said)] if said.kind == "global" else set()
                    if len(groups) < 2 or (not _is_opened(home, said, groups) and age.opens(file, identities())):
                        parcel.check_payload(file, said)
                        _copy(file, copy, said)
                        known = _take(home, known, copy, said, taken)
                kept.add(said.hash)
            copy.unlink(missing_ok=True)
    return known


@contextmanager
def _told(home: Path, path: Path, taken: Taken) -> Iterator[None]:
    """One odd file is named, and hides no other."""
    try:
        yield
    except FileNotFoundError:  # taken away meanwhile; or the whole stick
        path.parent.stat()
    except (FedhelpError, OSError) as fault:
        if isinstance(fault, OSError) and (fault.errno in files.OWN_FAULTS or _is_ours(home, fault)):
            raise
        known = from_os(fault) if isinstance(fault, OSError) else fault
        taken.refused.append({"file": files.shown(path.name), "code": known.code, "cause": known.cause})
        if isinstance(known, ParcelError) and path.parent == home / "incoming":
            path.unlink()  # damaged here: the next download fetches it again


def _is_ours(home: Path, fault: OSError) -> bool:
    """Whether it is the own disk that fails, and not the carrier."""
    return fault.filename is not None and Path(os.fsdecode(fault.filename)).is_relative_to(home)


@contextmanager
def prologue(path: Path) -> Iterator[tuple[BinaryIO, statement.Statement, tuple[str, ...]]]:
    """A file of the carrier that has the length which its statement tells, and who signed that."""
    with files.directory(path.parent) as there, there.reading(path.name) as file:
        said, signers = parcel.read_prologue(file)
        parcel.check_length(file, said)
        yield file, said, signers


def _check_sender(known: Floor, said: statement.Statement, signers: tuple[str, ...]) -> None:
    """Whether somebody trusted signed it, and no more comes than its kind can need."""
    known.trust(said, signers)
    limit = said.holds.limit
    if said.kind == "receipt":
        limit = _RECEIPT
    elif said.kind == "global":
        limit = largest_model(known)
    if said.size > limit:
        raise PayloadSizeError(f"larger than the {limit} bytes that a {said.kind} can need")


def largest_model(known: Floor) -> int:
    """How many bytes a merged model can have, as far as a task has said what it looks like."""
    return 2 * known.task.schema.size + _AROUND if known.task else _FIRST_MODEL


def _copy(file: BinaryIO, copy: Path, said: statement.Statement) -> None:
    left = file.tell() + said.size
    file.seek(0)
    with files.writing(copy) as sink:
        while left and (chunk := file.read(min(left, 1 << 18))):
            sink.write(chunk)
            left -= len(chunk)


def _take(home: Path, known: Floor, copy: Path, said: statement.Statement, taken: Taken) -> Floor:
    if said.kind == "knowledge":
        parcel.look(copy, known.trust)
        _keep_pack(home, copy, said)
        taken.new.append(f"knowledge, {said.size / 1e6:.1f} MB")
        return known
    known = verified.accept(known, copy)
    verified.check_not_older(home, said)  # once it is known who signed it
    verified.store(home, copy, said)
    taken.new.append(_in_words(said))
    return known


def _in_words(said: statement.Statement) -> str:
    if said.kind == "global":
        return f"model after round {said.context['round']}" if said.context["round"] else "the first model"
    if said.kind == "task":
        return f"task for round {said.context['round']}"
    return f"{said.kind} {said.context['version']}" if "version" in said.context else said.kind


def _keep_pack(home: Path, copy: Path, said: statement.Statement) -> None:
    path = home / "pack" / f"{said.sha256}.safetensors"
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)  # a damaged one
    with parcel.open(copy, parcel.anyone) as seen, files.writing(path) as sink:
        shutil.copyfileobj(seen.body, sink)


def _open_base(home: Path, known: Floor, ask: Callable[[], str]) -> None:
    """Opens the model that the newest order names, once. None is sealed for a site that waits to be let in."""
    if known.task is None or layout.is_whole(layout.base_of(home, known.task)):
        return
    if verified.me(home, known) is None:
        return
    sealed = sorted((home / "global").glob(f"{known.charter.epoch:04}-*.fhx"))
    named = [path for path in sealed if parcel.look(path, parcel.anyone).statement.context["base"] == known.task.base]
    if not named:
        return
    own = keys.load(home, ask)
    fault: FedhelpError = NoMatchError("the model that this round begins with is not sealed for this site's keys")
    for path in named:
        try:
            with parcel.open(path, known.trust, [own.identity]) as seen:
                layout.base_of(home, known.task).parent.mkdir(exist_ok=True)
                layout.base_of(home, known.task).unlink(missing_ok=True)  # a damaged one
                with files.writing(layout.base_of(home, known.task)) as sink:
                    shutil.copyfileobj(seen.body, sink)
                return
        except NoMatchError:
            continue
        except (AgeError, ParcelError) as found:  # sealed badly; it may have been sealed again
            fault = found
    raise fault


def lacks_pack(home: Path, order: Task) -> bool:
    path = layout.pack_of(home, order)
    return path is not None and not layout.is_whole(path)


def base(home: Path, order: Task, plan: Plan) -> dict[str, Array]:
    """The model that a round begins with, as numbers."""
    path = layout.base_of(home, order)
    if not layout.is_whole(path):
        raise NotYetError(
            f"the model that round {order.round} begins with is {'damaged' if path.exists() else 'not'} here"
        )
    with files.reading(path) as file:
        return dict(CODECS[plan.wire.down].decode(dict(update.Arrays(file, update.read_header(file))), {}))


def plan_of(order: Task) -> Plan:
    return plans.read(order.plan, TABLES)


def have(home: Path) -> frozenset[str]:
    """What need not be fetched again."""
    names = [path.stem.rsplit("-", 1)[-1] for kind in ("global", "receipt") for path in (home / kind).glob("*.fhx")]
    return frozenset(names)


def _model(said: statement.Statement) -> tuple[int, str]:
    return said.context["round"], said.context["base"]


def _is_opened(home: Path, said: statement.Statement, parcels: Iterable[str]) -> bool:
    """Whether one of the parcels that hold this model was kept and opened, so that no other is of use."""
    opened = home / "base" / f"{said.context['base']}.safetensors"
    return not have(home).isdisjoint(parcels) and layout.is_whole(opened)


def _identities(home: Path, ask: Callable[[], str]) -> list[str]:
    """What opens parcels that are for this site, also by the keys that it asked to be known by."""
    return [keys.load(place, ask).identity for place in (home, home / layout.NEXT_KEYS) if keys.are_in(place)]


def _is_for_us(home: Path, known: Floor, said: statement.Statement) -> bool:
    """All but the receipts of others, and those of an epoch that is over."""
    if said.kind != "receipt":
        return True
    return said.context["epoch"] >= known.charter.epoch and _is_mine(home, said.context["about"])


def _is_mine(home: Path, about: str) -> bool:
    return (home / "request" / f"{about}.fhx").exists() or any((home / "rounds").glob(f"*/{about}.fhx"))


def _is_kept(home: Path, said: statement.Statement) -> bool:
    if said.kind == "knowledge":
        return layout.is_whole(home / "pack" / f"{said.sha256}.safetensors")
    path = layout.place(home, said)
    return path.exists() and layout.parcel_hash(path) == said.hash


def _rank(said: statement.Statement) -> tuple[int, int, int]:
    place = _ORDER.index(said.kind) if said.kind in _ORDER else len(_ORDER)
    context = said.context
    return place, context.get("epoch", 0), context.get("version", context.get("round", 0))


def sealed_models(home: Path, known: Floor, round_: int) -> list[Path]:
    """The merged model of a round as it came: once, or sealed for several groups of readers."""
    return sorted((home / "global").glob(f"{known.charter.epoch:04}-{round_:06}-*.fhx"))


def merged(home: Path, known: Floor, round_: int, own: Keys, plan: Plan) -> tuple[dict[str, Array] | None, int]:
    """The merged model of a round, if it is here, and of how many shares it was made."""
    for path in sealed_models(home, known, round_):
        try:
            with parcel.open(path, known.trust, [own.identity]) as seen:
                wire = dict(update.Arrays(seen.body, update.read_header(seen.body)))
                return dict(CODECS[plan.wire.down].decode(wire, {})), int(seen.statement.context["inputs"]["count"])
        except NoMatchError:  # sealed for those who were here before this site
            continue
    return None, 0
