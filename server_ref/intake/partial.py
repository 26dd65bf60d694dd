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
from fedhelp_edge.parcel.statement import Statement, parse_time
from server_ref.hub.hub import Hub

FOLDER = "incoming"
GRACE = timedelta(hours=1)  # for what was begun before the deadline
_IDLE_LIMIT = timedelta(days=14)


@dataclass
class PartialUpload:
    path: Path
    said: Statement
    started: datetime
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
        overtaken = asyncio.Event()
        self._newest.set()
        self._newest = overtaken
        async with self._lock:
            if self.done:
                raise NotHereError("this upload has ended")
            if overtaken.is_set():
                raise UploadOffsetError("a newer request goes on with this upload")
            yield overtaken

    def write(self, data: bytes) -> None:
        """Add bytes, durably."""
        with self.path.open("r+b") as file:
            file.seek(self.offset)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self.offset += len(data)

    def truncate(self, offset: int) -> None:
        os.truncate(self.path, offset)
        self.offset = offset

    def end(self) -> None:
        self.done = True
        self.path.unlink(missing_ok=True)


def begin(home: Path, statement: Statement, length: int, data: bytes, now: datetime) -> PartialUpload:
    folder = home / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{statement.hash}.{int(now.timestamp())}"
    with files.writing(path) as file:
        file.write(data)
    files.share_with_group(path)
    return PartialUpload(path, statement, now, length, len(data))


def uploads_in(folder: Path, *, is_owner: bool = False) -> list[PartialUpload]:
    """The uploads that a front left. In its own folder it makes them durable and clears away what is none.

    For everybody else it is a folder that another writes to: no link in it is followed, and nothing is removed.
    """
    uploads: list[PartialUpload] = []
    with suppress(FileNotFoundError, PermissionError), files.open_shared(folder) as directory:
        for name in directory.names():
            hash_, _, begun = name.partition(".")
            if not hash_ or not begun:
                continue
            path = folder / name
            try:
                if is_owner:
                    _sync(path)
                with directory.reading(name) as file:
                    statement, _ = parcel.read_prologue(file)
                    length = file.tell() + statement.size
                    received = min(file.seek(0, os.SEEK_END), length)
                uploads.append(
                    PartialUpload(path, statement, datetime.fromtimestamp(int(begun), timezone.utc), length, received)
                )
            except FileNotFoundError:  # it has ended meanwhile
                continue
            except (FedhelpError, ValueError):
                if is_owner:
                    directory.remove(name)
    return uploads


def _sync(path: Path) -> None:
    with files.reading(path, follow=False) as file:
        if os.name != "nt":  # which flushes only what is open to be written
            os.fsync(file.fileno())


def check_deadline(hub: Hub, statement: Statement, begun: datetime) -> None:
    """A share of the open round is begun before the deadline, and ends soon after it; others have no deadline."""
    newest = hub.database.row("SELECT round, closes FROM rounds WHERE state = 'open' ORDER BY round DESC LIMIT 1")
    if newest is None or statement.kind != "update" or statement.context["round"] != newest["round"]:
        return
    closes = parse_time(newest["closes"])
    if begun > closes or hub.now > closes + GRACE:
        raise RoundClosedError(f"round {newest['round']} took shares until {newest['closes']}")


def awaited_senders(hub: Hub, round_: int, closes: datetime) -> list[str]:
    """Whose share is on its way: begun before the deadline, so that the round waits a little longer."""
    if not closes <= hub.now <= closes + GRACE or (hub.home / FOLDER).is_symlink():
        return []
    return sorted(
        upload.sender
        for upload in uploads_in(hub.home / FOLDER)
        if upload.said.context.get("round") == round_ and upload.started <= closes
    )


def is_abandoned(upload: PartialUpload, now: datetime) -> bool:
    """Nobody has sent a byte of it for so long that nobody will."""
    last_write = datetime.fromtimestamp(upload.path.stat().st_mtime, timezone.utc)
    return now - max(last_write, upload.started) > _IDLE_LIMIT
