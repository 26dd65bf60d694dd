"""How many connections the front holds at once, and which one makes room when there are too many.

They are counted where they are accepted, before TLS or a byte of a request has cost anything. When all places are
taken, the address that holds the most of them loses the connection that has brought nothing for longest: whoever sends
half requests drops their own, and a site at another address loses none. See docs/decisions/front.md.
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

_MAX_CLOSING = 64  # connections that were dropped and still hold memory; while there are so many, no other is accepted
_CLOSING_SECONDS = 2.0  # seconds after which one of them is no longer waited for


@dataclass(eq=False)
class Connection:
    """A connection, as the crowd sees it."""

    sock: socket.socket
    group: str
    since: float  # when it last brought enough, or was answered
    received_bytes: int = 0  # bytes since then
    is_busy: Callable[[], bool] = lambda: False  # whether we work on its request, so that it waits for us
    abort: Callable[[], None] | None = None

    def brought(self, count: int, min_bytes: int) -> None:
        """Bytes came. A drip is no sign of life."""
        self.received_bytes += count
        if self.received_bytes >= min_bytes:
            self.renew()

    def renew(self) -> None:
        self.since, self.received_bytes = time.monotonic(), 0

    def drop(self) -> None:
        if self.abort:
            self.abort()
        else:  # not yet a connection of ours: its handshake goes on
            self.sock.shutdown(socket.SHUT_RDWR)


class ConnectionLimiter:
    def __init__(self, limit: int, grace: float) -> None:
        self._most, self._grace = limit, grace
        self.lines: dict[Any, Connection] = {}  # by the peer's address and port
        self._leaving: list[Connection] = []

    def check(self) -> None:
        """Raise what a listening socket raises when nobody is there, until those who were dropped are gone."""
        now = time.monotonic()
        self._leaving = [
            connection
            for connection in self._leaving
            if connection.sock.fileno() >= 0 and now - connection.since < _CLOSING_SECONDS
        ]
        if len(self._leaving) >= _MAX_CLOSING:
            raise BlockingIOError

    def leave(self, peer: Any, connection: Connection) -> None:
        """A connection has ended: nothing of it is kept."""
        if self.lines.get(peer) is connection:
            del self.lines[peer]
        connection.abort, connection.is_busy = None, lambda: False

    def enter(self, sock: socket.socket, peer: Any) -> None:
        """Take a new connection in, and drop another or this one where there is no room."""
        connection = Connection(sock, address_group(str(peer[0])), time.monotonic())
        if len(self.lines) >= self._most:
            self.lines = {key: other for key, other in self.lines.items() if other.sock.fileno() >= 0}
        if len(self.lines) >= self._most:
            key = self._victim(connection)
            if key is None:
                sock.close()
                raise BlockingIOError
            victim = self.lines.pop(key)
            with suppress(OSError):  # it has gone by itself
                victim.drop()
            victim.since = connection.since
            self._leaving.append(victim)
        self.lines[peer] = connection

    def _victim(self, new: Connection) -> Any:
        """Whose place a new connection takes: not where its own address would take it from another that gets on."""
        idle = {key: connection for key, connection in self.lines.items() if not connection.is_busy()}
        counts = Counter(connection.group for connection in self.lines.values())
        counts[new.group] += 1
        key = min(idle, key=lambda key: (-counts[idle[key].group], idle[key].since), default=None)
        if key is None:
            return None
        is_fair = counts[idle[key].group] > counts[new.group]
        return key if is_fair or new.since - idle[key].since > self._grace else None


class LimitedListener(socket.socket):
    """A listening socket that lets in no more than the crowd has room for."""

    def __init__(self, listener: socket.socket, limiter: ConnectionLimiter) -> None:
        super().__init__(fileno=listener.detach())
        self._crowd = limiter

    def accept(self) -> tuple[socket.socket, Any]:
        self._crowd.check()
        sock, peer = super().accept()
        self._crowd.enter(sock, peer)
        return sock, peer


def address_group(host: str) -> str:
    """An IPv4 address; of IPv6 the network of 64 bits, which one machine has whole."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:  # what a proxy on this machine calls it
        return host
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)
