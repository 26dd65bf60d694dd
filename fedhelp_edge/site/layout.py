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

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedhelp_edge import files
from fedhelp_edge.errors import (
    FedhelpError,
    NoImagesNamedError,
)
from fedhelp_edge.parcel import parcel
from fedhelp_edge.parcel.statement import Statement
from fedhelp_edge.trust.task import Task

NOTE, NEXT_KEYS, LOCK, IMAGES = "joined.json", "next-keys", "exchange.lock", "images.txt"
PINNED, VERIFIED = "pinned.fhx", "verified.json"
_WORK, _GRACE = ".work-", 3600.0  # begins the names of folders for a step; seconds after which none is at work


def place(home: Path, said: Statement) -> Path:
    """Where news of this kind is kept."""
    context = said.context
    name = {
        "charter": lambda: f"{context['version']:04}",
        "roster": lambda: f"{context['epoch']:04}-{context['version']:04}",
        "task": lambda: f"{context['epoch']:04}-{context['round']:06}",
        "global": lambda: f"{context['epoch']:04}-{context['round']:06}-{said.hash}",
        "receipt": lambda: f"{context['epoch']:04}-{context['about']}-{said.hash}",
    }[said.kind]()
    return home / said.kind / f"{name}.fhx"


def parcel_hash(path: Path) -> str:
    """The hash of a whole parcel's statement, or ""."""
    try:
        return parcel.look(path, parcel.anyone).statement.hash
    except FedhelpError:
        return ""


def note(home: Path) -> dict[str, Any]:
    """What was written down when joining."""
    path = home / NOTE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def remembered(home: Path, images: Path | None) -> Path:
    """The images that are named, or those that were named last."""
    kept = home / IMAGES
    if images is not None:
        home.mkdir(parents=True, exist_ok=True)
        files.replace(kept, os.fsencode(images.absolute()))
        return images
    if not kept.exists():
        raise NoImagesNamedError("no images were named yet")
    return Path(os.fsdecode(kept.read_bytes()))


def round_folder(home: Path, order: Task) -> Path:
    return home / "rounds" / f"{order.epoch:04}-{order.round:06}"


def base_of(home: Path, order: Task) -> Path:
    return home / "base" / f"{order.base}.safetensors"


def pack_of(home: Path, order: Task) -> Path | None:
    return home / "pack" / f"{order.knowledge}.safetensors" if order.knowledge else None


def is_whole(path: Path) -> bool:
    """What is named by its hash is here, as it came."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        return files.digest(file) == path.stem


def is_parcel(path: Path) -> bool:
    """A parcel is here, whole and signed; by whom, is not asked."""
    try:
        parcel.look(path, parcel.anyone)
    except FedhelpError:
        return False
    return True


def clear_left(home: Path) -> None:
    """Delete what commands that were killed have left unfinished, once nobody can be at work on it."""
    for pattern in (f"{_WORK}*", ".*.part", "*/.*.part"):
        for left in home.glob(pattern):
            if left.lstat().st_mtime < time.time() - _GRACE:
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)


@contextmanager
def scratch(home: Path) -> Iterator[Path]:
    """A folder for the length of a step, on the same disk."""
    clear_left(home)
    with tempfile.TemporaryDirectory(prefix=_WORK, dir=home) as name:
        yield Path(name)
