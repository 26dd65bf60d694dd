"""What happens once in years: a backup, a hub that comes back from one, and new keys.

A hub from a backup has forgotten what it said since, and a new coordinator's key makes the old one's orders void. Both
begin a new epoch, which only the root key can: sites compare (epoch, version) and never go back.
"""

from __future__ import annotations

import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from fedhelp_edge import files
from fedhelp_edge.errors import BadBackup, FileExists, HubDamaged, NoHub, Role
from fedhelp_edge.parcel import keys
from fedhelp_edge.parcel.keys import Keys, Public
from fedhelp_edge.trust import charter
from fedhelp_edge.trust.roster import Roster
from server_ref import memory, rounds
from server_ref.hub import COORDINATOR, FRONT, Hub
from server_ref.intake import round_key
from server_ref.store import DATABASE

_KEPT = ("parcels", "models", "round-keys")  # neither the root key nor what is plain: shares are opened again
_END = bytes(2 * tarfile.BLOCKSIZE)  # of a tar file: without it some files may be missing, which tarfile does not mind


def backup(hub: Hub, path: Path) -> None:
    """The whole hub in one file, as it is at this moment; the keys in it are locked as they are in the hub."""
    with tempfile.TemporaryDirectory(dir=hub.home) as folder:
        copy = Path(folder) / DATABASE
        hub.store.rows("VACUUM INTO ?", str(copy))
        with files.writing(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
            tar.add(copy, DATABASE)
            tar.add(hub.front_folder, FRONT, filter=_whole)
            for name in dict.fromkeys((*_KEPT, hub.boss_folder.name, f"{COORDINATOR}/{memory.FILE}")):
                if (hub.home / name).exists():
                    tar.add(hub.home / name, name, filter=_whole)


def _whole(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if Path(member.name).name.startswith(".") else member


def check_place(home: Path, path: Path) -> None:
    """Refuse a backup that is not there, or a place that is taken, before anybody types a passphrase."""
    if home.exists() and any(home.iterdir()):
        raise FileExists(f"{home.name} is in use already")
    with files.reading(path):
        pass


def restore(home: Path, path: Path, root: Keys, ask: Callable[[], str], *, older: bool = False) -> Hub:
    """A hub from its backup, in a new epoch: what it said after the backup, nobody holds against it.

    A backup without the coordinator's memory is only taken where a person says that an `older` program made it.
    """
    check_place(home, path)
    work = home.with_name(f".{home.name}.part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o700, parents=True)
    try:
        hub = _unpack(path, work)
        if not older and not hub.memory.exists():
            remedy = "take another backup; if an older version of this program made it, add --from-older-version"
            raise BadBackup(f"{path.name} lacks what the coordinator remembered of its hub", remedy=remedy)
        boss = hub.boss(ask)
        hub.check()
        new_epoch(hub, boss, [root])
        hub.store.close()
        if home.exists():
            home.rmdir()
        work.rename(home)
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
    except (tarfile.TarError, sqlite3.DatabaseError, HubDamaged, NoHub):
        raise BadBackup(f"{path.name} is no backup of a hub, or it is damaged") from None
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
    """Another coordinator's key; the keys of rounds that still count are sealed under it."""
    folder = hub.home / f"coordinator-{hub.charter.version + 1}"
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was cut off
    keys.save(folder, new, passphrase)
    with hub.store.changing():
        new_epoch(hub, new, [root])
        hub.store.keep_fact("boss", folder.name)
        if hub.store.memory:
            hub.store.memory.rekey(folder.name, new)
        kept = {int(path.stem): path for path in (hub.home / "round-keys").glob("*.age")}
        for round_ in kept:
            rounds.keep_key(hub, new, round_, round_key(hub, old, round_))


def rotate_root(hub: Hub, boss: Keys, old: Keys, new: Keys) -> None:
    """Another root key, to which later shares are archived. Both sign, so that every site follows."""
    law, known = hub.charter, hub.roster
    check_root(law, old.public)
    with hub.store.changing():
        body = charter.body(law.name, (new.public.sign,), law.coordinator, law.threshold)
        hub.write_charter([old, new], body, epoch=law.epoch)
        _say_again(hub, boss, known, new.public.recipient)


def check_root(law: charter.Charter, root: Public) -> None:
    if root.sign not in law.roots:
        remedy = "name the folder that holds it with --root-key"
        raise Role("this is not the root key of this federation", remedy=remedy)


def _call_off(hub: Hub) -> None:
    """The open round's order is void with its epoch."""
    last = rounds.newest(hub)
    if last["state"] == rounds.OPEN:
        rounds.call_off(hub, last)
    hub.store.keep_fact("void", str(last["round"]))


def _say_again(hub: Hub, boss: Keys, known: Roster, archive: str) -> None:
    hub.write_roster(boss, known.sites, known.front, archive)
    hub.send_newest(boss)
