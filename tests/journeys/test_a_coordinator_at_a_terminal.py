"""A coordinator's round at a real terminal: a passphrase typed once, and nothing else asked until `lock`."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from fedhelp_edge.parcel import keys
from server_ref.admin import agent
from tests import command, terminal
from tests.command import COORDINATOR
from tests.federation import PLAN
from tests.journeys.test_a_coordinator import Coordinator
from tests.site_and_hub import fails_with, succeeds
from tests.terminal import Terminal

PASSPHRASE = "amber violin sketch lemon"


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    """A coordinator without a passphrase file."""
    coordinator = Coordinator(tmp_path, PLAN, locked=False)
    (coordinator.stick / "to-coordinator").mkdir()
    yield coordinator
    if (tmp_path / "hub").exists():
        succeeds(coordinator.hub("lock"))


def asks(screen: Terminal, *prompts: str, answer: str = PASSPHRASE) -> None:
    for prompt in prompts:
        screen.sees(prompt)
        screen.types(answer)


def terminal_of(coordinator: Coordinator, *words: str | Path) -> AbstractContextManager[Terminal]:
    return terminal.running(
        *words, home=coordinator.folder, program=COORDINATOR, FEDHELP_HOME=str(coordinator.folder / "hub")
    )


def test_a_round_from_init_to_review_asks_for_the_passphrase_at_init_and_once_at_unlock(
    coordinator: Coordinator,
) -> None:
    new = ("new passphrase: ", "Repeat for confirmation: ")
    with terminal_of(coordinator, "init", "--plan", "plan.toml") as screen:
        asks(screen, *new, answer="secret")
        screen.sees("E_PASSPHRASE_WEAK")
        assert screen.ends() == 1
    with terminal_of(coordinator, "init", "--plan", "plan.toml") as screen:
        asks(screen, *new)
        assert screen.ends() == 0, screen.screen
        assert PASSPHRASE not in screen.screen
    with terminal_of(coordinator, "init", "--plan", "plan.toml") as screen:
        assert screen.ends() == 1
        assert "E_FILE_EXISTS" in screen.screen
        assert "passphrase: " not in screen.screen
    with terminal_of(coordinator, "unlock") as screen:
        asks(screen, "coordinator's passphrase: ", answer="another one")
        assert screen.ends() == 1
        assert "E_PASSPHRASE" in screen.screen
    assert command.error_code(coordinator.hub("requests")) == "E_PASSPHRASE_NEEDED"
    with terminal_of(coordinator, "unlock") as screen:
        asks(screen, "coordinator's passphrase: ")
        assert screen.ends() == 0, screen.screen

    clinics = [coordinator.invited(number) for number in (1, 2, 3)]
    succeeds(coordinator.hub("exchange", coordinator.stick))
    assert "0 requests wait" in succeeds(coordinator.hub("requests")).stdout
    succeeds(coordinator.hub("open"))
    succeeds(coordinator.hub("exchange", coordinator.stick))
    coordinator.round(clinics[:2])
    coordinator.round(clinics[2:], factor=0)
    succeeds(coordinator.hub("exchange", coordinator.stick))
    assert "site-003 quarantined: E_LAZY" in succeeds(coordinator.hub("aggregate", "--now")).stdout
    (odd,) = command.json_output(succeeds(coordinator.hub("review", "--json")))["quarantined"]
    with terminal_of(coordinator, "review", odd["hash"][:12], "--refuse") as screen:
        assert screen.ends() == 0, screen.screen
        assert "site-003: refused" in screen.screen
    assert command.json_output(succeeds(coordinator.hub("review", "--json")))["quarantined"] == []

    assert "locked" in succeeds(coordinator.hub("lock")).stdout
    assert command.error_code(coordinator.hub("requests")) == "E_PASSPHRASE_NEEDED"
    with terminal_of(coordinator, "requests") as screen:
        asks(screen, "coordinator's passphrase: ")
        assert screen.ends() == 0, screen.screen


@pytest.fixture
def locked(coordinator: Coordinator) -> Coordinator:
    """A hub whose keys have a passphrase."""
    (coordinator.folder / "pass").write_text(f"{PASSPHRASE}\n")
    (coordinator.folder / "pass").chmod(0o600)
    words = ["init", "--plan", "plan.toml", "--home", "hub", "--passphrase-file", "pass"]
    succeeds(command.run_in_process(*words, home=coordinator.folder, program=COORDINATOR))
    return coordinator


def test_the_agent_holds_keys_for_one_user_one_hub_and_a_limited_time(locked: Coordinator) -> None:
    folder = locked.folder / "hub" / "coordinator"
    socket_path = agent._socket_path(folder)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(socket_path))  # left by a killed agent
    succeeds(locked.hub("unlock", "--passphrase-file", "pass"))
    assert stat.S_IMODE(socket_path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(socket_path.stat().st_mode) & 0o077 == 0
    assert sorted(path.suffix for path in socket_path.parent.iterdir() if path.name.startswith(socket_path.name)) == [
        ".sock"
    ]
    held_keys = agent.held_keys(folder)
    assert held_keys is not None
    assert held_keys.public == keys.load_public(folder)
    other = locked.folder / "other"
    keys.save(other, keys.generate(), PASSPHRASE)
    assert agent.held_keys(other) is None
    succeeds(locked.hub("unlock", "--passphrase-file", "pass", "--minutes", "0.01"))
    until = time.monotonic() + 60
    while socket_path.exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    assert agent.held_keys(folder) is None
    assert "nothing was unlocked" in succeeds(locked.hub("lock")).stdout


def keys_given_to(user: int, socket_path: Path) -> bytes:
    """The keys that an agent's socket gives to a process of another user."""
    os.seteuid(user)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(socket_path))
            connection.sendall(b"give\n")
            return connection.recv(4096)
    except (ConnectionError, PermissionError):
        return b""
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_the_agent_gives_no_keys_to_another_user_even_on_an_open_socket(locked: Coordinator) -> None:
    succeeds(locked.hub("unlock", "--passphrase-file", "pass"))
    socket_path = agent._socket_path(locked.folder / "hub" / "coordinator")
    assert keys_given_to(65534, socket_path) == b""
    assert b"identity" in keys_given_to(0, socket_path)
    with tempfile.TemporaryDirectory(dir="/tmp") as open_to_all:
        Path(open_to_all).chmod(0o755)
        socket_path = Path(open_to_all) / "open.sock"
        program = [sys.executable, "-m", "server_ref.admin.agent", str(socket_path), "1"]
        assert subprocess.run(program, input=b"the keys", capture_output=True, check=True).stdout == b"ready\n"
        socket_path.chmod(0o777)
        assert keys_given_to(65534, socket_path) == b""
        assert keys_given_to(0, socket_path) == b"the keys"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(socket_path))
            connection.sendall(b"lock\n")
            assert connection.recv(10) == b"locked\n"


@pytest.mark.skipif(Path(f"/run/user/{os.getuid()}").is_dir(), reason="the system keeps a folder for this user")
def test_the_agent_stores_no_keys_in_a_folder_that_others_can_enter(
    locked: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"fedhelp-{os.getuid()}").mkdir(mode=0o755)
    fails_with(locked.hub("unlock", "--passphrase-file", "pass"), "E_KEYS_MODE", "ask its owner to remove it")
    succeeds(locked.hub("requests", "--passphrase-file", "pass"))
    assert command.error_code(locked.hub("requests")) == "E_PASSPHRASE_NEEDED"


def test_keys_without_a_passphrase_need_not_be_unlocked(coordinator: Coordinator) -> None:
    succeeds(coordinator.hub("init", "--plan", "plan.toml"))
    fails_with(coordinator.hub("unlock"), "E_STATE", "nothing needs to be unlocked")
