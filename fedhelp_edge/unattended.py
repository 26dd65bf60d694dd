"""Long-running commands: transient errors are retried, and all others end the command with their code."""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fedhelp_edge.errors import (
    BusyError,
    FedhelpError,
    FileKindError,
    FileMissingError,
    NoPermissionError,
    NoSpaceError,
    OfflineError,
    from_os,
)

_TRANSIENT = (BusyError, FileKindError, FileMissingError, OfflineError, NoPermissionError, NoSpaceError)
_MAX_WAIT = 600.0  # seconds between two attempts


def transient_error(error: FedhelpError | OSError) -> FedhelpError | None:
    """The error, if a later attempt may succeed: a missing stick or share, a full disk, a hub in use.

    None for errors that time does not mend: damage, a broken log, a wrong passphrase, a clock that jumped.
    """
    own_error = from_os(error) if isinstance(error, OSError) else error
    return own_error if isinstance(own_error, _TRANSIENT) else None


def run_repeatedly(
    attempt: Callable[[], bool], every: float, say: Callable[[str], None], sleep: Callable[[float], object] = time.sleep
) -> None:
    """Call `attempt` every so many seconds until it returns True; transient errors make it wait longer and longer."""
    wait, reported = every, ""
    while True:
        try:
            done = attempt()
        except (FedhelpError, OSError) as error:
            transient = transient_error(error)
            if transient is None:
                raise
            if reported != (reported := transient.code):
                say(f"waiting: {transient.code}: {transient.cause}; the command retries by itself")
            sleep(wait * random.uniform(0.75, 1))  # noqa: S311 - many waiting commands must not retry at once
            wait = max(every, min(2 * wait, _MAX_WAIT))
            continue
        if reported:
            say("the command continues")
        wait, reported = every, ""
        if done:
            return
        sleep(every)


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """SIGTERM ends the command cleanly: locks are released, and a transaction is rolled back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
