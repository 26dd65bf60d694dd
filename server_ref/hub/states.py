"""The states of requests, updates and rounds."""

from __future__ import annotations

from enum import Enum


class State(str, Enum):
    """As the database, receipts and JSON spell them.

    A request to join or to change keys is waiting, then approved or refused. An update is received, then accepted,
    quarantined or refused; an accepted one is merged with its round, or superseded by another of its site. A round is
    open, then merged, or failed where too few updates came: then its model is the one that it began with. In a secure
    sum it is summing in between: its set of updates is named, and the helper's answer is awaited.
    """

    WAITING = "waiting"
    APPROVED = "approved"
    RECEIVED = "received"
    ACCEPTED = "accepted"
    QUARANTINED = "quarantined"
    REFUSED = "refused"
    SUPERSEDED = "superseded"
    OPEN = "open"
    SUMMING = "summing"
    MERGED = "merged"
    FAILED = "failed"

    def __str__(self) -> str:
        return self.value
