"""The folder where a site lives: its keys, and the news that it has verified, as write-once files.

keys.age, keys.pub       its two keys
charter/0001.fhx, …      every version of the charter, the first one pinned when joining
roster/0-0007.fhx, …     rosters, by epoch and version
"""

from __future__ import annotations

from pathlib import Path

from fedhelp_edge.errors import FedhelpError
from fedhelp_edge.parcel import keys, parcel, sshsig
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.trust import charter
from fedhelp_edge.trust.floor import Floor


def floor(home: Path) -> Floor | None:
    """What this site has verified so far, verified again; None before it has joined."""
    found: Floor | None = None
    for path in sorted((home / "charter").glob("*.fhx")):
        with parcel.open(path, parcel.anyone) as seen:
            if found is None:
                found = Floor(charter.first(seen.statement, seen.keys, seen.json()))
            else:
                found = found.with_charter(seen.statement, seen.keys, seen.json())
    for path in sorted((home / "roster").glob("*.fhx"))[-1:] if found else ():
        with parcel.open(path, parcel.anyone) as seen:
            found = found.with_roster(seen.statement, seen.keys, seen.json()) if found else None
    return found


def judge(home: Path, said: Statement, signers: tuple[str, ...]) -> str:
    """Why a whole parcel should not be trusted here, or "" if it may be."""
    if said.kind != "charter" and _own(home) in signers:
        return ""
    known = floor(home)
    if known is None:
        return "this computer has joined no federation, so it cannot say whose key signed"
    try:
        known.trust(said, signers)
    except FedhelpError as fault:
        return f"{fault.code}: {fault.cause}"
    return ""


def _own(home: Path) -> str:
    try:
        return sshsig.public_line(sshsig.public_raw(keys.public(home).sign))
    except FedhelpError:
        return ""
