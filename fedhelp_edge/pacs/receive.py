"""The node's door: C-ECHO, and C-STORE of images. What a stranger sends is bounded before it costs anything.

An image is confirmed once it is on the disk.
"""

from __future__ import annotations

import io
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pydicom.filebase import DicomIO
from pydicom.filewriter import write_file_meta_info
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import AllTransferSyntaxes
from pynetdicom import AllStoragePresentationContexts, evt
from pynetdicom.transport import ThreadedAssociationServer

from fedhelp_edge.data import dicom, picture
from fedhelp_edge.errors import FedhelpError
from fedhelp_edge.pacs import connection
from fedhelp_edge.pacs.queue import Queue
from fedhelp_edge.pacs.send import KINDS as RESULTS

MAX_SIZE = 128 << 20  # bytes of one image as it is sent
MAX_ASSOCIATIONS = 8  # at the same time
MAX_CONNECTIONS = 16  # with those that have not said who they are
_VERIFICATION = "1.2.840.10008.1.1"
_IMAGES = {
    context.abstract_syntax
    for context in AllStoragePresentationContexts
    if context.abstract_syntax and "Image" in context.abstract_syntax.name
}
_STORED, _FULL, _OTHER_INSTANCE, _NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000  # statuses of C-STORE (PS3.4 B.2.3)


@contextmanager
def listening(
    queue: Queue,
    aet: str,
    address: tuple[str, int],
    allowed: Sequence[str],
    tls: ssl.SSLContext | None,
    arrived: threading.Event,
    silence: float,
) -> Iterator[tuple[str, int]]:
    """Accept images of the allowed callers into the queue, in threads; yield the address. `arrived` is set for each.

    A caller that is silent for `silence` seconds is cut off.
    """
    node = connection.Entity(aet, silence)
    node.maximum_associations, node.maximum_pdu_size = MAX_ASSOCIATIONS, 1 << 16
    node.require_called_aet, node.require_calling_aet = True, list(allowed)
    node.add_supported_context(_VERIFICATION)
    syntaxes = [syntax for syntax in AllTransferSyntaxes if _can_decode(syntax)]
    for kind in {*_IMAGES, *RESULTS}:
        node.add_supported_context(kind, syntaxes)
    door = _Door(queue, arrived)
    handlers: list[Any] = [
        (evt.EVT_CONN_OPEN, connection.adopt), (evt.EVT_PDU_RECV, door.count), (evt.EVT_C_STORE, door.store),
    ]  # fmt: skip
    with node.make_server(address, ssl_context=tls, evt_handlers=handlers, server_class=_DicomServer) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[:2]
        finally:
            server.shutdown()
            thread.join()


class _Door:
    """Takes images in."""

    def __init__(self, queue: Queue, arrived: threading.Event) -> None:
        self._queue, self._arrived = queue, arrived

    def count(self, event: Any) -> None:
        """End an association that sends more than an image may have."""
        if event.pdu.pdu_type == 0x04:  # P-DATA
            size = getattr(event.assoc, "received", 0) + len(event.pdu)
            event.assoc.received = size
            if size > MAX_SIZE:
                event.assoc.abort()

    def store(self, event: Any) -> int:
        """Handle C-STORE: keep an image, and answer whether it is safe."""
        event.assoc.received = 0
        try:
            with picture.without_warnings():
                return self._store(event)
        except OSError:
            return _FULL
        except FedhelpError:
            return _NOT_UNDERSTOOD

    def _store(self, event: Any) -> int:
        head = io.BytesIO(bytes(128) + b"DICM")
        head.seek(0, io.SEEK_END)
        write_file_meta_info(DicomIO(head), event.file_meta)
        data = event.request.DataSet.getbuffer()
        file = io.BytesIO(b"".join((head.getbuffer(), data)))
        study = dicom.read_study(file)
        if study is None:  # an archive that routes everything sends results back
            return _STORED
        if event.request.AffectedSOPClassUID not in _IMAGES:
            return _NOT_UNDERSTOOD
        if study.SOPInstanceUID != event.request.AffectedSOPInstanceUID:
            return _OTHER_INSTANCE
        if self._queue.add(study.SOPInstanceUID, [file.getbuffer()], study.SeriesInstanceUID):
            self._arrived.set()
        return _STORED


class _DicomServer(ThreadedAssociationServer):
    """A server with few connections. TLS is negotiated in the connection's thread: a silent caller keeps nobody out."""

    daemon_threads = True

    def get_request(self) -> tuple[socket.socket, Any]:
        caller, address = self.socket.accept()  # type: ignore[union-attr]
        caller.settimeout(self.ae.network_timeout)
        if self.ssl_context:
            caller = self.ssl_context.wrap_socket(caller, server_side=True, do_handshake_on_connect=False)
        return caller, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return len(self.active_associations) < MAX_CONNECTIONS

    def shutdown(self) -> None:
        """End the thread that accepts connections, and every connection."""
        socketserver.TCPServer.shutdown(self)
        for association in self.active_associations:
            association.dul.socket.end()  # type: ignore[union-attr]
            association.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a caller that fails is its own affair."""


def _can_decode(syntax: Any) -> bool:
    with suppress(NotImplementedError):
        return bool(get_decoder(syntax).is_available)
    return False
