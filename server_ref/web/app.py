"""The front: the network side of a hub. It holds no key that decrypts updates, and needs no passphrase.

It receives uploads and serves downloads, also while a coordinator command works on the hub.
"""

from __future__ import annotations

import asyncio
from collections import Counter
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
from server_ref.web import dashboard, downloads, openapi, signed, uploads
from server_ref.web.context import Front, get_front
from server_ref.web.limits import MAX_HEAD_BYTES, Limits
from server_ref.web.problems import problem_response

_MAX_HEADERS, _MAX_PATH_LENGTH = 64, 4096
_SWEEP_SECONDS = 3600.0

Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(home: Path, limits: Limits, access: dashboard.DashboardAccess) -> RequestGuard:
    """The front as an ASGI application."""

    @asynccontextmanager
    async def lifespan(application: Starlette) -> AsyncIterator[None]:
        front = Front(home, limits)
        application.state.front, application.state.nonces, application.state.access = front, signed.Nonces(), access
        await uploads.resume_all(front)
        sweeping = asyncio.create_task(_sweep_forever(front))
        yield
        sweeping.cancel()
        front.close()

    routes = [
        _route("/", GET=dashboard.show),
        _route("/enter/{token}", GET=dashboard.enter),
        _route("/decisions", POST=dashboard.decide),
        _route("/invite", GET=dashboard.invite),
        _route("/healthz", GET=_health),
        _route("/openapi.json", GET=_openapi),
        _route("/v1/charters", GET=downloads.list_charters),
        _route("/v1/vouches/{invite}", GET=downloads.show_charter_proof),
        _route("/v1/current", GET=downloads.list_current),
        _route("/v1/parcels/{hash}", GET=downloads.send_parcel),
        _route("/v1/uploads", POST=uploads.create, OPTIONS=uploads.options),
        _route(
            "/v1/uploads/{hash}",
            HEAD=uploads.show_offset, PATCH=uploads.append, DELETE=uploads.cancel, OPTIONS=uploads.options,
        ),
    ]  # fmt: skip
    handlers = {FedhelpError: _handle_error, OSError: _handle_error, HTTPException: _handle_error}
    starlette_app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    starlette_app.router.redirect_slashes = False
    return RequestGuard(starlette_app)


def _route(path: str, **endpoints: Endpoint) -> Route:
    async def dispatch(request: Request) -> Response:
        has_body = "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"
        if has_body and request.method not in ("POST", "PATCH"):
            raise BadRequestError(f"a {request.method} must not have a body here")
        return await (endpoints.get(request.method) or endpoints["GET"])(request)

    return Route(path, dispatch, methods=list(endpoints))


async def _health(request: Request) -> Response:
    await get_front(request).reading.run(lambda hub: hub.federation)
    return JSONResponse({"status": "ok"}, headers={"Cache-Control": "no-store"})


async def _openapi(_request: Request) -> Response:
    return JSONResponse(openapi.DOCUMENT)


async def _sweep_forever(front: Front) -> None:
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        with suppress(FedhelpError, OSError):
            await uploads.discard_abandoned(front)


async def _handle_error(request: Request, error: Exception) -> Response:
    match error:
        case FedhelpError():
            return problem_response(error, request.app.state.nonces.issue())
        case HTTPException(status_code=405):
            response = problem_response(HttpMethodError(f"{request.method} is not allowed here"))
            response.headers.update(error.headers or {})
            return response
        case HTTPException():
            return problem_response(NotHereError("there is nothing at this address"))
    return problem_response(NoSpaceError("the hub's disk is full or does not answer"))


class RequestGuard:
    """Wraps the application: refuses malformed requests, and hides the details of errors in this program."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner
        self.responses: Counter[str] = Counter()  # by status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._inner(scope, receive, send)
        started = False

        async def guarded_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self.responses[str(message["status"])] += 1
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            if error := _request_error(scope):
                raise error
            await self._inner(scope, receive, guarded_send)
        except ClientDisconnect:
            return None
        except FedhelpError as error:
            await problem_response(error)(scope, receive, guarded_send)
        except Exception as error:
            kind = type(error).__name__
            console.say(f"error: {InternalError.code}: {kind} in this program")
            if not started:
                await problem_response(InternalError(f"{kind} in this program"))(scope, receive, guarded_send)
        return None


def _request_error(scope: Scope) -> FedhelpError | None:
    names = [name for name, _ in scope["headers"]]
    if len(names) > _MAX_HEADERS or sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEAD_BYTES:
        return RequestHeadersError(
            f"the request has more than {_MAX_HEADERS} headers or {MAX_HEAD_BYTES} bytes of them"
        )
    if len(scope["raw_path"]) + len(scope["query_string"]) > _MAX_PATH_LENGTH:
        return RequestHeadersError(f"the address is longer than {_MAX_PATH_LENGTH} characters")
    if b"transfer-encoding" in names and b"content-length" in names:
        return BadRequestError("the request states the length of its body in two ways")
    return None
