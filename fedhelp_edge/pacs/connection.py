"""Connections that are closed when they end, and end at once when the node stops. pynetdicom leaves both to chance."""

from __future__ import annotations

import socket
import threading
import weakref
from contextlib import suppress
from typing import Any

from pynetdicom import AE
from pynetdicom.transport import AssociationSocket

MAX_PDU = 1 << 20  # bytes of one message; larger ones end the connection


class DicomConnection(AssociationSocket):
    """A connection whose messages are bounded: pynetdicom would read up to 4 GiB of one."""

    def recv(self, nr_bytes: int) -> bytearray:
        if nr_bytes > MAX_PDU:
            raise OSError("a message is too long")
        return super().recv(nr_bytes)

    def end(self) -> None:
        """End it, whatever its thread waits for."""
        if connection := self.socket:
            with suppress(OSError):  # it has ended
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def _shutdown_socket(self) -> None:
        """Close it also where the peer has gone: pynetdicom would leave it open."""
        if connection := self.socket:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


class Entity(AE):
    """An application entity that hangs up on a peer that is silent for so many seconds."""

    def __init__(self, aet: str, silence: float) -> None:
        super().__init__(aet)
        self.acse_timeout = self.dimse_timeout = self.network_timeout = self.connection_timeout = silence
        self._calls: weakref.WeakSet[DicomConnection] = weakref.WeakSet()
        self._ending, self._is_ended = threading.Lock(), False

    def end(self) -> None:
        """End its calls, now and from now on."""
        with self._ending:
            self._is_ended = True
            for call in self._calls:
                call.end()

    def _create_socket(self, assoc: Any, address: Any, tls_args: Any) -> DicomConnection:
        with self._ending:
            if self._is_ended:
                raise OSError("the node has ended")
            call = DicomConnection(assoc, address=address)
            call.tls_args = tls_args
            self._calls.add(call)
            return call


def adopt(event: Any) -> None:
    """Make a call that comes in a `DicomConnection`; for pynetdicom's event of a new connection.

    It ends with its caller. pynetdicom would wait for the request of one who has hung up, or has sent garbage, for as
    long as for a silent one. A few probes of the port would then keep everybody out.
    """
    layer = event.assoc.dul
    layer.socket.__class__ = DicomConnection
    run = layer.run

    def run_and_wake() -> None:
        try:
            run()
        finally:
            layer.to_user_queue.put(None)

    layer.run = run_and_wake
