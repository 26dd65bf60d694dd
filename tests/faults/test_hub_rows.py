"""Faults G20 and G21: somebody who can write to the hub's database and folders, as the front can, changes them.

The coordinator's next command either does what it would have done, or stops before it signs anything.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge.errors import BadBackupError, FedhelpError, HubDamagedError, LogBrokenError, NotNowError, QuorumError
from fedhelp_edge.parcel import keys, parcel, statement
from fedhelp_edge.trust import enrol
from server_ref.admin import recovery, session
from server_ref.hub import members
from server_ref.hub.database import DATABASE
from server_ref.hub.hub import ROOT, Hub, to_json
from server_ref.hub.tables import invites_table
from server_ref.intake import judge, partial_uploads, receive
from server_ref.rounds import close, lifecycle, opening
from tests import command
from tests.federation import Federation, SimulatedClinic, nobody

pytestmark = pytest.mark.usefixtures("open_in_process")


def change_row(fed: Federation, query: str, *values: object) -> None:
    with closing(sqlite3.connect(fed.hub.home / DATABASE)) as db, db:
        assert db.execute(query, values).rowcount, "the attack itself did nothing"


def signed_by_coordinator(fed: Federation) -> list[str]:
    """The hashes of all parcels that the coordinator has signed for sites."""
    query = "SELECT hash FROM parcels WHERE kind IN ('charter', 'roster', 'task', 'global') ORDER BY rowid"
    return [row["hash"] for row in fed.hub.database.rows(query)]


@contextmanager
def stops_before_signing(fed: Federation, *faults: type[FedhelpError]) -> Iterator[None]:
    before = signed_by_coordinator(fed)
    with pytest.raises(faults or (HubDamagedError,)):
        yield
    assert signed_by_coordinator(fed) == before


@pytest.fixture
def judged(three: Federation) -> Federation:
    """A round in which two updates are accepted, and the third is in quarantine."""
    task = three.open()
    three.send_updates(task, without=("site-003",))
    lazy = three.clinics[2]
    receive.receive(three.hub, lazy.give(task, three.base(task)))
    with pytest.raises(QuorumError):
        three.aggregate()
    assert set(three.update_states().values()) == {"accepted", "quarantined"}
    return three


# --- rows ----------------------------------------------------------------------------------------------------------
THIEF = keys.generate().public


def another_archive(fed: Federation) -> None:
    change_row(fed, "INSERT OR REPLACE INTO facts VALUES ('archive', ?)", THIEF.recipient)


def another_front(fed: Federation) -> None:
    change_row(fed, "INSERT OR REPLACE INTO facts VALUES ('front', ?)", THIEF.sign)


@pytest.mark.parametrize("swap", [another_archive, another_front])
def test_g20_keys_inserted_into_the_database_enter_no_roster_or_task(
    three: Federation, swap: Callable[[Federation], None]
) -> None:
    before = three.hub.roster
    swap(three)
    three.reopen()
    try:
        task = three.open()
        three.join()
    except HubDamagedError:
        return
    assert task.recipients[1] == before.archive == three.hub.roster.archive
    assert three.hub.roster.front == before.front


def plan_changed(fed: Federation) -> None:
    change_row(fed, "UPDATE facts SET value = replace(value, 'rounds = 12', 'rounds = 99') WHERE name = 'plan'")


def finished(fed: Federation) -> None:
    change_row(fed, "INSERT INTO facts VALUES ('finished', '2026-01-01T00:00:00Z')")


def other_knowledge(fed: Federation) -> None:
    change_row(fed, "INSERT INTO facts VALUES ('knowledge', ?)", "a" * 64)


def no_void_epoch(fed: Federation) -> None:
    change_row(fed, "INSERT OR REPLACE INTO facts VALUES ('void', '-1')")


def coordinators_folder(fed: Federation) -> None:
    shutil.copytree(fed.hub.home / "front", fed.hub.home / "coordinator-9")
    change_row(fed, "INSERT OR REPLACE INTO facts VALUES ('boss', 'coordinator-9')")


def invite_inserted(fed: Federation) -> None:
    invite = enrol.derive_invite(enrol.new_code(), "large", fed.hub.now)
    values = invite.id, invite.key.hex(), "site-009", "Clinic 9", "large", "2090-01-01T00:00:00Z", "", ""
    change_row(fed, "INSERT INTO invites VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *values)


def invite_edited(fed: Federation) -> None:
    change_row(fed, "UPDATE invites SET tier = 'large' WHERE site = 'site-001'")


def trigger_planted(fed: Federation) -> None:
    """The trigger would insert an invite within the coordinator's next transaction, so that its memory has it."""
    invite = enrol.derive_invite(enrol.new_code(), "large", fed.hub.now)
    values = f"'{invite.id}', '{invite.key.hex()}', 'site-009', 'Clinic 9', 'large', '2090-01-01T00:00:00Z', '', ''"
    inserted = f"INSERT OR IGNORE INTO invites VALUES ({values})"
    with closing(sqlite3.connect(fed.hub.home / DATABASE)) as db, db:
        db.execute(f"CREATE TRIGGER also AFTER INSERT ON log BEGIN {inserted}; END")


def view_planted(fed: Federation) -> None:
    """The view could show one row to the check and another one later."""
    with closing(sqlite3.connect(fed.hub.home / DATABASE)) as db, db:
        db.executescript("ALTER TABLE facts RENAME TO other; CREATE VIEW facts AS SELECT * FROM other;")


@pytest.mark.parametrize("plant", [trigger_planted, view_planted])
def test_g20_triggers_and_views_in_the_database_are_refused(
    three: Federation, plant: Callable[[Federation], None]
) -> None:
    """Planted before a command starts, or while it runs."""
    with stops_before_signing(three):
        plant(three)
        three.open()
    with pytest.raises(HubDamagedError, match="trigger, view or table"):
        three.reopen()
    three.hub.database.close()


def memory_left_behind(fed: Federation) -> None:
    """Moves the keys to the folder of a rotated key and leaves an empty folder in their place."""
    (fed.hub.home / "coordinator").rename(fed.hub.home / "coordinator-2")
    (fed.hub.home / "coordinator").mkdir(mode=0o700)
    change_row(fed, "INSERT OR REPLACE INTO facts VALUES ('boss', 'coordinator-2')")


def test_g20_the_coordinators_keys_are_used_only_from_the_folder_that_its_memory_names(
    three: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hub, "_has_memory", lambda hub: False)  # the front has rewritten the log without that line
    memory_left_behind(three)
    with stops_before_signing(three), session.unlocked_hub(three.hub.home, None) as (hub, coordinator_keys):
        opening.open_next(hub, coordinator_keys)


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_g20_no_command_follows_a_link_of_the_front_to_the_coordinators_files(
    three: Federation, tmp_path: Path
) -> None:
    """Clean-up after a crash and the search for uploads in progress remove nothing elsewhere."""
    coordinator_folder = three.hub.home / "coordinator"
    for path in coordinator_folder.iterdir():
        os.utime(path, (0, 0))
    (coordinator_folder / ".x.part").touch()
    os.utime(coordinator_folder / ".x.part", (0, 0))
    before = sorted(coordinator_folder.iterdir())
    three.open()
    (three.hub.home / "parcels" / "ab").rename(tmp_path / "ab")
    (three.hub.home / "parcels" / "ab").symlink_to(coordinator_folder)
    (three.hub.home / "elsewhere").symlink_to(coordinator_folder)
    (three.hub.home / partial_uploads.FOLDER).symlink_to(coordinator_folder)
    with suppress(HubDamagedError):  # if one of the hub's own parcels was in that folder
        three.hub.database.reconcile()
    assert partial_uploads.awaited_senders(three.hub) == []
    three.clock.advance(days=7)
    assert partial_uploads.awaited_senders(three.hub) == []
    assert sorted(coordinator_folder.iterdir()) == [path for path in before if path.name != ".x.part"]


def test_g20_other_files_among_the_uploads_block_no_command(three: Federation) -> None:
    three.open()
    (three.hub.home / partial_uploads.FOLDER).mkdir()
    os.mkfifo(three.hub.home / partial_uploads.FOLDER / f"{'a' * 64}.1")
    (three.hub.home / partial_uploads.FOLDER / f"{'b' * 64}.1").write_bytes(b"junk")
    three.clock.advance(days=7)
    assert partial_uploads.awaited_senders(three.hub) == []
    assert len(list((three.hub.home / partial_uploads.FOLDER).iterdir())) == 2


def invite_unused(fed: Federation) -> None:
    change_row(fed, "UPDATE invites SET used = '' WHERE site = 'site-001'")


def roster_rolled_back(fed: Federation) -> None:
    change_row(fed, "DELETE FROM parcels WHERE hash = ?", fed.hub.newest_parcel("roster")["hash"])


def roster_renumbered(fed: Federation) -> None:
    first = fed.hub.database.row("SELECT hash FROM parcels WHERE kind = 'roster' ORDER BY number")
    assert first
    change_row(fed, "UPDATE parcels SET number = 999 WHERE hash = ?", first["hash"])


def another_base(fed: Federation) -> None:
    change_row(fed, "UPDATE rounds SET model = ? WHERE round = 0", "b" * 64)


def round_closes_later(fed: Federation) -> None:
    change_row(fed, "UPDATE rounds SET closes = '2090-01-01T00:00:00Z' WHERE state = 'open'")


def accepted_by_the_front(fed: Federation) -> None:
    change_row(fed, "UPDATE shares SET state = 'accepted', code = '' WHERE state = 'quarantined'")


def released_by_the_front(fed: Federation) -> None:
    change_row(fed, "UPDATE shares SET released = 1 WHERE state = 'quarantined'")


def unaccepted(fed: Federation) -> None:
    change_row(fed, "UPDATE shares SET state = 'received' WHERE site = 'site-001'")


def deleted(fed: Federation) -> None:
    change_row(fed, "DELETE FROM shares WHERE site = 'site-001'")


def more_examples(fed: Federation) -> None:
    change_row(fed, "UPDATE shares SET facts = json_set(facts, '$.examples', 999999) WHERE site = 'site-001'")


def request_undone(fed: Federation) -> None:
    change_row(fed, "UPDATE requests SET state = 'refused' WHERE site = 'site-001'")


SWAPS = [
    plan_changed, finished, other_knowledge, no_void_epoch, coordinators_folder, invite_inserted, invite_edited,
    invite_unused, roster_rolled_back, roster_renumbered, another_base, round_closes_later, accepted_by_the_front,
    released_by_the_front, unaccepted, deleted, more_examples, request_undone,
]  # fmt: skip


@pytest.mark.parametrize("swap", SWAPS)
def test_g20_a_changed_row_of_the_coordinators_stops_the_next_command(
    judged: Federation, swap: Callable[[Federation], None]
) -> None:
    swap(judged)
    with stops_before_signing(judged), session.unlocked_hub(judged.hub.home, None) as (hub, coordinator_keys):
        close.aggregate(hub, coordinator_keys, now=True)


@pytest.mark.parametrize("swap", [plan_changed, invite_inserted, roster_rolled_back, another_base])
def test_g20_a_row_changed_during_a_command_stops_it_before_it_signs(
    three: Federation, swap: Callable[[Federation], None]
) -> None:
    three.reopen()
    three.hub.check()
    swap(three)
    with stops_before_signing(three):
        three.open()


def test_g20_a_revoked_site_does_not_return_with_an_older_roster(three: Federation) -> None:
    with closing(sqlite3.connect(three.hub.home / DATABASE)) as db, closing(sqlite3.connect(":memory:")) as before:
        db.backup(before)
        with session.unlocked_hub(three.hub.home, None) as (hub, coordinator_keys):
            members.revoke(hub, coordinator_keys, "site-002", 1, "stolen")
        three.hub.database.close()
        before.backup(db)
    three.reopen()
    with (
        stops_before_signing(three, HubDamagedError, LogBrokenError),
        session.unlocked_hub(three.hub.home, None) as (hub, coordinator_keys),
    ):
        opening.open_next(hub, coordinator_keys)


def test_g20_audit_verify_detects_foreign_changes_of_the_hub(three: Federation, tmp_path: Path) -> None:
    verify = ("audit", "verify", "--home", three.hub.home)
    assert command.run(*verify, home=tmp_path, program=command.COORDINATOR).returncode == 0
    invite_inserted(three)
    done = command.run(*verify, home=tmp_path, program=command.COORDINATOR)
    assert "error: E_HUB_DAMAGED: " in done.stderr


def test_g20_an_update_that_the_front_makes_in_a_sites_name_is_refused(three: Federation) -> None:
    task = three.open()
    three.send_updates(task, without=("site-003",))
    mask = SimulatedClinic(three.hub.federation, three.folder / "mask")
    mask.id = "site-003"
    path = mask.give(task, three.drawn_update(task, mask))
    with parcel.open(path, parcel.any_signer, [judge.round_key(three.hub, three.coordinator_keys, 1)]) as opened:
        forged = opened.statement
    path.rename(three.hub.database.parcel_path(forged.hash))
    change_row(three, "INSERT INTO parcels VALUES (?, 'update', 1, 'site-003', ?)", forged.hash, forged.line.decode())
    values = forged.hash, "site-003", 1, forged.context["seq"], forged.context["nonce"]
    query = "INSERT INTO shares (hash, site, round, seq, nonce, state, counts) VALUES (?, ?, ?, ?, ?, 'received', 0)"
    change_row(three, query, *values)
    three.judge()
    assert three.update_states()["site-003/1"] == "refused"


def test_g20_an_update_that_the_front_attributes_to_another_site_is_refused(three: Federation) -> None:
    three.send_updates(three.open(), without=("site-003",))
    change_row(three, "UPDATE shares SET site = 'site-003' WHERE site = 'site-002'")
    three.judge()
    assert three.update_states() == {"site-001/1": "accepted", "site-003/1": "refused"}


def test_an_update_sent_before_its_sites_key_rotation_counts(three: Federation) -> None:
    clinic, new = three.clinics[0], keys.generate()
    three.send_updates(three.open())
    context = statement.new_context("rotate", federation=three.hub.federation, sender=clinic.id, seq=9)
    body = to_json({"sign": new.public.sign, "recipient": new.public.recipient})
    parcel.seal(three.folder / "rotate.fhx", context, body, [clinic.keys.sign, new.sign])
    receive.receive(three.hub, three.folder / "rotate.fhx")
    three.judge()
    assert three.hub.roster.owner(new.public.sign) == three.hub.roster.site(clinic.id)
    assert three.aggregate()["accepted"] == ["site-001", "site-002", "site-003"]


def test_g20_a_task_whose_file_was_replaced_is_not_read(three: Federation) -> None:
    rows = three.hub.database.rows("SELECT hash FROM parcels WHERE kind = 'roster' ORDER BY number DESC")
    newest, older = (three.hub.database.parcel_path(row["hash"]) for row in rows[:2])
    newest.write_bytes(older.read_bytes())
    three.reopen()
    with stops_before_signing(three):
        three.open()


def test_g20_a_model_whose_file_was_replaced_is_neither_published_nor_merged(judged: Federation) -> None:
    path = judged.hub.database.model_path(lifecycle.open_round(judged.hub)["base"])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    judged.reopen()
    with stops_before_signing(judged):
        judged.aggregate(now=True)
    with stops_before_signing(judged):
        judged.join()


def test_g20_the_coordinators_rows_cannot_be_changed_without_its_keys(three: Federation) -> None:
    hub = Hub(three.hub.home)
    with pytest.raises(NotNowError):
        members.invite(hub, "Clinic 9", "small", 14)
    assert len(invites_table.every(hub.database)) == 3
    hub.database.close()
    assert three.open().round == 1


# --- the coordinator's own memory ----------------------------------------------------------------------------------
def test_g20_a_changed_memory_is_refused(three: Federation) -> None:
    for change in ({"total": "0" * 64}, {"log": [0, ""]}, {"mac": "0" * 64}, {"keys": "front"}):
        memory = json.loads(three.hub.memory_path.read_bytes())
        three.hub.memory_path.write_text(json.dumps([{**entry, **change} for entry in memory]))
        with stops_before_signing(three), session.unlocked_hub(three.hub.home, None) as (hub, coordinator_keys):
            opening.open_next(hub, coordinator_keys)
        three.hub.memory_path.write_text(json.dumps(memory))
    three.reopen()
    assert three.open().round == 1


def test_g20_a_deleted_memory_is_not_created_again_from_the_database(judged: Federation) -> None:
    judged.hub.memory_path.unlink()
    with stops_before_signing(judged), session.unlocked_hub(judged.hub.home, None) as (hub, coordinator_keys):
        members.invite(hub, "Clinic 9", "small", 14)
        close.aggregate(hub, coordinator_keys, now=True)
    assert not judged.hub.memory_path.exists()


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    """A hub of an earlier version without the coordinator's memory."""
    with monkeypatch.context() as patch:
        patch.setattr(Hub, "_begin_memory", lambda hub: None)
        fed = Federation(tmp_path / "old", clinics=2)
        fed.send_updates(fed.open())
        fed.judge()
    fed.hub.database.db.execute("UPDATE shares SET facts = json_remove(facts, '$.tag')")
    fed.hub.memory_path.unlink()
    fed.reopen()
    return fed


def test_an_older_hub_without_a_memory_is_trusted_once_with_a_note(
    old: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    with session.unlocked_hub(old.hub.home, None):
        assert "no memory of this hub" in capsys.readouterr().err
    old.reopen()
    assert old.aggregate()["accepted"] == ["site-001", "site-002"]
    assert capsys.readouterr().err == ""
    old.hub.memory_path.unlink()
    old.reopen()
    with stops_before_signing(old):
        old.open()


def test_a_backup_without_the_coordinators_memory_must_be_an_older_programs(
    old: Federation, three: Federation, tmp_path: Path
) -> None:
    for fed in (old, three):
        fed.hub.memory_path.unlink(missing_ok=True)
        file, restored_home = fed.folder / "backup.tar", fed.folder / "again"
        recovery.backup(fed.hub, file)
        root = keys.load(fed.hub.home / ROOT, nobody)
        with pytest.raises(BadBackupError, match="lacks the coordinator's memory"):
            recovery.restore(restored_home, file, root, nobody)
        if fed is old:
            assert recovery.restore(restored_home, file, root, nobody, older=True).charter.epoch == 2
        else:
            with pytest.raises(HubDamagedError, match="memory of this hub is gone"):
                recovery.restore(restored_home, file, root, nobody, older=True)


def test_g20_undoing_the_last_step_of_a_killed_command_is_detected(
    three: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    before = three.folder / "before.db"
    with closing(sqlite3.connect(before)) as copy:
        three.hub.database.db.backup(copy)
    members.revoke(
        three.hub, three.coordinator_keys, "site-003", 1, "stolen"
    )  # and the command ends before it saves its memory
    three.hub.database.close()
    for name in (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"):
        (three.hub.home / name).unlink(missing_ok=True)
    shutil.copy(before, three.hub.home / DATABASE)
    with session.unlocked_hub(three.hub.home, None) as (hub, _):
        hub.check_rows()
        assert "interrupted before it saved its last step" in capsys.readouterr().err


def test_a_restored_hub_continues_with_the_memory_of_its_backup(judged: Federation, tmp_path: Path) -> None:
    recovery.backup(judged.hub, tmp_path / "backup.tar")
    root = keys.load(judged.hub.home / ROOT, nobody)
    restored = recovery.restore(tmp_path / "again", tmp_path / "backup.tar", root, nobody)
    with session.unlocked_hub(restored.home, None) as (hub, coordinator_keys):
        assert opening.open_next(hub, coordinator_keys).round == 2
    restored.database.close()


# --- opened updates ------------------------------------------------------------------------------------------------
def opened_update(fed: Federation, site: str) -> Path:
    row = fed.hub.database.row("SELECT hash FROM shares WHERE site = ?", site)
    assert row
    return judge.opened_path(fed.hub, row["hash"])


def poisoned(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-4:] = np.float32(1e6).tobytes()
    path.write_bytes(data)


def of_another(path: Path) -> None:
    other = next(candidate for candidate in path.parent.iterdir() if candidate != path)
    path.write_bytes(other.read_bytes())


def replaced_by_a_link(path: Path) -> None:
    """Replaces the file by a link to a place that another may write to; its content is still correct."""
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


@pytest.mark.parametrize(
    "change", [poisoned, of_another, replaced_by_a_link, Path.unlink, lambda path: path.write_bytes(b"")]
)
def test_g21_a_changed_opened_update_is_opened_again_from_its_parcel(
    three: Federation, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    three.send_updates(three.open())
    three.judge()
    with three.temporary_copy(tmp_path / "undisturbed") as same:
        undisturbed = same.aggregate()["merged_sha256"]
    three.reopen()
    change(opened_update(three, "site-002"))
    outcome = three.aggregate()
    assert (outcome["merged_sha256"], outcome["quarantined"]) == (undisturbed, [])


def test_g21_a_backup_contains_no_unencrypted_update(three: Federation, tmp_path: Path) -> None:
    three.send_updates(three.open())
    three.judge()
    numbers = opened_update(three, "site-001").read_bytes()[-200:]
    recovery.backup(three.hub, tmp_path / "backup.tar")
    assert numbers not in (tmp_path / "backup.tar").read_bytes()
    root = keys.load(three.hub.home / ROOT, nobody)
    restored = recovery.restore(tmp_path / "again", tmp_path / "backup.tar", root, nobody)
    with session.unlocked_hub(restored.home, None) as (hub, coordinator_keys):
        opening.open_next(hub, coordinator_keys)
        judge.judge_waiting(hub, coordinator_keys)
        outcome = close.aggregate(hub, coordinator_keys, now=True)
    assert outcome["accepted"] == ["site-001", "site-002", "site-003"]  # received late, and opened again
    restored.database.close()
