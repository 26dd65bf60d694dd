"""Commands that run in forks of one process with the slow libraries: an import of torch takes two seconds.

`commands` writes small programs. Each sends its arguments, folder, environment and streams to the process, hands on
SIGTERM, and ends with the command's exit status.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from fedhelp_edge.parcel import age

_ROOT = Path(__file__).resolve().parents[1]
_SLOW = (  # none of them starts a thread
    "torch", "onnx", "PIL.Image", "fedhelp_edge.site.sync", "fedhelp_edge.site.trial", "server_ref.admin.unattended",
)  # fmt: skip
_PROGRAM = """#!{python} -IS
import json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    signal.signal(signal.SIGTERM, lambda *_: server.sendall(b"T"))
    request = {{"module": {module!r}, "arguments": sys.argv, "folder": os.getcwd(), "environment": dict(os.environ)}}
    socket.send_fds(server, [b"S"], [0, 1, 2])
    server.sendall(json.dumps(request).encode() + b"\\n")
    status = server.recv(1)
sys.exit(status[0] if status else 1)
"""


@contextmanager
def commands(folder: Path, modules: Mapping[str, str]) -> Iterator[Path]:
    """Writes a program for each name into the folder `bin`; it runs `main` of the module."""
    programs = folder / "bin"
    programs.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="fh", dir="/tmp") as short:  # the path of a socket has at most 104 bytes
        address = f"{short}/socket"
        for name, module in modules.items():
            program = programs / name
            program.write_text(_PROGRAM.format(python=sys.executable, address=address, module=module))
            program.chmod(0o755)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.preloaded", address], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=environment, cwd=_ROOT,
        )  # fmt: skip
        with process:  # closes its stdin, which ends it
            assert process.stdout
            assert process.stdout.readline(), "the process does not start"
            yield programs


def _serve(address: str) -> None:
    """Forks for each request until stdin is closed."""
    age.WORK_FACTOR = 2  # as tests/conftest.py
    for name in _SLOW:
        import_module(name)
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(address)
        listener.listen()
        selector.register(listener, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        print(flush=True)
        while all(key.fileobj is listener for key, _ in selector.select()):
            connection, _ = listener.accept()
            if not os.fork():
                listener.close()
                _run(connection)
            connection.close()
            with suppress(ChildProcessError):  # whoever has ended
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def _run(connection: socket.socket) -> NoReturn:
    """Runs a command in the fork."""
    _, streams, *_ = socket.recv_fds(connection, 1, 3)
    with connection.makefile("rb", buffering=0) as lines:
        request = json.loads(lines.readline())
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["arguments"]
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    status = 1
    try:
        import_module(request["module"]).main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    with suppress(BrokenPipeError):
        connection.sendall(bytes([status]))
    os._exit(status)


def _end_with(connection: socket.socket) -> None:
    """Ends this process by SIGTERM once the program hands one on, or has ended."""
    with suppress(OSError):
        connection.recv(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    _serve(sys.argv[1])
