"""One command at a time in a folder: a lock that the system releases whenever its process ends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedhelp_edge.errors import BusyError

WAIT = 30.0  # seconds for another command to end


@contextmanager
def exclusive(path: Path, *, wait: float | None = None) -> Iterator[None]:
    """Hold the lock file for a block; raise `BusyError` after `wait` seconds."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        until = time.monotonic() + (WAIT if wait is None else wait)
        while not _try_lock(descriptor):
            if time.monotonic() > until:
                raise BusyError(f"another command is at work in {path.parent.name}")
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX, Windows
        return False
    return True
