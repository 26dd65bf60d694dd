"""What every request to the front passes through: limits, threads, and the form of a refusal (RFC 9457)."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from fedhelp_edge import errors
from fedhelp_edge.errors import BadRequest, FedhelpError, Media, PayloadSize, RateLimit, Slow, UploadOffset
from server_ref.hub import Hub
from server_ref.incoming import Upload

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    header_seconds: float = 20.0  # for the head of a request, and for the rest of one that was answered early
    body_seconds: float = 60.0  # in which at least this much must come:
    body_least: int = 4096
    open_uploads: int = 4  # of one site
    open_requests: int = 64  # to join, of all together
    waiting_requests: int = 1000
    rounds_worth: int = 4  # how many shares' bytes a site may leave in one round
    address: tuple[float, float] = (50.0, 500.0)  # requests a second, and at once
    sender: tuple[float, float] = (20.0, 200.0)
    invite: tuple[float, float] = (5 / 3600, 5.0)


class Buckets:
    """A bucket of tokens for each name, which fills up again. A full bucket is as good as none, so few are kept."""

    def __init__(self, rate: float, most: float) -> None:
        self._rate, self._most = rate, most
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # name: tokens, and when

    def take(self, name: str) -> None:
        now = time.monotonic()
        tokens, before = self._left.pop(name, (self._most, now))
        tokens = min(self._most, tokens + (now - before) * self._rate)
        self._left[name] = max(tokens - 1, 0.0) if tokens >= 1 else tokens, now
        while self._left and self._is_full(*next(iter(self._left.values())), now):
            self._left.popitem(last=False)
        if tokens < 1:
            raise Wait("too many requests", (1 - tokens) / self._rate)

    def _is_full(self, tokens: float, before: float, now: float) -> bool:
        return tokens + (now - before) * self._rate >= self._most


class Wait(RateLimit, code=RateLimit.code, remedy=RateLimit.remedy):
    """Too many requests, and how long it takes until one more is welcome."""

    def __init__(self, cause: str, seconds: float) -> None:
        super().__init__(cause)
        self.seconds = seconds
