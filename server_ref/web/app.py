"""The front: the network side of a hub. It holds no key that decrypts what sites send, and needs no passphrase.

It takes in what sites send and gives out what they need, also while a coordinator's command works on the hub.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedhelp_edge import console
from fedhelp_edge.errors import (
    BadRequestError,
    FedhelpError,
    HttpMethodError,
    InternalError,
    NoSpaceError,
    NotHereError,
    RequestHeadersError,
)
from server_ref.web import dashboard, downloads, openapi, process, signed, uploads
from server_ref.web.context import Front, front
from server_ref.web.limits import Limits
from server_ref.web.problems import refusal

_MOST_HEADERS, _LONGEST_PATH = 64, 4096
_SWEEP = 3600.0

Endpoint = Callable[[Request], Awaitable[Response]]


def app(home: Path, limits: Limits, door: dashboard.Door) -> ASGIApp:
    @asynccontextmanager
    async def life(made: Starlette) -> AsyncIterator[None]:
        made.state.front, made.state.nonces, made.state.door = Front(home, limits), signed.Nonces(), door
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
            console.say(f"error: {InternalError.code}: {kind} in this program")
            if not begun:
                await refusal(InternalError(f"{kind} in this program"))(scope, receive, safely)
        return None


def _odd(scope: Scope) -> FedhelpError | None:
    names = [name for name, _ in scope["headers"]]
    if (
        len(names) > _MOST_HEADERS
        or sum(len(name) + len(value) for name, value in scope["headers"]) > process.HEAD_BYTES
    ):
        return RequestHeadersError(f"more than {_MOST_HEADERS} headers or {process.HEAD_BYTES} bytes of them")
    if len(scope["raw_path"]) + len(scope["query_string"]) > _LONGEST_PATH:
        return RequestHeadersError(f"an address of more than {_LONGEST_PATH} letters")
    if b"transfer-encoding" in names and b"content-length" in names:
        return BadRequestError("the length of the body is told in two ways")
    return None
