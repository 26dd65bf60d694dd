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

_LEAVING = 64  # connections that were dropped and still hold memory; while there are so many, no other is accepted
_LEAVES = 2.0  # seconds after which one of them is no longer waited for


@dataclass(eq=False)
class Line:
    """A connection, as the crowd sees it."""

    sock: socket.socket
    group: str
    since: float  # when it last brought enough, or was answered
    came: int = 0  # bytes since then
    is_busy: Callable[[], bool] = lambda: False  # whether we work on its request, so that it waits for us
    abort: Callable[[], None] | None = None

    def brought(self, count: int, enough: int) -> None:
        """Bytes came. A drip is no sign of life."""
        self.came += count
        if self.came >= enough:
            self.renew()

    def renew(self) -> None:
        self.since, self.came = time.monotonic(), 0

    def drop(self) -> None:
        if self.abort:
            self.abort()
        else:  # not yet a connection of ours: its handshake goes on
            self.sock.shutdown(socket.SHUT_RDWR)


class Crowd:
    def __init__(self, most: int, grace: float) -> None:
        self._most, self._grace = most, grace
        self.lines: dict[Any, Line] = {}  # by the peer's address and port
        self._leaving: list[Line] = []

    def check(self) -> None:
        """Raise what a listening socket raises when nobody is there, until those who were dropped are gone."""
        now = time.monotonic()
        self._leaving = [line for line in self._leaving if line.sock.fileno() >= 0 and now - line.since < _LEAVES]
        if len(self._leaving) >= _LEAVING:
            raise BlockingIOError

    def leave(self, peer: Any, line: Line) -> None:
        """A connection has ended: nothing of it is kept."""
        if self.lines.get(peer) is line:
            del self.lines[peer]
        line.abort, line.is_busy = None, lambda: False

    def enter(self, sock: socket.socket, peer: Any) -> None:
        """Take a new connection in, and drop another or this one where there is no room."""
        line = Line(sock, group(str(peer[0])), time.monotonic())
        if len(self.lines) >= self._most:
            self.lines = {at: one for at, one in self.lines.items() if one.sock.fileno() >= 0}
        if len(self.lines) >= self._most:
            at = self._victim(line)
            if at is None:
                sock.close()
                raise BlockingIOError
            victim = self.lines.pop(at)
            with suppress(OSError):  # it has gone by itself
                victim.drop()
            victim.since = line.since
            self._leaving.append(victim)
        self.lines[peer] = line

    def _victim(self, new: Line) -> Any:
        """Whose place a new connection takes: not where its own address would take it from another that gets on."""
        idle = {at: line for at, line in self.lines.items() if not line.is_busy()}
        held = Counter(line.group for line in self.lines.values())
        held[new.group] += 1
        at = min(idle, key=lambda at: (-held[idle[at].group], idle[at].since), default=None)
        if at is None:
            return None
        fair = held[idle[at].group] > held[new.group]
        return at if fair or new.since - idle[at].since > self._grace else None


class Entrance(socket.socket):
    """A listening socket that lets in no more than the crowd has room for."""

    def __init__(self, listener: socket.socket, crowd: Crowd) -> None:
        super().__init__(fileno=listener.detach())
        self._crowd = crowd

    def accept(self) -> tuple[socket.socket, Any]:
        self._crowd.check()
        sock, peer = super().accept()
        self._crowd.enter(sock, peer)
        return sock, peer


def group(host: str) -> str:
    """An IPv4 address; of IPv6 the network of 64 bits, which one machine has whole."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:  # what a proxy on this machine calls it
        return host
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)
