"""Reads headers that hold numbers, and bodies within their limits of size and time."""

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
from server_ref.web.context import get_front
from server_ref.web.limits import Limits


def integer_header(request: Request, header: str, maximum: int = 2**53 - 1) -> int:
    """The whole number in a header. The default maximum is what every JSON reader holds exactly."""
    text = request.headers.get(header, "")
    if not re.fullmatch(r"[0-9]{1,16}", text) or int(text) > maximum:
        raise BadRequestError(f"{header} is missing, or not a whole number from 0 to {maximum}")
    return int(text)


def content_length(request: Request) -> int | None:
    """The length of the body, if the request states it."""
    return integer_header(request, "content-length") if "content-length" in request.headers else None


async def read_chunks(request: Request, limits: Limits, stop: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    """Yield the body as it arrives, until it ends. Raises if it is too slow, or if `stop` is set."""
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
                    UploadOffsetError("a newer request continues this upload")
                    if stopped.done()
                    else SlowError(
                        f"fewer than {limits.body_min_bytes} bytes came in {limits.body_seconds:.0f} seconds"
                    )
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
    """Read a short body as a whole.

    `is_acceptable` sees the bytes so far after each chunk, until it returns True; it raises to refuse the body early.
    """
    data = bytearray()
    if (content_length(request) or 0) <= limit:
        async for chunk in read_chunks(request, get_front(request).limits):
            data += chunk
            if len(data) > limit:
                break
            if is_acceptable and await is_acceptable(bytes(data)):
                is_acceptable = None
        else:
            return bytes(data)
    raise PayloadSizeError(f"the body is longer than {limit} bytes")
