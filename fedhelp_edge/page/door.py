"""The small server behind every local page. It listens on 127.0.0.1 and answers whoever has its secret link.

The secret is a part of every address, so that neither other programs here nor other sites in the same browser can ask
or order anything. Nothing is loaded from elsewhere, nothing is kept by the browser.
"""

from __future__ import annotations

import hmac
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs

HOST = "127.0.0.1"
_WAIT = 30  # seconds that a browser may stay silent
_LOOK = 0.05  # seconds between two looks whether it should end
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_POLICY = "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
_PAGES = re.compile('<meta http-equiv="Content-Security-Policy" content="([^"]*)">')


@dataclass(frozen=True)
class Asked:
    """A request, with the secret taken off its address; `body` is None unless a form was sent."""

    path: str
    body: bytes | None = None

    def field(self, name: str) -> str:
        """What a form says."""
        return parse_qs((self.body or b"").decode("utf-8", "replace")).get(name, [""])[0]


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
        if not size.isdecimal() or int(size) > self.server.app.limit:
            self.send_error(413)
            return
        self._answer(self.rfile.read(int(size)))

    def _answer(self, body: bytes | None) -> None:
        secret, _, path = self.path.partition("?")[0].removeprefix("/").partition("/")
        ours = self.headers.get("Host") == self.server.here
        ours &= self.headers.get("Origin", f"http://{self.server.here}") in (f"http://{self.server.here}", "null")
        with self.server.turn:
            if ours and self.server.is_first(secret):
                found: Answer | None = Answer(to="")
            elif ours and hmac.compare_digest(secret.encode(), self.server.secret.encode()):
                found = self.server.app.answer(Asked(path, body))
            else:
                found = None
        if found is None:
            self.send_error(404)
        elif found.to is not None:
            self._send(303, "", {"Location": f"/{self.server.secret}/{found.to}"})
        else:
            self._send(200, found.page)
        if found and found.last:
            self.server.done.set()

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
