"""The front's limits: connections, times, and requests per second."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from starlette.requests import Request

from fedhelp_edge.errors import (
    RateLimitError,
)
from server_ref.web.connections import address_group

MAX_HEAD_BYTES = 16 << 10  # of the headers of one request


@dataclass(frozen=True)
class Limits:
    """Limits that no client can exceed. Tests make them smaller."""

    connections: int = 192  # open at once, of all clients together
    tls_connections: int = 96  # each needs about twice the memory
    eviction_seconds: float = 1.0  # without progress; then a connection can lose its place when all are taken
    header_seconds: float = 20.0  # to send a request's head, or the rest of a request that was answered early
    body_seconds: float = 60.0  # to send at least this many bytes of a body:
    body_min_bytes: int = 4096
    response_seconds: float = 300.0  # to read the next part of a response
    open_uploads: int = 4  # of one site
    open_requests: int = 64  # uploads of requests to join, of everybody together
    waiting_requests: int = 1000  # requests to join that wait for a person
    address: tuple[float, float] = (50.0, 500.0)  # (requests per second, burst), for each address
    sender: tuple[float, float] = (20.0, 200.0)
    invite: tuple[float, float] = (5 / 3600, 5.0)


class RateLimiter:
    """A token bucket for each name. A bucket that is full again is forgotten, so memory stays small."""

    def __init__(self, rate: float, capacity: float) -> None:
        self._rate, self._capacity = rate, capacity
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # (tokens, time of the count)

    def take(self, name: str) -> None:
        """Take one token, or raise with the seconds until there is one."""
        now = time.monotonic()
        tokens, last_time = self._buckets.pop(name, (self._capacity, now))
        tokens = min(self._capacity, tokens + (now - last_time) * self._rate)
        self._buckets[name] = (tokens - 1 if tokens >= 1 else tokens), now
        while self._buckets:
            oldest_tokens, oldest_time = next(iter(self._buckets.values()))
            if oldest_tokens + (now - oldest_time) * self._rate < self._capacity:
                break
            self._buckets.popitem(last=False)
        if tokens < 1:
            raise RateLimitError("too many requests", (1 - tokens) / self._rate)


def client_address(request: Request) -> str:
    """The group of addresses that a request comes from: the addresses that one machine can have count as one."""
    return address_group(request.client.host) if request.client else ""
