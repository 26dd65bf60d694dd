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
from fedhelp_edge.site import inbox, layout, outbox, status
from fedhelp_edge.site import status as site_status


@dataclass
class SyncResult:
    new: list[str] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    trained: int | None = None  # the round
    sent: list[str] = field(default_factory=list)
    unreached: str = ""


def sync(
    home: Path, carriers: Sequence[exchange.Carrier], ask_passphrase: Callable[[], str], watch: Callable[[str], Any],
    *, device: str = "cpu", threads: int | None = None,
) -> SyncResult:  # fmt: skip
    result = SyncResult()
    with _noting_unreached(result):
        with suppress(
            RefusedThereError
        ):  # its round is over, say: that comes with the news; else the last upload says so
            result.sent = outbox.upload(home, carriers)  # what waited
        downloaded = inbox.download(home, carriers, ask_passphrase)
        result.new, result.refused = downloaded.new, downloaded.refused
    report = status.status(home)
    if report["state"] in (status.READY, status.TRAINING):
        keys.load(home, ask_passphrase)  # asks before the long work, not after
        from fedhelp_edge.site import ordered_training  # brings torch

        ordered_training.train(home, report["tier"], None, watch, device=device, threads=threads)
        result.trained = report["round"]
    seal_if_trained(home, ask_passphrase)
    with _noting_unreached(result):
        result.sent += outbox.upload(home, carriers)
    return result


@contextmanager
def _noting_unreached(result: SyncResult) -> Iterator[None]:
    """No network, or no stick, is nothing bad."""
    try:
        yield
    except (OfflineError, FileMissingError) as error:
        result.unreached = error.cause


def seal_if_trained(home: Path, ask_passphrase: Callable[[], str]) -> None:
    """Seal the share of the round that is ordered now, if it was trained and the keys are not being changed."""
    if site_status.status(home)["state"] == site_status.TRAINED and not (home / layout.NEXT_KEYS).exists():
        outbox.seal_current(home, ask_passphrase)
