"""Uploads that are not complete. A file holds the bytes that came so far, and is all that the hub stores of one.

Its name says which parcel it will be and when it was started; its prologue, who sends it and how long it will be.
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
from server_ref.hub.states import State

FOLDER = "incoming"
GRACE = timedelta(hours=1)  # to end an upload that was started before the deadline
_IDLE_LIMIT = timedelta(days=14)


def sender_of(statement: Statement) -> str:
    """The site that sends a parcel, or the helper; "" for a request to join."""
    return "helper" if statement.kind == "sum" else str(statement.context.get("sender", ""))


@dataclass
class PartialUpload:
    """One upload, and whose turn it is to write to it."""

    path: Path
    statement: Statement
    started: datetime
    length: int
    offset: int  # bytes that are safely on the disk
    ended: bool = False
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _newest: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def hash(self) -> str:
        return self.statement.hash

    @property
    def sender(self) -> str:
        return sender_of(self.statement)

    @asynccontextmanager
    async def take_turn(self) -> AsyncIterator[asyncio.Event]:
        """Let one request at a time write. A newer request sets the event of the one before it, and waits."""
        overtaken = asyncio.Event()
        self._newest.set()
        self._newest = overtaken
        async with self._lock:
            if self.ended:
                raise NotHereError("this upload has ended")
            if overtaken.is_set():
                raise UploadOffsetError("a newer request continues this upload")
            yield overtaken

    def write(self, data: bytes) -> None:
        """Append bytes, and sync them to the disk."""
        with self.path.open("r+b") as file:
            file.seek(self.offset)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self.offset += len(data)

    def truncate(self, offset: int) -> None:
        """Drop the bytes from `offset` on."""
        os.truncate(self.path, offset)
        self.offset = offset

    def discard(self) -> None:
        """End the upload, and delete its file."""
        self.ended = True
        self.path.unlink(missing_ok=True)


def begin(home: Path, statement: Statement, length: int, data: bytes, now: datetime) -> PartialUpload:
    """Start an upload of `length` bytes, of which `data` are the first."""
    folder = home / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{statement.hash}.{int(now.timestamp())}"
    with files.writing(path) as file:
        file.write(data)
    files.share_with_group(path)
    return PartialUpload(path, statement, now, length, len(data))


def in_folder(folder: Path, *, is_owner: bool = False) -> list[PartialUpload]:
    """The partial uploads in a front's folder. Their owner also syncs them to the disk and removes other files.

    To everybody else it is a folder that another user writes to: follows no link in it, and removes nothing.
    """
    uploads: list[PartialUpload] = []
    with suppress(FileNotFoundError, PermissionError), files.open_shared(folder) as directory:
        for name in directory.names():
            hash_, _, started = name.partition(".")
            if not hash_ or not started:
                continue
            path = folder / name
            try:
                if is_owner:
                    _sync(path)
                with directory.reading(name) as file:
                    statement, _ = parcel.read_prologue(file)
                    length = file.tell() + statement.size
                    received = min(file.seek(0, os.SEEK_END), length)
                when = datetime.fromtimestamp(int(started), timezone.utc)
                uploads.append(PartialUpload(path, statement, when, length, received))
            except FileNotFoundError:  # it ended meanwhile
                continue
            except (FedhelpError, ValueError):
                if is_owner:
                    directory.remove(name)
    return uploads


def _sync(path: Path) -> None:
    with files.reading(path, follow=False) as file:
        if os.name != "nt":  # which syncs only files that are open for writing
            os.fsync(file.fileno())


def check_deadline(hub: Hub, statement: Statement, started: datetime) -> None:
    """Refuse an update of the open round that was started after its deadline, or takes too long after it."""
    newest = hub.newest_round()
    if newest["state"] != State.OPEN or statement.kind != "update" or statement.context["round"] != newest["round"]:
        return
    closes = parse_time(newest["closes"])
    if started > closes or hub.now > closes + GRACE:
        raise RoundClosedError(f"round {newest['round']} took updates until {newest['closes']}")


def awaited_senders(hub: Hub) -> list[str]:
    """The senders of updates of the open round that were started before its deadline and may still end.

    The round waits a little longer for them; before the deadline and after the grace it waits for none.
    """
    newest = hub.newest_round()
    if newest["state"] != State.OPEN or (hub.home / FOLDER).is_symlink():
        return []
    closes = parse_time(newest["closes"])
    if not closes <= hub.now <= closes + GRACE:
        return []
    return sorted(
        upload.sender
        for upload in in_folder(hub.home / FOLDER)
        if upload.statement.context.get("round") == newest["round"] and upload.started <= closes
    )


def is_abandoned(upload: PartialUpload, now: datetime) -> bool:
    """Whether no byte of an upload came for so long that none will."""
    last_write = datetime.fromtimestamp(upload.path.stat().st_mtime, timezone.utc)
    return now - max(last_write, upload.started) > _IDLE_LIMIT
