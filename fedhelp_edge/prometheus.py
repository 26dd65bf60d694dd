"""Figures for a monitoring system, in Prometheus's text format, at an address of their own.

They are counts, sizes and times alone. A count of findings would tell who asks often what the last patient has.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple

from fedhelp_edge import __version__, console
from fedhelp_edge.errors import FedhelpError, ListenError, UsageError, from_os

_REQUEST_SECONDS = 5.0  # for a whole request and its answer; the next one waits
_POLL_SECONDS = 0.1
_STARTED = time.time()
_LISTEN = re.compile(r"(?:(?P<host>[^@]+):)?(?P<port>\d{1,5})")


class Metric(NamedTuple):
    """A figure, or figures that a label tells apart. The name of a counter ends in `_total`; others are gauges."""

    name: str
    description: str
    value: float | Mapping[str, float]
    label: str = ""

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.description}"
        yield f"# TYPE {self.name} {'counter' if self.name.endswith('_total') else 'gauge'}"
        values = self.value if isinstance(self.value, Mapping) else {"": self.value}
        for key, value in values.items():
            yield f'{self.name}{{{self.label}="{key}"}} {value}' if self.label else f"{self.name} {value}"


def text(metrics: Iterable[Metric]) -> str:
    """The text exposition format, version 0.0.4."""
    return "".join(f"{line}\n" for metric in metrics for line in metric.lines())


def machine_metrics(folder: Path) -> list[Metric]:
    """Figures of this process, and of the disk that has a folder."""
    metrics = [
        Metric("fedhelp_build_info", "The version of this program.", {__version__: 1}, "version"),
        Metric("fedhelp_disk_free_bytes", "Free bytes of the disk.", shutil.disk_usage(folder).free),
        Metric("process_start_time_seconds", "When this process started, in seconds since 1970.", _STARTED),
    ]
    with suppress(OSError):  # Linux has this file
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        memory = pages * os.sysconf("SC_PAGE_SIZE")
        metrics.append(Metric("process_resident_memory_bytes", "Memory of this process.", memory))
    return metrics


def parse_address(option: str, value: str) -> tuple[str, int]:
    """The address that an option names as [HOST:]PORT. Without a host only this computer may call."""
    parts = _LISTEN.fullmatch(value)
    if not parts or int(parts["port"]) > 65535:
        raise UsageError(f"{option} {value!r} is not [HOST:]PORT")
    return parts["host"] or "127.0.0.1", int(parts["port"])


@contextmanager
def serving(address: tuple[str, int] | None, collect: Callable[[], Iterable[Metric]]) -> Iterator[tuple[str, int]]:
    """Serve /metrics in a thread, which calls `collect` for each request; yield the address. None serves nothing."""
    if address is None:
        yield "", 0
        return
    try:
        server = _MetricsServer(address, collect)
    except (OSError, OverflowError) as error:
        raise ListenError(f"figures cannot be served on {address[0]}, port {address[1]}") from error
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), daemon=True)
        thread.start()
        try:
            host, port = address[0], int(server.server_address[1])
            console.say(f"figures for Prometheus: http://{f'[{host}]' if ':' in host else host}:{port}/metrics")
            yield host, port
        finally:
            server.shutdown()
            thread.join()


class _MetricsServer(socketserver.TCPServer):
    """Answers one request after the other: whoever calls, they cost one thread and few bytes."""

    allow_reuse_address = os.name != "nt"  # on Windows it would share the port

    def __init__(self, address: tuple[str, int], collect: Callable[[], Iterable[Metric]]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.collect = collect
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a caller that hangs up is its own affair."""


class _Handler(BaseHTTPRequestHandler):
    server: _MetricsServer

    def setup(self) -> None:
        super().setup()
        self._deadline = threading.Timer(_REQUEST_SECONDS, self._hang_up)
        self._deadline.daemon = True
        self._deadline.start()

    def finish(self) -> None:
        self._deadline.cancel()
        super().finish()

    def _hang_up(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self._answer(404, "figures are at /metrics\n")
            return
        try:
            self._answer(200, text(self.server.collect()))
        except (FedhelpError, OSError) as error:
            own_error = from_os(error) if isinstance(error, OSError) else error
            self._answer(503, f"{own_error.code}\n")

    def _answer(self, code: int, body: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body.encode())

    def version_string(self) -> str:
        return "fedhelp-edge"

    def log_message(self, *_: Any) -> None:
        """Log no request."""
