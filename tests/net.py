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
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of a refusal, which has the form that every refusal has."""
        assert self.headers["content-type"] == "application/problem+json", self
        said = self.json
        assert said["status"] == self.status
        assert said["detail"]
        assert said["remedy"]
        assert "Traceback" not in self.body.decode()
        return str(said["code"])

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
    ) -> Answer:
        connection: http.client.HTTPConnection
        if self._trust:
            connection = http.client.HTTPSConnection("localhost", self.port, timeout=60, context=self._trust)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, 60, self._source)
        try:
            connection.request(method, path, body, dict(headers or {}))
            found = connection.getresponse()
            return Answer(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())
        finally:
            connection.close()

    # --- uploads -------------------------------------------------------------------------------------------------
    def begin(self, path: Path, first: int | None = None, **headers: str) -> Answer:
        """Create an upload from the prologue, or from the first bytes of the file."""
        data = path.read_bytes()
        head = data[: prologue(data) if first is None else first]
        return self.ask("POST", "/v1/uploads", head, {**BYTES, "Upload-Length": str(len(data)), **headers})

    def go_on(self, hash_: str, offset: int, data: bytes) -> Answer:
        return self.ask("PATCH", f"/v1/uploads/{hash_}", data, {**BYTES, "Upload-Offset": str(offset)})

    def where(self, hash_: str) -> Answer:
        return self.ask("HEAD", f"/v1/uploads/{hash_}", headers=TUS)

    def send(self, path: Path, chunk: int = 256 << 10) -> Answer:
        """A whole upload, as patient as a client should be."""
        data = path.read_bytes()
        answer = self.patient(lambda: self.begin(path))
        while answer.status < 300 and answer.offset < len(data):
            at = answer.offset
            answer = self.patient(lambda at=at: self.go_on(path.stem, at, data[at : at + chunk]))
        return answer

    def patient(self, ask: Any) -> Answer:
        while True:
            answer: Answer = ask()
            if answer.status != 429 or "retry-after" not in answer.headers:
                return answer
            time.sleep(float(answer.headers["retry-after"]))

    # --- private reads -------------------------------------------------------------------------------------------
    def nonce(self) -> str:
        return self.ask("GET", "/v1/current").headers["fedhelp-nonce"]

    def signature(self, keys: Keys, nonce: str, method: str, path: str, **other: str) -> dict[str, str]:
        said = {
            "body_sha256": hashlib.sha256(b"").hexdigest(), "federation": self.federation, "method": method,
            "nonce": nonce, "path": path, **other,
        }  # fmt: skip
        message = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
        armor = sshsig.sign(message, keys.sign, "request.v1.fedhelp-edge")
        blob = "".join(armor.splitlines()[1:-1])
        base64.b64decode(blob, validate=True)
        return {"Authorization": f'SSHSIG nonce="{nonce}", signature="{blob}"'}

    def read(self, keys: Keys, path: str, method: str = "GET", **headers: str) -> Answer:
        return self.ask(method, path, headers={**self.signature(keys, self.nonce(), method, path), **headers})

    def listed(self, keys: Keys) -> dict[str, list[str]]:
        """The hashes that a site may need, by kind."""
        answer = self.read(keys, "/v1/current")
        assert answer.status == 200, answer
        found: dict[str, list[str]] = {}
        for one in answer.json["parcels"]:
            found.setdefault(one["kind"], []).append(one["hash"])
        return found


def prologue(data: bytes) -> int:
    """Where the payload begins: behind the last signature."""
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
    """A front in a thread of its own; the port that it listens at."""
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
    """What comes back for any bytes whatever."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as line:
        line.sendall(data)
        found = b""
        while part := line.recv(65536):
            found += part
            head, _, rest = found.partition(b"\r\n\r\n")
            if b"content-length: " in head and len(rest) >= int(head.split(b"content-length: ")[1].split(b"\r\n")[0]):
                break
        return found


@dataclass
class Process:
    """A front in a process of its own, as 'fedhelp-coordinator serve' starts it."""

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
def serving(home: Path, cert: Path | None = None, key: Path | None = None) -> Iterator[Process]:
    tls = ["--tls-cert", str(cert), "--tls-key", str(key)] if cert else []
    command = [*COORDINATOR, "serve", "--home", str(home), "--port", "0", "--json", *tls]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    popen = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert popen.stdout
        said = json.loads(popen.stdout.readline())
        process = Process(popen, int(said["url"].rsplit(":", 1)[1]), said["dashboard"])
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
