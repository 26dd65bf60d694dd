"""A learner's state on disk: a line of JSON facts, then safetensors. Written whole or not at all, never pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fedhelp_edge import files, update
from fedhelp_edge.errors import DivergedError
from fedhelp_edge.update import Array

_HEADER_LIMIT = 4 << 20


def save(folder: Path, number: int, facts: Mapping[str, Any], state: Mapping[str, Array]) -> None:
    """Writes state `number`, then removes all older states and what a kill left half-written."""
    if diverged := next((name for name, a in state.items() if a.dtype.kind == "f" and not np.isfinite(a).all()), ""):
        raise DivergedError(f"{diverged} contains NaN or infinite values")  # the state before it is the last good one
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number:09}.state"
    path.unlink(missing_ok=True)  # the same step, reached again from an older state
    with files.writing(path) as file:
        write(file, facts, state)
    for other in {*_paths(folder), *folder.glob(".*.part")} - {path}:
        other.unlink()


def newest(folder: Path) -> tuple[dict[str, Any], dict[str, Array]] | None:
    """The facts and state that were saved last, or None."""
    paths = _paths(folder)
    if not paths:
        return None
    return read(paths[-1].read_bytes())


def write(file: BinaryIO, facts: Mapping[str, Any], state: Mapping[str, Array]) -> None:
    """Writes facts and state to an open file."""
    file.write(json.dumps(facts, sort_keys=True).encode() + b"\n")
    update.write(file, state)


def read(data: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """The facts and state that `write` wrote."""
    line, _, body = data.partition(b"\n")
    return json.loads(line), update.load(body, limit=_HEADER_LIMIT)


def _paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.state"))
