"""Does all that a site can do now: send, fetch, train, send. Without a connection it trains and sends next time."""

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


@dataclass
class SyncResult:
    """What a sync did. `unreached` says why the carrier could not be reached, or is ""."""

    new: list[str] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    trained: int | None = None  # the round
    sent: list[str] = field(default_factory=list)
    unreached: str = ""


def sync(
    home: Path, carriers: Sequence[exchange.Carrier], ask_passphrase: Callable[[], str], watch: Callable[[str], Any],
    *, start: Path | None = None, device: str = "cpu", threads: int | None = None,
) -> SyncResult:  # fmt: skip
    """Sends pending parcels, fetches, trains the open round if there is one, and sends its update.

    `start` gives first weights to that training.
    """
    result = SyncResult()
    with _noting_unreached(result):
        with suppress(RefusedThereError):  # its round has closed, perhaps: the download tells, or the upload below
            result.sent = outbox.upload(home, carriers)
        downloaded = inbox.download(home, carriers, ask_passphrase)
        result.new, result.refused = downloaded.new, downloaded.refused
    report = status.status(home)
    if report["state"] in (status.READY, status.TRAINING):
        keys.load(home, ask_passphrase)  # asks for the passphrase before the long training
        from fedhelp_edge.site import ordered_training  # imports torch

        ordered_training.train(home, report["tier"], None, watch, start=start, device=device, threads=threads)
        result.trained = report["round"]
    seal_if_trained(home, ask_passphrase)
    with _noting_unreached(result):
        result.sent += outbox.upload(home, carriers)
    return result


@contextmanager
def _noting_unreached(result: SyncResult) -> Iterator[None]:
    """Notes an unreachable carrier and goes on: a site can train without a connection."""
    try:
        yield
    except (OfflineError, FileMissingError) as error:
        result.unreached = error.cause


def seal_if_trained(home: Path, ask_passphrase: Callable[[], str]) -> None:
    """Seals the update of the current round if it is trained, and no new keys are requested."""
    if status.status(home)["state"] == status.TRAINED and not (home / layout.NEXT_KEYS).exists():
        outbox.seal_current(home, ask_passphrase)
