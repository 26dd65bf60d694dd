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
from fedhelp_edge.parcel.keys import Keys, PublicKeys
from fedhelp_edge.trust import charter
from fedhelp_edge.trust.roster import Roster
from server_ref.hub import memory
from server_ref.hub.create import work_folder
from server_ref.hub.database import DATABASE
from server_ref.hub.hub import COORDINATOR, FRONT, Hub
from server_ref.intake.judge import round_key
from server_ref.rounds import close, lifecycle, opening

_FOLDERS = ("parcels", "models", "round-keys")  # neither the root key nor what is plain: shares are opened again
_TAR_END = bytes(
    2 * tarfile.BLOCKSIZE
)  # of a tar file: without it some files may be missing, which tarfile does not mind


def backup(hub: Hub, path: Path) -> None:
    """The whole hub in one file, as it is at this moment; the keys in it are locked as they are in the hub."""
    files.remove_partials(path)
    database_copy = hub.home / f".{os.urandom(8).hex()}.part"
    try:
        hub.database.rows("VACUUM INTO ?", str(database_copy))
        with files.writing(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
            tar.add(database_copy, DATABASE)
            tar.add(hub.front_folder, FRONT, filter=_skip_hidden)
            for name in dict.fromkeys((*_FOLDERS, hub.coordinator_folder.name, f"{COORDINATOR}/{memory.FILE}")):
                if (hub.home / name).exists():
                    tar.add(hub.home / name, name, filter=_skip_hidden)
    finally:
        database_copy.unlink(missing_ok=True)


def _skip_hidden(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if Path(member.name).name.startswith(".") else member


def check_restore(home: Path, path: Path) -> None:
    """Refuse a backup that is not there, or a place that is taken, before anybody types a passphrase."""
    if home.exists() and any(home.iterdir()):
        raise TargetExistsError(f"{home.name} is in use already")
    with files.reading(path):
        pass


def restore(home: Path, path: Path, root_keys: Keys, ask_passphrase: Callable[[], str], *, older: bool = False) -> Hub:
    """A hub from its backup, in a new epoch: what it said after the backup, nobody holds against it.

    A backup without the coordinator's memory is only taken where a person says that an `older` program made it.
    """
    check_restore(home, path)
    scratch = work_folder(home)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700, parents=True)
    try:
        hub = _unpack(path, scratch)
        if not older and not hub.memory.exists():
            remedy = "take another backup; if an older version of this program made it, add --from-older-version"
            raise BadBackupError(f"{path.name} lacks what the coordinator remembered of its hub", remedy=remedy)
        coordinator_keys = hub.coordinator_keys(ask_passphrase)
        hub.check()
        begin_epoch(hub, coordinator_keys, [root_keys])
        hub.database.close()
        files.sync_tree(scratch)
        if home.exists():
            home.rmdir()
        scratch.rename(home)
        files.sync_folder(home.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    hub = Hub(home)
    hub.open_memory(coordinator_keys)
    return hub


def _unpack(path: Path, scratch: Path) -> Hub:
    try:
        with files.reading(path) as file, tarfile.open(fileobj=file) as tar:
            tar.getmembers()  # to its end
            file.seek(tar.offset)
            if file.read(len(_TAR_END)) != _TAR_END:
                raise tarfile.ReadError("cut off between two files")
            tar.extractall(scratch, filter="data")
        shutil.rmtree(scratch / "shares", ignore_errors=True)  # of an older backup: opened again from what was sent
        (scratch / "shares").mkdir()
        hub = Hub(scratch)
        hub.database.reconcile()
    except (tarfile.TarError, sqlite3.DatabaseError, HubDamagedError, NoHubError):
        raise BadBackupError(f"{path.name} is no backup of a hub, or it is damaged") from None
    return hub


def begin_epoch(hub: Hub, coordinator_keys: Keys, root_keys: Sequence[Keys]) -> None:
    """A charter that voids all earlier orders, and the roster and model anew under it."""
    old_charter, old_roster = hub.charter, hub.roster
    check_root_key(old_charter, root_keys[0].public)
    with hub.database.transaction():
        _void_open_round(hub)
        body = charter.body(old_charter.name, old_charter.roots, coordinator_keys.public.sign, old_charter.threshold)
        hub.write_charter(root_keys, body, epoch=old_charter.epoch + 1)
        _republish(hub, coordinator_keys, old_roster, old_roster.archive)


def rotate_coordinator(hub: Hub, old_keys: Keys, new_keys: Keys, root_keys: Keys, passphrase: str | None) -> None:
    """Another coordinator's key, in force from the commit on. Until `settle` both open the rounds' keys."""
    check_root_key(hub.charter, root_keys.public)
    folder = hub.home / f"{COORDINATOR}-{hub.charter.version + 1}"
    _note_rotation(hub, coordinator=folder.name)
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was cut off
    keys.save(folder, new_keys, passphrase)
    _reseal_round_keys(hub, old_keys, [old_keys, new_keys])
    with hub.database.transaction():
        begin_epoch(hub, new_keys, [root_keys])
        hub.database.set_fact("boss", folder.name)
        if hub.database.memory:
            hub.database.memory.rekey(folder.name, new_keys)
        if hub.database.fact("knowledge"):  # which no newcomer would take from the old key
            with parcel.open(hub.database.path(hub.newest_parcel("knowledge")["hash"]), parcel.any_signer) as opened:
                hub.publish_knowledge(new_keys, opened.body)


def rotate_root(
    hub: Hub, coordinator_keys: Keys, old_root: Keys, new_root: Keys, folder: Path, passphrase: str | None
) -> None:
    """Another root key, to which later shares are archived. Both sign, so that every site follows."""
    current, roster = hub.charter, hub.roster
    check_root_key(current, old_root.public)
    check_root_folder(hub, folder)
    if keys.are_in(folder):
        keys.remove(folder)
    _note_rotation(hub, root=new_root.public.sign)
    keys.save(folder, new_root, passphrase)
    with hub.database.transaction():
        body = charter.body(current.name, (new_root.public.sign,), current.coordinator, current.threshold)
        hub.write_charter([old_root, new_root], body, epoch=current.epoch)
        _republish(hub, coordinator_keys, roster, new_root.public.recipient)


# --- a change of keys that was cut off -------------------------------------------------------------
def is_rotation_done(hub: Hub, root_folder: Path | None) -> bool:
    """Whether the change of the root key, or of the coordinator's, was made by a command that was cut off later."""
    rotation = _begun_rotation(hub)
    if root_folder is None:
        return rotation.get("coordinator") == hub.coordinator_folder.name
    return (
        keys.are_in(root_folder)
        and keys.read_public_file(root_folder).sign == rotation.get("root") in hub.charter.roots
    )


def check_root_folder(hub: Hub, folder: Path) -> None:
    """Refuse a folder for a new root key that holds keys, unless they are of an attempt that was cut off."""
    begun_root = _begun_rotation(hub).get("root")
    is_leftover = (
        begun_root
        and begun_root not in hub.charter.roots
        and keys.are_in(folder)
        and keys.read_public_file(folder).sign == begun_root
    )
    if not is_leftover:
        keys.check_absent(folder)


def finish_rotation(hub: Hub, coordinator_keys: Keys, *, reported: bool = False) -> None:
    """End a change of the coordinator's key, or what an attempt at it has left: only the key in force opens the
    rounds' keys. A changed root key leaves nothing to do, once the command has told of it."""
    rotation = _begun_rotation(hub)
    if name := rotation.get("coordinator"):
        _reseal_round_keys(hub, coordinator_keys, [coordinator_keys])
        if name != hub.coordinator_folder.name:
            shutil.rmtree(hub.home / name, ignore_errors=True)
    if (name or reported) and rotation:
        if hub.database.memory:
            hub.database.memory.close()
        _rotation_note(hub).unlink(missing_ok=True)  # last of all: until then the command may be typed again


def _reseal_round_keys(hub: Hub, coordinator_keys: Keys, readers: Sequence[Keys]) -> None:
    for path in sorted((hub.home / "round-keys").glob("*.age")):
        opening.seal_round_key(hub, readers, int(path.stem), round_key(hub, coordinator_keys, int(path.stem)))


def _rotation_note(hub: Hub) -> Path:
    return hub.memory.with_name("new-keys.json")  # where the front cannot write


def _note_rotation(hub: Hub, **target: str) -> None:
    files.write_atomic(_rotation_note(hub), json.dumps(target).encode())


def _begun_rotation(hub: Hub) -> dict[str, str]:
    """Which change of keys was begun: to the keys in a folder of the hub, or to a root key."""
    try:
        return dict(json.loads(_rotation_note(hub).read_bytes()))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError):
        raise HubDamagedError("the note of a change of keys is damaged") from None


def check_root_key(current: charter.Charter, public_keys: PublicKeys) -> None:
    if public_keys.sign not in current.roots:
        remedy = "name the folder that holds it with --root-key"
        raise SignerRoleError("this is not the root key of this federation", remedy=remedy)


def _void_open_round(hub: Hub) -> None:
    """The open round's order is void with its epoch."""
    newest = lifecycle.newest_round(hub)
    if newest["state"] == close.OPEN:
        lifecycle.cancel_round(hub, newest)
    hub.database.set_fact("void", str(newest["round"]))


def _republish(hub: Hub, coordinator_keys: Keys, roster: Roster, archive_recipient: str) -> None:
    hub.write_roster(coordinator_keys, roster.sites, roster.front, archive_recipient)
    hub.seal_newest_model(coordinator_keys)
