"""The small server behind every local page. It listens on 127.0.0.1 and answers whoever has its secret link.

The secret is a part of every address, so that neither other programs here nor other sites in the same browser can ask
or order anything. Nothing is loaded from elsewhere, nothing is kept by the browser.
"""

from __future__ import annotations

import hmac
import re
import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote

from fedhelp_edge import console

HOST = "127.0.0.1"
_TIMEOUT = 30  # seconds that a browser may stay silent
_POLL_INTERVAL = 0.05  # seconds between two looks whether it should end
_READ_SIZE = 1 << 20  # bytes that are passed over at once
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_POLICY = "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
_FILE_NAME = re.compile(rb'filename="([^"]*)"')
_PAGE_POLICY = re.compile('<meta http-equiv="Content-Security-Policy" content="([^"]*)">')


@dataclass(frozen=True)
class PageRequest:
    """A request, with the secret taken off its address; `body` is None unless a form was sent."""

    path: str
    body: bytes | None = None
    languages: str = ""  # that the browser asks for, as Accept-Language

    def field(self, name: str) -> str:
        """What a form says."""
        return parse_qs((self.body or b"").decode("utf-8", "replace")).get(name, [""])[0]

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of each file that a form (multipart/form-data) brings."""
        boundary, _, rest = (self.body or b"").partition(b"\r\n")
        for part in (b"\r\n" + rest).split(b"\r\n" + boundary)[:-1] if boundary else []:
            head, _, data = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
            name = _FILE_NAME.search(head)
            if name and name[1]:
                yield unquote(name[1].decode("utf-8", "replace")), data


@dataclass(frozen=True)
class PageResponse:
    """A page; or, with `to`, the way to another one of the same app."""

    page: str = ""
    to: str | None = None
    last: bool = False  # the person is done: the server ends


class PageApp(Protocol):
    limit: int  # bytes that a form may have

    def answer(self, asked: PageRequest) -> PageResponse | None:
        """None where there is nothing. One at a time."""

    def too_large(self, asked: PageRequest) -> PageResponse | None:
        """What is said to a form that is larger than the limit, of which nothing was kept."""


class LocalServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, app: PageApp, port: int) -> None:
        super().__init__((HOST, port), _RequestHandler)
        self.app, self.secret, self._first = app, secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        self.turn, self.done = threading.Lock(), threading.Event()

    @property
    def host(self) -> str:
        return f"{HOST}:{self.server_address[1]}"

    @property
    def link(self) -> str:
        return f"http://{self.host}/{self.secret}/"

    @property
    def one_time_link(self) -> str:
        """A link that works once, to start a browser with: others on this computer see how a program was started."""
        return f"http://{self.host}/{self._first}"

    def accept_one_time(self, secret: str) -> bool:
        if not self._first or not hmac.compare_digest(secret.encode(), self._first.encode()):
            return False
        self._first = ""
        return True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no event; of a mistake in this program only its kind is told."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            console.say(f"error: E_INTERNAL: {type(error).__name__} in this program")


@contextmanager
def running(app: PageApp, port: int = 0) -> Iterator[LocalServer]:
    """A server at work; `done` is set when the person says so."""
    with LocalServer(app, port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(_POLL_INTERVAL,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _RequestHandler(BaseHTTPRequestHandler):
    server: LocalServer
    timeout = _TIMEOUT

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        size = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,18}", size):
            self.send_error(411)
            return
        self._answer(int(size))

    def _answer(self, size: int | None) -> None:
        """Only of those who know the secret anything is read."""
        secret, _, path = self.path.partition("?")[0].removeprefix("/").partition("/")
        is_trusted = self.headers.get("Host") == self.server.host
        is_trusted &= self.headers.get("Origin", f"http://{self.server.host}") in (f"http://{self.server.host}", "null")
        code = 404
        response: PageResponse | None = None
        with self.server.turn:
            if is_trusted and self.server.accept_one_time(secret):
                response = PageResponse(to="")
            elif is_trusted and hmac.compare_digest(secret.encode(), self.server.secret.encode()):
                code, response = self._found(path, size)
        if response is None:
            self.send_error(code)
        elif response.to is not None:
            self._send(303, "", {"Location": f"/{self.server.secret}/{response.to}"})
        else:
            self._send(code, response.page)
        if response and response.last:
            self.server.done.set()

    def _found(self, path: str, size: int | None) -> tuple[int, PageResponse | None]:
        app, languages = self.server.app, self.headers.get("Accept-Language", "")
        if size is not None and size > app.limit:
            while size > 0 and (
                chunk := self.rfile.read(min(size, _READ_SIZE))
            ):  # a browser listens when it has said all
                size -= len(chunk)
            return 413, app.too_large(PageRequest(path, None, languages))
        body = None if size is None else self.rfile.read(size)
        response = app.answer(PageRequest(path, body, languages))
        return (200 if response else 404), response

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Plain, and the same for whoever guesses."""
        self.close_connection = True
        self._send(code, f"{code}\n", {"Content-Type": "text/plain; charset=utf-8"})

    def _send(self, code: int, text: str, extra_headers: dict[str, str] | None = None) -> None:
        body = text.encode()
        self.send_response(code)
        meta = _PAGE_POLICY.search(text)
        page_policy = meta[1] if meta else "default-src 'none'"
        policy = f"{page_policy}; {_POLICY}"
        headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy, **_HEADERS}
        for name, value in {**headers, "Content-Length": str(len(body)), **(extra_headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "fedhelp-edge"

    def log_message(self, *_: Any) -> None:
        """Names of files stay out of logs."""
