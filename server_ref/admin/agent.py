"""Holds the coordinator's unlocked keys for a while, so that the commands of a round ask for the passphrase once.

`unlock` starts a process that holds them; `lock` or its time limit ends it. The process reads the keys from a pipe and
writes them nowhere. It gives them to processes of the same user through a socket in a folder that only this user may
enter. As with ssh-agent, anybody who works as this user can use the keys until then.
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

_MAX_MESSAGE_BYTES = 4096
_GIVE, _LOCK = b"give\n", b"lock\n"
_POLL_SECONDS = 5.0  # between two looks at the clock, because it may be set and the machine may sleep


def check_available(folder: Path) -> None:
    """Raise where the agent cannot hold the keys of a folder, or where they have no passphrase."""
    if not hasattr(socket, "AF_UNIX"):
        remedy = "name a file that holds the passphrase with --passphrase-file or FEDHELP_PASSPHRASE_FILE"
        raise NotNowError("this system has no sockets that only one user can open", remedy=remedy)
    if not keys.is_locked(folder):
        raise NotNowError("the coordinator's keys have no passphrase", remedy="nothing needs to be unlocked")
    _socket_path(folder)


def held_keys(folder: Path) -> Keys | None:
    """The keys of a folder if an agent holds them unlocked, else None."""
    if not hasattr(socket, "AF_UNIX") or not keys.is_locked(folder):
        return None
    try:
        secret = json.loads(_request(folder, _GIVE) or "null")
        loaded = secret and Keys(
            Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret["sign"])), secret["identity"]
        )
        return loaded if loaded and loaded.public == keys.load_public(folder) else None
    except (FedhelpError, OSError, ValueError, KeyError, TypeError, UnsupportedAlgorithm):
        return None  # the caller asks for the passphrase then


def start(folder: Path, unlocked_keys: Keys, minutes: float) -> None:
    """Start an agent that holds unlocked keys for so many minutes."""
    stop(folder)
    socket_path = _socket_path(folder)
    socket_path.unlink(missing_ok=True)  # of an agent that was killed
    command = [sys.executable, "-m", __name__, str(socket_path), str(minutes)]
    secret = {"sign": unlocked_keys.sign.private_bytes_raw().hex(), "identity": unlocked_keys.identity}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    output, _ = process.communicate(json.dumps(secret).encode())
    if output != b"ready\n":
        raise InternalError("the process that holds the keys did not start")


def stop(folder: Path) -> bool:
    """Stop the agent that holds the keys of a folder. Returns whether there was one."""
    with contextlib.suppress(OSError, FedhelpError):
        return bool(_request(folder, _LOCK))
    return False


def _socket_path(folder: Path) -> Path:
    """The path of the agent's socket. Its folder belongs to this user alone, so nobody else can pose as the agent."""
    runtime_folder = Path(f"/run/user/{os.getuid()}")
    socket_folder = (
        runtime_folder / "fedhelp"
        if runtime_folder.is_dir()
        else Path(tempfile.gettempdir()) / f"fedhelp-{os.getuid()}"
    )
    with contextlib.suppress(FileExistsError):
        socket_folder.mkdir(mode=0o700)
    info = socket_folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        remedy = f"remove {socket_folder}, or ask its owner to remove it"
        raise KeysModeError(f"{socket_folder.name} is not a folder that only this user can enter", remedy=remedy)
    identity = f"{folder.resolve()}\n{keys.load_public(folder).sign}"
    return socket_folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.sock"


def _request(folder: Path, command: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_POLL_SECONDS)
        connection.connect(str(_socket_path(folder)))
        if not _is_same_user(connection):
            return b""
        connection.sendall(command)
        with connection.makefile("rb") as reply:
            return reply.read(_MAX_MESSAGE_BYTES)


def _is_same_user(connection: socket.socket) -> bool:
    """Whether the other end is a process of this user. Where the system cannot tell, the folder's mode protects."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return bool(uid == os.getuid())


# --- the process ------------------------------------------------------------------------------
def main(path: Path, minutes: float) -> None:
    """The agent: read the keys from standard input, go to the background, and answer until the time is over."""
    import resource

    secret = sys.stdin.buffer.read(_MAX_MESSAGE_BYTES)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash writes no keys to the disk
    os.umask(0o077)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        try:
            listener.listen()
            if os.fork():  # the parent does not wait for the agent to end
                os._exit(0)
            print("ready", flush=True)
            null_device = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):  # a parent that reads these does not wait either
                os.dup2(null_device, stream)
            os.chdir("/")
            asked_to_lock = _serve(listener, secret, 60 * minutes)
        finally:
            path.unlink(missing_ok=True)
        if asked_to_lock:  # now the name is free for the next agent
            with contextlib.suppress(OSError), asked_to_lock:
                asked_to_lock.sendall(b"locked\n")


def _serve(listener: socket.socket, secret: bytes, seconds: float) -> socket.socket | None:
    """Give the keys to whoever asks, until the time is over, or somebody asks to lock: to whom nothing was said yet."""
    started, wall_started = time.monotonic(), time.time()
    while (remaining := seconds - max(time.monotonic() - started, time.time() - wall_started)) > 0:
        listener.settimeout(min(remaining, _POLL_SECONDS))
        with contextlib.suppress(OSError):  # nobody connected, or the other end hung up
            connection, _ = listener.accept()
            with contextlib.ExitStack() as closing:
                closing.enter_context(connection)
                connection.settimeout(_POLL_SECONDS)
                if not _is_same_user(connection):
                    continue
                if (command := connection.recv(len(_GIVE))) == _LOCK:
                    closing.pop_all()
                    return connection
                if command == _GIVE:
                    connection.sendall(secret)
    return None


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
