"""The charter names a federation for ever: its id is the hash of version 1. Later versions are signed by the root keys
of the version before and by their own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fedhelp_edge.errors import BadBodyError, ParcelKindError, PinnedKeyError, RootChainError, ThresholdError
from fedhelp_edge.parcel import sshsig
from fedhelp_edge.parcel.canon import misfit
from fedhelp_edge.parcel.statement import NO_HASH, Statement, when

_SHAPE = {"name": str, "roots": [str], "threshold": int, "coordinator": str}


@dataclass(frozen=True)
class Charter:
    federation: str
    version: int
    epoch: int  # raised when a hub comes back from a backup or with a new coordinator key: older orders are void
    name: str
    roots: tuple[str, ...]
    threshold: int
    coordinator: str
    hash: str
    created: datetime

    @property
    def rank(self) -> tuple[int, int]:
        return self.epoch, self.version


def body(name: str, roots: tuple[str, ...], coordinator: str, threshold: int = 1) -> dict[str, Any]:
    return {"name": name, "roots": list(roots), "threshold": threshold, "coordinator": coordinator}


def first(said: Statement, keys: tuple[str, ...], holds: dict[str, Any], federation: str | None = None) -> Charter:
    """Version 1, signed by its own roots. With `federation`, it must be the one that was named beforehand."""
    if said.kind == "charter" and (said.context["previous"], said.context["version"]) != (NO_HASH, 1):
        raise RootChainError("this is a later version; the first one is needed to begin with")
    found = _read(said, holds, federation_of(said))
    if federation is not None and found.federation != federation:
        raise PinnedKeyError(f"this is federation {found.federation}, not {federation}")
    check_signed(found, keys)
    return found


def follow(old: Charter, said: Statement, keys: tuple[str, ...], holds: dict[str, Any]) -> Charter:
    """The next version, signed by enough roots of both."""
    new = _read(said, holds, old.federation)
    if said.context["previous"] != old.hash or new.version != old.version + 1 or new.epoch < old.epoch:
        raise RootChainError(f"version {new.version} does not follow version {old.version}")
    check_signed(old, keys)
    check_signed(new, keys)
    return new


def federation_of(said: Statement) -> str:
    """The id that a charter's first version gives."""
    return f"fh-{said.hash[:32]}"


def _read(said: Statement, holds: dict[str, Any], federation: str) -> Charter:
    if said.kind != "charter":
        raise ParcelKindError(f"a {said.kind}, where a charter is wanted")
    if complaint := misfit(holds, _SHAPE, "the charter"):
        raise BadBodyError(complaint)
    roots, threshold = tuple(holds["roots"]), holds["threshold"]
    for key in (*roots, holds["coordinator"]):
        sshsig.public_raw(key)
    if not 1 <= threshold <= len(set(roots)) == len(roots) <= 8:
        raise BadBodyError("the charter needs 1 to 8 different roots, and no more signatures than it has roots")
    context = said.context
    if holds["coordinator"] in roots:
        raise BadBodyError("the coordinator's key may not be a root: a root takes its power away when it is stolen")
    return Charter(
        federation, context["version"], context["epoch"], holds["name"],
        roots, threshold, holds["coordinator"], said.hash, when(context["created"]),
    )  # fmt: skip


def check_signed(charter: Charter, keys: tuple[str, ...]) -> None:
    count = len(set(keys) & set(charter.roots))
    if count < charter.threshold:
        raise ThresholdError(f"{count} of {charter.threshold} root signatures of version {charter.version}")
