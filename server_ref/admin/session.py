"""What a command works with: an open hub, the unlocked keys, and the lock that keeps other commands from writing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fedhelp_edge import console, lock, passphrase, shell
from fedhelp_edge.errors import NoHubError, NoKeysError
from fedhelp_edge.parcel import keys
from fedhelp_edge.parcel.keys import Keys, PublicKeys
from server_ref.admin import agent, decisions, recovery
from server_ref.hub.hub import Hub
from server_ref.rounds import close

WRITER_LOCK = "writer.lock"


@contextmanager
def open_hub(home: Path) -> Iterator[Hub]:
    """Open a hub for reading."""
    hub = Hub(shell.home_folder(home))
    try:
        yield hub
    finally:
        hub.database.close()


@contextmanager
def unlocked_hub(
    home: Path, passphrase_file: Path | None, *, judge: bool = True, precheck: Callable[[Hub], object] = bool
) -> Iterator[tuple[Hub, Keys]]:
    """Open a hub for writing, with the coordinator's keys, and judge everything that waits unless `judge` is false.

    `precheck` raises whatever can be refused without a key, so that nobody types a passphrase in vain.
    """
    with open_hub(home) as hub:
        precheck(hub)
        coordinator_keys = load_coordinator_keys(hub, passphrase_file)
        with write_lock(hub):
            hub.check()
            recovery.finish_rotation(hub, coordinator_keys)
            close.destroy_obsolete(hub)
            if judge:
                decisions.apply_and_judge(hub, coordinator_keys)
            yield hub, coordinator_keys
            if judge:
                console.say(*decisions.advance_round(hub, coordinator_keys))


def load_coordinator_keys(hub: Hub, passphrase_file: Path | None) -> Keys:
    """The coordinator's keys: from the agent that `unlock` started, or else with the passphrase."""
    unlocked = None if passphrase_file else agent.held_keys(hub.coordinator_folder)
    if unlocked is None:
        return hub.coordinator_keys(passphrase.provider(passphrase_file, "coordinator's passphrase"))
    hub.open_memory(unlocked)
    return unlocked


def load_root_keys(folder: Path, passphrase_file: Path | None) -> Keys:
    """The root keys from the folder where the person keeps them, with their passphrase."""
    read_root_public_keys(folder)
    return keys.load(folder, passphrase.provider(passphrase_file, "root key's passphrase"))


def read_root_public_keys(folder: Path) -> PublicKeys:
    """The public half of the root keys. It needs no passphrase."""
    try:
        return keys.load_public(folder)
    except NoKeysError as error:
        raise NoKeysError(error.cause, remedy="name the folder that holds the root key with --root-key") from error


@contextmanager
def write_lock(hub: Hub) -> Iterator[None]:
    """Let one command at a time change a hub. First repair what a crash left behind."""
    if not hub.home.is_dir():
        raise NoHubError(f"{hub.home.name} holds no hub")
    with lock.exclusive(hub.home / WRITER_LOCK):
        hub.database.reconcile()
        hub.check_rows()
        yield
        if hub.database.memory:
            hub.database.memory.close()
