"""Authenticates requests: a site signs method, path and body over a nonce that the front issued."""

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
    """Nonces, each valid for one request. A MAC marks those of this front, so only used ones need to be stored."""

    LIFE = 300.0  # seconds

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._used: dict[str, float] = {}

    def issue(self) -> str:
        """A new nonce: its expiry, random bytes and the MAC, in hexadecimal."""
        text = f"{int(time.monotonic() + self.LIFE):08x}{os.urandom(12).hex()}"
        return text + self._mac(text)

    def check(self, nonce: str) -> None:
        """Raise if a nonce is not from this front, expired, or used. This stops replayed requests."""
        if not hmac.compare_digest(self._mac(nonce[:32]), nonce[32:]):
            raise NonceError("this nonce is not from this hub, or older than its last start")
        if int(nonce[:8], 16) < time.monotonic():
            raise NonceError("this nonce is too old")
        if nonce in self._used:
            raise NonceError("this nonce was used before")

    def consume(self, nonce: str) -> None:
        """Use a nonce up. Call it for authenticated requests only, so that nobody else can fill the memory."""
        self.check(nonce)
        now = time.monotonic()
        self._used[nonce] = now + self.LIFE
        while next(iter(self._used.values())) < now:
            del self._used[next(iter(self._used))]

    def _mac(self, text: str) -> str:
        return hmac.digest(self._key, text.encode(), "sha256")[:16].hex()


@dataclass(frozen=True)
class SignedReader:
    """The signer of a request: a site of the roster, the plan's helper, or a newcomer who asked to join."""

    key: str
    site: str = ""  # of the roster
    is_helper: bool = False


# --- authentication ---------------------------------------------------------------------------------------------------
async def authenticate(request: Request) -> SignedReader:
    """The signer of a request, after its signature and nonce are checked and its rate is counted."""
    front, nonces = get_front(request), request.app.state.nonces
    front.address_rate.take(client_address(request))
    header = _HEADER.fullmatch(request.headers.get("authorization", ""))
    if header is None:
        raise UnsignedError("only members of the federation can read this")
    nonce, signature = header.groups()
    nonces.check(nonce)
    message = canon.encode({
        "body_sha256": _EMPTY_SHA256, "federation": await front.reading.run(lambda hub: hub.federation),
        "method": request.method, "nonce": nonce, "path": _signed_path(request),
    })  # fmt: skip
    armor = sshsig.BEGIN + "\n".join([*textwrap.wrap(signature, 70), ""]) + sshsig.END
    parsed = sshsig.parse(armor)
    if parsed.namespace != namespace("request"):
        raise SigNamespaceError(f"signed as {parsed.namespace[:60]!r}, not as a request")
    parsed.verify(message)
    reader = await front.reading.run(_identify, sshsig.public_line(parsed.key))
    front.sender_rate.take(reader.site or reader.key)
    nonces.consume(nonce)
    return reader


def _signed_path(request: Request) -> str:
    """The requested path with its query, from our own first segment on: a proxy may put others before it."""
    path = request.scope["raw_path"].decode("ascii", "replace")
    query = request.scope["query_string"].decode("ascii", "replace")
    return f"{path}?{query}" if query else path


def _identify(hub: Hub, key: str) -> SignedReader:
    site = hub.roster.owner(key)
    if site is None and key == hub.plan.privacy.helper_sign:
        return SignedReader(key, is_helper=True)
    if site is None:
        if not hub.requests_signed_by(key):
            raise SignerUnknownError(f"no site here has the key {sshsig.fingerprint(key)}")
        return SignedReader(key)
    if site.status == roster.REVOKED:
        raise SignerRevokedError(f"the key of {site.id} was revoked")
    if site.status != roster.ACTIVE:
        raise SignerWindowError(f"{site.id} does not take part now")
    return SignedReader(key, site.id)
