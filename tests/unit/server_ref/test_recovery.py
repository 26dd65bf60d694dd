"""Backup, restore and rotation of keys, as sites see them."""

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
from server_ref.hub import members
from server_ref.hub.hub import Hub
from server_ref.rounds import opening
from tests import encoders
from tests.federation import PLAN, Federation, nobody

pytestmark = pytest.mark.usefixtures("open_in_process")


@pytest.fixture(scope="module")
def after_a_round(made: Federation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with made.temporary_copy(tmp_path_factory.mktemp("round") / "federation") as played:
        played.send_updates(played.open())
        played.aggregate()
        yield played


@pytest.fixture
def three(after_a_round: Federation, tmp_path: Path) -> Iterator[Federation]:
    with after_a_round.temporary_copy(tmp_path / "federation") as three:
        yield three


def root(three: Federation) -> Keys:
    return keys.load(three.folder / "hub" / "root", nobody)


class Follower:
    """A site's trusted state, which follows the hub's parcels in their order."""

    def __init__(self, hub: Hub) -> None:
        first = hub.database.rows("SELECT hash FROM parcels WHERE kind = 'charter' ORDER BY number")[0]
        self.state = TrustedState(charter.read_first(*hub.read_json(first["hash"])))
        self.follow(hub)

    def follow(self, hub: Hub) -> None:
        for kind, follow in (("charter", "with_charter"), ("roster", "with_roster"), ("task", "with_task")):
            rows = hub.database.rows("SELECT hash FROM parcels WHERE kind = ? ORDER BY rowid", kind)
            for row in rows if kind == "charter" else rows[-1:]:
                statement, signers, payload = hub.read_json(row["hash"])
                if kind != "charter" or statement.context["version"] > self.state.charter.version:
                    self.state = getattr(self.state, follow)(statement, signers, payload)


def test_a_restored_hub_begins_a_new_epoch_that_every_site_follows(three: Federation, tmp_path: Path) -> None:
    recovery.backup(three.hub, tmp_path / "backup.tar")
    three.send_updates(three.open())
    three.aggregate()
    site = Follower(three.hub)
    restored = recovery.restore(tmp_path / "again", tmp_path / "backup.tar", root(three), nobody)
    assert restored.charter.epoch == 2
    coordinator_keys = restored.coordinator_keys(nobody)
    opening.open_next(restored, coordinator_keys)
    site.follow(restored)
    assert (site.state.round, site.state.charter.epoch) == (2, 2)


def test_g11_a_hub_replaced_by_an_old_copy_is_detected_until_the_root_key_starts_a_new_epoch(
    three: Federation, tmp_path: Path
) -> None:
    three.hub.database.close()
    shutil.copytree(three.hub.home, tmp_path / "copy")
    three.reopen()
    for number in range(20):
        members.invite(three.hub, f"Clinic {number}", "small", 14)
    three.open()
    site = Follower(three.hub)
    three.hub.database.close()
    shutil.rmtree(three.hub.home)
    (tmp_path / "copy").rename(three.hub.home)
    three.reopen()
    task = three.open()
    with pytest.raises(EquivocationError):
        site.state.with_task(*three.hub.read_json(task.hash))
    three.send_updates(task)
    three.aggregate()
    with pytest.raises(LogRollbackError):
        site.state.with_task(*three.hub.read_json(three.open().hash))
    recovery.backup(three.hub, tmp_path / "backup.tar")
    restored = recovery.restore(tmp_path / "again", tmp_path / "backup.tar", root(three), nobody)
    opening.open_next(restored, restored.coordinator_keys(nobody))
    site.follow(restored)
    assert site.state.charter.epoch == 2
    restored.database.close()


def test_sites_refuse_tasks_of_a_hub_that_was_replaced_by_its_backup(three: Federation, tmp_path: Path) -> None:
    recovery.backup(three.hub, tmp_path / "backup.tar")
    restored = recovery.restore(tmp_path / "again", tmp_path / "backup.tar", root(three), nobody)
    coordinator_keys = restored.coordinator_keys(nobody)
    opening.open_next(restored, coordinator_keys)
    site = Follower(restored)
    old = three.open()
    with pytest.raises(RollbackError):
        site.state.with_task(*three.hub.read_json(old.hash))


def test_a_restored_hub_has_the_models_and_updates_that_the_backup_had(three: Federation, tmp_path: Path) -> None:
    three.send_updates(three.open(), without=("site-003",))
    three.judge()
    recovery.backup(three.hub, tmp_path / "backup.tar")
    restored = recovery.restore(tmp_path / "again", tmp_path / "backup.tar", root(three), nobody)
    assert restored.newest_round()["model"] == three.hub.newest_round()["base"]
    states = [row["state"] for row in restored.database.rows("SELECT state FROM shares WHERE round = 2")]
    assert states == ["received", "received"]  # made for a void task, from a model that is still valid


def test_only_the_root_key_restores_a_backup(three: Federation, tmp_path: Path) -> None:
    recovery.backup(three.hub, tmp_path / "backup.tar")
    with pytest.raises(SignerRoleError):
        recovery.restore(tmp_path / "again", tmp_path / "backup.tar", keys.generate(), nobody)
    assert list(tmp_path.glob("*again*")) == []


def test_a_backup_cut_off_anywhere_is_refused(three: Federation, tmp_path: Path) -> None:
    path = tmp_path / "backup.tar"
    recovery.backup(three.hub, path)
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        files = tar.getmembers()
    starts = [file.offset for file in files]
    middles = [file.offset_data + file.size // 2 for file in files if file.size]
    for cut in (*starts, *middles, files[-1].offset_data, len(content) // 2):
        path.write_bytes(content[:cut])
        with pytest.raises(BadBackupError):
            recovery.restore(tmp_path / "again", path, root(three), nobody)


@pytest.mark.parametrize("data", [bytes(10240), b"a plan"], ids=["an empty archive", "no archive"])
def test_a_file_that_is_not_a_backup_is_refused_and_leaves_nothing(
    three: Federation, tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "backup.tar").write_bytes(data)
    with pytest.raises(BadBackupError):
        recovery.restore(tmp_path / "again", tmp_path / "backup.tar", root(three), nobody)
    assert list(tmp_path.glob("*again*")) == []


def test_a_backup_with_something_before_it_is_refused(three: Federation, tmp_path: Path) -> None:
    recovery.backup(three.hub, tmp_path / "backup.tar")
    content = (tmp_path / "backup.tar").read_bytes()
    (tmp_path / "backup.tar").write_bytes(b"PK" + content)
    with pytest.raises(BadBackupError):
        recovery.restore(tmp_path / "again", tmp_path / "backup.tar", root(three), nobody)


def test_a_backup_without_a_parcel_that_its_database_lists_is_refused(three: Federation, tmp_path: Path) -> None:
    next((three.hub.home / "parcels").glob("*/*.fhx")).unlink()
    recovery.backup(three.hub, tmp_path / "backup.tar")
    with pytest.raises(BadBackupError):
        recovery.restore(tmp_path / "again", tmp_path / "backup.tar", root(three), nobody)


def test_no_private_key_of_the_root_is_in_a_backup(three: Federation, tmp_path: Path) -> None:
    recovery.backup(three.hub, tmp_path / "backup.tar")
    assert root(three).identity.encode() not in (tmp_path / "backup.tar").read_bytes()


def test_a_new_coordinator_key_opens_updates_sealed_for_the_old_one(three: Federation) -> None:
    task = three.open()
    three.send_updates(task)
    new = keys.generate()
    recovery.rotate_coordinator(three.hub, three.coordinator_keys, new, root(three), None)
    hub = three.reopen()
    three.coordinator_keys = hub.coordinator_keys(nobody)
    assert three.coordinator_keys.identity == new.identity
    three.open()
    assert three.aggregate()["accepted"] == ["site-001", "site-002", "site-003"]  # late, but not lost
    Follower(hub)


def test_a_new_coordinator_key_signs_the_encoder_again_and_a_backup_has_it(tmp_path: Path) -> None:
    file = encoders.save(tmp_path / "tiny.onnx")
    nets = f'encoder = "tiny.onnx"\nencoder_sha256 = "{encoders.digest(file)}"\nencoder_width = {encoders.WIDTH}'
    fed = Federation(tmp_path / "federation", f'{PLAN}[nets]\nsmall = "linear"\nlarge = "linear"\n{nets}\n', clinics=1)
    with file.open("rb") as body:
        first = fed.hub.publish_encoder(fed.coordinator_keys, body)
    new, old_root = keys.generate(), root(fed)  # within the same second
    recovery.rotate_coordinator(fed.hub, fed.coordinator_keys, new, old_root, None)
    newest = parcel.inspect(fed.hub.newest_path("encoder"), parcel.any_signer)
    assert (newest.keys, newest.statement.sha256) == ((new.public.sign,), first.sha256)
    recovery.backup(fed.hub, tmp_path / "backup.tar")
    restored = recovery.restore(tmp_path / "restored", tmp_path / "backup.tar", old_root, nobody)
    opening.check_open(restored)
    assert parcel.inspect(restored.newest_path("encoder"), parcel.any_signer).statement.sha256 == first.sha256
    restored.database.close()
    fed.hub.database.close()


def test_a_site_follows_a_new_root_key_and_later_updates_are_archived_for_it(three: Federation) -> None:
    site, new = Follower(three.hub), keys.generate()
    recovery.rotate_root(three.hub, three.coordinator_keys, root(three), new, three.folder / "new", None)
    task = three.open()
    site.follow(three.hub)
    assert site.state.charter.roots == (new.public.sign,)
    assert new.public.recipient in task.recipients
    path = three.clinics[0].give(task, three.base(task))
    with parcel.open(path, parcel.any_signer, [new.identity]) as opened:
        assert opened.facts["examples"] == 100
