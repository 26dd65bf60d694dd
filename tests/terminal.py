"""A person at a terminal: runs a program in a pseudo-terminal, reads its screen and types."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from tests.command import COORDINATOR, SITE

_ROOT = str(Path(__file__).parents[1])
_BEFORE = """import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from fedhelp_edge.parcel import age
age.WORK_FACTOR = 2  # as tests/conftest.py
"""
_MAIN = {
    SITE: "from fedhelp_edge.__main__ import main; main()",
    COORDINATOR: "from server_ref.cli import main; main()",
}
CTRL_C, CTRL_D = b"\x03", b"\x04"
_PATIENCE = 60  # seconds, for a busy machine


class Terminal:
    def __init__(self, words: tuple[str | Path, ...], home: Path, program: tuple[str, ...], env: Mapping[str, str]):
        self._master, slave = pty.openpty()
        plain = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": _ROOT, "OMP_NUM_THREADS": "1"}
        self.popen = subprocess.Popen(
            [sys.executable, "-c", _BEFORE + _MAIN[program], *map(str, words)], stdin=slave, stdout=slave, stderr=slave,
            cwd=home, env={**plain, "TERM": "xterm", "COLUMNS": "200", **env}, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.raw, self._read = b"", 0

    @property
    def screen(self) -> str:
        return self.raw.decode("utf-8", "replace").replace("\r\n", "\n")

    def sees(self, text: str) -> str:
        """Waits for a text that was not seen before; returns the screen."""
        expected, until = text.encode(), time.monotonic() + _PATIENCE
        while (index := self.raw.find(expected, self._read)) < 0:
            assert time.monotonic() < until and self._more(), f"{text!r} is not in:\n{self.screen}"
        self._read = index + len(expected)
        return self.screen

    def line(self, start: str) -> str:
        """Waits for the next line that starts so; returns the rest of it."""
        self.sees(start)
        start_index = self._read
        self.sees("\n")
        return self.raw[start_index : self._read].decode().strip()

    def types(self, text: str) -> None:
        os.write(self._master, f"{text}\n".encode())

    def presses(self, key: bytes) -> None:
        os.write(self._master, key)

    def ends(self) -> int:
        """Waits for the program's end; returns its exit code."""
        while self._more():
            pass
        return self.popen.wait(_PATIENCE)

    def is_killed(self) -> None:
        os.kill(self.popen.pid, signal.SIGKILL)
        self.popen.wait()

    def _more(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], _PATIENCE)
        try:
            received = os.read(self._master, 4096) if ready else b""
        except OSError:  # Linux, once the program has closed its end
            received = b""
        self.raw += received
        return bool(received)

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()
        os.close(self._master)


@contextlib.contextmanager
def running(*words: str | Path, home: Path, program: tuple[str, ...] = SITE, **env: str) -> Iterator[Terminal]:
    """Runs a command at a terminal with `home` as the person's home folder."""
    terminal = Terminal(words, home, program, env)
    try:
        yield terminal
    finally:
        terminal.close()


def unlocks(passphrase: str, *words: str | Path, home: Path) -> str:
    """Runs a command that asks for the passphrase; checks success and that the passphrase is not shown."""
    with running(*words, home=home) as terminal:
        terminal.sees("passphrase: ")
        terminal.types(passphrase)
        assert terminal.ends() == 0, terminal.screen
        assert passphrase not in terminal.screen
        return terminal.screen


def write_images(folder: Path) -> Path:
    """Writes enough images to train a round of `tests.federation.PLAN`."""
    drawn = np.random.default_rng(0).integers(0, 256, (18, 8, 8, 3), np.uint8)
    np.savez(folder / "images.npz", images=drawn, labels=np.arange(18) % 3)
    return folder / "images.npz"
