"""A front that is none: raw sockets on loopback that answer with any bytes, fast, slowly or without an end."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

Answer = bytes | Iterator[bytes]


@dataclass
class Asked:
    method: str
    path: str
    head: bytes
    body: bytes


@dataclass
class Front:
    """`answer` is told what was asked for; the line is closed behind what it gives."""

    answer: Callable[[Asked], Answer]
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self, listener: socket.socket) -> None:
        while not self.stop.is_set():
            with suppress(OSError):
                line, _ = listener.accept()
                threading.Thread(target=self._answer, args=(line,), daemon=True).start()

    def _answer(self, line: socket.socket) -> None:
        with line, suppress(OSError):
            line.settimeout(10)
            given = b""
            while b"\r\n\r\n" not in given:
                if not (part := line.recv(65536)):
                    return
                given += part
            head, _, body = given.partition(b"\r\n\r\n")
            length = next(
                (int(one.split(b":")[1]) for one in head.split(b"\r\n") if one.startswith(b"Content-Length:")), 0
            )
            while len(body) < length and (part := line.recv(65536)):
                body += part
            method, path, _ = head.split(b" ", 2)
            asked = Asked(method.decode(), path.decode(), head, body)
            self.asked.append(asked)
            answer = self.answer(asked)
            for part in [answer] if isinstance(answer, bytes) else answer:
                if self.stop.is_set():
                    return
                line.sendall(part)


@contextmanager
def front(answer: Callable[[Asked], Answer]) -> Iterator[Front]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.02)
        made = Front(answer, listener.getsockname()[1])
        thread = threading.Thread(target=made.serve, args=(listener,))
        thread.start()
        try:
            yield made
        finally:
            made.stop.set()
            thread.join()


def answer(body: bytes = b"", status: str = "200 OK", *headers: str, marked: bool = True) -> bytes:
    """An answer with the mark of a front, or without it."""
    lines = [f"HTTP/1.1 {status}", *headers, *(["X-Content-Type-Options: nosniff"] if marked else [])]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in lines):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def endless(begin: bytes, part: bytes, pause: float = 0.0) -> Iterator[bytes]:
    """Bytes that never end. It stops by itself once nobody reads, or after a gigabyte."""
    yield begin
    for _ in range((1 << 30) // len(part)):
        time.sleep(pause)
        yield part
