"""A proxy on loopback that cuts, resets, corrupts, repeats and delays connections."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

_NEVER = 1 << 60


@dataclass(frozen=True)
class Fault:
    """What happens to one connection; offsets count bytes to the server, or of its response."""

    cut: int = _NEVER
    cut_answer: int = _NEVER
    reset: bool = False  # where it is cut: an RST instead of an end
    corrupt: int = _NEVER
    again: bool = False  # the same request reaches the server a second time
    pause: float = 0.0  # before every few bytes


class FaultyProxy:
    def __init__(self, port: int, faults: Iterator[Fault]) -> None:
        self._to, self._fates = port, faults
        self.port = 0
        self._stop: asyncio.Future[None] | None = None

    async def run(self, started: threading.Event) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._stop = asyncio.get_running_loop().create_future()
        started.set()
        async with server:
            await self._stop

    def stop(self) -> None:
        assert self._stop
        self._stop.get_loop().call_soon_threadsafe(self._stop.set_result, None)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault = next(self._fates, Fault())
        seen = bytearray()
        with suppress(OSError), ExitStack() as ends:
            ends.callback(_close, writer, reset=fault.reset)
            back, forth = await asyncio.open_connection("127.0.0.1", self._to)
            ends.callback(_close, forth, reset=fault.reset)
            ways = (_pump(reader, forth, fault, fault.cut, seen), _pump(back, writer, fault, fault.cut_answer))
            tasks = [asyncio.ensure_future(way) for way in ways]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        if fault.again:
            with suppress(OSError), ExitStack() as ends:
                back, forth = await asyncio.open_connection("127.0.0.1", self._to)
                ends.callback(_close, forth, reset=False)
                forth.write(seen)
                await back.read(1)


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault, cut: int, seen: bytearray | None = None
) -> None:
    offset = 0
    with suppress(OSError):
        while offset < cut and (data := await reader.read(min(cut - offset, 1 << 16 if not fault.pause else 4096))):
            if seen is not None:
                seen += data
                if offset <= fault.corrupt < offset + len(data):
                    index = fault.corrupt - offset
                    data = data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]
            offset += len(data)
            await asyncio.sleep(fault.pause)
            writer.write(data)
            await writer.drain()


def _close(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    if reset:
        line: socket.socket = writer.get_extra_info("socket")
        with suppress(OSError):
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


@contextmanager
def proxy_to(port: int, faults: Iterator[Fault]) -> Iterator[int]:
    """Starts a proxy to `port` and gives its own port. Each connection has the next fault; later ones have none."""
    proxy, started = FaultyProxy(port, faults), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(proxy.run(started)))
    thread.start()
    started.wait()
    try:
        yield proxy.port
    finally:
        proxy.stop()
        thread.join()
