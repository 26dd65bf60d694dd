"""The front: the network side of a hub. It holds no key that decrypts what sites send, and needs no passphrase.

It takes in what sites send and gives out what they need, also while a coordinator's command works on the hub.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from asyncio import sslproto
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from fedhelp_edge import lock, shell
from fedhelp_edge.errors import (
    BadRequestError,
    FedhelpError,
    HttpMethodError,
    InternalError,
    ListenError,
    NoSpaceError,
    NotHereError,
    RequestHeadersError,
)
from server_ref.hub.hub import Hub
from server_ref.web import dashboard, downloads, openapi, uploads
from server_ref.web.context import Front, Limits, front, problem, refusal, status
from server_ref.web.crowd import Crowd, Entrance, Line

LOCK = "front.lock"
_HEAD_BYTES, _MOST_HEADERS, _LONGEST_PATH = 16 << 10, 64, 4096
_DRAIN = 10  # seconds for what is under way when we are told to end
_SWEEP = 3600.0
_READ_BYTES = 32 << 10  # at a time, of each connection; over TLS so much is held ready. asyncio would take 256 KiB

Endpoint = Callable[[Request], Awaitable[Response]]


def app(home: Path, limits: Limits, door: dashboard.Door) -> ASGIApp:
    @asynccontextmanager
    async def life(made: Starlette) -> AsyncIterator[None]:
        made.state.front, made.state.nonces, made.state.door = Front(home, limits), downloads.Nonces(), door
        await uploads.recover(made.state.front)
        sweeping = asyncio.create_task(_sweep(made.state.front))
        yield
        sweeping.cancel()
        made.state.front.close()

    routes = [
        _at("/", GET=dashboard.show),
        _at("/enter/{token}", GET=dashboard.enter),
        _at("/decisions", POST=dashboard.decide),
        _at("/healthz", GET=_health),
        _at("/openapi.json", GET=_openapi),
        _at("/v1/charters", GET=downloads.charters),
        _at("/v1/vouches/{invite}", GET=downloads.vouch),
        _at("/v1/current", GET=downloads.current),
        _at("/v1/parcels/{hash}", GET=downloads.content),
        _at("/v1/uploads", POST=uploads.create, OPTIONS=uploads.options),
        _at(
            "/v1/uploads/{hash}",
            HEAD=uploads.where, PATCH=uploads.append, DELETE=uploads.cancel, OPTIONS=uploads.options,
        ),
    ]  # fmt: skip
    faults = {FedhelpError: _refuse, OSError: _refuse, HTTPException: _refuse}
    made = Starlette(routes=routes, lifespan=life, exception_handlers=faults)
    made.router.redirect_slashes = False
    return _Careful(made)


def _at(path: str, **doing: Endpoint) -> Route:
    async def do(request: Request) -> Response:
        bodies = "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"
        if bodies and request.method not in ("POST", "PATCH"):
            raise BadRequestError(f"a {request.method} has no body here")
        return await (doing.get(request.method) or doing["GET"])(request)

    return Route(path, do, methods=list(doing))


async def _health(request: Request) -> Response:
    await front(request).reading.ask(lambda hub: hub.federation)
    return JSONResponse({"status": "ok"}, headers={"Cache-Control": "no-store"})


async def _openapi(_request: Request) -> Response:
    return JSONResponse(openapi.DOCUMENT)


async def _sweep(hall: Front) -> None:
    while True:
        await asyncio.sleep(_SWEEP)
        with suppress(FedhelpError, OSError):
            await uploads.sweep(hall)


async def _refuse(request: Request, fault: Exception) -> Response:
    match fault:
        case FedhelpError():
            return refusal(fault, request.app.state.nonces.give())
        case HTTPException(status_code=405):
            answer = refusal(HttpMethodError(f"{request.method} cannot be done here"))
            answer.headers.update(fault.headers or {})
            return answer
        case HTTPException():
            return refusal(NotHereError("there is nothing at this address"))
    return refusal(NoSpaceError("the hub's disk is full or does not answer"))


class _Careful:
    """Around everything: odd requests get no further, and no mistake of ours shows more than that it is one."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._inner(scope, receive, send)
        begun = False

        async def safely(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            if fault := _odd(scope):
                raise fault
            await self._inner(scope, receive, safely)
        except ClientDisconnect:
            return None
        except FedhelpError as fault:
            await refusal(fault)(scope, receive, safely)
        except Exception as fault:
            kind = type(fault).__name__
            shell.say(f"error: {InternalError.code}: {kind} in this program")
            if not begun:
                await refusal(InternalError(f"{kind} in this program"))(scope, receive, safely)
        return None


def _odd(scope: Scope) -> FedhelpError | None:
    names = [name for name, _ in scope["headers"]]
    if len(names) > _MOST_HEADERS or sum(len(name) + len(value) for name, value in scope["headers"]) > _HEAD_BYTES:
        return RequestHeadersError(f"more than {_MOST_HEADERS} headers or {_HEAD_BYTES} bytes of them")
    if len(scope["raw_path"]) + len(scope["query_string"]) > _LONGEST_PATH:
        return RequestHeadersError(f"an address of more than {_LONGEST_PATH} letters")
    if b"transfer-encoding" in names and b"content-length" in names:
        return BadRequestError("the length of the body is told in two ways")
    return None


class _Protocol(H11Protocol):
    """uvicorn's, with an end to its patience, and with refusals of our form."""

    def __init__(self, limits: Limits, crowd: Crowd, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._limits, self._crowd = limits, crowd
        self._line: Line | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.max_size = _READ_BYTES  # type: ignore[attr-defined]
        if line := self._crowd.lines.get(transport.get_extra_info("peername")):
            self._line, line.abort, line.is_busy = line, transport.abort, self._is_busy
        self._wait(self._limits.header_seconds, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(0, None)
        if self._line:
            self._crowd.leave(self.transport.get_extra_info("peername"), self._line)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._line:
            self._line.brought(len(data), self._limits.body_least)
        with suppress(h11.LocalProtocolError):  # more of a request that we have refused
            super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle and not self.cycle.response_complete:
            self._wait(0, None)

    def on_response_complete(self) -> None:
        self._wait(self._limits.header_seconds, self._give_up)
        if self._line:
            self._line.renew()
        self.cycle.body.clear()  # what came of a request that was refused meanwhile
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._wait(self._limits.reading_seconds, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._wait(0, None)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Of a request whose head cannot be read, or is too long."""
        fault = sys.exc_info()[1]
        long = isinstance(fault, h11.RemoteProtocolError) and fault.error_status_hint == 431
        said = (
            RequestHeadersError("the head is too long") if long else BadRequestError("this is not HTTP as it should be")
        )
        answer = JSONResponse(problem(said), status(said), {"Connection": "close"}, "application/problem+json")
        with suppress(h11.LocalProtocolError):  # the answer was under way
            for event in (
                h11.Response(status_code=answer.status_code, headers=answer.raw_headers),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _is_busy(self) -> bool:
        """Whether the whole of a request is here, and its sender waits for us rather than we for it."""
        cycle = self.cycle
        return bool(cycle and not cycle.more_body and not cycle.response_complete and not self.flow.write_paused)

    def _give_up(self) -> None:
        self.transport.close()
        self._wait(self._limits.reading_seconds, self.transport.abort)

    def _wait(self, seconds: float, then: Callable[[], None] | None) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, then) if then else None


# --- the process ---------------------------------------------------------------------------------------------------
def serve(
    home: Path, host: str, port: int, cert: Path | None, key: Path | None, ready: Callable[[str, str], None]
) -> None:  # fmt: skip
    """Run until SIGTERM or Ctrl-C, then end what is under way. `ready` is told the address, and the dashboard's."""
    hub = Hub(home)
    with lock.held(home / LOCK, wait=0):
        hub.front()
        hub.store.reconcile()
        hub.check()
        hub.store.close()
        door = dashboard.Door()
        made = server(home, Limits(), door, cert, key)
        _many_files()
        with listening(host, port) as sock:
            shown = f"[{host}]" if ":" in host else host
            url = f"{'https' if cert else 'http'}://{shown}:{sock.getsockname()[1]}"
            ready(url, f"{url}/enter/{door.token}")
            for name in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises again what it was ended by
                signal.signal(name, lambda *_: None)
            made.run(sockets=[sock])
        if not made.started:
            raise InternalError("the front did not start")


def server(
    home: Path, limits: Limits, door: dashboard.Door, cert: Path | None = None, key: Path | None = None
) -> uvicorn.Server:
    crowd = Crowd(limits.tls_connections if cert else limits.connections, limits.crowded_seconds)
    config = uvicorn.Config(
        app(home, limits, door), http=partial(_Protocol, limits, crowd), ws="none", lifespan="on",  # type: ignore[arg-type]
        loop="asyncio",  # whose listening socket is ours to count at
        log_config=None, log_level="critical", access_log=False, server_header=False,
        timeout_graceful_shutdown=_DRAIN, h11_max_incomplete_event_size=_HEAD_BYTES,
        ssl_certfile=cert, ssl_keyfile=key,
    )  # fmt: skip
    try:
        config.load()
    except OSError:  # ssl's errors are such
        raise ListenError("the certificate and its key cannot be used") from None
    sslproto.SSLProtocol.max_size = _READ_BYTES  # type: ignore[attr-defined]
    return _Server(config, crowd)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, crowd: Crowd) -> None:
        super().__init__(config)
        self._crowd = crowd

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await super().serve([Entrance(listener, self._crowd) for listener in sockets or ()])


def listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError):
        raise ListenError(f"nothing can listen at {host}, port {port}") from None


def _many_files() -> None:
    """As many connections as the system lets us have."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
