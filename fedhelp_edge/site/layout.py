"""The folder where a site lives: its keys, and the news that it has verified, as files that are written once.

keys.age, keys.pub       its two keys
next-keys/               those that it asked to be known by, until the roster names them
joined.json              where its coordinator is reached
number.txt               the number of its last parcel that counts; exchange.lock is held while parcels come and go
incoming/                downloads from the network as they grow
pinned.fhx               the first version of the charter, as it was pinned when joining
verified.json            the newest charter, roster and task that were verified; what is older is a rollback
aside/…                  files that did not belong here or were damaged
charter/0001.fhx, …      every version of the charter, the first one pinned when joining
roster/0001-0007.fhx, …  rosters, by epoch and version; task/0001-000003.fhx orders, by epoch and round
global/…, receipt/…      merged models and receipts as they came, by epoch and what they are about
base/…, pack/…           models and knowledge, opened, by the hash of what they hold
rounds/0001-000003/      a round that was trained here, with its share
refused/0001-000003-1/   the same, put aside because its share was refused and it is trained again
request/…                what it asked of the coordinator: to join, or to be known by new keys
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import (
    FedhelpError,
    NoImagesNamedError,
)
from fedhelp_edge.parcel import parcel
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.trust.task import Task

CONNECTION, NEXT_KEYS, LOCK, IMAGES = "joined.json", "next-keys", "exchange.lock", "images.txt"
PINNED, VERIFIED = "pinned.fhx", "verified.json"
_SCRATCH_PREFIX, _SCRATCH_AGE = (
    ".work-",
    3600.0,
)  # begins the names of folders for a step; seconds after which none is at work


def parcel_path(home: Path, statement: Statement) -> Path:
    """Where news of this kind is kept."""
    context = statement.context
    name = {
        "charter": lambda: f"{context['version']:04}",
        "roster": lambda: f"{context['epoch']:04}-{context['version']:04}",
        "task": lambda: f"{context['epoch']:04}-{context['round']:06}",
        "global": lambda: f"{context['epoch']:04}-{context['round']:06}-{statement.hash}",
        "receipt": lambda: f"{context['epoch']:04}-{context['about']}-{statement.hash}",
    }[statement.kind]()
    return home / statement.kind / f"{name}.fhx"


def parcel_hash(path: Path) -> str:
    """The hash of a whole parcel's statement, or ""."""
    try:
        return parcel.inspect(path, parcel.any_signer).statement.hash
    except FedhelpError:
        return ""


def resolve_images(home: Path, images: Path | None) -> Path:
    """The images that are named, or those that were named last."""
    note = home / IMAGES
    if images is not None:
        home.mkdir(parents=True, exist_ok=True)
        files.write_atomic(note, os.fsencode(images.absolute()))
        return images
    if not note.exists():
        raise NoImagesNamedError("no images were named yet")
    return Path(os.fsdecode(note.read_bytes()))


def round_dir(home: Path, task: Task) -> Path:
    return home / "rounds" / f"{task.epoch:04}-{task.round:06}"


def base_path(home: Path, task: Task) -> Path:
    return home / "base" / f"{task.base}.safetensors"


def pack_path(home: Path, task: Task) -> Path | None:
    return home / "pack" / f"{task.knowledge}.safetensors" if task.knowledge else None


def is_intact(path: Path) -> bool:
    """What is named by its hash is here, as it came."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        return files.digest(file) == path.stem


def is_intact_parcel(path: Path) -> bool:
    """A parcel is here, whole and signed; by whom, is not asked."""
    try:
        parcel.inspect(path, parcel.any_signer)
    except FedhelpError:
        return False
    return True


def clear_leftovers(home: Path) -> None:
    """Delete what commands that were killed have left unfinished, once nobody can be at work on it."""
    for pattern in (f"{_SCRATCH_PREFIX}*", ".*.part", "*/.*.part"):
        for leftover in home.glob(pattern):
            if leftover.lstat().st_mtime < time.time() - _SCRATCH_AGE:
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)


@contextmanager
def scratch(home: Path) -> Iterator[Path]:
    """A folder for the length of a step, on the same disk."""
    clear_leftovers(home)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH_PREFIX, dir=home) as name:
        yield Path(name)
