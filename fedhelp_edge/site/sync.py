"""Everything that a site can do now: send what waits, fetch, train, send. What cannot be reached is tried next time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedhelp_edge import exchange
from fedhelp_edge.errors import FileMissingError, OfflineError, RefusedThereError
from fedhelp_edge.parcel import keys
from fedhelp_edge.site import inbox, outbox, status


@dataclass
class Synced:
    new: list[str] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    trained: int | None = None  # the round
    sent: list[str] = field(default_factory=list)
    unreached: str = ""


def sync(
    home: Path, ways: Sequence[exchange.Carrier], ask: Callable[[], str], watch: Callable[[str], Any],
    *, device: str = "cpu", threads: int | None = None,
) -> Synced:  # fmt: skip
    found = Synced()
    with _if_reached(found):
        with suppress(
            RefusedThereError
        ):  # its round is over, say: that comes with the news; else the last upload says so
            found.sent = outbox.upload(home, ways)  # what waited
        taken = inbox.download(home, ways, ask)
        found.new, found.refused = taken.new, taken.refused
    told = status.status(home)
    if told["state"] in (status.READY, status.TRAINING):
        keys.load(home, ask)  # asks before the long work, not after
        from fedhelp_edge.site import ordered_training  # brings torch

        ordered_training.train(home, told["tier"], None, watch, device=device, threads=threads)
        found.trained = told["round"]
    status.seal(home, ask)
    with _if_reached(found):
        found.sent += outbox.upload(home, ways)
    return found


@contextmanager
def _if_reached(found: Synced) -> Iterator[None]:
    """No network, or no stick, is nothing bad."""
    try:
        yield
    except (OfflineError, FileMissingError) as fault:
        found.unreached = fault.cause
