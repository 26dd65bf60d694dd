"""The text form of an age file (C2SP age.md): base64 of 64 columns between a BEGIN and an END line.

Reading is strict: all lines but the last are full, each is canonical base64, and nothing follows the END line.
"""

from __future__ import annotations

import base64
import binascii
import io
from typing import BinaryIO

from fedhelp_edge.errors import ArmorError

_BEGIN, _END = b"-----BEGIN AGE ENCRYPTED FILE-----", b"-----END AGE ENCRYPTED FILE-----"
_COLUMNS, _LINE_BYTES = 64, 48  # characters of a full line, and the bytes that they spell
_READ = 65536


class ArmorWriter(io.RawIOBase):
    """A file whose bytes are written to `sink` as armor; closing it writes the END line."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink, self._rest = sink, b""
        sink.write(_BEGIN + b"\n")

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._rest += data
        complete = len(self._rest) // _LINE_BYTES * _LINE_BYTES
        for start in range(0, complete, _LINE_BYTES):
            self._sink.write(base64.b64encode(self._rest[start : start + _LINE_BYTES]) + b"\n")
        self._rest = self._rest[complete:]
        return len(data)

    def close(self) -> None:
        if not self.closed:
            if self._rest:
                self._sink.write(base64.b64encode(self._rest) + b"\n")
            self._sink.write(_END + b"\n")
        super().close()


def decode(source: BinaryIO, sink: BinaryIO) -> None:
    """Decode a whole armor into `sink`: blank space may stand before and after it, line ends may be CR LF."""

    def line() -> bytes:
        text = source.readline(4096)
        return text[:-2] if text.endswith(b"\r\n") else text.removesuffix(b"\n")

    while not (first := source.readline(4096)).strip() and first:
        pass
    if first.removesuffix(b"\n").removesuffix(b"\r").lstrip() != _BEGIN:
        raise ArmorError("no BEGIN line")
    short = False
    while (text := line()) != _END:
        if short or not text or len(text) > _COLUMNS:
            raise ArmorError("a line is too short or too long, or the END line is missing")
        short = len(text) < _COLUMNS
        try:
            data = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ArmorError("a line is not base64") from error
        if base64.b64encode(data) != text:
            raise ArmorError("a line is not canonical base64")
        short = short or len(data) < _LINE_BYTES
        sink.write(data)
    while rest := source.read(_READ):
        if rest.strip():
            raise ArmorError("something follows the END line")
