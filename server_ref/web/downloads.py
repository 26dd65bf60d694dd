"""What sites fetch. The charter is for anybody; all else for those in the roster, and receipts for whoever is meant.

A request says who asks in one header: an SSH signature over its method, path and body and a nonce that we gave.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from fedhelp_edge.errors import (
    BytesRangeError,
    NotHereError,
)
from server_ref.hub import current as hub_current
from server_ref.hub.hub import Hub, group_of
from server_ref.web import signed
from server_ref.web.context import front
from server_ref.web.limits import address

_RANGE = re.compile(r"bytes=(\d{0,16})-(\d{0,16})")
_BLOCK = 256 << 10


# --- answers -------------------------------------------------------------------------------------------------------
async def charters(request: Request) -> Response:
    """All versions of the charter, the first one first: with them a site begins."""
    front(request).addresses.take(address(request))
    return JSONResponse({"parcels": await front(request).reading.ask(_listed, None)}, headers=_FRESH)


async def vouch(request: Request) -> Response:
    """What shows somebody who typed a code that this hub knows it. Nobody finds an invite's id without its code."""
    front(request).addresses.take(address(request))
    found = await front(request).reading.ask(Hub.vouch, request.path_params["invite"])
    if not found:
        raise NotHereError("there is no such invite")
    return JSONResponse({"vouch": found}, headers=_FRESH)


async def current(request: Request) -> Response:
    """What this site may need now."""
    reader = await signed.reader_of(request)
    return _again(request, JSONResponse({"parcels": await front(request).reading.ask(_listed, reader)}, headers=_FRESH))


async def content(request: Request) -> Response:
    """A parcel, or a part of one, by its hash."""
    hall, hash_ = front(request), request.path_params["hash"]
    if await hall.reading.ask(_may_read, None, hash_):
        hall.addresses.take(address(request))
        return await _parcel(request, hash_)
    reader = await signed.reader_of(request)
    if not await hall.reading.ask(_may_read, reader, hash_):
        raise NotHereError("there is no such parcel for this site")
    return _again(request, await _parcel(request, hash_))


_FRESH = {"Cache-Control": "no-store"}


def _again(request: Request, response: Response) -> Response:
    """The next nonce comes with the answer, and spares a round trip."""
    response.headers["Fedhelp-Nonce"] = request.app.state.nonces.give()
    return response


async def _parcel(request: Request, hash_: str) -> Response:
    path = await front(request).reading.ask(lambda hub: hub.store.path(hash_))
    size = (await asyncio.to_thread(path.stat)).st_size
    tag = f'"{hash_}"'
    headers = {"ETag": tag, "Accept-Ranges": "bytes", "Cache-Control": "private, no-transform", "Vary": "Authorization"}
    if {"*", tag} & {part.strip() for part in request.headers.get("if-none-match", "").split(",")}:
        return Response(status_code=304, headers=headers)
    begin, end, code = 0, size, 200
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    if asked and len(asked[0]) > len("bytes=-") and request.headers.get("if-range", tag) == tag:
        begin, end = _bounds(asked[1], asked[2], size)
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        code = 206
    headers["Content-Length"] = str(end - begin)
    if request.method == "HEAD":
        return Response(status_code=code, headers=headers, media_type="application/octet-stream")
    return StreamingResponse(_bytes(path, begin, end), code, headers, "application/octet-stream")


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    begin = int(first) if first else max(0, size - int(last))
    end = min(int(last) + 1, size) if first and last else size
    if not begin < end:
        raise BytesRangeError(f"the parcel has {size} bytes")
    return begin, end


async def _bytes(path: Path, begin: int, end: int) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        file.seek(begin)
        while begin < end and (block := await asyncio.to_thread(file.read, min(_BLOCK, end - begin))):
            begin += len(block)
            yield block
    finally:
        file.close()


# --- what is for whom ----------------------------------------------------------------------------------------------
def _listed(hub: Hub, reader: signed.Reader | None) -> list[dict[str, Any]]:
    may, found = _readable(hub, reader), []
    for hash_ in _meant(hub, reader):
        row = hub.store.row("SELECT kind, number, site FROM parcels WHERE hash = ?", hash_)
        if row and may(row["kind"], row["site"]):
            size = hub.store.path(hash_).stat().st_size
            found.append({"hash": hash_, "kind": row["kind"], "number": row["number"], "size": size})
    return found


def _meant(hub: Hub, reader: signed.Reader | None) -> list[str]:
    """What one reader may need now. A model comes as it was sealed to the reader's group."""
    if reader and reader.site:
        own = hub.model_parcel(group_of(reader.site))  # "" if an older program sealed it, to all groups together
        about = (
            "SELECT hash FROM shares WHERE site = ? AND round >= ? UNION SELECT hash FROM unkept WHERE site = ?"
            " AND round >= ? UNION SELECT hash FROM requests WHERE site = ?"
        )
        of_rounds = (reader.site, hub_current.since(hub))
        answers = hub_current.receipts(hub, about, *of_rounds, *of_rounds, reader.site)
        return hub_current.orders(hub, [own] if own else hub.model_parcels()) + answers
    asked = hub.requests_of(reader.key) if reader else []
    return hub_current.orders(hub, []) + [hash_ for one in asked for hash_ in hub_current.receipts(hub, "?", one)]


def _may_read(hub: Hub, reader: signed.Reader | None, hash_: str) -> bool:
    row = hub.store.row("SELECT kind, site FROM parcels WHERE hash = ?", hash_)
    return bool(row and _readable(hub, reader)(row["kind"], row["site"]))


def _readable(hub: Hub, reader: signed.Reader | None) -> Callable[[str, str], bool]:
    """Whether somebody may see a parcel of a kind; of a receipt it matters what it is about."""
    kinds = {"charter", "roster", "task", "global", "knowledge"} if reader and reader.site else {"charter"}
    own: set[str] = set()
    if reader and reader.site:
        query = (
            "SELECT hash FROM shares WHERE site = ? UNION SELECT hash FROM unkept WHERE site = ?"
            " UNION SELECT hash FROM requests WHERE site = ?"
        )
        own = {row["hash"] for row in hub.store.rows(query, *3 * (reader.site,))}
    elif reader:
        own = set(hub.requests_of(reader.key))
    return lambda kind, about: kind in kinds or (kind == "receipt" and about in own)
