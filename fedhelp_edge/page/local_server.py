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
_WAIT = 30  # seconds that a browser may stay silent
_LOOK = 0.05  # seconds between two looks whether it should end
_PART = 1 << 20  # bytes that are passed over at once
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_POLICY = "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
_NAMED = re.compile(rb'filename="([^"]*)"')
_PAGES = re.compile('<meta http-equiv="Content-Security-Policy" content="([^"]*)">')


@dataclass(frozen=True)
class Asked:
    """A request, with the secret taken off its address; `body` is None unless a form was sent."""

    path: str
    body: bytes | None = None
    languages: str = ""  # that the browser asks for, as Accept-Language

    def field(self, name: str) -> str:
        """What a form says."""
        return parse_qs((self.body or b"").decode("utf-8", "replace")).get(name, [""])[0]

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of each file that a form (multipart/form-data) brings."""
        line, _, rest = (self.body or b"").partition(b"\r\n")
        for part in (b"\r\n" + rest).split(b"\r\n" + line)[:-1] if line else []:
            head, _, data = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
            name = _NAMED.search(head)
            if name and name[1]:
                yield unquote(name[1].decode("utf-8", "replace")), data


@dataclass(frozen=True)
class Answer:
    """A page; or, with `to`, the way to another one of the same app."""

    page: str = ""
    to: str | None = None
    last: bool = False  # the person is done: the server ends


class App(Protocol):
    limit: int  # bytes that a form may have

    def answer(self, asked: Asked) -> Answer | None:
        """None where there is nothing. One at a time."""

    def too_large(self, asked: Asked) -> Answer | None:
        """What is said to a form that is larger than the limit, of which nothing was kept."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, app: App, port: int) -> None:
        super().__init__((HOST, port), _Asking)
        self.app, self.secret, self._first = app, secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        self.turn, self.done = threading.Lock(), threading.Event()

    @property
    def here(self) -> str:
        return f"{HOST}:{self.server_address[1]}"

    @property
    def link(self) -> str:
        return f"http://{self.here}/{self.secret}/"

    @property
    def once(self) -> str:
        """A link that works once, to start a browser with: others on this computer see how a program was started."""
        return f"http://{self.here}/{self._first}"

    def is_first(self, given: str) -> bool:
        if not self._first or not hmac.compare_digest(given.encode(), self._first.encode()):
            return False
        self._first = ""
        return True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no event; of a mistake in this program only its kind is told."""
        fault = sys.exc_info()[1]
        if not isinstance(fault, OSError):
            console.say(f"error: E_INTERNAL: {type(fault).__name__} in this program")


@contextmanager
def opened(app: App, port: int = 0) -> Iterator[Server]:
    """A server at work; `done` is set when the person says so."""
    with Server(app, port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(_LOOK,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Asking(BaseHTTPRequestHandler):
    server: Server
    timeout = _WAIT

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
        ours = self.headers.get("Host") == self.server.here
        ours &= self.headers.get("Origin", f"http://{self.server.here}") in (f"http://{self.server.here}", "null")
        code = 404
        found: Answer | None = None
        with self.server.turn:
            if ours and self.server.is_first(secret):
                found = Answer(to="")
            elif ours and hmac.compare_digest(secret.encode(), self.server.secret.encode()):
                code, found = self._found(path, size)
        if found is None:
            self.send_error(code)
        elif found.to is not None:
            self._send(303, "", {"Location": f"/{self.server.secret}/{found.to}"})
        else:
            self._send(code, found.page)
        if found and found.last:
            self.server.done.set()

    def _found(self, path: str, size: int | None) -> tuple[int, Answer | None]:
        app, languages = self.server.app, self.headers.get("Accept-Language", "")
        if size is not None and size > app.limit:
            while size > 0 and (part := self.rfile.read(min(size, _PART))):  # a browser listens when it has said all
                size -= len(part)
            return 413, app.too_large(Asked(path, None, languages))
        body = None if size is None else self.rfile.read(size)
        found = app.answer(Asked(path, body, languages))
        return (200 if found else 404), found

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Plain, and the same for whoever guesses."""
        self.close_connection = True
        self._send(code, f"{code}\n", {"Content-Type": "text/plain; charset=utf-8"})

    def _send(self, code: int, text: str, more: dict[str, str] | None = None) -> None:
        body = text.encode()
        self.send_response(code)
        pages = _PAGES.search(text)
        own = pages[1] if pages else "default-src 'none'"
        policy = f"{own}; {_POLICY}"
        said = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy, **_HEADERS}
        for name, value in {**said, "Content-Length": str(len(body)), **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "fedhelp-edge"

    def log_message(self, *_: Any) -> None:
        """Names of files stay out of logs."""
