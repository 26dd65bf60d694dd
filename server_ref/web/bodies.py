"""Read a request's body within its limits."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.requests import ClientDisconnect, Request

from fedhelp_edge.errors import (
    BadRequestError,
    PayloadSizeError,
    SlowError,
    UploadOffsetError,
)
from server_ref.web import context
from server_ref.web import limits as web_limits


# --- bodies --------------------------------------------------------------------------------------------------------
def whole_number(request: Request, header: str, most: int = 2**53 - 1) -> int:
    text = request.headers.get(header, "")
    if not re.fullmatch(r"[0-9]{1,16}", text) or int(text) > most:
        raise BadRequestError(f"{header} is missing, or no whole number from 0 to {most}")
    return int(text)


def announced(request: Request) -> int | None:
    """The length of the body, where it was told beforehand."""
    return whole_number(request, "content-length") if "content-length" in request.headers else None


async def chunks(
    request: Request, limits: web_limits.Limits, stop: asyncio.Event | None = None
) -> AsyncIterator[bytes]:
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
        async for chunk in chunks(request, context.front(request).limits):
            data += chunk
            if len(data) > most:
                break
            if is_good and await is_good(bytes(data)):
                is_good = None
        else:
            return bytes(data)
    raise PayloadSizeError(f"the body is longer than {most} bytes")
