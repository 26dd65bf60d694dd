"""The front's shared state: the threads that work on the hub, open uploads, and rate limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from starlette.requests import Request

from server_ref.hub.hub import Hub
from server_ref.intake.partial_uploads import PartialUpload
from server_ref.web.limits import Limits, RateLimiter

P = ParamSpec("P")
T = TypeVar("T")


class HubThread:
    """A thread with its own hub: a connection to the database belongs to the thread that opened it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._pool = ThreadPoolExecutor(1)
        self._hub: Hub | None = None

    async def run(self, work: Callable[Concatenate[Hub, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `work` with the hub in this thread, and await its result."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: work(self._open(), *args, **kwargs))

    def close(self) -> None:
        self._pool.submit(self._close).result()
        self._pool.shutdown()

    def _open(self) -> Hub:
        self._hub = self._hub or Hub(self._home)
        return self._hub

    def _close(self) -> None:
        if self._hub:
            self._hub.database.close()


class Front:
    """The state that requests share. Reading waits for nobody; writing may wait for a coordinator command."""

    def __init__(self, home: Path, limits: Limits) -> None:
        self.home, self.limits = home, limits
        self.reading, self.writing = HubThread(home), HubThread(home)
        self.uploads: dict[str, PartialUpload] = {}
        self.creation_lock = asyncio.Lock()
        self.address_rate, self.sender_rate, self.invite_rate, self.guess_rate = (
            RateLimiter(*rate) for rate in (limits.address, limits.sender, limits.invite, limits.invite)
        )

    def close(self) -> None:
        self.reading.close()
        self.writing.close()


def get_front(request: Request) -> Front:
    front: Front = request.app.state.front
    return front
