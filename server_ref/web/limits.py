"""How much one address may ask of the web server."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from starlette.requests import Request

from fedhelp_edge.errors import (
    RateLimitError,
)
from server_ref.web.connections import address_group


@dataclass(frozen=True)
class Limits:
    connections: int = 192  # at once, of all together
    tls_connections: int = 96  # each needs about twice the memory
    eviction_seconds: float = 1.0  # without progress, after which one of them makes room when all places are taken
    header_seconds: float = 20.0  # for the head of a request, and for the rest of one that was answered early
    body_seconds: float = 60.0  # in which at least this much must come:
    body_min_bytes: int = 4096
    response_seconds: float = 300.0  # in which a client takes the next part of an answer
    open_uploads: int = 4  # of one site
    open_requests: int = 64  # to join, of all together
    waiting_requests: int = 1000
    address: tuple[float, float] = (50.0, 500.0)  # requests a second, and at once
    sender: tuple[float, float] = (20.0, 200.0)
    invite: tuple[float, float] = (5 / 3600, 5.0)


class RateLimiter:
    """A bucket of tokens for each name, which fills up again. A full one need not be kept."""

    def __init__(self, rate: float, capacity: float) -> None:
        self._rate, self._most = rate, capacity
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when that was

    def take(self, name: str) -> None:
        now = time.monotonic()
        tokens, last_time = self._left.pop(name, (self._most, now))
        tokens = min(self._most, tokens + (now - last_time) * self._rate)
        self._left[name] = (tokens - 1 if tokens >= 1 else tokens), now
        while self._left:
            oldest_tokens, oldest_time = next(iter(self._left.values()))
            if oldest_tokens + (now - oldest_time) * self._rate < self._most:
                break
            self._left.popitem(last=False)
        if tokens < 1:
            raise RateLimitError("too many requests", (1 - tokens) / self._rate)


def client_address(request: Request) -> str:
    """Where a request comes from: as many addresses as one machine can have count as one."""
    return address_group(request.client.host) if request.client else ""
