"""Opening, closing, deciding and undoing: limits and leftovers."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge.errors import AmbiguousError, HubDamagedError, NotNowError, QuorumError
from fedhelp_edge.merge import rules
from fedhelp_edge.parcel import keys, parcel
from fedhelp_edge.trust.task import Task
from fedhelp_edge.update import Array
from server_ref.admin import status
from server_ref.hub import members, models
from server_ref.hub.database import DATABASE
from server_ref.hub.hub import ROOT
from server_ref.hub.tables import log_table
from server_ref.intake import judge, partial_uploads, receive
from server_ref.rounds import close, lifecycle, opening, reaggregate, review
from tests.federation import PLAN, Federation

pytestmark = pytest.mark.usefixtures("open_in_process")


def log_types(fed: Federation, subject: str) -> list[str]:
    return [
        row["type"] for row in fed.hub.database.rows("SELECT type FROM log WHERE subject = ? ORDER BY seq", subject)
    ]


def opened_updates(fed: Federation) -> set[str]:
    """The opened updates in the hub, as site and round."""
    names = {path.stem for path in (fed.hub.home / "shares").iterdir()}
    rows = fed.hub.database.rows("SELECT * FROM shares")
    return {f"{row['site']}/{row['round']}" for row in rows if row["hash"] in names}


def archive(fed: Federation) -> keys.Keys:
    return keys.load(fed.hub.home / ROOT, lambda: "")


def moved(fed: Federation, task: Task, model: Mapping[str, Array], number: int) -> dict[str, Array]:
    """A clinic's change in a round, applied to another model."""
    arrays, base = fed.drawn_update(task, fed.clinics[number]), fed.base(task)
    return {name: model[name] + (arrays[name] - base[name]) for name in base}


def same(first: Mapping[str, Array], second: Mapping[str, Array]) -> bool:
    return all((first[name] == second[name]).all() for name in second)


def receive_lazy(fed: Federation, task: Task, number: int) -> str:
    """Receives an update that a person must review: the unchanged weights."""
    return receive.receive(fed.hub, fed.clinics[number].give(task, fed.base(task))).hash


def round_in_review(fed: Federation, number: int = 2) -> Task:
    """A round whose last update is quarantined."""
    task = fed.open()
    fed.send_updates(task, without=(fed.clinics[number].id,))
    receive_lazy(fed, task, number)
    with pytest.raises(QuorumError):
        fed.aggregate()
    return task


# --- opening -------------------------------------------------------------------------------------------------------
def test_first_weights_can_be_named_only_before_the_first_round(three: Federation) -> None:
    first_weights = {
        "conv1.weight": np.zeros_like(models.load(three.hub, three.hub.newest_round()["model"])["conv1.weight"])
    }
    opening.check_open(three.hub, start=True)
    task = opening.open_next(three.hub, three.coordinator_keys, first_weights)
    assert not three.base(task)["conv1.weight"].any()
    assert three.base(task)["linear.weight"].any()
    published = parcel.inspect(
        three.hub.database.parcel_path(three.hub.newest_parcel("global")["hash"]), parcel.any_signer
    ).statement.context
    assert (published["round"], published["base"]) == (0, task.base)
    three.send_updates(task)
    three.aggregate()
    with pytest.raises(NotNowError, match="before the first round"):
        opening.open_next(three.hub, three.coordinator_keys, first_weights)
    opening.check_open(three.hub)


def test_a_plan_that_starts_from_the_pack_opens_no_round_without_its_weights(tmp_path: Path) -> None:
    text = PLAN.replace("fedavg", "fedhelp") + '[start]\nfrom = "pack"\n'
    fed = Federation(tmp_path, text, clinics=2)
    with pytest.raises(NotNowError, match="trained on the pack"):
        fed.open()
    drawn = models.load(fed.hub, fed.hub.newest_round()["model"])
    task = opening.open_next(fed.hub, fed.coordinator_keys, {"conv1.weight": drawn["conv1.weight"]})
    fed.send_updates(task)
    fed.aggregate()
    assert fed.open().round == 2
    fed.hub.database.close()


def test_a_roster_is_renewed_only_if_it_would_expire_before_the_round_closes(three: Federation) -> None:
    ends = three.hub.roster.expires
    three.clock.time = ends - timedelta(days=7)
    before = three.hub.roster.version
    task = three.open()
    assert (task.closes, three.hub.roster.version) == (ends, before)
    assert log_types(three, "roster") == []
    lifecycle.cancel_round(three.hub, three.hub.newest_round())
    three.clock.advance(seconds=1)
    assert three.open().roster_version == three.hub.roster.version == before + 1
    assert three.hub.roster.expires > task.closes
    assert log_types(three, "roster") == ["renew"]


def test_a_federation_is_finished_after_its_last_round_and_not_before(tmp_path: Path) -> None:
    fed = Federation(tmp_path, PLAN.replace("rounds = 12", "rounds = 1"), clinics=2)
    assert not lifecycle.is_finished(fed.hub)
    task = fed.open()
    assert not lifecycle.is_finished(fed.hub)
    lifecycle.finish(fed.hub)  # by a person, while the round is open
    assert not lifecycle.is_finished(fed.hub)
    fed.send_updates(task)
    fed.aggregate()
    assert lifecycle.is_finished(fed.hub)
    fed.hub.database.close()


def test_a_federation_finishes_once(three: Federation) -> None:
    lifecycle.finish(three.hub)
    finished_at = three.hub.database.fact("finished")
    three.clock.advance(days=1)
    lifecycle.finish(three.hub)
    assert three.hub.database.fact("finished") == finished_at
    assert log_types(three, "coordinator").count("finish") == 1
    with pytest.raises(NotNowError, match="finished"):
        three.open()


# --- closing -------------------------------------------------------------------------------------------------------
def test_a_round_is_due_at_the_second_of_its_deadline(three: Federation) -> None:
    three.send_updates(three.open(), without=("site-002",))
    three.clock.advance(days=6, hours=23, minutes=59, seconds=59)
    with pytest.raises(QuorumError, match="2 of 3 updates, 2 are needed; missing: site-002"):
        three.aggregate()
    three.clock.advance(seconds=1)
    assert three.aggregate()["accepted"] == ["site-001", "site-003"]


def test_after_its_deadline_a_round_waits_an_hour_for_uploads_in_transit(three: Federation) -> None:
    task = three.open()
    three.send_updates(task, without=("site-003",))
    path = three.clinics[2].give(task, three.drawn_update(task, three.clinics[2]))
    statement = parcel.inspect(path, parcel.any_signer).statement
    three.clock.advance(days=7)
    partial_uploads.begin(three.hub.home, statement, path.stat().st_size, path.read_bytes()[:-1], task.closes)
    with pytest.raises(QuorumError):
        three.aggregate()
    assert three.hub.newest_round()["state"] == "open"
    three.clock.advance(hours=1, seconds=1)
    assert three.aggregate()["accepted"] == ["site-001", "site-002"]


def test_a_round_changed_during_merging_is_not_published(three: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    three.send_updates(three.open())
    three.judge()
    merge, before = rules.merge, three.hub.newest_parcel("global")["hash"]
    changes = ("UPDATE rounds SET closes = '2090-01-01T00:00:00Z' WHERE round = 1",
               "UPDATE shares SET state = 'quarantined' WHERE site = 'site-001'")  # fmt: skip
    undone = ("UPDATE rounds SET closes = ? WHERE round = 1", "UPDATE shares SET state = 'accepted' WHERE ? != ''")
    closes = lifecycle.open_round(three.hub)["closes"]
    for change, undo in zip(changes, undone, strict=True):

        def meanwhile(*arguments: Any, change: str = change) -> Any:
            with three.hub.database.transaction():
                three.hub.database.run(change)
            return merge(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(rules, "merge", meanwhile)
            with pytest.raises(HubDamagedError, match="changed while it was merged"):
                three.aggregate()
        assert three.hub.newest_parcel("global")["hash"] == before
        with three.hub.database.transaction():
            three.hub.database.run(undo, closes)
    assert three.aggregate()["accepted"] == ["site-001", "site-002", "site-003"]


def test_a_site_that_claims_no_validation_images_is_reported_with_zero(three: Federation) -> None:
    task = three.open()
    claimed = ({"examples": 100}, {"examples": 90, "val": 10}, {"examples": 80, "val": 5, "correct": 4})
    for clinic, facts in zip(three.clinics, claimed, strict=True):
        receive.receive(three.hub, clinic.give(task, three.drawn_update(task, clinic), facts=facts))
    outcome = three.aggregate()
    claims = [(entry["examples"], entry["val"], entry["correct"]) for entry in outcome["claims"]]
    assert claims == [(100, 0, 0), (90, 10, 0), (80, 5, 4)]
    report = json.loads(three.hub.newest_round()["report"])
    assert report == {"sites": {"site-001": [0, 0], "site-002": [10, 0], "site-003": [5, 4]}}
    assert [(entry["lowest"], entry["highest"], entry["sites"]) for entry in status.accuracy_by_round(three.hub)] == [
        (0, 0.8, 2)
    ]


def test_a_round_without_a_merge_reports_no_model(three: Federation) -> None:
    three.send_updates(three.open(), without=("site-003",))
    three.judge()
    outcome = lifecycle.outcome(three.hub, 1)
    assert (outcome["merged_sha256"], outcome["published"], outcome["accepted"]) == (
        None,
        False,
        ["site-001", "site-002"],
    )


def test_an_update_with_suspicious_tensors_and_a_suspicious_claim_gets_both_causes(three: Federation) -> None:
    task = three.open()
    three.send_updates(task, without=("site-003",))
    base, clinic = three.base(task), three.clinics[2]
    far = {name: base[name] + 50 * (array - base[name]) for name, array in three.drawn_update(task, clinic).items()}
    receive.receive(three.hub, clinic.give(task, far, examples=10**6))
    with pytest.raises(QuorumError):
        three.aggregate()
    (odd,) = status.quarantined_updates(three.hub)
    assert odd["code"] == "E_TOO_FAR"
    distance, _, claim = odd["cause"].partition("; ")
    assert "median" in distance
    assert claim == "it claims 1000000 images; the median of the others is 100"


def test_an_update_is_quarantined_once_however_often_the_round_is_judged(three: Federation) -> None:
    task = three.open()
    three.send_updates(task, without=("site-002", "site-003"))
    receive_lazy(three, task, 2)
    for _ in range(3):
        with pytest.raises(QuorumError):
            three.aggregate(now=True)
    (row,) = review.quarantined_updates(three.hub)
    assert log_types(three, row["hash"]) == ["received", "accepted", "quarantined"]


# --- leftovers ----------------------------------------------------------------------------------------------------
def test_only_opened_updates_that_may_still_count_stay_on_the_disk(three: Federation) -> None:
    stray = three.hub.home / "shares" / "not ours.safetensors"
    stray.touch()
    round_in_review(three)
    assert opened_updates(three) == {"site-001/1", "site-002/1", "site-003/1"}
    three.aggregate(now=True)
    assert opened_updates(three) == {"site-003/1"}  # a person may release it
    task = three.open()
    three.send_updates(task, without=("site-003",))
    three.judge()
    close.destroy_obsolete(three.hub)
    assert opened_updates(three) == {"site-001/2", "site-002/2", "site-003/1"}
    members.revoke(three.hub, three.coordinator_keys, "site-002", 2, "stolen")
    with pytest.raises(QuorumError):
        three.aggregate(now=True)
    close.destroy_obsolete(three.hub)
    assert opened_updates(three) == {"site-001/2", "site-003/1"}
    review.decide(three.hub, three.coordinator_keys, "site-003", release=False)
    assert opened_updates(three) == {"site-001/2"}
    assert stray.exists()


def test_opened_updates_of_an_interrupted_command_are_deleted_by_the_next_aggregate(three: Federation) -> None:
    three.send_updates(three.open())
    three.aggregate()
    row = three.hub.database.rows("SELECT hash FROM shares")[0]
    judge.opened_path(three.hub, row["hash"]).write_bytes(b"left")
    opening.seal_round_key(three.hub, [three.coordinator_keys], 0, "left")
    three.open()
    with pytest.raises(QuorumError):
        three.aggregate()
    assert opened_updates(three) == set()
    assert [path.name for path in sorted((three.hub.home / "round-keys").iterdir())] == ["000001.age", "000002.age"]


def test_the_log_records_how_a_round_ended_without_a_merge(three: Federation) -> None:
    three.open()
    three.clock.advance(days=7)
    with pytest.raises(QuorumError):
        three.aggregate()
    three.open()
    lifecycle.cancel_round(three.hub, three.hub.newest_round())
    assert [log_types(three, f"round {number}")[-1] for number in (1, 2)] == ["fail", "call off"]


# --- decisions -----------------------------------------------------------------------------------------------------
def test_an_update_released_a_round_later_counts_as_its_change_of_the_base_model(three: Federation) -> None:
    task = three.open()
    base, drawn = three.base(task), three.drawn_update(task, three.clinics[2])
    far = {name: base[name] + np.float32(50) * (array - base[name]) for name, array in drawn.items()}
    three.send_updates(task, without=("site-003",))
    receive.receive(three.hub, three.clinics[2].give(task, far))
    three.aggregate(now=True)
    second = three.open()
    three.send_updates(second, without=("site-003",))
    assert review.decide(three.hub, three.coordinator_keys, "site-003", release=True)["state"] == "accepted"
    outcome = three.aggregate()
    now = three.base(second)
    updates = {clinic.id: three.drawn_update(second, clinic) for clinic in three.clinics[:2]}
    updates["site-003"] = {name: now[name] + (far[name] - base[name]) for name in now}
    expected = rules.merge(now, updates, dict.fromkeys(updates, 100), three.plan.merge)
    assert same(models.load(three.hub, outcome["merged_sha256"]), expected)


def test_a_released_older_update_does_not_supersede_a_newer_one(three: Federation) -> None:
    round_in_review(three)
    three.aggregate(now=True)
    three.send_updates(three.open())
    three.judge()
    assert review.decide(three.hub, three.coordinator_keys, "site-003", release=True)["state"] == "superseded"
    assert three.update_states() | {} == {
        "site-001/1": "merged", "site-001/2": "accepted", "site-002/1": "merged", "site-002/2": "accepted",
        "site-003/1": "superseded", "site-003/2": "accepted",
    }  # fmt: skip


def test_a_released_newer_update_supersedes_an_older_one(three: Federation) -> None:
    first = three.open()
    three.send_updates(first, without=("site-003",))
    late = three.clinics[2].give(first, three.drawn_update(first, three.clinics[2]), seq=1000)
    three.aggregate(now=True)
    second = three.open()
    three.send_updates(second, without=("site-003",))
    receive_lazy(three, second, 2)
    with pytest.raises(QuorumError):
        three.aggregate()
    receive.receive(three.hub, late)
    three.judge()
    assert (three.update_states()["site-003/1"], three.update_states()["site-003/2"]) == ("accepted", "quarantined")
    assert review.decide(three.hub, three.coordinator_keys, "site-003", release=True)["state"] == "accepted"
    assert (three.update_states()["site-003/1"], three.update_states()["site-003/2"]) == ("superseded", "accepted")


def test_of_two_updates_for_one_round_the_released_one_counts(three: Federation) -> None:
    task = round_in_review(three)
    (waiting,) = review.quarantined_updates(three.hub)
    other = receive.receive(three.hub, three.clinics[2].give(task, three.drawn_update(task, three.clinics[2]))).hash
    three.judge()
    assert review.decide(three.hub, three.coordinator_keys, "site-003", release=True)["state"] == "accepted"
    states = {row["hash"]: row["state"] for row in three.hub.database.rows("SELECT hash, state FROM shares")}
    assert (states[waiting["hash"]], states[other]) == ("accepted", "superseded")


def test_a_person_names_an_update_by_its_site_or_the_start_of_its_hash(three: Federation) -> None:
    round_in_review(three)
    (row,) = review.quarantined_updates(three.hub)
    for name in ("site-003", row["hash"], row["hash"][:12].upper()):
        assert review.find_update(three.hub, name)["hash"] == row["hash"]
    for name in ("site-001", row["hash"][:11], "", "f" * 64):
        with pytest.raises(NotNowError, match=r"no update of .* waits"):
            review.find_update(three.hub, name)
    lifecycle.cancel_round(three.hub, three.hub.newest_round())
    receive_lazy(three, three.open(), 2)
    three.aggregate(now=True)  # the others' late updates
    with pytest.raises(
        AmbiguousError, match=rf"2 updates of site-003 wait: {row['hash'][:12]} of round 1, .* of round 2"
    ):
        review.find_update(three.hub, "site-003")
    assert review.find_update(three.hub, row["hash"][:12])["round"] == 1


@pytest.mark.parametrize(
    "decides",
    [
        Federation.judge,
        lambda fed: close.aggregate(fed.hub, fed.coordinator_keys),
        lambda fed: review.decide(fed.hub, fed.coordinator_keys, "site-003", release=True),
    ],
)
def test_no_decision_rests_on_rows_that_the_front_changed(
    three: Federation, decides: Callable[[Federation], object]
) -> None:
    round_in_review(three)
    with closing(sqlite3.connect(three.hub.home / DATABASE)) as db, db:
        db.execute("UPDATE shares SET released = 1 WHERE state = 'quarantined'")
    length = log_table.head(three.hub.database).length
    with pytest.raises(HubDamagedError):
        decides(three)
    assert log_table.head(three.hub.database).length == length


# --- undoing -------------------------------------------------------------------------------------------------------
def test_reaggregate_refuses_a_site_that_contributed_nothing(three: Federation) -> None:
    three.send_updates(three.open(), without=("site-003",))
    three.aggregate(now=True)
    assert [reaggregate.contributed(three.hub, clinic.id) for clinic in three.clinics] == [True, True, False]
    with pytest.raises(NotNowError, match="no merged round has"):
        reaggregate.without_site(three.hub, three.coordinator_keys, "site-003", archive(three))
    reaggregate.without_site(three.hub, three.coordinator_keys, "site-002", archive(three))
    with pytest.raises(NotNowError, match="already"):
        reaggregate.without_site(three.hub, three.coordinator_keys, "site-002", archive(three))
    reaggregate.without_site(
        three.hub, three.coordinator_keys, "site-001", archive(three)
    )  # another site may have been removed before


def test_reaggregate_refuses_a_method_that_merges_nothing(tmp_path: Path) -> None:
    fed = Federation(tmp_path, PLAN.replace("fedavg", "local"), clinics=1)
    with pytest.raises(NotNowError, match="local merges nothing"):
        reaggregate.check_contributed(fed.hub, "site-001")
    fed.hub.database.close()


def test_reaggregate_skips_a_round_to_which_only_that_site_contributed(tmp_path: Path) -> None:
    fed = Federation(tmp_path, PLAN.replace("quorum = 2", "quorum = 1"))
    first = fed.open()
    fed.send_updates(first, without=("site-001", "site-003"))
    fed.aggregate(now=True)
    second = fed.open()
    fed.send_updates(second)
    fed.aggregate()
    outcome = reaggregate.without_site(fed.hub, fed.coordinator_keys, "site-002", archive(fed))
    base = fed.base(first)
    updates = {fed.clinics[number].id: moved(fed, second, base, number) for number in (0, 2)}
    expected = rules.merge(base, updates, dict.fromkeys(updates, 100), fed.plan.merge)
    assert same(models.load(fed.hub, outcome["merged_sha256"]), expected)
    fed.hub.database.close()


def test_reaggregate_starts_at_the_sites_first_round_and_leaves_no_opened_update(three: Federation) -> None:
    first = three.open()
    three.send_updates(first, without=("site-003",))
    three.aggregate(now=True)
    second = three.open()
    three.send_updates(second)
    three.aggregate()
    for row in three.hub.database.rows("SELECT hash FROM shares WHERE counts = 1"):
        three.hub.database.parcel_path(row["hash"]).unlink()
    outcome = reaggregate.without_site(three.hub, three.coordinator_keys, "site-003", archive(three))
    updates = {clinic.id: three.drawn_update(second, clinic) for clinic in three.clinics[:2]}
    expected = rules.merge(three.base(second), updates, dict.fromkeys(updates, 100), three.plan.merge)
    assert same(models.load(three.hub, outcome["merged_sha256"]), expected)
    assert opened_updates(three) == set()
    published = parcel.inspect(
        three.hub.database.parcel_path(three.hub.newest_parcel("global")["hash"]), parcel.any_signer
    ).statement.context
    assert (published["round"], published["base"]) == (outcome["round"], outcome["merged_sha256"])
    assert outcome == {"round": 3, "without": "site-003", "merged_sha256": outcome["merged_sha256"]}


def test_a_failed_reaggregate_says_why_and_leaves_no_opened_update(three: Federation) -> None:
    three.send_updates(three.open())
    three.aggregate()
    for row in three.hub.database.rows("SELECT hash FROM shares WHERE site = 'site-003'"):
        three.hub.database.parcel_path(row["hash"]).write_bytes(b"damaged")
    with pytest.raises(Exception, match="parcel"):
        reaggregate.without_site(three.hub, three.coordinator_keys, "site-002", archive(three))
    assert opened_updates(three) == set()
