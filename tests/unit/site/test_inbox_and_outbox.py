"""A site and its coordinator over a stick: the parcels of each trip, and refusals."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge import update
from fedhelp_edge.codec import CODECS
from fedhelp_edge.errors import (
    BadInviteError,
    FileMissingError,
    HubDamagedError,
    JoinedAlreadyError,
    NotYetError,
    PinnedKeyError,
    SignerMismatchError,
    WrongTaskError,
)
from fedhelp_edge.exchange.folder import FROM_COORDINATOR, FolderCarrier
from fedhelp_edge.exchange.http import HttpCarrier
from fedhelp_edge.merge.closing import NO_MERGE, LastMerge
from fedhelp_edge.parcel import keys, parcel
from fedhelp_edge.site import connection, identity, inbox, layout, membership, outbox, status, sync, verified
from server_ref.hub import models
from server_ref.hub.hub import Hub
from server_ref.hub.tables import log_table
from server_ref.intake import receive
from server_ref.rounds import opening
from server_ref.web import downloads, signed
from tests.clinic import Clinic
from tests.codecs import Steps
from tests.federation import Federation, nobody

pytestmark = pytest.mark.usefixtures("open_in_process")


def test_three_trips_of_a_stick_take_a_site_from_its_invite_to_its_receipt(clinic: Clinic) -> None:
    clinic.join()
    assert clinic.state == status.JOINING
    clinic.carry_stick()
    task = clinic.federation.open()
    clinic.carry_stick()
    assert clinic.download().refused == []
    assert clinic.state == status.READY
    assert verified.require_state(clinic.home).task == task
    clinic.train()
    assert clinic.state == status.TRAINED
    outbox.seal_current(clinic.home, nobody)
    assert len(clinic.upload()) == 1
    assert clinic.state == status.SENT
    clinic.carry_stick()
    clinic.download()
    assert clinic.state == status.JUDGED
    assert status.status(clinic.home)["receipts"] == [{"round": "1", "state": "accepted", "code": "", "cause": ""}]
    assert clinic.upload() == []


def test_a_site_that_joined_early_trains_from_the_weights_with_which_the_first_round_opens(clinic: Clinic) -> None:
    clinic.join()
    clinic.carry_stick()
    assert clinic.download().refused == []
    hub = clinic.federation.hub
    first = models.load(hub, hub.newest_round()["model"])
    start_weights = {name: array + 1 if array.dtype.kind == "f" else array for name, array in first.items()}
    task = opening.open_next(hub, clinic.federation.coordinator_keys, start_weights)
    clinic.carry_stick()
    assert clinic.download().refused == []
    clinic.train()
    assert verified.require_state(clinic.home).task == task
    assert clinic.state == status.TRAINED


def upload_refused_update(clinic: Clinic, examples: int = 0) -> Path:
    """Uploads an update with an impossible number of images, which the hub refuses."""
    state = verified.require_state(clinic.home)
    assert state.task
    outbox.put_refused_aside(clinic.home, state.task)
    clinic.train()
    report = layout.round_dir(clinic.home, state.task) / "report.json"
    report.write_text(json.dumps({**json.loads(report.read_text()), "examples": examples}))
    return outbox.seal_current(clinic.home, nobody)


def test_a_site_gets_a_receipt_that_its_fifth_update_of_a_round_exceeded_the_quota(clinic: Clinic) -> None:
    clinic.join_and_fetch_task()
    for code in (*["E_SAMPLES"] * 4, "E_QUOTA"):
        upload_refused_update(clinic)
        clinic.upload()
        clinic.carry_stick()
        assert clinic.download().refused == []
        report = status.status(clinic.home)
        assert [receipt["code"] for receipt in report["receipts"]] == [code]
        assert ("train the round again" in report["means"]) == (code == "E_SAMPLES")
    assert report["state"] == status.JUDGED
    assert report["outbox"] == []
    assert "bytes for round 1" in report["receipts"][0]["cause"]
    clinic.federation.hub.check()


def test_a_refusal_on_receipt_is_reported_once_and_only_to_its_own_site(clinic: Clinic) -> None:
    """The same site trained on another computer with a backup of its keys."""
    clinic.join_and_fetch_task()
    clinic.train()
    first = outbox.seal_current(clinic.home, nobody)
    clinic.upload()
    clinic.carry_stick()
    first.rename(clinic.stick / "elsewhere")
    second = outbox.seal_current(clinic.home, nobody)
    clinic.upload()
    hub = clinic.federation.hub
    for _ in range(2):
        clinic.carry_stick()
        about = [
            parcel.inspect(path, parcel.any_signer).statement.context
            for path in (clinic.stick / FROM_COORDINATOR).glob("*.fhx")
        ]
        assert [context["sender"] for context in about if context.get("about") == second.stem] == ["coordinator"]
    clinic.download()
    assert [receipt["code"] for receipt in status.status(clinic.home)["receipts"]] == ["E_DUPLICATE_ROUND"]
    assert [line["type"] for line, _ in log_table.lines(hub.database) if line["subject"] == second.stem] == ["refused"]
    this_site = identity.own_site(clinic.home, verified.require_state(clinic.home))
    assert this_site
    own_reader, other_reader = (
        signed.SignedReader("", site) for site in (this_site.id, clinic.federation.clinics[0].id)
    )
    (receipt,) = [row["hash"] for row in hub.database.rows("SELECT hash FROM parcels WHERE site = ?", second.stem)]
    assert [row["hash"] for row in downloads._list_parcels(hub, own_reader)].count(receipt) == 1
    assert not downloads._is_readable(hub, other_reader, receipt)


def test_twenty_refusals_on_receipt_are_reported_for_each_site_and_round(three: Federation) -> None:
    task, site = three.open(), three.clinics[0]
    for _ in range(25):
        with pytest.raises(WrongTaskError):
            receive.receive(three.hub, site.give(task, {}, task="0" * 64))
    three.judge()
    assert len(three.hub.database.rows("SELECT * FROM log WHERE type = 'refused'")) == 20


def test_no_refusal_is_reported_for_an_update_that_another_signed_in_a_sites_name(three: Federation) -> None:
    task = three.open()
    thief = copy.copy(three.clinics[0])
    thief.keys = three.clinics[1].keys
    with pytest.raises(SignerMismatchError):
        receive.receive(three.hub, thief.give(task, {}))
    three.judge()
    assert three.hub.database.rows("SELECT * FROM unkept") == []


def test_a_refusal_inserted_into_the_database_is_not_signed(three: Federation) -> None:
    task = three.open()
    genuine = three.clinics[0].give(task, three.drawn_update(task, three.clinics[0]))
    with contextlib.closing(sqlite3.connect(three.hub.home / "hub.db")) as front:
        front.execute("INSERT INTO unkept VALUES (?, 'site-001', 1, 'E_QUOTA', 'no')", (genuine.stem,))
        front.commit()
    with pytest.raises(HubDamagedError):
        three.judge()
    assert three.hub.database.rows("SELECT * FROM parcels WHERE kind = 'receipt' AND site = ?", genuine.stem) == []


def test_a_task_limits_the_size_of_models_from_a_front(clinic: Clinic) -> None:
    clinic.join()
    clinic.carry_stick()
    task = clinic.federation.open()
    clinic.carry_stick()
    clinic.download()
    (carrier,) = connection.carriers(clinic.home, nobody, url="http://127.0.0.1:9")
    assert isinstance(carrier, HttpCarrier)
    model_size = (
        clinic.federation.hub.database.parcel_path(clinic.federation.hub.newest_parcel("global")["hash"]).stat().st_size
    )
    assert model_size < carrier.max_model_bytes < 5 * task.schema.size + (40 << 20)


def test_copies_of_a_genuine_file_with_other_bytes_are_not_written_to_a_sites_disk(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic.join()
    clinic.carry_stick()
    clinic.federation.open()
    clinic.carry_stick()
    folder = clinic.stick / FROM_COORDINATOR
    (model,) = (
        path for path in folder.glob("*.fhx") if parcel.inspect(path, parcel.any_signer).statement.kind == "global"
    )
    data = model.read_bytes()
    for number in range(5):
        (folder / f"+{number}").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    copied: list[str] = []
    copy_parcel = inbox._copy_parcel
    monkeypatch.setattr(
        inbox,
        "_copy_parcel",
        lambda file, target, statement: (copied.append(statement.kind), copy_parcel(file, target, statement)),
    )
    result = clinic.download()
    assert [refusal["code"] for refusal in result.refused] == ["E_PAYLOAD_HASH"] * 5
    assert copied.count("global") == 1
    assert clinic.state == status.READY


def test_the_next_download_has_the_merged_model(clinic: Clinic) -> None:
    clinic.join()
    clinic.carry_stick()
    clinic.federation.send_updates(clinic.federation.open())
    clinic.carry_stick()
    clinic.download()
    clinic.train()
    outbox.seal_current(clinic.home, nobody)
    clinic.upload()
    clinic.carry_stick()
    outcome = clinic.federation.aggregate()
    assert outcome["accepted"] == ["site-001", "site-002", "site-003", "site-004"]
    task = clinic.federation.open()
    clinic.carry_stick()
    clinic.download()
    base = inbox.base_model(clinic.home, task, inbox.plan_of(task))
    expected = models.load(clinic.federation.hub, outcome["merged_sha256"])
    assert all((base[name] == expected[name]).all() for name in expected)
    row = clinic.federation.hub.database.row("SELECT report FROM rounds WHERE round = 1")
    assert row
    assert json.loads(row["report"])["sites"]["site-004"] == [10, 4]


def test_a_sealed_update_is_not_sealed_again(clinic: Clinic) -> None:
    clinic.join_and_fetch_task()
    clinic.train()
    assert outbox.seal_current(clinic.home, nobody) == outbox.seal_current(clinic.home, nobody)


def test_a_missing_update_file_is_trained_again(clinic: Clinic) -> None:
    clinic.join_and_fetch_task()
    clinic.train()
    next((clinic.home / "rounds").glob("*/share.safetensors")).unlink()
    with pytest.raises(NotYetError, match="damaged"):
        outbox.seal_current(clinic.home, nobody)
    assert clinic.state == status.TRAINING
    clinic.train()
    outbox.seal_current(clinic.home, nobody)


def test_before_its_admission_a_site_sends_only_its_request(clinic: Clinic) -> None:
    clinic.join()
    assert [path.parent.name for path in outbox.pending(clinic.home)] == ["request"]
    with pytest.raises(NotYetError):
        outbox.seal_current(clinic.home, nobody)


def test_an_approved_request_is_no_longer_pending_even_without_its_receipt(clinic: Clinic) -> None:
    clinic.join_and_fetch_task()
    shutil.rmtree(clinic.home / "receipt")
    assert outbox.pending(clinic.home) == []


def test_a_request_is_sent_again_to_a_restored_hub_that_does_not_know_it(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic.join()
    clinic.carry_stick()
    clinic.download()
    monkeypatch.setattr(identity, "own_site", lambda *_: None)  # as with the roster of a restored hub
    assert outbox.pending(clinic.home) == []
    for receipt in (clinic.home / "receipt").iterdir():
        receipt.rename(receipt.with_name(receipt.name.replace("0001-", "0000-", 1)))
    assert [path.parent.name for path in outbox.pending(clinic.home)] == ["request"]


def test_a_parcel_damaged_during_the_download_is_not_stored(clinic: Clinic) -> None:
    clinic.join()
    store = clinic.home / "incoming"
    store.mkdir()
    (store / "part.fhx").write_bytes(b"half of it")

    class Line(FolderCarrier):
        def fetch(self, have: frozenset[str]) -> Iterator[Path]:
            return store.iterdir()

    assert len(inbox.download(clinic.home, [Line(clinic.stick)], nobody).refused) == 1
    assert list(store.iterdir()) == []


def test_a_folder_joins_one_federation(clinic: Clinic) -> None:
    clinic.join()
    with pytest.raises(JoinedAlreadyError):
        clinic.join()


def test_an_interrupted_join_is_repeated_with_the_same_keys(clinic: Clinic) -> None:
    clinic.join()
    shutil.rmtree(clinic.home / "charter")  # the last file that joining writes
    before = (clinic.home / "keys.pub").read_bytes()
    clinic.join()
    assert (clinic.home / "keys.pub").read_bytes() == before
    assert len(outbox.pending(clinic.home)) == 1


@pytest.mark.parametrize("text", ["", "{}", "FH1-00000", '{"code": 5, "url": "", "federation": "", "charters": []}'])
def test_a_file_that_is_not_an_invite_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.invite").write_text(text)
    with pytest.raises(BadInviteError):
        membership.read_invite_file(tmp_path / "a.invite")


def test_an_invite_whose_charter_is_another_federations_is_refused(clinic: Clinic, tmp_path: Path) -> None:
    other = Federation(tmp_path / "other", clinics=0)
    invite = json.loads(clinic.invite.read_text())
    invite["charters"] = json.loads(Clinic(other, tmp_path / "their").invite.read_text())["charters"]
    clinic.invite.write_text(json.dumps(invite))
    with pytest.raises(PinnedKeyError):
        clinic.join()
    assert verified.state(clinic.home) is None


def test_parcels_of_another_federation_are_refused_and_the_rest_is_stored(clinic: Clinic, tmp_path: Path) -> None:
    other = Federation(tmp_path / "other", clinics=0)
    clinic.join()
    clinic.carry_stick()
    clinic.federation.open()
    clinic.carry_stick()
    for path in (row["hash"] for row in other.hub.database.rows("SELECT hash FROM parcels")):
        shutil.copy(other.hub.database.parcel_path(path), clinic.stick / FROM_COORDINATOR)
    result = clinic.download()
    assert {refusal["code"] for refusal in result.refused} <= {
        "E_FEDERATION",
        "E_SIGNER_UNKNOWN",
        "E_PIN",
        "E_ROOT_CHAIN",
    }
    assert len(result.refused) == 3
    assert clinic.state == status.READY


def test_a_partial_file_is_named_and_downloaded_later(clinic: Clinic) -> None:
    clinic.join()
    clinic.carry_stick()
    clinic.federation.open()
    clinic.carry_stick()
    parcels = (clinic.stick / FROM_COORDINATOR).glob("*.fhx")
    task = next(path for path in parcels if parcel.inspect(path, parcel.any_signer).statement.kind == "task")
    original = task.read_bytes()
    task.write_bytes(original[:-10])
    assert [refusal["code"] for refusal in clinic.download().refused] == ["E_TRUNCATED"]
    task.write_bytes(original)
    assert clinic.download().refused == []
    assert clinic.state == status.READY


def test_a_damaged_sealed_update_is_sealed_again(clinic: Clinic) -> None:
    clinic.join_and_fetch_task()
    clinic.train()
    _damage(outbox.seal_current(clinic.home, nobody))
    assert clinic.state == status.TRAINED
    sync.seal_if_trained(clinic.home, nobody)
    assert clinic.state == status.SENT
    clinic.upload()
    clinic.carry_stick()
    clinic.download()
    assert status.status(clinic.home)["receipts"][0]["state"] == "accepted"


def test_a_damaged_request_is_reported_and_made_again(clinic: Clinic) -> None:
    _damage(membership.join(clinic.home, membership.read_invite_file(clinic.invite), "we", lambda: None))
    with pytest.raises(NotYetError, match="damaged") as caught:
        clinic.upload()
    assert "'join' with an invite" in caught.value.remedy
    membership.leave(clinic.home)
    clinic.join()
    clinic.carry_stick()
    clinic.download()
    assert clinic.state == status.WAITING
    _damage(membership.request_new_keys(clinic.home, nobody))
    with pytest.raises(NotYetError, match="damaged") as caught:
        clinic.upload()
    assert "'fedhelp-edge keys rotate'" in caught.value.remedy
    request = membership.request_new_keys(clinic.home, nobody)
    assert clinic.upload() == [request.stem]


def _damage(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_a_missing_stick_is_an_error(clinic: Clinic) -> None:
    clinic.join()
    clinic.stick.rename(clinic.stick.with_name("pulled"))
    with pytest.raises(FileMissingError):
        clinic.upload()
    assert len(outbox.pending(clinic.home)) == 1


def test_new_keys_are_used_once_the_roster_names_them(clinic: Clinic) -> None:
    clinic.join()
    clinic.carry_stick()
    clinic.download()
    old = keys.load_public(clinic.home)
    request = membership.request_new_keys(clinic.home, nobody)
    assert membership.request_new_keys(clinic.home, nobody) == request  # a second call makes the same request
    assert keys.load_public(clinic.home) == old
    clinic.upload()
    clinic.carry_stick()
    clinic.federation.open()
    clinic.carry_stick()
    assert clinic.download().refused == []
    assert keys.load_public(clinic.home) != old
    assert not (clinic.home / layout.NEXT_KEYS).exists()
    assert clinic.state == status.READY
    assert status.status(clinic.home)["site"] == "site-004"


@pytest.mark.parametrize("moved", [0, 1])
def test_an_interrupted_key_rotation_ends_with_the_next_download(clinic: Clinic, moved: int) -> None:
    clinic.join()
    clinic.carry_stick()
    clinic.download()
    membership.request_new_keys(clinic.home, nobody)
    clinic.upload()
    clinic.carry_stick()
    new, next_keys = keys.load_public(clinic.home / layout.NEXT_KEYS), clinic.home / layout.NEXT_KEYS
    for name in ("keys.txt", "keys.pub")[:moved]:
        (next_keys / name).replace(clinic.home / name)
    clinic.download()
    clinic.download()
    assert keys.load(clinic.home, nobody).public == new
    assert clinic.state == status.WAITING


def test_no_update_is_sealed_during_a_key_rotation_and_no_keys_rotate_while_an_update_is_in_transit(
    clinic: Clinic,
) -> None:
    clinic.join_and_fetch_task()
    clinic.train()
    request = membership.request_new_keys(clinic.home, nobody)
    with pytest.raises(NotYetError, match="new keys"):
        outbox.seal_current(clinic.home, nobody)
    sync.seal_if_trained(clinic.home, nobody)
    assert clinic.upload() == [request.stem]
    clinic.carry_stick()
    clinic.download()
    sync.seal_if_trained(clinic.home, nobody)
    with pytest.raises(NotYetError, match="an update"):
        membership.request_new_keys(clinic.home, nobody)
    clinic.upload()
    clinic.carry_stick()
    clinic.download()
    assert status.status(clinic.home)["receipts"][0]["state"] in ("accepted", "received")
    membership.request_new_keys(clinic.home, nobody)


def test_a_site_knows_how_many_updates_a_model_was_merged_from_and_whether_its_own_is_among_them(
    clinic: Clinic,
) -> None:
    federation = clinic.federation
    clinic.join_and_fetch_task()
    for round_, takes_part in ((1, True), (2, False)):
        task = verified.require_state(clinic.home).task
        assert task
        assert task.round == round_
        if round_ == 1:
            assert inbox.last_merge(clinic.home, task, None) == NO_MERGE
        if takes_part:
            clinic.train()
            outbox.seal_current(clinic.home, nobody)
            clinic.upload()
            clinic.collect()
        federation.send_updates(task)
        federation.aggregate(now=True)
        federation.open()
        clinic.carry_stick()
        clinic.download()
        next_task = verified.require_state(clinic.home).task
        assert next_task
        trained = layout.round_dir(clinic.home, task)
        known = LastMerge(updates=3 + takes_part, own=takes_part, latest=takes_part)
        assert inbox.last_merge(clinic.home, next_task, trained) == known
        cancelled = trained.with_name("a round that came between")
        assert inbox.last_merge(clinic.home, next_task, cancelled).latest is False
    note = layout.base_path(clinic.home, next_task).with_suffix(".json")
    for damaged in (b"", b"\0" * 40, b"{}x", b"7", b'{"updates": 4'):
        note.write_bytes(damaged)
        assert inbox.last_merge(clinic.home, next_task, None) == NO_MERGE


@pytest.mark.parametrize("inputs", [7, ["*"]])
def test_a_list_of_merged_updates_that_is_none_tells_a_site_nothing_and_stops_nothing(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, inputs: Any
) -> None:
    federation, publish = clinic.federation, Hub.publish

    def publish_nonsense(hub: Hub, *args: Any, facts: Any = None, **context: Any) -> Any:
        return publish(hub, *args, facts={**facts, "inputs": inputs} if facts else None, **context)

    clinic.join_and_fetch_task()
    clinic.train()
    outbox.seal_current(clinic.home, nobody)
    clinic.upload()
    clinic.collect()
    monkeypatch.setattr(Hub, "publish", publish_nonsense)
    federation.send_updates(federation.hub.tasks(1)[1])
    federation.aggregate(now=True)
    federation.open()
    clinic.carry_stick()
    assert clinic.download().refused == []
    task = verified.require_state(clinic.home).task
    assert task
    assert inbox.last_merge(clinic.home, task, None) == LastMerge(updates=4, own=False)


def test_what_a_codec_remembers_of_an_update_comes_to_it_in_the_next_round(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = Steps(2.0**-10)
    clinic.join_and_fetch_task()
    for round_ in (1, 2):
        clinic.train()
        task = verified.require_state(clinic.home).task
        assert task
        with monkeypatch.context() as patched:
            patched.setitem(CODECS, "f32", codec)  # type: ignore[index]
            first = outbox.seal_current(clinic.home, nobody)
            first.unlink()  # as a power cut would
            outbox.seal_current(clinic.home, nobody)
        assert codec.memories == [False, False, True, True][: 2 * round_]
        memory_path = layout.round_dir(clinic.home, task) / "memory.safetensors"
        memory = update.load(memory_path)
        assert 0 < max(np.abs(array).max() for array in memory.values()) <= 2.0**-11
        clinic.upload()
        clinic.collect()
        clinic.federation.send_updates(task)
        clinic.federation.aggregate(now=True)
        clinic.federation.open()
        clinic.carry_stick()
        clinic.download()


def test_a_damaged_memory_of_a_codec_stops_no_update_and_old_memories_are_removed(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = Steps(2.0**-10)
    monkeypatch.setitem(CODECS, "f32", codec)  # type: ignore[index]
    clinic.join_and_fetch_task()
    clinic.train()
    task = verified.require_state(clinic.home).task
    assert task
    memories = []
    for name in ("0001-000000", "0000-000001"):  # of earlier rounds
        memories.append(clinic.home / "rounds" / name / "memory.safetensors")
        memories[-1].parent.mkdir()
        memories[-1].write_bytes(b"cut off")
    outbox.seal_current(clinic.home, nobody)
    assert codec.memories == [False]
    assert [path.exists() for path in memories] == [True, False]
    assert update.load(layout.round_dir(clinic.home, task) / "memory.safetensors")
