"""The web server's process: its socket, its limits of open files, and how it ends."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from asyncio import sslproto
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import h11
import uvicorn
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from fedhelp_edge import lock, prometheus
from fedhelp_edge.errors import (
    BadRequestError,
    InternalError,
    ListenError,
    RequestHeadersError,
)
from fedhelp_edge.prometheus import Metric
from server_ref.admin import monitoring
from server_ref.hub.hub import Hub
from server_ref.web import dashboard
from server_ref.web.app import create_app
from server_ref.web.connections import ConnectionLimiter, HttpConnection, LimitedListener
from server_ref.web.limits import MAX_HEAD_BYTES, Limits
from server_ref.web.problems import problem_details, status_code

FRONT_LOCK = "front.lock"
_SHUTDOWN_SECONDS = 10  # for requests that are under way at the end
_READ_BYTES = 32 << 10  # read at a time from each connection, and held ready over TLS; asyncio would take 256 KiB


class _LimitedProtocol(H11Protocol):
    """uvicorn's protocol, with time limits for slow clients, and refusals in our form."""

    def __init__(self, limits: Limits, limiter: ConnectionLimiter, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits, self._limiter = limits, limiter
        self._connection: HttpConnection | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.max_size = _READ_BYTES  # type: ignore[attr-defined]
        if connection := self._limiter.connections.get(transport.get_extra_info("peername")):
            self._connection, connection.abort, connection.is_busy = connection, transport.abort, self._is_busy
        self._wait(self._limits.header_seconds, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(0, None)
        if self._connection:
            self._limiter.remove(self.transport.get_extra_info("peername"), self._connection)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._connection:
            self._connection.note_received(len(data), self._limits.body_min_bytes)
        with suppress(h11.LocalProtocolError):  # more bytes of a refused request
            super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle and not self.cycle.response_complete:
            self._wait(0, None)

    def on_response_complete(self) -> None:
        self._wait(self._limits.header_seconds, self._give_up)
        if self._connection:
            self._connection.renew()
        self.cycle.body.clear()  # bytes of a request that was refused meanwhile
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._wait(self._limits.response_seconds, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._wait(0, None)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request whose head cannot be read or is too long."""
        cause = sys.exc_info()[1]
        too_long = isinstance(cause, h11.RemoteProtocolError) and cause.error_status_hint == 431
        error = (
            RequestHeadersError("the head of the request is too long")
            if too_long
            else BadRequestError("the request is not valid HTTP")
        )
        response = JSONResponse(
            problem_details(error), status_code(error), {"Connection": "close"}, "application/problem+json"
        )
        with suppress(h11.LocalProtocolError):  # a response was under way
            for event in (
                h11.Response(status_code=response.status_code, headers=response.raw_headers),
                h11.Data(data=bytes(response.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _is_busy(self) -> bool:
        """Whether a request is complete and its client waits for our response, not we for the client."""
        cycle = self.cycle
        return bool(cycle and not cycle.more_body and not cycle.response_complete and not self.flow.write_paused)

    def _give_up(self) -> None:
        self.transport.close()
        self._wait(self._limits.response_seconds, self.transport.abort)

    def _wait(self, seconds: float, action: Callable[[], None] | None) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, action) if action else None


# --- the process ---------------------------------------------------------------------------------------------------
def serve(
    home: Path, host: str, port: int, cert: Path | None, key: Path | None, ready: Callable[[str, str], None],
    metrics: tuple[str, int] | None = None,
) -> None:  # fmt: skip
    """Run until SIGTERM or Ctrl-C, then finish what is under way. `ready` gets the hub's and the dashboard's URL.

    `metrics` is the address of figures for Prometheus, which the address for sites does not have.
    """
    hub = Hub(home)
    with lock.exclusive(home / FRONT_LOCK, wait=0):
        hub.front_keys()
        hub.database.reconcile()
        hub.check()
        hub.database.close()
        access = dashboard.DashboardAccess()
        server = build_server(home, Limits(), access, cert, key)
        _raise_file_limit()

        def collect() -> list[Metric]:
            return [*monitoring.hub_metrics(home), *server.metrics()]

        with open_listener(host, port) as sock, prometheus.serving(metrics, collect):
            shown_host = f"[{host}]" if ":" in host else host
            url = f"{'https' if cert else 'http'}://{shown_host}:{sock.getsockname()[1]}"
            ready(url, f"{url}/enter/{access.token}")
            for name in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises the signal again that ended it
                signal.signal(name, lambda *_: None)
            server.run(sockets=[sock])
        if not server.started:
            raise InternalError("the front did not start")


def build_server(
    home: Path, limits: Limits, access: dashboard.DashboardAccess, cert: Path | None = None, key: Path | None = None
) -> LimitedServer:
    """The front as a server that listens where it is told to, with its limits."""
    limiter = ConnectionLimiter(limits.tls_connections if cert else limits.connections, limits.eviction_seconds)
    protocol = partial(_LimitedProtocol, limits, limiter)
    app = create_app(home, limits, access)
    config = uvicorn.Config(
        app, http=protocol, ws="none", lifespan="on",  # type: ignore[arg-type]
        loop="asyncio",  # the loop that accepts from our own listener
        log_config=None, log_level="critical", access_log=False, server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS, h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        ssl_certfile=cert, ssl_keyfile=key,
    )  # fmt: skip
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise ListenError("the certificate and its key cannot be used") from error
    sslproto.SSLProtocol.max_size = _READ_BYTES  # type: ignore[attr-defined]
    return LimitedServer(config, limiter, app.responses)


class LimitedServer(uvicorn.Server):
    """uvicorn's server, which accepts as many connections as the limiter allows."""

    def __init__(self, config: uvicorn.Config, limiter: ConnectionLimiter, responses: Counter[str]) -> None:
        super().__init__(config)
        self._limiter, self._responses = limiter, responses

    def metrics(self) -> list[Metric]:
        """Figures of its connections, for any thread."""
        return [
            Metric("fedhelp_front_connections", "Open connections.", len(self._limiter.connections)),
            Metric("fedhelp_front_responses_total", "Responses by status.", self._responses.copy(), "status"),
        ]

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await super().serve([LimitedListener(listener, self._limiter) for listener in sockets or ()])


def open_listener(host: str, port: int) -> socket.socket:
    """A socket that listens at this address."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise ListenError(f"the server cannot listen on {host}, port {port}") from error


def _raise_file_limit() -> None:
    """Allow as many open files as the system lets this process have: each connection is one."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
