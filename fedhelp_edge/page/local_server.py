"""The small web server behind every local page. It listens on 127.0.0.1 and answers only requests with its secret.

The secret is part of every address. So no other program on this computer and no web site in the same browser can read
or change anything. Pages load nothing from elsewhere, and the browser stores nothing.
"""

from __future__ import annotations

import hmac
import re
import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote

from fedhelp_edge import console

HOST = "127.0.0.1"
_TIMEOUT = 30  # seconds of silence after which a connection is closed
_POLL_INTERVAL = 0.05  # seconds between two checks for shutdown
_READ_SIZE = 1 << 20  # bytes of one read of a body that is discarded
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
    """A request without the secret in its path; `body` is None unless a form was sent."""

    path: str
    body: bytes | None = None
    languages: str = ""  # the browser's Accept-Language

    def field(self, name: str) -> str:
        """The value of a form's field, "" if it is missing."""
        return next(iter(self.fields(name)), "")

    def fields(self, name: str) -> list[str]:
        """All values of a form's field."""
        return parse_qs((self.body or b"").decode("utf-8", "replace"), keep_blank_values=True).get(name, [])

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield name and bytes of each file of a form (multipart/form-data)."""
        body = self.body or b""
        boundary = body.partition(b"\r\n")[0]
        start = len(boundary) + 2
        while boundary and (end := body.find(b"\r\n" + boundary, start)) >= 0:
            head_end = body.find(b"\r\n\r\n", start, end)
            name = _FILE_NAME.search(body, start, head_end) if head_end >= 0 else None
            if name and name[1]:
                yield unquote(name[1].decode("utf-8", "replace")), body[head_end + 4 : end]
            start = end + len(boundary) + 4


@dataclass(frozen=True)
class PageResponse:
    """A page, or a redirect to another page of the same app; or long work, after which the app is asked again."""

    page: str = ""
    redirect: str | None = None
    kind: str = "text/html"
    is_last: bool = False  # the person is done: the server stops
    work: Callable[[], object] | None = None  # meanwhile the app answers other requests


class PageApp(Protocol):
    """What a local page does; it is called for one request at a time."""

    limit: int  # bytes that a form may have

    def answer(self, asked: PageRequest) -> PageResponse | None:
        """Answer a request; None if there is no such page."""

    def too_large(self, asked: PageRequest) -> PageResponse | None:
        """Answer a form above the limit; its body was discarded."""


class LocalServer(ThreadingHTTPServer):
    """Serves one app at one secret address."""

    daemon_threads = True

    def __init__(self, app: PageApp, port: int) -> None:
        super().__init__((HOST, port), _RequestHandler)
        self.app, self.secret, self._one_time_secret = app, secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        self.turn, self.done = threading.Lock(), threading.Event()

    @property
    def host(self) -> str:
        """The expected Host header: another one would be DNS rebinding."""
        return f"{HOST}:{self.server_address[1]}"

    @property
    def link(self) -> str:
        """The secret address."""
        return f"http://{self.host}/{self.secret}/"

    @property
    def one_time_link(self) -> str:
        """A link that works once, for starting a browser: other users of this computer can see its command line."""
        return f"http://{self.host}/{self._one_time_secret}"

    def accept_one_time(self, secret: str) -> bool:
        """Whether this is the secret of the one-time link, which it uses up."""
        if not self._one_time_secret or not hmac.compare_digest(secret.encode(), self._one_time_secret.encode()):
            return False
        self._one_time_secret = ""
        return True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a browser that disconnects; of an internal error print only its type, which names no file."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            console.say(f"error: E_INTERNAL: {type(error).__name__} in this program")


@contextmanager
def running(app: PageApp, port: int = 0) -> Iterator[LocalServer]:
    """Run a server in a thread; its `done` is set when the person stops it."""
    with LocalServer(app, port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(_POLL_INTERVAL,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _RequestHandler(BaseHTTPRequestHandler):
    """Checks the secret, host and origin of a request, and lets the app answer."""

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
        """Answer a request; its body is read only if it has the secret."""
        secret, _, path = self.path.partition("?")[0].removeprefix("/").partition("/")
        is_trusted = self.headers.get("Host") == self.server.host
        is_trusted &= self.headers.get("Origin", f"http://{self.server.host}") in (f"http://{self.server.host}", "null")
        code = 404
        response: PageResponse | None = None
        with self.server.turn:
            if is_trusted and self.server.accept_one_time(secret):
                response = PageResponse(redirect="")
            elif is_trusted and hmac.compare_digest(secret.encode(), self.server.secret.encode()):
                code, response = self._respond(path, size)
        if response is None:
            self.send_error(code)
        elif response.redirect is not None:
            self._send(303, "", {"Location": f"/{self.server.secret}/{response.redirect}"})
        else:
            self._send(code, response.page, {"Content-Type": f"{response.kind}; charset=utf-8"})
        if response and response.is_last:
            self.server.done.set()

    def _respond(self, path: str, size: int | None) -> tuple[int, PageResponse | None]:
        app, languages = self.server.app, self.headers.get("Accept-Language", "")
        if size is not None and size > app.limit:
            while size > 0 and (chunk := self.rfile.read(min(size, _READ_SIZE))):  # browsers read after they have sent
                size -= len(chunk)
            return 413, app.too_large(PageRequest(path, None, languages))
        request = PageRequest(path, None if size is None else self.rfile.read(size), languages)
        while (response := app.answer(request)) and response.work:
            self.server.turn.release()
            try:
                response.work()
            finally:
                self.server.turn.acquire()
        return (200 if response else 404), response

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send a plain error that tells a guesser nothing."""
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
        """Log nothing: addresses contain the secret, and requests name files."""
