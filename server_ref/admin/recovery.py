"""Backup, restore, and the rotation of keys.

A restored hub has forgotten what it published since the backup, and a new coordinator's key voids the old key's tasks.
Both begin a new epoch, which only the root key can sign: sites compare (epoch, version) and never go back.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import BadBackupError, HubDamagedError, NoHubError, SignerRoleError, TargetExistsError
from fedhelp_edge.parcel import keys, parcel
from fedhelp_edge.parcel.keys import Keys, PublicKeys
from fedhelp_edge.trust import charter
from fedhelp_edge.trust.roster import Roster
from server_ref.hub import members, memory, models
from server_ref.hub.create import work_folder
from server_ref.hub.database import DATABASE
from server_ref.hub.hub import COORDINATOR, FRONT, Hub
from server_ref.intake.judge import round_key
from server_ref.rounds import lifecycle, opening

_FOLDERS = ("parcels", "models", "round-keys")  # not the root key, and no decrypted updates: those are opened again
_TAR_END = bytes(2 * tarfile.BLOCKSIZE)  # tarfile accepts an archive without it, which may lack files


def backup(hub: Hub, path: Path) -> None:
    """Write the hub as it is now to one file. The keys stay encrypted with the same passphrase as in the hub."""
    files.remove_partials(path)
    database_copy = hub.home / f".{os.urandom(8).hex()}.part"
    try:
        hub.database.copy_to(database_copy)
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
    """Raise if the backup is missing or the new home is in use. Call it before anybody types a passphrase."""
    if home.exists() and any(home.iterdir()):
        raise TargetExistsError(f"{home.name} is in use already")
    with files.reading(path):
        pass


def restore(home: Path, path: Path, root_keys: Keys, ask_passphrase: Callable[[], str], *, older: bool = False) -> Hub:
    """Restore a hub from its backup, in a new epoch, so that sites accept it although it forgot what came later.

    A backup without the coordinator's memory is refused unless a person says that an `older` version made it. Otherwise
    somebody could remove the memory, and the hub would no longer notice changed rows.
    """
    check_restore(home, path)
    scratch = work_folder(home)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700, parents=True)
    try:
        hub = _unpack(path, scratch)
        if not older and not hub.memory_path.exists():
            remedy = "take another backup; if an older version of this program made it, add --from-older-version"
            raise BadBackupError(f"{path.name} lacks the coordinator's memory", remedy=remedy)
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
                raise tarfile.ReadError("the archive ends between two files")
            tar.extractall(scratch, filter="data")
        shutil.rmtree(scratch / "shares", ignore_errors=True)  # of an older backup: opened again from the parcels
        (scratch / "shares").mkdir()
        hub = Hub(scratch)
        hub.database.reconcile()
    except (tarfile.TarError, HubDamagedError, NoHubError) as error:
        raise BadBackupError(f"{path.name} is not a backup of a hub, or it is damaged") from error
    return hub


def begin_epoch(hub: Hub, coordinator_keys: Keys, root_keys: Sequence[Keys]) -> None:
    """Publish a charter that voids all earlier tasks, and the roster and the model again under it."""
    old_charter, old_roster = hub.charter, hub.roster
    check_root_key(old_charter, root_keys[0].public)
    with hub.database.transaction():
        _void_open_round(hub)
        body = charter.body(old_charter.name, old_charter.roots, coordinator_keys.public.sign, old_charter.threshold)
        hub.publish_charter(root_keys, body, epoch=old_charter.epoch + 1)
        _republish(hub, coordinator_keys, old_roster, old_roster.archive)


def rotate_coordinator(hub: Hub, old_keys: Keys, new_keys: Keys, root_keys: Keys, passphrase: str | None) -> None:
    """Replace the coordinator's key. The new one is in force from the commit on.

    Until `finish_rotation` both keys open the rounds' keys, so that an interruption at any point loses nothing.
    """
    check_root_key(hub.charter, root_keys.public)
    folder = hub.home / f"{COORDINATOR}-{hub.charter.version + 1}"
    _note_rotation(hub, coordinator=folder.name)
    shutil.rmtree(folder, ignore_errors=True)  # of an interrupted attempt
    keys.save(folder, new_keys, passphrase)
    _reseal_round_keys(hub, old_keys, [old_keys, new_keys])
    with hub.database.transaction():
        begin_epoch(hub, new_keys, [root_keys])
        hub.database.set_fact("boss", folder.name)
        if hub.database.memory:
            hub.database.memory.rekey(folder.name, new_keys)
        if hub.database.fact("knowledge"):  # new sites would refuse it, signed with the old key
            with parcel.open(hub.newest_path("knowledge"), parcel.any_signer) as opened:
                hub.publish_knowledge(new_keys, opened.body, hub.public)
        if hub.database.fact("encoder"):
            with parcel.open(hub.newest_path("encoder"), parcel.any_signer) as opened:
                hub.publish_encoder(new_keys, opened.body)


def rotate_root(
    hub: Hub, coordinator_keys: Keys, old_root: Keys, new_root: Keys, folder: Path, passphrase: str | None
) -> None:
    """Replace the root key, to which later updates are archived. Both sign the charter, so that every site follows."""
    current, roster = hub.charter, hub.roster
    check_root_key(current, old_root.public)
    check_root_folder(hub, folder)
    if keys.exist(folder):
        keys.remove(folder)
    _note_rotation(hub, root=new_root.public.sign)
    keys.save(folder, new_root, passphrase)
    with hub.database.transaction():
        body = charter.body(current.name, (new_root.public.sign,), current.coordinator, current.threshold)
        hub.publish_charter([old_root, new_root], body, epoch=current.epoch)
        _republish(hub, coordinator_keys, roster, new_root.public.recipient)


# --- interrupted rotations ------------------------------------------------------------------------
def is_rotation_done(hub: Hub, root_folder: Path | None) -> bool:
    """Whether an interrupted command has replaced the key already: that root key, or the coordinator's."""
    rotation = _begun_rotation(hub)
    if root_folder is None:
        return rotation.get("coordinator") == hub.coordinator_folder.name
    return (
        keys.exist(root_folder) and keys.read_public_file(root_folder).sign == rotation.get("root") in hub.charter.roots
    )


def check_root_folder(hub: Hub, folder: Path) -> None:
    """Raise if a folder for a new root key holds keys already, unless an interrupted attempt left them."""
    begun_root = _begun_rotation(hub).get("root")
    is_leftover = (
        begun_root
        and begun_root not in hub.charter.roots
        and keys.exist(folder)
        and keys.read_public_file(folder).sign == begun_root
    )
    if not is_leftover:
        keys.check_absent(folder)


def finish_rotation(hub: Hub, coordinator_keys: Keys, *, reported: bool = False) -> None:
    """End a rotation, or an interrupted attempt: afterwards only the coordinator's key in force opens the rounds' keys.

    A root key needs nothing but its note removed, once the command has `reported` the rotation.
    """
    rotation = _begun_rotation(hub)
    if name := rotation.get("coordinator"):
        _reseal_round_keys(hub, coordinator_keys, [coordinator_keys])
        if name != hub.coordinator_folder.name:
            shutil.rmtree(hub.home / name, ignore_errors=True)
    if (name or reported) and rotation:
        if hub.database.memory:
            hub.database.memory.close()
        _rotation_note(hub).unlink(missing_ok=True)  # last: until then the command can be repeated


def _reseal_round_keys(hub: Hub, coordinator_keys: Keys, readers: Sequence[Keys]) -> None:
    for path in sorted((hub.home / "round-keys").glob("*.age")):
        opening.seal_round_key(hub, readers, int(path.stem), round_key(hub, coordinator_keys, int(path.stem)))


def _rotation_note(hub: Hub) -> Path:
    return hub.memory_path.with_name("new-keys.json")  # in a folder where the front cannot write


def _note_rotation(hub: Hub, **target: str) -> None:
    files.write_atomic(_rotation_note(hub), json.dumps(target).encode())


def _begun_rotation(hub: Hub) -> dict[str, str]:
    """The rotation that was begun: {"coordinator": the new folder's name}, {"root": the new public key}, or nothing."""
    try:
        return dict(json.loads(_rotation_note(hub).read_bytes()))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError) as error:
        raise HubDamagedError("the note about a rotation of keys is damaged") from error


def check_root_key(current: charter.Charter, public_keys: PublicKeys) -> None:
    """Raise unless these are root keys of the charter. No other key can begin an epoch or sign a new charter."""
    if public_keys.sign not in current.roots:
        remedy = "name the folder that holds it with --root-key"
        raise SignerRoleError("this is not the root key of this federation", remedy=remedy)


def _void_open_round(hub: Hub) -> None:
    """Cancel the round that is under way: a new epoch voids its task."""
    newest = hub.newest_round()
    if lifecycle.is_under_way(newest):
        lifecycle.cancel_round(hub, newest)
    hub.database.set_fact("void", str(newest["round"]))


def _republish(hub: Hub, coordinator_keys: Keys, roster: Roster, archive_recipient: str) -> None:
    members.write_roster(hub, coordinator_keys, roster.sites, roster.front, archive_recipient)
    models.publish_again(hub, coordinator_keys)
