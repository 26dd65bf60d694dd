"""HTTP requests whose answers are bounded in bytes and time, however hostile the server is."""

from __future__ import annotations

import contextlib
import http.client
import io
import random
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fedhelp_edge.errors import NotAFrontError, UsageError

MIN_PROGRESS = 4096  # bytes that must arrive within `give_up_after`: as many as the front demands of uploads
READ_TIMEOUT = 30.0  # seconds without a byte
_HEAD_LIMIT = 64 << 10  # bytes of an answer's headers
_BLOCK = 64 << 10  # bytes that are read at once


class AnswerLimits:
    """Bounds of one answer: bytes, and seconds. A download's seconds start again with each stretch of progress."""

    def __init__(self, seconds: float, size: int, *, is_download: bool, silence: float = READ_TIMEOUT) -> None:
        self._seconds, self._is_download, self._silence = seconds, is_download, silence
        self._left, self._arrived = _HEAD_LIMIT + 2 * size, 0  # twice, because chunks have frames
        self._until = 0.0

    def seconds(self) -> float:
        """Returns how long the next bytes may take."""
        now = time.monotonic()
        self._until = self._until or now + self._seconds
        if now >= self._until:
            raise TimeoutError
        return min(self._until - now, self._silence)

    def take(self, count: int) -> None:
        """Counts bytes that arrived; raises beyond the limit."""
        self._left -= count
        self._arrived += count
        if self._left < 0:
            raise NotAFrontError("its answer is longer than possible")
        if self._is_download and self._arrived >= MIN_PROGRESS:
            self._until, self._arrived = 0.0, 0


class _LimitedStream(io.RawIOBase):
    """The raw bytes of an answer, within its limits. All parsing reads from here, so nothing is unbounded."""

    def __init__(self, sock: socket.socket, limits: AnswerLimits) -> None:
        self._sock, self._file, self._limits = sock, sock.makefile("rb", buffering=0), limits

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            self._sock.settimeout(self._limits.seconds())
            count = self._file.readinto(buffer) or 0
        except OSError as error:
            raise urllib.error.URLError(error) from error
        self._limits.take(count)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, limits: AnswerLimits, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_LimitedStream(sock, limits))


class LimitedHandler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens connections that keep to the limits of their request."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        urllib.request.HTTPHandler.__init__(self)
        self._tls = tls

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_limited_connection(http.client.HTTPConnection, request), request)  # type: ignore[arg-type]

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_limited_connection(http.client.HTTPSConnection, request), request, context=self._tls)  # type: ignore[arg-type]


class LimitedRequest(urllib.request.Request):
    """A request that carries the limits of its answer."""

    limits: AnswerLimits


class Backoff:
    """Exponential backoff with jitter, which gives up after so many seconds without progress."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        """Starts again: there was progress."""
        self._pause, self._until = 0.5, time.monotonic() + self._seconds

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self._until

    def next_pause(self, asked_for: float = 0.0) -> float | None:
        """Returns the seconds to wait now, those that the server asked for if any; None where it is time to give up."""
        pause = asked_for or self._pause * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
        self._pause = min(2 * self._pause, 30.0)
        return pause if time.monotonic() + pause <= self._until else None


def check_address(url: str) -> None:
    """Raises unless the text is a plain http or https address, before anything is sent."""
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(url)
        has_plain_characters = url.isascii() and url.isprintable() and not set(url) & set(' "<>\\^`{|}@?#')
        if has_plain_characters and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return
    raise UsageError(f"{url[:60]!r} is not an address that begins with http:// or https://")


def opener(url: str, ca_file: Path | None, proxies: dict[str, str] | None = None) -> urllib.request.OpenerDirector:
    """An opener for an address, without handlers for redirects, files and FTP. Proxies are the system's, or these."""
    check_address(url)
    tls = None
    try:
        if url.lower().startswith("https:"):
            tls = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except OSError as error:
        raise UsageError("the file named with --ca-file holds no readable certificate") from error
    made = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(proxies), LimitedHandler(tls),
        urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor(),
    ):  # fmt: skip
        made.add_handler(handler)
    return made


def _limited_connection(
    connection_class: type[http.client.HTTPConnection], request: LimitedRequest
) -> Callable[..., http.client.HTTPConnection]:
    def connection(host: str, **kwargs: Any) -> http.client.HTTPConnection:
        limited = connection_class(host, **kwargs)
        limited.response_class = partial(_Response, limits=request.limits)  # type: ignore[assignment]
        return limited

    return connection


def read_short(response: Any, limit: int) -> bytes:
    """Reads an answer that must be shorter than `limit`."""
    body = bytearray()
    while block := response.read(_BLOCK):
        body += block
        if len(body) > limit:
            raise NotAFrontError("its answer is longer than possible")
    _check_complete(response)
    return bytes(body)


def append_to(response: http.client.HTTPResponse, part: Path, size: int) -> None:
    """Appends a partial answer to the file; a full answer replaces the file."""
    offset = part.stat().st_size if response.status == 206 and part.exists() else 0
    if response.status == 206 and response.headers.get("Content-Range") != f"bytes {offset}-{size - 1}/{size}":
        raise NotAFrontError("it sends other bytes of a file than were requested")
    with part.open("ab" if offset else "wb") as file:
        while block := response.read(_BLOCK):
            offset += len(block)
            if offset > size:
                raise NotAFrontError("it sends a file of another length than it listed")
            file.write(block)
    _check_complete(response)


def _check_complete(response: Any) -> None:
    if response.length:  # announced bytes are missing
        raise http.client.IncompleteRead(b"")
