"""What happens once in years: a backup, a hub that comes back from one, and new keys.

A hub from a backup has forgotten what it said since, and a new coordinator's key makes the old one's orders void. Both
begin a new epoch, which only the root key can: sites compare (epoch, version) and never go back.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import BadBackupError, HubDamagedError, NoHubError, SignerRoleError, TargetExistsError
from fedhelp_edge.parcel import keys, parcel
from fedhelp_edge.parcel.keys import Keys, Public
from fedhelp_edge.trust import charter
from fedhelp_edge.trust.roster import Roster
from server_ref.hub import memory
from server_ref.hub.create import work_of
from server_ref.hub.database import DATABASE
from server_ref.hub.hub import COORDINATOR, FRONT, Hub
from server_ref.intake.judge import round_key
from server_ref.rounds import close, open, state

_KEPT = ("parcels", "models", "round-keys")  # neither the root key nor what is plain: shares are opened again
_END = bytes(2 * tarfile.BLOCKSIZE)  # of a tar file: without it some files may be missing, which tarfile does not mind


def backup(hub: Hub, path: Path) -> None:
    """The whole hub in one file, as it is at this moment; the keys in it are locked as they are in the hub."""
    files.clear_parts(path)
    copy = hub.home / f".{os.urandom(8).hex()}.part"
    try:
        hub.store.rows("VACUUM INTO ?", str(copy))
        with files.writing(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
            tar.add(copy, DATABASE)
            tar.add(hub.front_folder, FRONT, filter=_whole)
            for name in dict.fromkeys((*_KEPT, hub.boss_folder.name, f"{COORDINATOR}/{memory.FILE}")):
                if (hub.home / name).exists():
                    tar.add(hub.home / name, name, filter=_whole)
    finally:
        copy.unlink(missing_ok=True)


def _whole(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if Path(member.name).name.startswith(".") else member


def check_place(home: Path, path: Path) -> None:
    """Refuse a backup that is not there, or a place that is taken, before anybody types a passphrase."""
    if home.exists() and any(home.iterdir()):
        raise TargetExistsError(f"{home.name} is in use already")
    with files.reading(path):
        pass


def restore(home: Path, path: Path, root: Keys, ask: Callable[[], str], *, older: bool = False) -> Hub:
    """A hub from its backup, in a new epoch: what it said after the backup, nobody holds against it.

    A backup without the coordinator's memory is only taken where a person says that an `older` program made it.
    """
    check_place(home, path)
    work = work_of(home)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o700, parents=True)
    try:
        hub = _unpack(path, work)
        if not older and not hub.memory.exists():
            remedy = "take another backup; if an older version of this program made it, add --from-older-version"
            raise BadBackupError(f"{path.name} lacks what the coordinator remembered of its hub", remedy=remedy)
        boss = hub.boss(ask)
        hub.check()
        new_epoch(hub, boss, [root])
        hub.store.close()
        files.sync_tree(work)
        if home.exists():
            home.rmdir()
        work.rename(home)
        files.sync_folder(home.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    hub = Hub(home)
    hub.remember(boss)
    return hub


def _unpack(path: Path, work: Path) -> Hub:
    try:
        with files.reading(path) as file, tarfile.open(fileobj=file) as tar:
            tar.getmembers()  # to its end
            file.seek(tar.offset)
            if file.read(len(_END)) != _END:
                raise tarfile.ReadError("cut off between two files")
            tar.extractall(work, filter="data")
        shutil.rmtree(work / "shares", ignore_errors=True)  # of an older backup: opened again from what was sent
        (work / "shares").mkdir()
        hub = Hub(work)
        hub.store.reconcile()
    except (tarfile.TarError, sqlite3.DatabaseError, HubDamagedError, NoHubError):
        raise BadBackupError(f"{path.name} is no backup of a hub, or it is damaged") from None
    return hub


def new_epoch(hub: Hub, boss: Keys, roots: Sequence[Keys]) -> None:
    """A charter that voids all earlier orders, and the roster and model anew under it."""
    law, known = hub.charter, hub.roster
    check_root(law, roots[0].public)
    with hub.store.changing():
        _call_off(hub)
        body = charter.body(law.name, law.roots, boss.public.sign, law.threshold)
        hub.write_charter(roots, body, epoch=law.epoch + 1)
        _say_again(hub, boss, known, known.archive)


def rotate_coordinator(hub: Hub, old: Keys, new: Keys, root: Keys, passphrase: str | None) -> None:
    """Another coordinator's key, in force from the commit on. Until `settle` both open the rounds' keys."""
    check_root(hub.charter, root.public)
    folder = hub.home / f"{COORDINATOR}-{hub.charter.version + 1}"
    _write_begun(hub, coordinator=folder.name)
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was cut off
    keys.save(folder, new, passphrase)
    _seal_round_keys(hub, old, [old, new])
    with hub.store.changing():
        new_epoch(hub, new, [root])
        hub.store.keep_fact("boss", folder.name)
        if hub.store.memory:
            hub.store.memory.rekey(folder.name, new)
        if hub.store.fact("knowledge"):  # which no newcomer would take from the old key
            with parcel.open(hub.store.path(hub.newest("knowledge")["hash"]), parcel.anyone) as pack:
                hub.publish_pack(new, pack.body)


def rotate_root(hub: Hub, boss: Keys, old: Keys, new: Keys, folder: Path, passphrase: str | None) -> None:
    """Another root key, to which later shares are archived. Both sign, so that every site follows."""
    law, known = hub.charter, hub.roster
    check_root(law, old.public)
    check_free(hub, folder)
    if keys.are_in(folder):
        keys.remove(folder)
    _write_begun(hub, root=new.public.sign)
    keys.save(folder, new, passphrase)
    with hub.store.changing():
        body = charter.body(law.name, (new.public.sign,), law.coordinator, law.threshold)
        hub.write_charter([old, new], body, epoch=law.epoch)
        _say_again(hub, boss, known, new.public.recipient)


# --- a change of keys that was cut off -------------------------------------------------------------
def is_in_force(hub: Hub, root: Path | None) -> bool:
    """Whether the change of the root key, or of the coordinator's, was made by a command that was cut off later."""
    begun = _begun(hub)
    if root is None:
        return begun.get("coordinator") == hub.boss_folder.name
    return keys.are_in(root) and keys.public_half(root).sign == begun.get("root") in hub.charter.roots


def check_free(hub: Hub, folder: Path) -> None:
    """Refuse a folder for a new root key that holds keys, unless they are of an attempt that was cut off."""
    sign = _begun(hub).get("root")
    left = sign and sign not in hub.charter.roots and keys.are_in(folder) and keys.public_half(folder).sign == sign
    if not left:
        keys.check_none(folder)


def settle(hub: Hub, boss: Keys, *, told: bool = False) -> None:
    """End a change of the coordinator's key, or what an attempt at it has left: only the key in force opens the
    rounds' keys. A changed root key leaves nothing to do, once the command has told of it."""
    begun = _begun(hub)
    if name := begun.get("coordinator"):
        _seal_round_keys(hub, boss, [boss])
        if name != hub.boss_folder.name:
            shutil.rmtree(hub.home / name, ignore_errors=True)
    if (name or told) and begun:
        if hub.store.memory:
            hub.store.memory.close()
        _note(hub).unlink(missing_ok=True)  # last of all: until then the command may be typed again


def _seal_round_keys(hub: Hub, boss: Keys, readers: Sequence[Keys]) -> None:
    for path in sorted((hub.home / "round-keys").glob("*.age")):
        open.keep_key(hub, readers, int(path.stem), round_key(hub, boss, int(path.stem)))


def _note(hub: Hub) -> Path:
    return hub.memory.with_name("new-keys.json")  # where the front cannot write


def _write_begun(hub: Hub, **what: str) -> None:
    files.replace(_note(hub), json.dumps(what).encode())


def _begun(hub: Hub) -> dict[str, str]:
    """Which change of keys was begun: to the keys in a folder of the hub, or to a root key."""
    try:
        return dict(json.loads(_note(hub).read_bytes()))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError):
        raise HubDamagedError("the note of a change of keys is damaged") from None


def check_root(law: charter.Charter, root: Public) -> None:
    if root.sign not in law.roots:
        remedy = "name the folder that holds it with --root-key"
        raise SignerRoleError("this is not the root key of this federation", remedy=remedy)


def _call_off(hub: Hub) -> None:
    """The open round's order is void with its epoch."""
    last = state.newest(hub)
    if last["state"] == close.OPEN:
        state.call_off(hub, last)
    hub.store.keep_fact("void", str(last["round"]))


def _say_again(hub: Hub, boss: Keys, known: Roster, archive: str) -> None:
    hub.write_roster(boss, known.sites, known.front, archive)
    hub.send_newest(boss)
