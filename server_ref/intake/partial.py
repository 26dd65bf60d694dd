"""Uploads that are not whole yet. A file holds what came so far, and is all that is kept of one.

Its name says which parcel it will be and when it was begun; its prologue, who sends it and how long it will be.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import FedhelpError, NotHereError, RoundClosedError, UploadOffsetError
from fedhelp_edge.parcel import parcel
from fedhelp_edge.parcel.statement import Statement, when
from server_ref.hub.hub import Hub

FOLDER = "incoming"
GRACE = timedelta(hours=1)  # for what was begun before the deadline
_IDLE = timedelta(days=14)


@dataclass
class Upload:
    path: Path
    said: Statement
    begun: datetime
    length: int
    offset: int  # what is safely on the disk
    done: bool = False
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _newest: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def hash(self) -> str:
        return self.said.hash

    @property
    def sender(self) -> str:
        return str(self.said.context.get("sender", ""))

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[asyncio.Event]:
        """One request at a time, and the newest is the one that counts: it sets what the one before it was given."""
        mine = asyncio.Event()
        self._newest.set()
        self._newest = mine
        async with self._lock:
            if self.done:
                raise NotHereError("this upload has ended")
            if mine.is_set():
                raise UploadOffsetError("a newer request goes on with this upload")
            yield mine

    def write(self, data: bytes) -> None:
        """Add bytes, durably."""
        with self.path.open("r+b") as file:
            file.seek(self.offset)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self.offset += len(data)

    def go_back(self, offset: int) -> None:
        os.truncate(self.path, offset)
        self.offset = offset

    def end(self) -> None:
        self.done = True
        self.path.unlink(missing_ok=True)


def begin(home: Path, said: Statement, length: int, data: bytes, now: datetime) -> Upload:
    folder = home / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{said.hash}.{int(now.timestamp())}"
    with files.writing(path) as file:
        file.write(data)
    files.share_with_group(path)
    return Upload(path, said, now, length, len(data))


def found(folder: Path, *, own: bool = False) -> list[Upload]:
    """The uploads that a front left. In its own folder it makes them durable and clears away what is none.

    For everybody else it is a folder that another writes to: no link in it is followed, and nothing is removed.
    """
    uploads: list[Upload] = []
    with suppress(FileNotFoundError, PermissionError), files.directory(folder) as there:
        for name in there.names():
            hash_, _, begun = name.partition(".")
            if not hash_ or not begun:
                continue
            path = folder / name
            try:
                if own:
                    _flush(path)
                with there.reading(name) as file:
                    said, _ = parcel.read_prologue(file)
                    length = file.tell() + said.size
                    here = min(file.seek(0, os.SEEK_END), length)
                uploads.append(Upload(path, said, datetime.fromtimestamp(int(begun), timezone.utc), length, here))
            except FileNotFoundError:  # it has ended meanwhile
                continue
            except (FedhelpError, ValueError):
                if own:
                    there.remove(name)
    return uploads


def _flush(path: Path) -> None:
    with files.reading(path, follow=False) as file:
        if os.name != "nt":  # which flushes only what is open to be written
            os.fsync(file.fileno())


def check_time(hub: Hub, said: Statement, begun: datetime) -> None:
    """A share of the open round is begun before the deadline, and ends soon after it; others have no deadline."""
    newest = hub.store.row("SELECT round, closes FROM rounds WHERE state = 'open' ORDER BY round DESC LIMIT 1")
    if newest is None or said.kind != "update" or said.context["round"] != newest["round"]:
        return
    closes = when(newest["closes"])
    if begun > closes or hub.now > closes + GRACE:
        raise RoundClosedError(f"round {newest['round']} took shares until {newest['closes']}")


def awaited(hub: Hub, round_: int, closes: datetime) -> list[str]:
    """Whose share is on its way: begun before the deadline, so that the round waits a little longer."""
    if not closes <= hub.now <= closes + GRACE or (hub.home / FOLDER).is_symlink():
        return []
    return sorted(
        upload.sender
        for upload in found(hub.home / FOLDER)
        if upload.said.context.get("round") == round_ and upload.begun <= closes
    )


def is_old(upload: Upload, now: datetime) -> bool:
    """Nobody has sent a byte of it for so long that nobody will."""
    touched = datetime.fromtimestamp(upload.path.stat().st_mtime, timezone.utc)
    return now - max(touched, upload.begun) > _IDLE
