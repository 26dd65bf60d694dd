"""Backups, and new keys: what sites see of them."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedhelp_edge.errors import BadBackupError, EquivocationError, LogRollbackError, RollbackError, SignerRoleError
from fedhelp_edge.parcel import keys, parcel
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.trust import charter
from fedhelp_edge.trust.state import TrustedState
from server_ref.admin import recovery
from server_ref.hub.hub import Hub
from server_ref.rounds import lifecycle, opening
from tests.federation import Federation, nobody

pytestmark = pytest.mark.usefixtures("opens_here")


@pytest.fixture(scope="module")
def after_a_round(made: Federation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with made.lent(tmp_path_factory.mktemp("round") / "federation") as played:
        played.play(played.open())
        played.aggregate()
        yield played


@pytest.fixture
def three(after_a_round: Federation, tmp_path: Path) -> Iterator[Federation]:
    with after_a_round.lent(tmp_path / "federation") as three:
        yield three


def root(three: Federation) -> Keys:
    return keys.load(three.folder / "hub" / "root", nobody)


class Site:
    """What a site knows, that follows the hub's news in their order."""

    def __init__(self, hub: Hub) -> None:
        first = hub.database.rows("SELECT hash FROM parcels WHERE kind = 'charter' ORDER BY number")[0]
        self.floor = TrustedState(charter.read_first(*hub.plain(first["hash"])))
        self.follow(hub)

    def follow(self, hub: Hub) -> None:
        for kind, take in (("charter", "with_charter"), ("roster", "with_roster"), ("task", "with_task")):
            rows = hub.database.rows("SELECT hash FROM parcels WHERE kind = ? ORDER BY rowid", kind)
            for row in rows if kind == "charter" else rows[-1:]:
                said, signers, holds = hub.plain(row["hash"])
                if kind != "charter" or said.context["version"] > self.floor.charter.version:
                    self.floor = getattr(self.floor, take)(said, signers, holds)


def test_a_restored_hub_begins_a_new_epoch_that_every_site_follows(three: Federation, tmp_path: Path) -> None:
    recovery.backup(three.hub, tmp_path / "backup.tar")
    three.play(three.open())
    three.aggregate()
    site = Site(three.hub)
    restored = recovery.restore(tmp_path / "again", tmp_path / "backup.tar", root(three), nobody)
    assert restored.charter.epoch == 2
    boss = restored.coordinator_keys(nobody)
    opening.open_next(restored, boss)
    site.follow(restored)
    assert (site.floor.round, site.floor.charter.epoch) == (2, 2)


def test_g11_a_hub_put_back_from_an_old_copy_is_noticed_until_the_root_key_says_so(
    three: Federation, tmp_path: Path
) -> None:
    three.hub.database.close()
    shutil.copytree(three.hub.home, tmp_path / "copy")
    three.again()
    for number in range(20):
        three.hub.invite(f"Clinic {number}", "small", 14)
    three.open()
    site = Site(three.hub)
    three.hub.database.close()
    shutil.rmtree(three.hub.home)
    (tmp_path / "copy").rename(three.hub.home)
    three.again()
    order = three.open()
    with pytest.raises(EquivocationError):
        site.floor.with_task(*three.hub.plain(order.hash))
    three.play(order)
    three.aggregate()
    with pytest.raises(LogRollbackError):
        site.floor.with_task(*three.hub.plain(three.open().hash))
    recovery.backup(three.hub, tmp_path / "backup.tar")
    restored = recovery.restore(tmp_path / "again", tmp_path / "backup.tar", root(three), nobody)
    opening.open_next(restored, restored.coordinator_keys(nobody))
    site.follow(restored)
    assert site.floor.charter.epoch == 2
    restored.database.close()


def test_the_hub_that_was_replaced_gives_orders_that_nobody_follows_any_more(three: Federation, tmp_path: Path) -> None:
    recovery.backup(three.hub, tmp_path / "backup.tar")
    restored = recovery.restore(tmp_path / "again", tmp_path / "backup.tar", root(three), nobody)
    boss = restored.coordinator_keys(nobody)
    opening.open_next(restored, boss)
    site = Site(restored)
    old = three.open()
    with pytest.raises(RollbackError):
        site.floor.with_task(*three.hub.plain(old.hash))


def test_a_restored_hub_has_the_models_and_shares_that_the_backup_had(three: Federation, tmp_path: Path) -> None:
    three.play(three.open(), without=("site-003",))
    three.judge()
    recovery.backup(three.hub, tmp_path / "backup.tar")
    restored = recovery.restore(tmp_path / "again", tmp_path / "backup.tar", root(three), nobody)
    assert lifecycle.newest_round(restored)["model"] == lifecycle.newest_round(three.hub)["base"]
    states = [row["state"] for row in restored.database.rows("SELECT state FROM shares WHERE round = 2")]
    assert states == ["received", "received"]  # made under an order that is void, from a model that is not


def test_another_key_than_the_root_restores_nothing(three: Federation, tmp_path: Path) -> None:
    recovery.backup(three.hub, tmp_path / "backup.tar")
    with pytest.raises(SignerRoleError):
        recovery.restore(tmp_path / "again", tmp_path / "backup.tar", keys.generate(), nobody)
    assert list(tmp_path.glob("*again*")) == []


def test_a_backup_cut_off_anywhere_is_refused(three: Federation, tmp_path: Path) -> None:
    path = tmp_path / "backup.tar"
    recovery.backup(three.hub, path)
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        files = tar.getmembers()
    starts = [file.offset for file in files]
    middles = [file.offset_data + file.size // 2 for file in files if file.size]
    for cut in (*starts, *middles, files[-1].offset_data, len(whole) // 2):
        path.write_bytes(whole[:cut])
        with pytest.raises(BadBackupError):
            recovery.restore(tmp_path / "again", path, root(three), nobody)


@pytest.mark.parametrize("data", [bytes(10240), b"a plan"], ids=["an empty archive", "no archive"])
def test_what_is_no_backup_is_refused_and_leaves_nothing(three: Federation, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "backup.tar").write_bytes(data)
    with pytest.raises(BadBackupError):
        recovery.restore(tmp_path / "again", tmp_path / "backup.tar", root(three), nobody)
    assert list(tmp_path.glob("*again*")) == []


def test_a_backup_with_something_before_it_is_refused(three: Federation, tmp_path: Path) -> None:
    recovery.backup(three.hub, tmp_path / "backup.tar")
    whole = (tmp_path / "backup.tar").read_bytes()
    (tmp_path / "backup.tar").write_bytes(b"PK" + whole)
    with pytest.raises(BadBackupError):
        recovery.restore(tmp_path / "again", tmp_path / "backup.tar", root(three), nobody)


def test_a_backup_without_a_parcel_of_which_its_database_speaks_is_refused(three: Federation, tmp_path: Path) -> None:
    next((three.hub.home / "parcels").glob("*/*.fhx")).unlink()
    recovery.backup(three.hub, tmp_path / "backup.tar")
    with pytest.raises(BadBackupError):
        recovery.restore(tmp_path / "again", tmp_path / "backup.tar", root(three), nobody)


def test_no_private_key_of_the_root_is_in_a_backup(three: Federation, tmp_path: Path) -> None:
    recovery.backup(three.hub, tmp_path / "backup.tar")
    assert root(three).identity.encode() not in (tmp_path / "backup.tar").read_bytes()


def test_a_new_coordinators_key_opens_what_was_sealed_for_the_old_one(three: Federation) -> None:
    order = three.open()
    three.play(order)
    new = keys.generate()
    recovery.rotate_coordinator(three.hub, three.coordinator_keys, new, root(three), None)
    hub = three.again()
    three.coordinator_keys = hub.coordinator_keys(nobody)
    assert three.coordinator_keys.identity == new.identity
    three.open()
    assert three.aggregate()["accepted"] == ["site-001", "site-002", "site-003"]  # late, and not lost
    Site(hub)


def test_a_site_follows_a_new_root_key_and_later_shares_are_archived_for_it(three: Federation) -> None:
    site, new = Site(three.hub), keys.generate()
    recovery.rotate_root(three.hub, three.coordinator_keys, root(three), new, three.folder / "new", None)
    order = three.open()
    site.follow(three.hub)
    assert site.floor.charter.roots == (new.public.sign,)
    assert new.public.recipient in order.recipients
    path = three.clinics[0].give(order, three.base(order))
    with parcel.open(path, parcel.any_signer, [new.identity]) as opened:
        assert opened.facts["examples"] == 100
