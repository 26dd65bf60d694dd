"""Create a hub: its folder, its keys, and its first charter, roster and model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import FedhelpError, TargetExistsError, UsageError
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import keys
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.parcel.statement import ZERO_HASH
from fedhelp_edge.plan import Plan
from fedhelp_edge.trust import charter
from server_ref.hub import members, models
from server_ref.hub.database import HubDatabase
from server_ref.hub.hub import COORDINATOR, FRONT, ROOT, Hub, to_json
from server_ref.hub.states import State
from server_ref.hub.tables import rounds_table


def check_new(home: Path, root: Path | None = None) -> None:
    """Refuse what would stop a new hub, before anybody types a passphrase for it."""
    if home.exists() and any(home.iterdir()):
        raise TargetExistsError(f"{home.name} is in use already")
    if root and root.resolve().is_relative_to(home.resolve()):
        remedy = "name a folder outside the hub, or leave --root-key out: the root key then begins in the hub"
        raise UsageError("the folder for the root key lies inside the hub", remedy=remedy)
    if root and not _is_abandoned(home, root):
        keys.check_absent(root)


def work_folder(home: Path) -> Path:
    """Where a hub is created: it gets its name when it is complete, or not at all."""
    return home.with_name(f".{home.name}.part")


def _is_abandoned(home: Path, root: Path) -> bool:
    """Whether a root key belongs to a hub whose creation was cut off: no site follows it."""
    try:
        hub = Hub(work_folder(home))
        try:
            return keys.load_public(root).sign in hub.charter.roots
        finally:
            hub.database.close()
    except FedhelpError:
        return False


def new_hub(
    home: Path, plan: Plan, passphrase: str | None, *, root: Path | None = None, url: str = "",
    clock: Callable[[], datetime] | None = None,
) -> Hub:  # fmt: skip
    """A new hub: its keys, the charter, an empty roster, and round 0's model."""
    check_new(home, root)
    if root and keys.exist(root):
        keys.remove(root)
    work = work_folder(home)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o700, parents=True)
    for name in ("round-keys", "shares", "models", "parcels", *(f"parcels/{first:02x}" for first in range(256))):
        (work / name).mkdir()
    new_keys = {role: keys.generate() for role in (ROOT, COORDINATOR, FRONT)}
    keys.save(work / COORDINATOR, new_keys[COORDINATOR], passphrase)
    keys.save(work / FRONT, new_keys[FRONT], None)
    HubDatabase(work, new=True).close()
    hub = Hub(work, clock=clock)
    hub.open_memory(new_keys[COORDINATOR])
    with hub.database.transaction():
        _publish_first(hub, plan, new_keys, url)
    hub.database.close()
    for folder in (work / "parcels", work):
        files.sync_folder(folder)
    keys.save(root or work / ROOT, new_keys[ROOT], passphrase)  # once `_is_abandoned` can tell whose it is
    if home.exists():
        home.rmdir()
    work.rename(home)
    files.sync_folder(home.parent)
    hub = Hub(home, clock=clock)
    hub.open_memory(new_keys[COORDINATOR])
    return hub


def _publish_first(hub: Hub, plan: Plan, new_keys: Mapping[str, Keys], url: str) -> None:
    """The first charter, roster and model, and the first rows."""
    coordinator_keys, root_keys = new_keys[COORDINATOR], new_keys[ROOT]
    hub.database.set_fact("plan", plan.text)
    hub.database.set_fact("url", url)
    body = charter.body(plan.name, (root_keys.public.sign,), coordinator_keys.public.sign)
    sealed = hub.publish("charter", to_json(body), root_keys, number=1, epoch=1, version=1, previous=ZERO_HASH)
    hub.database.set_fact("federation", charter.federation_id(sealed))
    hub.log("charter", COORDINATOR, version=1)
    members.write_roster(hub, coordinator_keys, [], new_keys[FRONT].public.sign, root_keys.public.recipient)
    model = models.save(hub, METHODS[plan.method].start(plan))
    rounds_table.add(hub.database, 0, State.MERGED, model=model)
    models.publish(hub, coordinator_keys, 0, model, [], "start")
