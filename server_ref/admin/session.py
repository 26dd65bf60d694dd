"""The coordinator at work: the hub open, its keys at hand, nobody else writing, and everything that waited judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fedhelp_edge import lock, passphrase, shell
from fedhelp_edge.errors import NoHubError, NoKeysError
from fedhelp_edge.parcel import keys
from fedhelp_edge.parcel.keys import Keys, Public
from server_ref.admin import agent, decisions, recovery
from server_ref.hub.hub import Hub
from server_ref.rounds import close

LOCK = "writer.lock"


@contextmanager
def opened(home: Path) -> Iterator[Hub]:
    """A hub to look at."""
    hub = Hub(shell.home(home))
    try:
        yield hub
    finally:
        hub.store.close()


@contextmanager
def working(
    home: Path, passphrase_file: Path | None, *, judge: bool = True, before: Callable[[Hub], object] = bool
) -> Iterator[tuple[Hub, Keys]]:
    """A hub to work on. `before` refuses what needs no key to refuse, so that nobody types a passphrase in vain."""
    with opened(home) as hub:
        before(hub)
        boss = keys_of(hub, passphrase_file)
        with writing(hub):
            hub.check()
            recovery.settle(hub, boss)
            close.forget(hub)
            if judge:
                decisions.judge(hub, boss)
            yield hub, boss


def keys_of(hub: Hub, passphrase_file: Path | None) -> Keys:
    """The coordinator's keys, as `unlock` holds them, else by the passphrase."""
    held = None if passphrase_file else agent.held(hub.boss_folder)
    if held is None:
        return hub.boss(passphrase.asker(passphrase_file, "coordinator's passphrase"))
    hub.remember(held)
    return held


def root_keys(folder: Path, passphrase_file: Path | None) -> Keys:
    """The root key, from where the person keeps it."""
    root_public(folder)
    return keys.load(folder, passphrase.asker(passphrase_file, "root key's passphrase"))


def root_public(folder: Path) -> Public:
    try:
        return keys.public(folder)
    except NoKeysError as fault:
        raise NoKeysError(fault.cause, remedy="name the folder that holds the root key with --root-key") from fault


@contextmanager
def writing(hub: Hub) -> Iterator[None]:
    """One command at a time changes a hub; what a crash left behind goes first."""
    if not hub.home.is_dir():
        raise NoHubError(f"{hub.home.name} holds no hub")
    with lock.held(hub.home / LOCK):
        hub.store.reconcile()
        hub.verify()
        yield
        if hub.store.memory:
            hub.store.memory.close()
