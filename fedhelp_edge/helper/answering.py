"""Answer the set that a coordinator names: verify all that it claims, record it, and tell the sum of the masks."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fedhelp_edge import exchange, files, lock, update
from fedhelp_edge.errors import FedhelpError, NotYetError, SetRefusedError, TrustError
from fedhelp_edge.helper import home as homes
from fedhelp_edge.helper.home import AnsweredSet, Pins
from fedhelp_edge.parcel import keys, parcel
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.secure_sum import arithmetic, parcels
from fedhelp_edge.secure_sum.arithmetic import MASKS, MAX_SITES, SumFormat
from fedhelp_edge.secure_sum.parcels import SealedSeed
from fedhelp_edge.site import inbox, layout, verified
from fedhelp_edge.trust import charter, roster
from fedhelp_edge.trust.roster import Roster
from fedhelp_edge.trust.state import TrustedState
from fedhelp_edge.trust.task import Task

_FOLLOWED = tuple(kind for kind in parcels.HELPER_READS if kind != "set")


@dataclass
class Outcome:
    """What became of a call. `state` is "answered", "again" (the same answer is there once more) or "nothing"."""

    state: str = "nothing"
    round: int = 0
    sites: list[str] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)  # files that were not used


def answer(home: Path, carrier: exchange.Carrier, ask_passphrase: Callable[[], str]) -> Outcome:
    """Answer the newest set that waits on a carrier. The same set gets the same answer, however often it comes."""
    pins, downloaded = homes.load_pins(home), inbox.DownloadResult()
    outcome = Outcome(refused=downloaded.refused)
    with lock.exclusive(home / layout.LOCK), layout.scratch(home) as scratch:
        paths = list(carrier.fetch(frozenset()))
        trusted = _follow(home, pins, paths, downloaded)
        copy = scratch / "set"
        set_statement = _newest_set(home, trusted, paths, copy, downloaded)
        if set_statement is None:
            return outcome
        with parcel.open(copy, trusted.check_signers) as opened:
            seeds = parcels.read_set(opened.json())
        task = _check_set(pins, trusted, set_statement)
        _check_seeds(pins, task, _rosters(home, trusted, task), seeds)
        sites = [seed.sender for seed in seeds]
        asked = AnsweredSet(
            task.epoch, task.round, task.base, tuple(sites), homes.hash_of([seed.data for seed in seeds])
        )
        homes.check_new(home, asked, pins.fewest)
        outcome.round, outcome.sites = asked.round, sites
        sealed = home / homes.ANSWERS / f"{asked.name}.fhx"
        if _answers(sealed, set_statement):
            homes.record(home, asked)
            outcome.state = "again"
        else:
            _seal(home, sealed, asked, set_statement, seeds, SumFormat.of(pins.plan, task.schema), ask_passphrase)
            outcome.state = "answered"
        for older in sealed.parent.glob("*.fhx"):
            if older != sealed:
                older.unlink()
        named = scratch / f"{parcel.inspect(sealed, parcel.any_signer).statement.hash}.fhx"
        named.write_bytes(sealed.read_bytes())
        carrier.put(named)
    return outcome


def _follow(home: Path, pins: Pins, paths: Sequence[Path], downloaded: inbox.DownloadResult) -> TrustedState:
    """Verify and store the charters, rosters and tasks of the pinned federation."""
    kinds = {path: _kind(home, path, pins.federation) for path in paths}
    listed = {path: kind for path, kind in kinds.items() if kind in _FOLLOWED or kind == "first"}
    if verified.state(home) is None:
        _pin_charter(home, pins.federation, [path for path, kind in listed.items() if kind == "first"])
    downloaded.refused += verified.repair(home)
    return inbox.import_files(home, listed, downloaded)


def _kind(home: Path, path: Path, federation: str) -> str:
    """The kind of a carrier's file: "first" for a first charter; "" for another federation's, or for no parcel."""
    with inbox.collecting_refusals(home, path, inbox.DownloadResult()), inbox.open_prologue(path) as (_, statement, _):
        if statement.kind == "charter":
            return "first" if statement.context["version"] == 1 else "charter"
        if statement.context.get("federation") == federation:
            return statement.kind
    return ""


def _pin_charter(home: Path, federation: str, paths: Sequence[Path]) -> None:
    """Store the first charter, whose hash is the federation's id. Those of other federations are passed over."""
    for path in paths:
        with (
            inbox.collecting_refusals(home, path, inbox.DownloadResult()),
            parcel.open(path, parcel.any_signer) as opened,
        ):
            charter.read_first(opened.statement, opened.keys, opened.json(), federation)
            verified.save(home, path, opened.statement)
            return
    raise NotYetError(
        f"the carrier holds no charter of federation {federation}",
        remedy="the coordinator leaves it there with 'fedhelp-coordinator exchange DIR'; compare the id by phone",
    )


def _newest_set(
    home: Path, trusted: TrustedState, paths: Sequence[Path], copy: Path, downloaded: inbox.DownloadResult
) -> Statement | None:
    """Copy the set of the newest round that the coordinator signed. Strangers' and damaged files are passed over."""
    sets: list[tuple[tuple[int, int], Path]] = []
    for path in paths:
        with suppress(FedhelpError, OSError), inbox.open_prologue(path) as (_, statement, signers):
            if statement.kind == "set":
                with inbox.collecting_refusals(home, path, downloaded):
                    trusted.check_signers(statement, signers)
                    sets.append(((statement.context["epoch"], statement.context["round"]), path))
    if not sets:
        return None
    newest = max(sets)[1]
    with inbox.collecting_refusals(home, newest, downloaded):
        with inbox.open_prologue(newest) as (file, statement, _):
            file.seek(0)
            copy.write_bytes(file.read(parcel.PROLOGUE_LIMIT + statement.format.limit))
        return parcel.inspect(copy, trusted.check_signers).statement
    return None


# --- what is verified ------------------------------------------------------------------------------------------------
def _check_set(pins: Pins, trusted: TrustedState, set_statement: Statement) -> Task:
    """The task that a set belongs to: the newest, under the plan that this helper agreed to."""
    task, context = trusted.task, set_statement.context
    if task is None or context["epoch"] != task.epoch or context["round"] != task.round:
        raise SetRefusedError(f"the set is of round {context['round']}, and its task is not the newest here")
    if context["task"] != task.hash or context["base"] != task.base:
        raise SetRefusedError(f"the set of round {task.round} is for another task or model than the round's")
    if task.plan != pins.plan.text:
        raise SetRefusedError("the task has another plan than the one that this helper agreed to")
    return task


def _rosters(home: Path, trusted: TrustedState, task: Task) -> Iterator[Roster]:
    """The rosters since the task's, the newest first: a site may have changed its keys after it sent its update."""
    for path in sorted((home / "roster").glob(f"{task.epoch:04}-*.fhx"), reverse=True):
        with suppress(FedhelpError), parcel.open(path, trusted.check_signers) as opened:
            known = roster.read(opened.statement, opened.keys, opened.json(), trusted.charter)
            if known.version >= task.roster_version:
                yield known


def _check_seeds(pins: Pins, task: Task, rosters: Iterator[Roster], seeds: Sequence[SealedSeed]) -> None:
    """Refuse a set that is not one seed each of enough different sites of this round, in the order of their ids."""
    sites = [seed.sender for seed in seeds]
    if not pins.fewest <= len(seeds) <= MAX_SITES:
        raise SetRefusedError(f"{len(seeds)} sites in the set, and {pins.fewest} to {MAX_SITES} are allowed")
    if sites != sorted(set(sites)):
        raise SetRefusedError("the set names a site twice, or not in the order of the ids")
    known = list(rosters)
    expected = {
        "federation": task.federation, "round": task.round, "task": task.hash, "base": task.base,
        "recipients": [pins.plan.privacy.helper_key],
    }  # fmt: skip
    for seed in seeds:
        if wrong := [name for name, value in expected.items() if seed.statement.context[name] != value]:
            raise SetRefusedError(f"the seed of {seed.sender} is for another {wrong[0]}")
        _check_sender(seed, known, task.round)


def _check_sender(seed: SealedSeed, rosters: Sequence[Roster], round_: int) -> None:
    error: TrustError = SetRefusedError("no roster of the task is here")
    for known in rosters:
        try:
            roster.check_sender(seed.statement, seed.inspected.keys, known, round_)
            return
        except TrustError as refusal:
            error = refusal
    raise error


def _answers(sealed: Path, set_statement: Statement) -> bool:
    """Whether an intact answer to this set lies here."""
    with suppress(FedhelpError, FileNotFoundError):
        return bool(parcel.inspect(sealed, parcel.any_signer).statement.context["about"] == set_statement.hash)
    return False


# --- the answer ------------------------------------------------------------------------------------------------------
def _seal(
    home: Path, sealed: Path, asked: AnsweredSet, set_statement: Statement, seeds: Sequence[SealedSeed],
    format_: SumFormat, ask_passphrase: Callable[[], str],
) -> None:  # fmt: skip
    """Record the set, then seal the sum of its masks. Opened seeds are in memory alone."""
    own = keys.load(home, ask_passphrase)
    with layout.scratch(home) as scratch:
        opened = [parcels.open_seed(seed, own.identity) for seed in seeds]
        if len(set(opened)) < len(opened):
            raise SetRefusedError("two sites of the set have one seed")
        homes.record(home, asked)
        body = io.BytesIO()
        update.write(body, {MASKS: arithmetic.as_array(parcels.masks_of(opened, format_))})
        part = scratch / "sum"
        parcel.seal(part, parcels.sum_context(set_statement), body.getvalue(), own.sign)
        sealed.unlink(missing_ok=True)
        part.rename(sealed)
        files.sync_folder(sealed.parent)
