"""Work in a process of its own that dies before the n-th thing it makes durable, or sends.

What is durable: a flush, a rename, a removal, a commit. A kill leaves all that was written; a power cut also takes
whatever was not flushed: what a file held, and the names in a folder.
"""

from __future__ import annotations

import importlib
import io
import itertools
import multiprocessing
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge.errors import FedhelpError, NotNowError
from fedhelp_edge.exchange.folder import FolderCarrier
from fedhelp_edge.exchange.http import HttpCarrier
from fedhelp_edge.parcel import keys
from server_ref.admin import session, unattended
from server_ref.hub.hub import Hub
from server_ref.intake import judge, partial_uploads, receive, sandbox
from server_ref.intake.sandbox import Job, OpenedUpdate, SandboxRefusalError
from server_ref.rounds import close, opening

_PROCESSES = multiprocessing.get_context("forkserver" if os.name != "nt" else "spawn")
_PROCESSES.set_forkserver_preload(["pytest", "tests.faults.kills"])  # what a child imports again
KILLED = -signal.SIGKILL if os.name != "nt" else 1


def open_here(patch: pytest.MonkeyPatch) -> None:
    """Let updates be opened in this process, which is quicker than in the sandbox."""
    patch.setattr(sandbox, "Sandbox", Here)


def run(work: Callable[..., None], home: Path, *given: Any, dies_before: int = 0, power_cut: bool = False) -> int:
    """Do something in a folder, in a new process; its exit code."""
    process = _PROCESSES.Process(target=_run, args=(work, home, given, dies_before, power_cut))
    process.start()
    process.join()
    return int(process.exitcode or 0)


def _run(work: Callable[..., None], home: Path, given: tuple[Any, ...], dies_before: int, power_cut: bool) -> None:
    sandbox.Sandbox = Here  # type: ignore[assignment, misc]
    if dies_before:
        Fate(dies_before, power_cut, Path(tempfile.mkdtemp(dir=home.parent))).watch()
    work(home, *given)


def take(home: Path, step: str, time: datetime, shares: Sequence[Path] = ()) -> None:
    """One step of a coordinator."""
    hub = Hub(home, clock=lambda: time)
    coordinator_keys = hub.coordinator_keys(lambda: "")
    with session.write_lock(hub):
        for share in shares:
            receive.receive(hub, share)
        if step == "judge":
            judge.judge_waiting(hub, coordinator_keys)
        with suppress(NotNowError):  # it was done, all but the answer
            if step == "aggregate":
                close.aggregate(hub, coordinator_keys, in_transit=partial_uploads.awaited_senders(hub))
            if step == "open":
                opening.open_next(hub, coordinator_keys)
    hub.database.close()


def look(home: Path, stick: Path, time: datetime) -> None:
    """What 'fedhelp-coordinator run' does at each of its looks."""
    hub = Hub(home, clock=lambda: time)
    coordinator_keys = hub.coordinator_keys(lambda: "")
    hub.check()
    with session.write_lock(hub):
        unattended.step(hub, coordinator_keys, stick)
    hub.database.close()


def copy(stick: Path, share: Path) -> None:
    """What a site's 'upload' does with a stick, and with the network."""
    FolderCarrier(stick).put(share)


def send(folder: Path, url: str, federation: str, share: Path) -> None:
    HttpCarrier(url, federation, keys.generate, folder).put(
        share
    )  # which asks for keys before it sends, and signs with none


def type_in(folder: Path, program: str, words: Sequence[str], home: str) -> None:
    """A command as a person types it; what it says goes into the file `said`."""
    main = importlib.import_module(program).main
    os.chdir(folder)
    os.environ["FEDHELP_HOME"], sys.argv, sys.stdin = home, [program, *words], io.StringIO()
    with Path("said").open("w") as said, redirect_stdout(said), redirect_stderr(said):
        main()


class Here:
    """Opens updates in this process, so that it can be killed while it does."""

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None: ...

    def open(self, job: Job) -> OpenedUpdate:
        try:
            return sandbox.open_update(job)
        except FedhelpError as error:
            raise SandboxRefusalError(error.code, error.cause) from None


def _path(name: Any, folder: int) -> Path:
    """What a name stands for that is looked up in an open folder."""
    return Path(name) if folder == -1 else Path(f"/proc/self/fd/{folder}").readlink() / name


class Fate:
    """Counts what this process makes durable or sends, and ends it."""

    def __init__(self, dies_before: int, power_cut: bool, stash: Path) -> None:
        self._left, self._power_cut, self._stash = dies_before, power_cut, stash
        self._unflushed: set[Path] = set()  # files
        self._undo: list[tuple[Path, Callable[[], object]]] = []  # what changed in folders that were not flushed
        self._kept = itertools.count()
        self._fsync, self._open = os.fsync, os.open

    def watch(self) -> None:
        count = self._count

        class Connection(sqlite3.Connection):
            def execute(self, query: str, *values: Any) -> sqlite3.Cursor:
                if query == "COMMIT":
                    count()
                return super().execute(query, *values)

        sqlite3.connect = partial(sqlite3.connect, factory=Connection)
        os.fsync, os.open = self._flush, self._made
        sys.addaudithook(self._see)

    def _see(self, event: str, what: tuple[Any, ...]) -> None:
        if self._left <= 0:
            return
        if event == "http.client.send":
            self._count()
        elif event == "open" and not isinstance(what[0], int) and what[2] & os.O_CREAT:
            self._new(Path(what[0]))
        elif event == "os.mkdir":
            path = _path(what[0], what[2])
            if path.is_absolute() and not path.exists():
                self._undo.append((path.parent, partial(shutil.rmtree, path, ignore_errors=True)))
        elif event == "os.rmdir":
            self._count()
        elif event == "os.rename":
            self._count()
            source, target = _path(what[0], what[2]), _path(what[1], what[3])
            if source in self._unflushed:
                self._unflushed.add(target)
            if target.is_file():
                self._keep(target)
            self._undo.append((target.parent, partial(target.rename, source)))
        elif event == "os.remove":
            self._count()
            path = _path(what[0], what[1])
            if path.exists():
                self._keep(path)

    def _keep(self, path: Path) -> None:
        """What stood under a name until now, and does again while the folder was not flushed."""
        kept = self._stash / str(next(self._kept))
        kept.hardlink_to(path)
        self._undo.append((path.parent, partial(kept.rename, path)))

    def _made(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        """What the audit hook is not told: the folder in which a name is looked up."""
        if dir_fd is None:
            return self._open(path, flags, mode)
        if flags & os.O_CREAT:
            self._new(_path(path, dir_fd))
        return self._open(path, flags, mode, dir_fd=dir_fd)

    def _new(self, path: Path) -> None:
        if path.is_absolute() and not path.exists():
            self._unflushed.add(path)
            self._undo.append((path.parent, path.unlink))

    def _flush(self, descriptor: int) -> None:
        self._count()
        self._fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        self._unflushed.discard(path)
        self._undo = [change for change in self._undo if change[0] != path]

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            if self._power_cut:
                self._cut()
            os.kill(os.getpid(), signal.SIGKILL)

    def _cut(self) -> None:
        for path in self._unflushed:
            with suppress(FileNotFoundError):
                os.truncate(path, 0)
        for _, undo in reversed(self._undo):
            undo()
