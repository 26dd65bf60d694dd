"""Create a hub: its folder, its keys, and its first charter and roster."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import (
    FedhelpError,
    TargetExistsError,
)
from fedhelp_edge.parcel import keys
from fedhelp_edge.plan import Plan
from server_ref.hub import hub as hub_hub
from server_ref.hub.database import HubDatabase


def check_new(home: Path, plan: Plan, root: Path | None = None) -> None:
    """Refuse what would stop a new hub, before anybody types a passphrase for it."""
    if home.exists() and any(home.iterdir()):
        raise TargetExistsError(f"{home.name} is in use already")
    if root and not _is_abandoned(home, root):
        keys.check_absent(root)


def work_folder(home: Path) -> Path:
    """Where a hub is made: it gets its name whole or not at all."""
    return home.with_name(f".{home.name}.part")


def _is_abandoned(home: Path, root: Path) -> bool:
    """Whether a root key is that of a hub whose making was cut off: nobody follows it."""
    try:
        hub = hub_hub.Hub(work_folder(home))
        try:
            return keys.load_public(root).sign in hub.charter.roots
        finally:
            hub.database.close()
    except FedhelpError:
        return False


def new_hub(
    home: Path, plan: Plan, passphrase: str | None, *, root: Path | None = None, url: str = "",
    clock: Callable[[], datetime] | None = None,
) -> hub_hub.Hub:  # fmt: skip
    """A new hub: four keys, the charter, an empty roster, and round 0's model."""
    check_new(home, plan, root)
    if root and keys.are_in(root):
        keys.remove(root)
    work = work_folder(home)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o700, parents=True)
    for name in ("round-keys", "shares", "models", "parcels", *(f"parcels/{first:02x}" for first in range(256))):
        (work / name).mkdir()
    new_keys = {role: keys.generate() for role in (hub_hub.ROOT, hub_hub.COORDINATOR, hub_hub.FRONT)}
    keys.save(work / hub_hub.COORDINATOR, new_keys[hub_hub.COORDINATOR], passphrase)
    keys.save(work / hub_hub.FRONT, new_keys[hub_hub.FRONT], None)
    HubDatabase(work, new=True).close()
    hub = hub_hub.Hub(work, clock=clock)
    hub.open_memory(new_keys[hub_hub.COORDINATOR])
    with hub.database.transaction():
        hub.begin(plan, new_keys, url)
    hub.database.close()
    for folder in (work / "parcels", work):
        files.sync_folder(folder)
    keys.save(root or work / hub_hub.ROOT, new_keys[hub_hub.ROOT], passphrase)  # once it can be seen whose it is
    if home.exists():
        home.rmdir()
    work.rename(home)
    files.sync_folder(home.parent)
    hub = hub_hub.Hub(home, clock=clock)
    hub.open_memory(new_keys[hub_hub.COORDINATOR])
    return hub
