"""Downloads. Anybody may read the charter; sites of the roster read the rest; a receipt is for its own site alone.

The helper of a secure sum reads what it verifies, and the set that it is asked for: no model and no receipt.

A request names its sender in one header: an SSH signature over method, path, body and a nonce that the front issued.
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
from fedhelp_edge.secure_sum.parcels import HELPER_READS
from server_ref.hub import current as hub_current
from server_ref.hub import members, models
from server_ref.hub.hub import FOLLOWED_KINDS, Hub
from server_ref.hub.tables import parcels_table
from server_ref.web import signed
from server_ref.web.context import get_front
from server_ref.web.limits import client_address

_RANGE = re.compile(r"bytes=(\d{0,16})-(\d{0,16})")
_BLOCK_BYTES = 256 << 10


# --- answers -------------------------------------------------------------------------------------------------------
async def list_charters(request: Request) -> Response:
    """List all versions of the charter, the first one first. A joining site begins with them."""
    get_front(request).address_rate.take(client_address(request))
    return JSONResponse({"parcels": await get_front(request).reading.run(_list_parcels, None)}, headers=_NO_STORE)


async def show_charter_proof(request: Request) -> Response:
    """The proof that this hub knows an invite's code, for whoever typed the code. Only the code gives the id."""
    get_front(request).address_rate.take(client_address(request))
    proof = await get_front(request).reading.run(members.charter_proof, request.path_params["invite"])
    if not proof:
        raise NotHereError("there is no such invite")
    return JSONResponse({"vouch": proof}, headers=_NO_STORE)


async def list_current(request: Request) -> Response:
    """List what the asking site may need now."""
    reader = await signed.authenticate(request)
    return _with_nonce(
        request,
        JSONResponse({"parcels": await get_front(request).reading.run(_list_parcels, reader)}, headers=_NO_STORE),
    )


async def send_parcel(request: Request) -> Response:
    """Send a parcel, or a range of it, by its hash."""
    front, hash_ = get_front(request), request.path_params["hash"]
    if await front.reading.run(_is_readable, None, hash_):
        front.address_rate.take(client_address(request))
        return await _parcel_response(request, hash_)
    reader = await signed.authenticate(request)
    if not await front.reading.run(_is_readable, reader, hash_):
        raise NotHereError("there is no such parcel for this site")
    return _with_nonce(request, await _parcel_response(request, hash_))


_NO_STORE = {"Cache-Control": "no-store"}


def _with_nonce(request: Request, response: Response) -> Response:
    """Add the next nonce to a response, which spares the client a round trip."""
    response.headers["Fedhelp-Nonce"] = request.app.state.nonces.issue()
    return response


async def _parcel_response(request: Request, hash_: str) -> Response:
    path = await get_front(request).reading.run(lambda hub: hub.database.parcel_path(hash_))
    size = (await asyncio.to_thread(path.stat)).st_size
    etag = f'"{hash_}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-transform",
        "Vary": "Authorization",
    }
    if {"*", etag} & {part.strip() for part in request.headers.get("if-none-match", "").split(",")}:
        return Response(status_code=304, headers=headers)
    begin, end, code = 0, size, 200
    range_match = _RANGE.fullmatch(request.headers.get("range", ""))
    if range_match and len(range_match[0]) > len("bytes=-") and request.headers.get("if-range", etag) == etag:
        begin, end = _byte_range(range_match[1], range_match[2], size)
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        code = 206
    headers["Content-Length"] = str(end - begin)
    if request.method == "HEAD":
        return Response(status_code=code, headers=headers, media_type="application/octet-stream")
    return StreamingResponse(_stream(path, begin, end), code, headers, "application/octet-stream")


def _byte_range(first: str, last: str, size: int) -> tuple[int, int]:
    begin = int(first) if first else max(0, size - int(last))
    end = min(int(last) + 1, size) if first and last else size
    if not begin < end:
        raise BytesRangeError(f"the parcel has {size} bytes")
    return begin, end


async def _stream(path: Path, begin: int, end: int) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        file.seek(begin)
        while begin < end and (block := await asyncio.to_thread(file.read, min(_BLOCK_BYTES, end - begin))):
            begin += len(block)
            yield block
    finally:
        file.close()


# --- who may read what ----------------------------------------------------------------------------------------------
def _list_parcels(hub: Hub, reader: signed.SignedReader | None) -> list[dict[str, Any]]:
    is_readable, parcels = _access_rule(hub, reader), []
    for hash_ in _needed_parcels(hub, reader):
        row = parcels_table.find(hub.database, hash_)
        if row and is_readable(row["kind"], row["site"]):
            size = hub.database.parcel_path(hash_).stat().st_size
            parcels.append({"hash": hash_, "kind": row["kind"], "number": row["number"], "size": size})
    return parcels


def _needed_parcels(hub: Hub, reader: signed.SignedReader | None) -> list[str]:
    """The parcels that one reader may need now. A site gets the model as it was sealed to its group."""
    if reader and reader.site:
        own = models.newest_parcel(hub, models.group_of(reader.site))  # "" if an older program sealed it for all groups
        model_parcels = [own] if own else models.newest_parcels(hub)
        return hub_current.federation_parcels(hub, model_parcels) + hub_current.receipts(hub, reader.site)
    hashes = hub_current.federation_parcels(hub, [])
    for request in hub.requests_signed_by(reader.key) if reader else []:
        hashes += parcels_table.receipts_about(hub.database, request)
    return hashes


def _is_readable(hub: Hub, reader: signed.SignedReader | None, hash_: str) -> bool:
    row = parcels_table.find(hub.database, hash_)
    return bool(row and _access_rule(hub, reader)(row["kind"], row["site"]))


def _access_rule(hub: Hub, reader: signed.SignedReader | None) -> Callable[[str, str], bool]:
    """A rule: whether a reader may read a parcel of a kind. Of receipts, only those about the reader's own parcels."""
    kinds = {"charter"}
    if reader and (reader.site or reader.is_helper):
        kinds = set(FOLLOWED_KINDS if reader.site else HELPER_READS)
    own_hashes: set[str] = set()
    if reader and reader.site:
        own_hashes = parcels_table.sent_by(hub.database, reader.site)
    elif reader:
        own_hashes = set(hub.requests_signed_by(reader.key))
    return lambda kind, subject: kind in kinds or (kind == "receipt" and subject in own_hashes)
