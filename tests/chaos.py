"""A bad network on loopback: a proxy that cuts, resets, corrupts, repeats and delays what passes through it."""

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
class Fate:
    """What happens to one connection; a place counts bytes on their way to the server, or back."""

    cut: int = _NEVER
    cut_answer: int = _NEVER
    reset: bool = False  # where it is cut: an RST instead of an end
    corrupt: int = _NEVER
    again: bool = False  # the same request reaches the server a second time
    pause: float = 0.0  # before every few bytes


class Network:
    def __init__(self, port: int, fates: Iterator[Fate]) -> None:
        self._to, self._fates = port, fates
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
        fate = next(self._fates, Fate())
        seen = bytearray()
        with suppress(OSError), ExitStack() as ends:
            ends.callback(_close, writer, reset=fate.reset)
            back, forth = await asyncio.open_connection("127.0.0.1", self._to)
            ends.callback(_close, forth, reset=fate.reset)
            ways = (_pump(reader, forth, fate, fate.cut, seen), _pump(back, writer, fate, fate.cut_answer))
            tasks = [asyncio.ensure_future(way) for way in ways]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        if fate.again:
            with suppress(OSError), ExitStack() as ends:
                back, forth = await asyncio.open_connection("127.0.0.1", self._to)
                ends.callback(_close, forth, reset=False)
                forth.write(seen)
                await back.read(1)


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fate: Fate, cut: int, seen: bytearray | None = None
) -> None:
    at = 0
    with suppress(OSError):
        while at < cut and (data := await reader.read(min(cut - at, 1 << 16 if not fate.pause else 4096))):
            if seen is not None:
                seen += data
                if at <= fate.corrupt < at + len(data):
                    place = fate.corrupt - at
                    data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
            at += len(data)
            await asyncio.sleep(fate.pause)
            writer.write(data)
            await writer.drain()


def _close(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    if reset:
        line: socket.socket = writer.get_extra_info("socket")
        with suppress(OSError):
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


@contextmanager
def network(port: int, fates: Iterator[Fate]) -> Iterator[int]:
    """The port at which the one at `port` is reached badly: each connection has the next fate, then good luck."""
    bad, started = Network(port, fates), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(bad.run(started)))
    thread.start()
    started.wait()
    try:
        yield bad.port
    finally:
        bad.stop()
        thread.join()
