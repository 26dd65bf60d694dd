"""A hostile front: raw sockets on loopback that send any bytes, fast, slowly or without end."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

ResponseBytes = bytes | Iterator[bytes]


@dataclass
class ReceivedRequest:
    method: str
    path: str
    head: bytes
    body: bytes


@dataclass
class HostileFront:
    """Sends what `answer` returns for each request, then closes the connection."""

    answer: Callable[[ReceivedRequest], ResponseBytes]
    port: int = 0
    requests: list[ReceivedRequest] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self, listener: socket.socket) -> None:
        while not self.stop.is_set():
            with suppress(OSError):
                connection, _ = listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(10)
            received = b""
            while b"\r\n\r\n" not in received:
                if not (part := connection.recv(65536)):
                    return
                received += part
            head, _, body = received.partition(b"\r\n\r\n")
            length = next(
                (int(line_.split(b":")[1]) for line_ in head.split(b"\r\n") if line_.startswith(b"Content-Length:")), 0
            )
            while len(body) < length and (part := connection.recv(65536)):
                body += part
            method, path, _ = head.split(b" ", 2)
            request = ReceivedRequest(method.decode(), path.decode(), head, body)
            self.requests.append(request)
            answer = self.answer(request)
            for part in [answer] if isinstance(answer, bytes) else answer:
                if self.stop.is_set():
                    return
                connection.sendall(part)


@contextmanager
def running(answer: Callable[[ReceivedRequest], ResponseBytes]) -> Iterator[HostileFront]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.02)
        front = HostileFront(answer, listener.getsockname()[1])
        thread = threading.Thread(target=front.serve, args=(listener,))
        thread.start()
        try:
            yield front
        finally:
            front.stop.set()
            thread.join()


def response(body: bytes = b"", status: str = "200 OK", *headers: str, marked: bool = True) -> bytes:
    """An HTTP response with the header that marks a genuine front, or without it."""
    lines = [f"HTTP/1.1 {status}", *headers, *(["X-Content-Type-Options: nosniff"] if marked else [])]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in lines):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def endless(begin: bytes, part: bytes, pause: float = 0.0) -> Iterator[bytes]:
    """Bytes without end; stops when nobody reads any more, or after a gigabyte."""
    yield begin
    for _ in range((1 << 30) // len(part)):
        time.sleep(pause)
        yield part
