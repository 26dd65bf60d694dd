"""Requests signed by a site's key over a nonce of ours, and what such a reader may fetch."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import textwrap
import time
from dataclasses import dataclass

from starlette.requests import Request

from fedhelp_edge.errors import (
    NonceError,
    SigNamespaceError,
    SignerRevokedError,
    SignerUnknownError,
    SignerWindowError,
    UnsignedError,
)
from fedhelp_edge.parcel import canon, sshsig
from fedhelp_edge.parcel.statement import namespace
from fedhelp_edge.trust import roster
from server_ref.hub.hub import Hub
from server_ref.web.context import get_front
from server_ref.web.limits import client_address

_HEADER = re.compile(r'SSHSIG nonce="([0-9a-f]{64})", signature="([A-Za-z0-9+/=]{1,2048})"')


_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


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
class SignedReader:
    """Who asks: a site of the roster, or else somebody who at most asked to join."""

    key: str
    site: str


# --- who asks ------------------------------------------------------------------------------------------------------
async def authenticate(request: Request) -> SignedReader:
    front, nonces = get_front(request), request.app.state.nonces
    front.address_rate.take(client_address(request))
    header = _HEADER.fullmatch(request.headers.get("authorization", ""))
    if header is None:
        raise UnsignedError("this is for members")
    nonce, signature = header.groups()
    nonces.check(nonce)
    message = canon.encode({
        "body_sha256": _EMPTY_SHA256, "federation": await front.reading.ask(lambda hub: hub.federation),
        "method": request.method, "nonce": nonce, "path": _signed_path(request),
    })  # fmt: skip
    armor = sshsig.BEGIN + "\n".join([*textwrap.wrap(signature, 70), ""]) + sshsig.END
    parsed = sshsig.parse(armor)
    if parsed.namespace != namespace("request"):
        raise SigNamespaceError(f"signed as {parsed.namespace[:60]!r}, but it is a request")
    parsed.verify(message)
    reader = await front.reading.ask(_identify, sshsig.public_line(parsed.key))
    front.sender_rate.take(reader.site or reader.key)
    nonces.use(nonce)
    return reader


def _signed_path(request: Request) -> str:
    """The path and query as they were asked for, from our first step on: a proxy may put others before it."""
    path = request.scope["raw_path"].decode("ascii", "replace")
    query = request.scope["query_string"].decode("ascii", "replace")
    return f"{path}?{query}" if query else path


def _identify(hub: Hub, key: str) -> SignedReader:
    site = hub.roster.owner(key)
    if site is None:
        if not hub.requests_signed_by(key):
            raise SignerUnknownError(f"{sshsig.fingerprint(key)} is nobody's key here")
        return SignedReader(key, "")
    if site.status == roster.REVOKED:
        raise SignerRevokedError(f"the key of {site.id} was revoked")
    if site.status != roster.ACTIVE:
        raise SignerWindowError(f"{site.id} does not take part now")
    return SignedReader(key, site.id)
