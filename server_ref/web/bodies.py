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
def integer_header(request: Request, header: str, maximum: int = 2**53 - 1) -> int:
    text = request.headers.get(header, "")
    if not re.fullmatch(r"[0-9]{1,16}", text) or int(text) > maximum:
        raise BadRequestError(f"{header} is missing, or no whole number from 0 to {maximum}")
    return int(text)


def content_length(request: Request) -> int | None:
    """The length of the body, where it was told beforehand."""
    return integer_header(request, "content-length") if "content-length" in request.headers else None


async def read_chunks(
    request: Request, limits: web_limits.Limits, stop: asyncio.Event | None = None
) -> AsyncIterator[bytes]:
    """The body as it comes, until it ends, becomes too slow, or `stop` is set."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.ensure_future((stop or asyncio.Event()).wait())
    deadline, received = loop.time() + limits.body_seconds, 0
    try:
        while True:
            incoming = asyncio.ensure_future(request.receive())
            await asyncio.wait({incoming, stopped}, timeout=deadline - loop.time(), return_when=asyncio.FIRST_COMPLETED)
            if stopped.done() or not incoming.done():
                incoming.cancel()
                raise (
                    UploadOffsetError("a newer request goes on with this upload")
                    if stopped.done()
                    else SlowError(f"less than {limits.body_min_bytes} bytes came in {limits.body_seconds:.0f} seconds")
                )
            message = incoming.result()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            if chunk := message.get("body", b""):
                yield chunk
            received += len(chunk)
            if received >= limits.body_min_bytes:
                deadline, received = loop.time() + limits.body_seconds, 0
            if not message.get("more_body"):
                return
    finally:
        stopped.cancel()


async def read_body(
    request: Request, limit: int, is_acceptable: Callable[[bytes], Awaitable[bool]] | None = None
) -> bytes:
    """The whole of a body that is short; `is_good` is asked about what has come, until it says so or raises."""
    data = bytearray()
    if (content_length(request) or 0) <= limit:
        async for chunk in read_chunks(request, context.get_front(request).limits):
            data += chunk
            if len(data) > limit:
                break
            if is_acceptable and await is_acceptable(bytes(data)):
                is_acceptable = None
        else:
            return bytes(data)
    raise PayloadSizeError(f"the body is longer than {limit} bytes")
