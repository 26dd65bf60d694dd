"""A real front on loopback, and a client written from docs/spec/http.md alone: nothing but Python's own http.client."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhelp_edge.parcel import sshsig
from fedhelp_edge.parcel.keys import Keys
from server_ref.web import dashboard, process
from server_ref.web.limits import Limits
from tests.command import COORDINATOR

TUS = {"Tus-Resumable": "1.0.0"}
BYTES = {**TUS, "Content-Type": "application/offset+octet-stream"}


@dataclass(frozen=True)
class FrontAnswer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error code; checks that the body is a whole problem document."""
        assert self.headers["content-type"] == "application/problem+json", self
        problem = self.json
        assert problem["status"] == self.status
        assert problem["detail"]
        assert problem["remedy"]
        assert "Traceback" not in self.body.decode()
        return str(problem["code"])

    @property
    def offset(self) -> int:
        return int(self.headers["upload-offset"])


class Client:
    def __init__(
        self, port: int, federation: str, trust: ssl.SSLContext | None = None, source: str = "127.0.0.1"
    ) -> None:
        self.port, self.federation, self._trust, self._source = port, federation, trust, (source, 0)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> FrontAnswer:
        connection: http.client.HTTPConnection
        if self._trust:
            connection = http.client.HTTPSConnection("localhost", self.port, timeout=60, context=self._trust)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, 60, self._source)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return FrontAnswer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    # --- uploads -------------------------------------------------------------------------------------------------
    def begin(self, path: Path, first: int | None = None, **headers: str) -> FrontAnswer:
        """Create an upload from the prologue, or from the first bytes of the file."""
        data = path.read_bytes()
        head = data[: prologue(data) if first is None else first]
        return self.ask("POST", "/v1/uploads", head, {**BYTES, "Upload-Length": str(len(data)), **headers})

    def append(self, hash_: str, offset: int, data: bytes) -> FrontAnswer:
        return self.ask("PATCH", f"/v1/uploads/{hash_}", data, {**BYTES, "Upload-Offset": str(offset)})

    def offset_of(self, hash_: str) -> FrontAnswer:
        return self.ask("HEAD", f"/v1/uploads/{hash_}", headers=TUS)

    def send(self, path: Path, chunk: int = 256 << 10) -> FrontAnswer:
        """Uploads a whole file and waits when the front says so."""
        data = path.read_bytes()
        answer = self.retry_while_busy(lambda: self.begin(path))
        while answer.status < 300 and answer.offset < len(data):
            offset = answer.offset
            answer = self.retry_while_busy(
                lambda offset=offset: self.append(path.stem, offset, data[offset : offset + chunk])
            )
        return answer

    def retry_while_busy(self, ask: Any) -> FrontAnswer:
        while True:
            answer: FrontAnswer = ask()
            if answer.status != 429 or "retry-after" not in answer.headers:
                return answer
            time.sleep(float(answer.headers["retry-after"]))

    # --- signed reads -------------------------------------------------------------------------------------------
    def nonce(self) -> str:
        return self.ask("GET", "/v1/current").headers["fedhelp-nonce"]

    def signature(self, keys: Keys, nonce: str, method: str, path: str, **other: str) -> dict[str, str]:
        request = {
            "body_sha256": hashlib.sha256(b"").hexdigest(), "federation": self.federation, "method": method,
            "nonce": nonce, "path": path, **other,
        }  # fmt: skip
        message = json.dumps(request, sort_keys=True, separators=(",", ":")).encode()
        armor = sshsig.sign(message, keys.sign, "request.v1.fedhelp-edge")
        blob = "".join(armor.splitlines()[1:-1])
        base64.b64decode(blob, validate=True)
        return {"Authorization": f'SSHSIG nonce="{nonce}", signature="{blob}"'}

    def read(self, keys: Keys, path: str, method: str = "GET", **headers: str) -> FrontAnswer:
        return self.ask(method, path, headers={**self.signature(keys, self.nonce(), method, path), **headers})

    def current_hashes(self, keys: Keys) -> dict[str, list[str]]:
        """Hashes of the parcels that a site may need, by kind."""
        answer = self.read(keys, "/v1/current")
        assert answer.status == 200, answer
        hashes: dict[str, list[str]] = {}
        for parcel in answer.json["parcels"]:
            hashes.setdefault(parcel["kind"], []).append(parcel["hash"])
        return hashes


def prologue(data: bytes) -> int:
    """The offset of the payload: behind the last signature."""
    end = b"-----END SSH SIGNATURE-----\n"
    return data.index(end) + len(end)


@contextmanager
def running(
    home: Path,
    limits: Limits | None = None,
    cert: Path | None = None,
    key: Path | None = None,
    access: dashboard.DashboardAccess | None = None,
) -> Iterator[int]:
    """Runs a front in a thread; gives its port."""
    server = process.build_server(home, limits or Limits(), access or dashboard.DashboardAccess(), cert, key)
    with process.open_listener("127.0.0.1", 0) as sock:
        port: int = sock.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            assert server.started
            yield port
        finally:
            server.should_exit = True
            thread.join()


def raw(port: int, data: bytes, *, seconds: float = 30) -> bytes:
    """Sends raw bytes; returns the response."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(data)
        received = b""
        while part := connection.recv(65536):
            received += part
            head, _, rest = received.partition(b"\r\n\r\n")
            if b"content-length: " in head and len(rest) >= int(head.split(b"content-length: ")[1].split(b"\r\n")[0]):
                break
        return received


@dataclass
class FrontProcess:
    """A front that runs as 'fedhelp-coordinator serve' starts it, in a process of its own."""

    popen: subprocess.Popen[str]
    port: int
    dashboard: str

    def memory(self, name: str = "VmRSS") -> int:
        """Kilobytes, as Linux counts them."""
        status = Path(f"/proc/{self.popen.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1])

    def end(self, number: signal.Signals) -> int:
        self.popen.send_signal(number)
        return self.popen.wait()


@contextmanager
def serving(home: Path, cert: Path | None = None, key: Path | None = None) -> Iterator[FrontProcess]:
    tls = ["--tls-cert", str(cert), "--tls-key", str(key)] if cert else []
    command = [*COORDINATOR, "serve", "--home", str(home), "--port", "0", "--json", *tls]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    popen = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert popen.stdout
        started = json.loads(popen.stdout.readline())
        process = FrontProcess(popen, int(started["url"].rsplit(":", 1)[1]), started["dashboard"])
        trust = ssl.create_default_context(cafile=str(cert)) if cert else None
        while True:  # it listens before it answers
            try:
                Client(process.port, "", trust).ask("GET", "/healthz")
                break
            except OSError:
                time.sleep(0.05)
        yield process
    finally:
        popen.kill()
        popen.wait()
        if popen.stdout:
            popen.stdout.close()
