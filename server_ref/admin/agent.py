"""Holds the coordinator's unlocked keys for a while, so that the commands of a round ask for the passphrase once.

`unlock` starts a process that holds them, `lock` or the time ends it. It gets the keys through a pipe, writes them
nowhere, and gives them to processes of the same user, through a socket in a folder that only this user may enter. As
with ssh-agent, whoever works as this user can use the keys until then.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhelp_edge.errors import FedhelpError, InternalError, KeysModeError, NotNowError
from fedhelp_edge.parcel import keys
from fedhelp_edge.parcel.keys import Keys

_LIMIT = 4096
_GIVE, _LOCK = b"give\n", b"lock\n"
_LOOK = 5.0  # seconds between two looks at the clock, which may have been set or the machine asleep


def check(folder: Path) -> None:
    """Refuse where keys cannot be held, or need not be."""
    if not hasattr(socket, "AF_UNIX"):
        remedy = "name a file that holds the passphrase with --passphrase-file or FEDHELP_PASSPHRASE_FILE"
        raise NotNowError("this system has no sockets that only one user may open", remedy=remedy)
    if not keys.is_locked(folder):
        raise NotNowError("the coordinator's keys have no passphrase", remedy="nothing needs to be unlocked")
    _place(folder)


def held(folder: Path) -> Keys | None:
    """The keys of a folder, if somebody holds them unlocked."""
    if not hasattr(socket, "AF_UNIX") or not keys.is_locked(folder):
        return None
    try:
        found = json.loads(_ask(folder, _GIVE) or "null")
        made = found and Keys(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(found["sign"])), found["identity"])
        return made if made and made.public == keys.public(folder) else None
    except (FedhelpError, OSError, ValueError, KeyError, TypeError, UnsupportedAlgorithm):
        return None  # then the passphrase is asked for


def hold(folder: Path, unlocked: Keys, minutes: float) -> None:
    """Start a process that holds keys for so long."""
    end(folder)
    path = _place(folder)
    path.unlink(missing_ok=True)  # of one that was killed
    command = [sys.executable, "-m", __name__, str(path), str(minutes)]
    secret = {"sign": unlocked.sign.private_bytes_raw().hex(), "identity": unlocked.identity}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    said, _ = process.communicate(json.dumps(secret).encode())
    if said != b"ready\n":
        raise InternalError("the process that should hold the keys did not start")


def end(folder: Path) -> bool:
    """Make whoever holds the keys of a folder forget them; whether somebody did."""
    with contextlib.suppress(OSError, FedhelpError):
        return bool(_ask(folder, _LOCK))
    return False


def _place(folder: Path) -> Path:
    """Where the process that holds the keys of a folder is reached."""
    own = Path(f"/run/user/{os.getuid()}")
    place = own / "fedhelp" if own.is_dir() else Path(tempfile.gettempdir()) / f"fedhelp-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o700)
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        remedy = f"remove {place}, or let its owner do so"
        raise KeysModeError(f"{place.name} is not a folder that only this user may enter", remedy=remedy)
    name = f"{folder.resolve()}\n{keys.public(folder).sign}"
    return place / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.sock"


def _ask(folder: Path, what: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(_LOOK)
        line.connect(str(_place(folder)))
        if not _is_own(line):
            return b""
        line.sendall(what)
        with line.makefile("rb") as answer:
            return answer.read(_LIMIT)


def _is_own(line: socket.socket) -> bool:
    """Whether the other end is a process of this user, where the system says so; else the folder's mode must do."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return bool(user == os.getuid())


# --- the process ------------------------------------------------------------------------------
def main(path: Path, minutes: float) -> None:
    import resource

    secret = sys.stdin.buffer.read(_LIMIT)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash writes no keys to the disk
    os.umask(0o077)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))
        try:
            door.listen()
            if os.fork():  # whoever started it need not wait for its end
                os._exit(0)
            print("ready", flush=True)
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):  # whoever started it and reads these need not wait either
                os.dup2(nowhere, stream)
            os.chdir("/")
            _serve(door, secret, 60 * minutes)
        finally:
            path.unlink(missing_ok=True)


def _serve(door: socket.socket, secret: bytes, seconds: float) -> None:
    began, clock = time.monotonic(), time.time()
    while (left := seconds - max(time.monotonic() - began, time.time() - clock)) > 0:
        door.settimeout(min(left, _LOOK))
        with contextlib.suppress(OSError):  # nobody came, or somebody went
            line, _ = door.accept()
            with line:
                line.settimeout(_LOOK)
                if not _is_own(line):
                    continue
                if (what := line.recv(len(_GIVE))) == _LOCK:
                    line.sendall(b"locked\n")
                    return
                if what == _GIVE:
                    line.sendall(secret)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
