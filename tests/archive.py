"""A DICOM archive on loopback: Debian's Orthanc where it is installed, and a small one by pynetdicom; and a node."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pynetdicom import evt
from pynetdicom.presentation import AllStoragePresentationContexts

from fedhelp_edge.pacs import connection

AET = "ARCHIVE"
SILENCE = 30  # seconds
EXAMPLE = Path(__file__).parents[1] / "examples" / "orthanc"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_until(done: Callable[[], bool], seconds: float = 60) -> None:
    """Waits for something that another process does."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


class SmallArchive:
    """Keeps what it is sent, in memory. `status` is what it answers, and `calls` counts every C-STORE."""

    def __init__(self) -> None:
        self.stored: dict[str, pydicom.Dataset] = {}
        self.calls, self.status = 0, 0x0000

    def store(self, event: Any) -> int:
        self.calls += 1
        if self.status == 0:
            dataset = event.dataset
            dataset.file_meta = event.file_meta
            self.stored[dataset.SOPInstanceUID] = dataset
        return self.status

    def of_kind(self, name: str) -> list[pydicom.Dataset]:
        return [item for item in self.stored.values() if item.SOPClassUID.name.startswith(name)]

    @property
    def reports(self) -> list[pydicom.Dataset]:
        return self.of_kind("Comprehensive SR")

    @contextmanager
    def listening(self, port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[int]:
        entity = connection.Entity(AET, SILENCE)
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax)
        handlers: Any = [(evt.EVT_CONN_OPEN, connection.adopt), (evt.EVT_C_STORE, self.store)]
        server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers, ssl_context=tls)
        assert server is not None
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()


def send(
    port: int, paths: Sequence[Path], *, calling: str = AET, called: str = "FEDHELP", tls: Any = None
) -> list[int]:
    """Sends DICOM files to a node; returns the status of each, or [] if the node refuses the association."""
    entity = connection.Entity(calling, SILENCE)
    datasets = [pydicom.dcmread(path) for path in paths]
    for kind, syntax in {(item.SOPClassUID, item.file_meta.TransferSyntaxUID) for item in datasets}:
        entity.add_requested_context(kind, syntax)
    association = entity.associate("127.0.0.1", port, ae_title=called, tls_args=tls)
    if not association.is_established:
        return []
    statuses = [int(association.send_c_store(item).get("Status", -1)) for item in datasets]
    association.release()
    return statuses


@contextmanager
def running(words: Sequence[str | Path], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A node as a program of its own; it is killed at the end."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    with log.open("ab") as output:
        command = [sys.executable, "-m", "fedhelp_edge", "pacs", *map(str, words)]
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        wait_until(lambda: process.poll() is not None or "listens on" in log.read_text())
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


class Orthanc:
    """Debian's Orthanc, with a temporary folder; it sends every image that it stores to the node."""

    def __init__(self, folder: Path, node_port: int) -> None:
        program = shutil.which("Orthanc")
        if not program:
            pytest.skip("Orthanc is not installed (Debian: orthanc)")
        self.program, self.folder = program, folder
        self.http, self.port = free_port(), free_port()
        folder.mkdir(parents=True)
        shutil.copy(EXAMPLE / "route.lua", folder)
        settings = {
            "StorageDirectory": str(folder / "images"), "IndexDirectory": str(folder / "images"), "Plugins": [],
            "HttpPort": self.http, "DicomPort": self.port, "DicomAet": AET, "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False, "DicomModalities": {"node": ["FEDHELP", "127.0.0.1", node_port]},
            "LuaScripts": [str(folder / "route.lua")],
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(settings))

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen([self.program, str(self.folder / "orthanc.json")], stdout=log, stderr=log)
        try:
            wait_until(self._answers)
            yield process
        finally:
            process.kill()
            process.wait()

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/{path}", data, timeout=30) as answer:
            return json.loads(answer.read())

    def count(self, **tags: str) -> int:
        return len(self.ask("tools/find", {"Level": "Instance", "Query": tags}))

    def _answers(self) -> bool:
        try:
            self.ask("system")
        except OSError:
            return False
        return True


def memory(process: subprocess.Popen[bytes]) -> int:
    """Kilobytes of a process in memory."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s*(\d+)", status)[0])


def in_thread(run: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
