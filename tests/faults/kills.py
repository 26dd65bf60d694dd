"""Runs work in a process of its own that dies before its n-th durable step, or before it sends.

Durable steps are flushes, renames, removals and commits. A kill leaves everything that was written; a power cut also
loses what was not flushed: file contents, and the names in a folder.
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
import traceback
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
from fedhelp_edge.helper import answering, carrier
from fedhelp_edge.parcel import keys
from fedhelp_edge.site import inbox, layout, outbox
from server_ref.admin import session, unattended
from server_ref.hub.hub import Hub
from server_ref.intake import judge, partial_uploads, receive, sandbox
from server_ref.intake.sandbox import Job, OpenedUpdate, SandboxRefusalError
from server_ref.rounds import close, opening

_PROCESSES = multiprocessing.get_context("forkserver" if os.name != "nt" else "spawn")
_PROCESSES.set_forkserver_preload(["pytest", "tests.faults.kills"])  # what a child imports again
KILLED = -signal.SIGKILL if os.name != "nt" else 1
_CUT_FAILED = 99


def open_in_this_process(patch: pytest.MonkeyPatch) -> None:
    """Opens updates in this process, which is faster than in the sandbox."""
    patch.setattr(sandbox, "Sandbox", UnconfinedSandbox)


def run(work: Callable[..., None], home: Path, *arguments: Any, dies_before: int = 0, power_cut: bool = False) -> int:
    """Runs `work` on a folder in a new process; returns its exit code. A cut that fails is raised: it shows nothing."""
    process = _PROCESSES.Process(target=_run, args=(work, home, arguments, dies_before, power_cut))
    process.start()
    process.join()
    assert process.exitcode != _CUT_FAILED, "the power cut did not undo what was not flushed"
    return int(process.exitcode or 0)


def _run(work: Callable[..., None], home: Path, arguments: tuple[Any, ...], dies_before: int, power_cut: bool) -> None:
    sandbox.Sandbox = UnconfinedSandbox  # type: ignore[assignment, misc]
    if dies_before:
        Killer(dies_before, power_cut, Path(tempfile.mkdtemp(dir=home.parent))).watch()
    work(home, *arguments)


def coordinator_step(home: Path, step: str, time: datetime, updates: Sequence[Path] = ()) -> None:
    """Runs one step of a coordinator."""
    hub = Hub(home, clock=lambda: time)
    coordinator_keys = hub.coordinator_keys(lambda: "")
    with session.write_lock(hub):
        for path in updates:
            receive.receive(hub, path)
        if step == "judge":
            judge.judge_waiting(hub, coordinator_keys)
        with suppress(NotNowError):  # the step was done before the kill
            if step == "aggregate":
                close.aggregate(hub, coordinator_keys, in_transit=partial_uploads.awaited_senders(hub))
            if step == "open":
                opening.open_next(hub, coordinator_keys)
    hub.database.close()


def unattended_step(home: Path, stick: Path, time: datetime) -> None:
    """Runs one iteration of 'fedhelp-coordinator run'."""
    hub = Hub(home, clock=lambda: time)
    coordinator_keys = hub.coordinator_keys(lambda: "")
    hub.check()
    with session.write_lock(hub):
        unattended.step(hub, coordinator_keys, stick)
    hub.database.close()


def answer(home: Path, stick: Path | None, url: str = "") -> None:
    """Runs the helper of a secure sum once, with a stick or at a front."""
    answering.answer(home, carrier.choose(home, stick, url, None, lambda: ""), lambda: "")


def seal_and_upload(home: Path, stick: Path) -> None:
    """Seals a site's trained update and uploads it."""
    outbox.seal_current(home, lambda: "")
    outbox.upload(home, [FolderCarrier(stick)])


def import_largest(home: Path) -> None:
    """Imports the largest file that a site has downloaded."""
    path = max((home / layout.INCOMING).glob("*.fhx"), key=lambda path: path.stat().st_size)
    inbox.import_files(home, [path], inbox.DownloadResult())


def copy(stick: Path, update_path: Path) -> None:
    """Uploads an update to a stick."""
    FolderCarrier(stick).put(update_path)


def send(folder: Path, url: str, federation: str, update_path: Path) -> None:
    """Uploads an update to a front; the carrier asks for keys but needs none to send."""
    HttpCarrier(url, federation, keys.generate, folder).put(update_path)


def type_in(folder: Path, program: str, words: Sequence[str], home: str) -> None:
    """Runs a command as a person types it, with its output in the file `output`."""
    main = importlib.import_module(program).main
    os.chdir(folder)
    os.environ["FEDHELP_HOME"], sys.argv, sys.stdin = home, [program, *words], io.StringIO()
    with Path("output").open("w") as output, redirect_stdout(output), redirect_stderr(output):
        main()


class UnconfinedSandbox:
    """Opens updates in this process, so that a kill can happen meanwhile."""

    def __enter__(self) -> UnconfinedSandbox:
        return self

    def __exit__(self, *_: object) -> None: ...

    def open(self, job: Job) -> OpenedUpdate:
        try:
            return sandbox.open_update(job)
        except FedhelpError as error:
            raise SandboxRefusalError(error.code, error.cause) from None


def _path(name: Any, folder: int) -> Path:
    """The path of a name that is relative to an open folder."""
    return Path(name).absolute() if folder == -1 else Path(f"/proc/self/fd/{folder}").readlink() / name


def _rename_back(target: Path, source: Path) -> None:
    """Undoes a renaming. If the folder that it came from is gone for good, neither name is left."""
    if source.parent.exists():
        target.rename(source)
    else:
        target.unlink()


def _is_removed(folder: Path, flushed: Path) -> bool:
    """Whether a folder is gone for good, now that one above it was flushed."""
    return flushed in folder.parents and not folder.exists()


class Killer:
    """Counts the durable steps of this process and kills it before a given one."""

    def __init__(self, dies_before: int, power_cut: bool, stash: Path) -> None:
        self._left, self._power_cut, self._stash = dies_before, power_cut, stash
        self._unflushed: set[Path] = set()  # files
        self._undo: list[tuple[Path, Callable[[], object]]] = []  # changes of folders that were not flushed
        self._backups = itertools.count()
        self._fsync, self._open = os.fsync, os.open

    def watch(self) -> None:
        count = self._count

        class Connection(sqlite3.Connection):
            def execute(self, query: str, *values: Any) -> sqlite3.Cursor:
                if query == "COMMIT":
                    count()
                return super().execute(query, *values)

        sqlite3.connect = partial(sqlite3.connect, factory=Connection)
        os.fsync, os.open = self._flush, self._open_relative
        sys.addaudithook(self._on_event)

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._left <= 0:
            return
        if event == "http.client.send":
            self._count()
        elif event == "open" and not isinstance(arguments[0], int) and arguments[2] & os.O_CREAT:
            self._new(Path(arguments[0]).absolute())
        elif event == "os.mkdir":
            path = _path(arguments[0], arguments[2])
            if not path.exists():
                self._undo.append((path.parent, partial(shutil.rmtree, path, ignore_errors=True)))
        elif event == "os.rmdir":
            self._count()
            path = _path(arguments[0], arguments[1])
            if path.is_dir() and not any(path.iterdir()):
                self._undo.append((path.parent, path.mkdir))
        elif event == "os.rename":
            self._count()
            source, target = _path(arguments[0], arguments[2]), _path(arguments[1], arguments[3])
            if not source.exists():
                return
            if source in self._unflushed:
                self._unflushed.add(target)
            if target.is_file():
                self._keep(target)
            self._undo.append((target.parent, partial(_rename_back, target, source)))
        elif event == "os.remove":
            self._count()
            path = _path(arguments[0], arguments[1])
            if path.exists():
                self._keep(path)

    def _keep(self, path: Path) -> None:
        """Keeps the file of a name that changes, to restore it if the folder is not flushed."""
        if path.stat().st_dev != self._stash.stat().st_dev:
            return  # a temporary file on another disk
        backup = self._stash / str(next(self._backups))
        backup.hardlink_to(path)
        self._undo.append((path.parent, partial(backup.rename, path)))

    def _open_relative(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        """Opens a file; the audit hook does not know the folder that a name is relative to."""
        if dir_fd is None:
            return self._open(path, flags, mode)
        if flags & os.O_CREAT:
            self._new(_path(path, dir_fd))
        return self._open(path, flags, mode, dir_fd=dir_fd)

    def _new(self, path: Path) -> None:
        if not path.exists():
            self._unflushed.add(path)
            self._undo.append((path.parent, partial(path.unlink, missing_ok=True)))  # nothing, if opening it fails

    def _flush(self, descriptor: int) -> None:
        self._count()
        self._fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        self._unflushed.discard(path)
        self._undo = [change for change in self._undo if change[0] != path and not _is_removed(change[0], path)]

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            try:
                if self._power_cut:
                    self._cut()
            except BaseException:  # the work would catch it, and go on after half a cut
                traceback.print_exc()
                os._exit(_CUT_FAILED)
            os.kill(os.getpid(), signal.SIGKILL)

    def _cut(self) -> None:
        for path in self._unflushed:
            with suppress(FileNotFoundError):
                os.truncate(path, 0)
        for _, undo in reversed(self._undo):
            undo()
