"""What every request to the front passes through: limits, threads, and the form of a refusal (RFC 9457)."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from fedhelp_edge import errors
from fedhelp_edge.errors import (
    BadRequestError,
    FedhelpError,
    PayloadSizeError,
    RateLimitError,
    SlowError,
    UploadOffsetError,
)
from server_ref.hub.hub import Hub
from server_ref.intake.partial import Upload
from server_ref.web.crowd import group

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    connections: int = 192  # at once, of all together
    tls_connections: int = 96  # each needs about twice the memory
    crowded_seconds: float = 1.0  # without progress, after which one of them makes room when all places are taken
    header_seconds: float = 20.0  # for the head of a request, and for the rest of one that was answered early
    body_seconds: float = 60.0  # in which at least this much must come:
    body_least: int = 4096
    reading_seconds: float = 300.0  # in which a client takes the next part of an answer
    open_uploads: int = 4  # of one site
    open_requests: int = 64  # to join, of all together
    waiting_requests: int = 1000
    address: tuple[float, float] = (50.0, 500.0)  # requests a second, and at once
    sender: tuple[float, float] = (20.0, 200.0)
    invite: tuple[float, float] = (5 / 3600, 5.0)


class Buckets:
    """A bucket of tokens for each name, which fills up again. A full one need not be kept."""

    def __init__(self, rate: float, most: float) -> None:
        self._rate, self._most = rate, most
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when that was

    def take(self, name: str) -> None:
        now = time.monotonic()
        tokens, before = self._left.pop(name, (self._most, now))
        tokens = min(self._most, tokens + (now - before) * self._rate)
        self._left[name] = (tokens - 1 if tokens >= 1 else tokens), now
        while self._left:
            kept, since = next(iter(self._left.values()))
            if kept + (now - since) * self._rate < self._most:
                break
            self._left.popitem(last=False)
        if tokens < 1:
            raise RateLimitError("too many requests", (1 - tokens) / self._rate)


class Clerk:
    """A thread with a hub of its own: a connection to the database belongs to the thread that opened it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._pool = ThreadPoolExecutor(1)
        self._hub: Hub | None = None

    async def ask(self, work: Callable[Concatenate[Hub, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
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
            self._hub.store.close()


class Front:
    """What the requests share. Reading waits for nobody; writing may wait for a coordinator's command."""

    def __init__(self, home: Path, limits: Limits) -> None:
        self.home, self.limits = home, limits
        self.reading, self.writing = Clerk(home), Clerk(home)
        self.uploads: dict[str, Upload] = {}
        self.beginning = asyncio.Lock()
        self.addresses, self.senders, self.invites, self.guesses = (
            Buckets(*rate) for rate in (limits.address, limits.sender, limits.invite, limits.invite)
        )

    def close(self) -> None:
        self.reading.close()
        self.writing.close()


def front(request: Request) -> Front:
    found: Front = request.app.state.front
    return found


def address(request: Request) -> str:
    """Where a request comes from: as many addresses as one machine can have count as one."""
    return group(request.client.host) if request.client else ""


# --- bodies --------------------------------------------------------------------------------------------------------
def whole_number(request: Request, header: str, most: int = 2**53 - 1) -> int:
    text = request.headers.get(header, "")
    if not re.fullmatch(r"[0-9]{1,16}", text) or int(text) > most:
        raise BadRequestError(f"{header} is missing, or no whole number from 0 to {most}")
    return int(text)


def announced(request: Request) -> int | None:
    """The length of the body, where it was told beforehand."""
    return whole_number(request, "content-length") if "content-length" in request.headers else None


async def chunks(request: Request, limits: Limits, stop: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    """The body as it comes, until it ends, becomes too slow, or `stop` is set."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.ensure_future((stop or asyncio.Event()).wait())
    until, came = loop.time() + limits.body_seconds, 0
    try:
        while True:
            coming = asyncio.ensure_future(request.receive())
            await asyncio.wait({coming, stopped}, timeout=until - loop.time(), return_when=asyncio.FIRST_COMPLETED)
            if stopped.done() or not coming.done():
                coming.cancel()
                raise (
                    UploadOffsetError("a newer request goes on with this upload")
                    if stopped.done()
                    else SlowError(f"less than {limits.body_least} bytes came in {limits.body_seconds:.0f} seconds")
                )
            message = coming.result()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            if chunk := message.get("body", b""):
                yield chunk
            came += len(chunk)
            if came >= limits.body_least:
                until, came = loop.time() + limits.body_seconds, 0
            if not message.get("more_body"):
                return
    finally:
        stopped.cancel()


async def body(request: Request, most: int, is_good: Callable[[bytes], Awaitable[bool]] | None = None) -> bytes:
    """The whole of a body that is short; `is_good` is asked about what has come, until it says so or raises."""
    data = bytearray()
    if (announced(request) or 0) <= most:
        async for chunk in chunks(request, front(request).limits):
            data += chunk
            if len(data) > most:
                break
            if is_good and await is_good(bytes(data)):
                is_good = None
        else:
            return bytes(data)
    raise PayloadSizeError(f"the body is longer than {most} bytes")


# --- refusals ------------------------------------------------------------------------------------------------------
_STATUS: dict[type[FedhelpError], int] = {  # of a kind and of all below it
    errors.ParcelError: 400,
    errors.StatementSizeError: 413,
    errors.PayloadSizeError: 413,
    errors.SigBadError: 401,
    errors.SigNamespaceError: 401,
    errors.AgeError: 400,
    errors.TrustError: 409,
    errors.RoundClosedError: 410,
    errors.SignerUnknownError: 401,
    errors.SignerMismatchError: 403,
    errors.SignerRevokedError: 403,
    errors.SignerWindowError: 403,
    errors.SignerRoleError: 403,
    errors.ParcelKindError: 403,
    errors.InviteUnknownError: 403,
    errors.QuotaError: 429,
    errors.DuplicateRoundError: 409,
    errors.NotNowError: 409,
    errors.BusyError: 503,
    errors.ClockJumpError: 503,
    errors.NoSpaceError: 507,
    errors.BadRequestError: 400,
    errors.UnsignedError: 401,
    errors.NonceError: 401,
    errors.DashboardLinkError: 403,
    errors.NotHereError: 404,
    errors.HttpMethodError: 405,
    errors.SlowError: 408,
    errors.UploadOffsetError: 409,
    errors.UploadProtocolError: 412,
    errors.MediaTypeError: 415,
    errors.BytesRangeError: 416,
    errors.RateLimitError: 429,
    errors.RequestHeadersError: 431,
}


def status(fault: FedhelpError) -> int:
    return next((_STATUS[kind] for kind in type(fault).__mro__ if kind in _STATUS), 500)


def problem(fault: FedhelpError) -> dict[str, Any]:
    return {
        "type": "about:blank", "title": (type(fault).__doc__ or "").strip(), "status": status(fault),
        "code": fault.code, "detail": fault.cause, "remedy": fault.remedy,
    }  # fmt: skip


def refusal(fault: FedhelpError, nonce: str = "") -> Response:
    headers = {"Cache-Control": "no-store"}
    if status(fault) == 401 and nonce:
        headers |= {"WWW-Authenticate": "SSHSIG", "Fedhelp-Nonce": nonce}
    if isinstance(fault, RateLimitError):
        headers["Retry-After"] = str(math.ceil(fault.seconds))
    if isinstance(fault, errors.BusyError):
        headers["Retry-After"] = "5"
    if isinstance(fault, errors.UploadProtocolError):
        headers["Tus-Version"] = "1.0.0"
    return JSONResponse(problem(fault), status(fault), headers, "application/problem+json")
