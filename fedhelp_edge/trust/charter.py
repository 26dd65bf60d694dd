"""The charter: a federation's root keys, their threshold, and the coordinator's key.

The hash of version 1 is the federation's id, permanently. A threshold of the previous version's roots signs a later
version, and so does a threshold of its own roots. So a stolen coordinator key cannot write one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fedhelp_edge.errors import BadBodyError, ParcelKindError, PinnedKeyError, RootChainError, ThresholdError
from fedhelp_edge.parcel import sshsig
from fedhelp_edge.parcel.canon import shape_error
from fedhelp_edge.parcel.statement import ZERO_HASH, Statement, parse_time
from fedhelp_edge.safe_text import counted

_SHAPE = {"name": str, "roots": [str], "threshold": int, "coordinator": str}


@dataclass(frozen=True)
class Charter:
    """A verified version of the charter. Keys are OpenSSH lines."""

    federation: str
    version: int
    epoch: int  # raised when a hub is restored, or its coordinator key replaced: tasks of older epochs are void
    name: str
    roots: tuple[str, ...]
    threshold: int
    coordinator: str
    hash: str
    created: datetime

    @property
    def rank(self) -> tuple[int, int]:
        """Orders versions: by epoch, then by version."""
        return self.epoch, self.version


def body(name: str, roots: tuple[str, ...], coordinator: str, threshold: int = 1) -> dict[str, Any]:
    """Returns the payload of a charter."""
    return {"name": name, "roots": list(roots), "threshold": threshold, "coordinator": coordinator}


def read_first(
    statement: Statement, signers: tuple[str, ...], payload: dict[str, Any], federation: str | None = None
) -> Charter:
    """Reads version 1, signed by its own roots. With `federation`, its id must be this one: an invite pins it."""
    if statement.kind == "charter" and (statement.context["previous"], statement.context["version"]) != (ZERO_HASH, 1):
        raise RootChainError("this is a later version of the charter; joining needs the first one")
    charter = _read(statement, payload, federation_id(statement))
    if federation is not None and charter.federation != federation:
        raise PinnedKeyError(f"this is federation {charter.federation}, not {federation}")
    check_threshold(charter, signers)
    return charter


def read_next(old: Charter, statement: Statement, signers: tuple[str, ...], payload: dict[str, Any]) -> Charter:
    """Reads the version that follows `old`, signed by a threshold of the roots of both."""
    new = _read(statement, payload, old.federation)
    if statement.context["previous"] != old.hash or new.version != old.version + 1 or new.epoch < old.epoch:
        raise RootChainError(f"version {new.version} does not follow version {old.version}")
    check_threshold(old, signers)
    check_threshold(new, signers)
    return new


def federation_id(statement: Statement) -> str:
    """Returns the federation's id, which is the hash of its first charter."""
    return f"fh-{statement.hash[:32]}"


def _read(statement: Statement, payload: dict[str, Any], federation: str) -> Charter:
    if statement.kind != "charter":
        raise ParcelKindError(f"a {statement.kind}, where a charter is expected")
    if complaint := shape_error(payload, _SHAPE, "the charter"):
        raise BadBodyError(complaint)
    roots, threshold = tuple(payload["roots"]), payload["threshold"]
    for key in (*roots, payload["coordinator"]):
        sshsig.public_raw(key)
    if not 1 <= threshold <= len(set(roots)) == len(roots) <= 8:
        raise BadBodyError("a charter needs 1 to 8 different roots, and a threshold that they can reach")
    context = statement.context
    if payload["coordinator"] in roots:
        raise BadBodyError("the coordinator's key may not be a root key: the roots replace it when it is stolen")
    return Charter(
        federation, context["version"], context["epoch"], payload["name"],
        roots, threshold, payload["coordinator"], statement.hash, parse_time(context["created"]),
    )  # fmt: skip


def check_threshold(charter: Charter, signers: tuple[str, ...]) -> None:
    """Raises unless a threshold of the charter's different roots signed."""
    count = len(set(signers) & set(charter.roots))
    if count < charter.threshold:
        raise ThresholdError(f"{count} of {counted(charter.threshold, 'root signature')} of version {charter.version}")
