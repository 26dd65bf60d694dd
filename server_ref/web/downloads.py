"""What sites fetch. The charter is for anybody; all else for those in the roster, and receipts for whoever is meant.

A request says who asks in one header: an SSH signature over its method, path and body and a nonce that we gave.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import re
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from fedhelp_edge.errors import (
    BytesRangeError,
    NonceError,
    NotHereError,
    SigNamespaceError,
    SignerRevokedError,
    SignerUnknownError,
    SignerWindowError,
    UnsignedError,
)
from fedhelp_edge.parcel import canon, sshsig
from fedhelp_edge.parcel.statement import namespace
from fedhelp_edge.trust import roster
from server_ref.admin import exchange
from server_ref.hub.hub import Hub, group_of
from server_ref.web.context import address, front

_HEADER = re.compile(r'SSHSIG nonce="([0-9a-f]{64})", signature="([A-Za-z0-9+/=]{1,2048})"')
_RANGE = re.compile(r"bytes=(\d{0,16})-(\d{0,16})")
_BLOCK = 256 << 10
_NOBODY = hashlib.sha256(b"").hexdigest()


class Nonces:
    """Numbers that are good for one request. We know our own by their mark, and keep only those that were used."""

    LIFE = 300.0  # seconds

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._used: dict[str, float] = {}

    def give(self) -> str:
        text = f"{int(time.monotonic() + self.LIFE):08x}{os.urandom(12).hex()}"
        return text + self._mark(text)

    def check(self, nonce: str) -> None:
        if not hmac.compare_digest(self._mark(nonce[:32]), nonce[32:]):
            raise NonceError("this nonce is not of this hub, or from before it was started")
        if int(nonce[:8], 16) < time.monotonic():
            raise NonceError("this nonce is too old")
        if nonce in self._used:
            raise NonceError("this nonce was used before")

    def use(self, nonce: str) -> None:
        """Once. Only what somebody whom we know has signed is kept, so that nobody else can fill our memory."""
        self.check(nonce)
        now = time.monotonic()
        self._used[nonce] = now + self.LIFE
        while next(iter(self._used.values())) < now:
            del self._used[next(iter(self._used))]

    def _mark(self, text: str) -> str:
        return hmac.digest(self._key, text.encode(), "sha256")[:16].hex()


@dataclass(frozen=True)
class Reader:
    """Who asks: a site of the roster, or else somebody who at most asked to join."""

    key: str
    site: str


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
    reader = await _reader(request)
    return _again(request, JSONResponse({"parcels": await front(request).reading.ask(_listed, reader)}, headers=_FRESH))


async def content(request: Request) -> Response:
    """A parcel, or a part of one, by its hash."""
    hall, hash_ = front(request), request.path_params["hash"]
    if await hall.reading.ask(_may_read, None, hash_):
        hall.addresses.take(address(request))
        return await _parcel(request, hash_)
    reader = await _reader(request)
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


# --- who asks ------------------------------------------------------------------------------------------------------
async def _reader(request: Request) -> Reader:
    hall, nonces = front(request), request.app.state.nonces
    hall.addresses.take(address(request))
    header = _HEADER.fullmatch(request.headers.get("authorization", ""))
    if header is None:
        raise UnsignedError("this is for members")
    nonce, signature = header.groups()
    nonces.check(nonce)
    message = canon.encode({
        "body_sha256": _NOBODY, "federation": await hall.reading.ask(lambda hub: hub.federation),
        "method": request.method, "nonce": nonce, "path": _path(request),
    })  # fmt: skip
    armor = sshsig.BEGIN + "\n".join([*textwrap.wrap(signature, 70), ""]) + sshsig.END
    found = sshsig.parse(armor)
    if found.namespace != namespace("request"):
        raise SigNamespaceError(f"signed as {found.namespace[:60]!r}, but it is a request")
    found.verify(message)
    reader = await hall.reading.ask(_known, sshsig.public_line(found.key))
    hall.senders.take(reader.site or reader.key)
    nonces.use(nonce)
    return reader


def _path(request: Request) -> str:
    """The path and query as they were asked for, from our first step on: a proxy may put others before it."""
    path = request.scope["raw_path"].decode("ascii", "replace")
    query = request.scope["query_string"].decode("ascii", "replace")
    return f"{path}?{query}" if query else path


def _known(hub: Hub, key: str) -> Reader:
    site = hub.roster.owner(key)
    if site is None:
        if not hub.requests_of(key):
            raise SignerUnknownError(f"{sshsig.fingerprint(key)} is nobody's key here")
        return Reader(key, "")
    if site.status == roster.REVOKED:
        raise SignerRevokedError(f"the key of {site.id} was revoked")
    if site.status != roster.ACTIVE:
        raise SignerWindowError(f"{site.id} does not take part now")
    return Reader(key, site.id)


# --- what is for whom ----------------------------------------------------------------------------------------------
def _listed(hub: Hub, reader: Reader | None) -> list[dict[str, Any]]:
    may, found = _readable(hub, reader), []
    for hash_ in _meant(hub, reader):
        row = hub.store.row("SELECT kind, number, site FROM parcels WHERE hash = ?", hash_)
        if row and may(row["kind"], row["site"]):
            size = hub.store.path(hash_).stat().st_size
            found.append({"hash": hash_, "kind": row["kind"], "number": row["number"], "size": size})
    return found


def _meant(hub: Hub, reader: Reader | None) -> list[str]:
    """What one reader may need now. A model comes as it was sealed to the reader's group."""
    if reader and reader.site:
        own = hub.model_parcel(group_of(reader.site))  # "" if an older program sealed it, to all groups together
        about = (
            "SELECT hash FROM shares WHERE site = ? AND round >= ? UNION SELECT hash FROM unkept WHERE site = ?"
            " AND round >= ? UNION SELECT hash FROM requests WHERE site = ?"
        )
        of_rounds = (reader.site, exchange.since(hub))
        answers = exchange.receipts(hub, about, *of_rounds, *of_rounds, reader.site)
        return exchange.orders(hub, [own] if own else hub.model_parcels()) + answers
    asked = hub.requests_of(reader.key) if reader else []
    return exchange.orders(hub, []) + [hash_ for one in asked for hash_ in exchange.receipts(hub, "?", one)]


def _may_read(hub: Hub, reader: Reader | None, hash_: str) -> bool:
    row = hub.store.row("SELECT kind, site FROM parcels WHERE hash = ?", hash_)
    return bool(row and _readable(hub, reader)(row["kind"], row["site"]))


def _readable(hub: Hub, reader: Reader | None) -> Callable[[str, str], bool]:
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
