"""The files of a site's home: its keys, and the parcels that it has verified. Files are written once.

keys.age, keys.pub       its two keys
next-keys/               new keys that it requested, until the roster names them
joined.json              where its coordinator is reached
number.txt               its last sequence number; exchange.lock is held while parcels come and go
incoming/                downloads from the network as they grow
pinned.fhx               the first version of the charter, as it was pinned when joining
verified.json            the newest verified charter, roster and task; an older one is a rollback
aside/…                  files that were damaged or did not belong here
charter/0001.fhx, …      every version of the charter, the first one pinned when joining
roster/0001-0007.fhx, …  rosters, by epoch and version; task/0001-000003.fhx tasks, by epoch and round
global/…, receipt/…      merged models and receipts as they arrived, by epoch and subject
base/…, pack/…           opened models and knowledge packs, by the hash of their content
encoder/…                encoders likewise, and where those are that a person named
pack/….parcel            the hash of the parcel that the content was in, which is not stored; encoder/….parcel likewise
privacy.json             the privacy settings of its first update; no later one goes out under others
noise.key                the secret from which its noise follows, where the plan protects images by noise
privacy/0001-000003-…    what each training with noise spent, written once; and the same beside the home, HOME-privacy
kept.json                what the last export kept, and what gain to expect of it
rounds/0001-000003/      a round that was trained here, with its update
refused/0001-000003-1/   the same, put aside because the update was refused and the round is trained again
start.safetensors        the first weights of the net that it keeps for itself, as they were given
request/…                its requests: to join, or to rotate its keys
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
from fedhelp_edge.plan import Plan
from fedhelp_edge.trust.task import Task

CONNECTION, NEXT_KEYS, LOCK, IMAGES = "joined.json", "next-keys", "exchange.lock", "images.txt"
START = "start.safetensors"
PRIVACY, PRIVACY_SPENT, NOISE_KEY = "privacy.json", "privacy", "noise.key"
PINNED, VERIFIED, KEPT = "pinned.fhx", "verified.json", "kept.json"
OPENED = {"knowledge": ("pack", ".safetensors"), "encoder": ("encoder", ".onnx")}  # kinds that are stored opened
PARCEL_NOTE, INCOMING = ".parcel", "incoming"
_SCRATCH_PREFIX, _SCRATCH_AGE = ".work-", 3600.0  # seconds after which no command still uses its temporary files


def parcel_path(home: Path, statement: Statement) -> Path:
    """Returns where a verified parcel is stored."""
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
    """Returns the statement's hash of an intact parcel, else ""."""
    try:
        return parcel.inspect(path, parcel.any_signer).statement.hash
    except FedhelpError:
        return ""


def resolve_images(home: Path, images: Path | None) -> Path:
    """Returns and remembers the images that are named; with None, those that were named last."""
    if images is not None:
        home.mkdir(parents=True, exist_ok=True)
        files.write_atomic(home / IMAGES, os.fsencode(images.absolute()))
        return images
    if (remembered := remembered_images(home)) is None:
        raise NoImagesNamedError("no images have been named")
    return remembered


def remembered_images(home: Path) -> Path | None:
    """Returns the images that were named last, if any were."""
    note = home / IMAGES
    return Path(os.fsdecode(note.read_bytes())) if note.exists() else None


def resolve_encoder(home: Path, plan: Plan, encoder: Path | None = None) -> Path | None:
    """Returns the plan's encoder: the file that is named, which is remembered; or the one that came; or named last."""
    if not plan.nets.encoder:
        return encoder
    came = encoder_path(home, plan)
    note = came.with_suffix(".txt")
    if encoder is not None:
        note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.write_atomic(note, os.fsencode(encoder.absolute()))
        return encoder
    if came.exists() or not note.exists():
        return came
    return Path(os.fsdecode(note.read_bytes()))


def encoder_path(home: Path, plan: Plan) -> Path:
    """Returns where the encoder of a federation's plan is stored."""
    return opened_path(home, "encoder", plan.nets.encoder_sha256)


def opened_path(home: Path, kind: str, sha256: str) -> Path:
    """Returns where the content of a public parcel is stored, by its hash."""
    folder, suffix = OPENED[kind]
    return home / folder / f"{sha256}{suffix}"


def parcel_notes(home: Path) -> dict[Path, Path]:
    """Returns the notes of the parcels that opened packs and encoders were in, each with the path of the content."""
    return {
        note: note.with_suffix(suffix)
        for folder, suffix in OPENED.values()
        for note in (home / folder).glob(f"*{PARCEL_NOTE}")
    }


def round_dir(home: Path, task: Task) -> Path:
    """Returns the folder of the task's round."""
    return home / "rounds" / f"{task.epoch:04}-{task.round:06}"


def base_path(home: Path, task: Task) -> Path:
    """Returns the path of the opened model that the task's round starts from."""
    return home / "base" / f"{task.base}.safetensors"


def pack_path(home: Path, task: Task) -> Path | None:
    """Returns the path of the task's opened knowledge pack, or None if it has none."""
    return opened_path(home, "knowledge", task.knowledge) if task.knowledge else None


def is_intact(path: Path) -> bool:
    """Whether a file that is named by its SHA-256 is here and unchanged."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        return files.digest(file) == path.stem


def is_intact_parcel(path: Path) -> bool:
    """Whether the parcel is complete and its signatures hold, whoever signed it."""
    try:
        parcel.inspect(path, parcel.any_signer)
    except FedhelpError:
        return False
    return True


def clear_leftovers(home: Path) -> None:
    """Deletes unfinished files of killed commands, once they are old enough that nobody writes them."""
    for pattern in (f"{_SCRATCH_PREFIX}*", ".*.part", "*/.*.part"):
        for leftover in home.glob(pattern):
            if leftover.lstat().st_mtime < time.time() - _SCRATCH_AGE:
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)


@contextmanager
def scratch(home: Path) -> Iterator[Path]:
    """Yields a temporary folder on the home's disk, so that files move out of it atomically."""
    clear_leftovers(home)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH_PREFIX, dir=home) as name:
        yield Path(name)
