"""Fault F24: more simultaneous half-sent requests than a front can hold, from one address and from several."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from fedhelp_edge.parcel import parcel, statement
from server_ref.web.connections import address_group
from server_ref.web.limits import Limits
from tests.attacks.test_f_http import send_until_received, write_certificate
from tests.federation import Federation
from tests.http_front import Client, running, serving

_POST = "POST /v1/uploads HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 147000\r\n"
_BODY = _POST + "Content-Type: application/offset+octet-stream\r\nContent-Length: 147000\r\n\r\n"
HALVES = {
    "heads": b"GET /v1/current HTTP/1.1\r\nX: " + b"a" * 16_000,
    "junk": _BODY.encode() + bytes(146_000),
    "first bytes": b"G",
    "nothing": b"",
}


@pytest.fixture
def update_path(fed: Federation) -> Path:
    task = fed.open()
    return fed.clinics[0].give(task, fed.drawn_update(task, fed.clinics[0]))


class Flood:
    """Connections that a thread opens, holds and drips on. With `tls`, every second one shakes hands."""

    def __init__(self, port: int, count: int, addresses: int, tls: bool, kinds: Sequence[bytes]) -> None:
        self._port, self._count, self._addresses, self._tls, self._kinds = port, count, addresses, tls, kinds
        self._stop, self.sent = threading.Event(), threading.Event()
        self.lines: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        tls_context = ssl.create_default_context()
        tls_context.check_hostname, tls_context.verify_mode = False, ssl.CERT_NONE
        for number in range(self._count):
            with suppress(OSError):
                source = (f"127.0.0.{2 + number % self._addresses}", 0)
                line = socket.create_connection(("127.0.0.1", self._port), timeout=5, source_address=source)
                self.lines.append(line)
                if self._tls and number % 2:  # the others never shake hands
                    line = self.lines[-1] = tls_context.wrap_socket(line)
                line.sendall(self._kinds[number // self._addresses % len(self._kinds)])
        self.sent.set()
        while not self._stop.wait(0.2):
            for line in self.lines[::3]:
                with suppress(OSError):
                    line.settimeout(0)
                    line.send(b"a")

    def end(self) -> None:
        self._stop.set()
        self._thread.join()
        for line in self.lines:
            line.close()


@contextmanager
def flood(port: int, count: int, addresses: int, tls: bool, kinds: Sequence[bytes]) -> Iterator[Flood]:
    running_flood = Flood(port, count, addresses, tls, kinds)
    try:
        yield running_flood
    finally:
        running_flood.end()


@pytest.mark.proof
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("addresses", [1, 8])
def test_f24_half_sent_requests_are_limited_and_an_honest_update_is_received(
    fed: Federation, tmp_path: Path, addresses: int, tls: bool, effort: Callable[[int, int], int]
) -> None:
    while len(fed.clinics) < effort(1, 4):
        fed.join()
    task = fed.open()
    cert, key = write_certificate(tmp_path) if tls else (None, None)
    tls_context = ssl.create_default_context(cafile=str(cert)) if tls else None
    request = statement.create(statement.new_context("enrol", federation=fed.hub.federation), "b" * 64, 60_000)
    bodies = _BODY.encode() + parcel.MAGIC + request.line + b"\n" + bytes(145_000)
    kinds = {"heads": [HALVES["heads"]], "junk": [HALVES["junk"]], "bodies": [bodies]}
    chosen = [*kinds.items(), ("mixed", [*HALVES.values(), bodies, bodies])][-effort(1, 4) :]
    for (kind, halves), clinic in zip(chosen, fed.clinics, strict=False):
        update_path = clinic.give(task, fed.drawn_update(task, clinic))
        with serving(fed.hub.home, cert, key) as process:
            before, client = process.memory(), Client(process.port, fed.hub.federation, tls_context)
            with flood(process.port, effort(1000, 2500), addresses, tls, halves) as flooding:
                assert send_until_received(client, update_path).headers["fedhelp-receipt"]
                flooding.sent.wait(120)
                assert client.ask("GET", "/healthz").status == 200
                peak = process.memory("VmHWM")
            print(f"\n{len(flooding.lines)} {kind} from {addresses}: {before} KiB before, at most {peak} KiB")
        assert peak < 150_000_000 >> 10
    assert list(fed.update_states().values()) == ["received"] * len(chosen)


def test_f24_the_address_with_most_connections_loses_the_longest_idle_one(fed: Federation, update_path: Path) -> None:
    """At a front for four connections, a site at another address connects at once, and only the flood loses one."""
    with running(fed.hub.home, Limits(connections=4, eviction_seconds=60)) as port, ExitStack() as stack:

        def line(host: str) -> socket.socket:
            line_ = stack.enter_context(socket.create_connection(("127.0.0.1", port), 30, source_address=(host, 0)))
            line_.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
            return line_

        other = line("127.0.0.3")
        flooding = [line("127.0.0.2") for _ in range(3)]
        site = line("127.0.0.1")  # replaces the oldest connection of 127.0.0.2
        assert flooding[0].recv(1) == b""
        with pytest.raises(ConnectionError):  # of the address with the most, no connection is old enough
            line("127.0.0.2").recv(1)
            raise ConnectionResetError  # or closed without a response
        for survivor in (other, site, *flooding[1:]):
            survivor.sendall(b"\r\n")
            assert survivor.recv(1000).startswith(b"HTTP/1.1 200")


def test_f24_a_new_connection_of_the_same_address_waits_until_an_old_one_is_idle_for_long(
    fed: Federation, update_path: Path
) -> None:
    with running(fed.hub.home, Limits(connections=2, eviction_seconds=0.2)) as port, ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(b"G")
        assert send_until_received(Client(port, fed.hub.federation), update_path).headers["fedhelp-receipt"]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("10.0.0.1", "10.0.0.1", True), ("10.0.0.1", "10.0.0.2", False), ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False), ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("fe80::1%eth0", "fe80::2", True),
    ],
)  # fmt: skip
def test_f24_a_network_that_one_machine_can_own_counts_as_one_address(first: str, second: str, same: bool) -> None:
    assert (address_group(first) == address_group(second)) is same
