"""Limits how many connections the front holds at once, and chooses which one makes room for a new one.

Connections are counted where they are accepted, before TLS or a byte of a request has cost anything. When all places
are taken, the address that holds most of them loses the connection that has sent nothing for longest. So an attacker
who sends half requests drops their own connections, and a site at another address loses none. See
docs/decisions/front.md.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_MAX_CLOSING = 64  # dropped connections that still hold memory; while there are so many, no other is accepted
_CLOSING_SECONDS = 2.0  # until a dropped connection is no longer waited for


@dataclass(eq=False)
class HttpConnection:
    """An accepted connection, with what decides whether it may lose its place."""

    sock: socket.socket
    group: str
    active_since: float  # when it last sent enough bytes, or was answered
    received_bytes: int = 0  # since then
    is_busy: Callable[[], bool] = lambda: False  # whether its request is complete and waits for our answer
    abort: Callable[[], None] | None = None

    def note_received(self, count: int, min_bytes: int) -> None:
        """Count received bytes. Fewer than `min_bytes` do not make a connection active: an attacker could drip them."""
        self.received_bytes += count
        if self.received_bytes >= min_bytes:
            self.renew()

    def renew(self) -> None:
        """Note that the connection is active now."""
        self.active_since, self.received_bytes = time.monotonic(), 0

    def drop(self) -> None:
        """Close the connection, whatever is under way."""
        if self.abort:
            self.abort()
        else:  # not handed over yet: its TLS handshake is under way
            self.sock.shutdown(socket.SHUT_RDWR)


class ConnectionLimiter:
    """All accepted connections, at most `limit`. `grace` is how long a connection may be inactive, in seconds."""

    def __init__(self, limit: int, grace: float) -> None:
        self._limit, self._grace = limit, grace
        self.connections: dict[Any, HttpConnection] = {}  # by the peer's address and port
        self._closing: list[HttpConnection] = []

    def check(self) -> None:
        """Raise BlockingIOError, as if nobody wanted to connect, while too many dropped connections are still open."""
        now = time.monotonic()
        self._closing = [
            connection
            for connection in self._closing
            if connection.sock.fileno() >= 0 and now - connection.active_since < _CLOSING_SECONDS
        ]
        if len(self._closing) >= _MAX_CLOSING:
            raise BlockingIOError

    def remove(self, peer: Any, connection: HttpConnection) -> None:
        """Forget a connection that has ended."""
        if self.connections.get(peer) is connection:
            del self.connections[peer]
        connection.abort, connection.is_busy = None, lambda: False

    def admit(self, sock: socket.socket, peer: Any) -> None:
        """Take a new connection. Where there is no room, drop another, or refuse this one with BlockingIOError."""
        connection = HttpConnection(sock, address_group(str(peer[0])), time.monotonic())
        if len(self.connections) >= self._limit:
            self.connections = {key: other for key, other in self.connections.items() if other.sock.fileno() >= 0}
        if len(self.connections) >= self._limit:
            key = self._choose_victim(connection)
            if key is None:
                sock.close()
                raise BlockingIOError
            victim = self.connections.pop(key)
            with suppress(OSError):  # it has ended by itself
                victim.drop()
            victim.active_since = connection.active_since
            self._closing.append(victim)
        self.connections[peer] = connection

    def _choose_victim(self, new: HttpConnection) -> Any:
        """The key of the connection that loses its place to a new one, or None.

        No address takes a place from another that holds fewer, unless that connection was inactive for too long.
        """
        idle = {key: connection for key, connection in self.connections.items() if not connection.is_busy()}
        counts = Counter(connection.group for connection in self.connections.values())
        counts[new.group] += 1
        key = min(idle, key=lambda key: (-counts[idle[key].group], idle[key].active_since), default=None)
        if key is None:
            return None
        is_fair = counts[idle[key].group] > counts[new.group]
        return key if is_fair or new.active_since - idle[key].active_since > self._grace else None


class LimitedListener(socket.socket):
    """A listening socket that accepts no more connections than the limiter has room for."""

    def __init__(self, listener: socket.socket, limiter: ConnectionLimiter) -> None:
        super().__init__(fileno=listener.detach())
        self._limiter = limiter

    def accept(self) -> tuple[socket.socket, Any]:
        self._limiter.check()
        sock, peer = super().accept()
        self._limiter.admit(sock, peer)
        return sock, peer


def address_group(host: str) -> str:
    """The IPv4 address, or the 64-bit network of an IPv6 address, which one machine has whole."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:  # a name that a proxy on this machine gives
        return host
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)
