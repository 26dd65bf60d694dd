"""A secure round over a stick: from masked updates to the merged model, whatever is late, doubled or stale."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge import audit
from fedhelp_edge.errors import NotNowError, QuorumError, SumRangeError
from fedhelp_edge.exchange.folder import TO_COORDINATOR
from fedhelp_edge.parcel import age, keys, parcel
from fedhelp_edge.trust.task import Task
from server_ref.admin import audit_export, unattended
from server_ref.intake import receive
from server_ref.intake.judge import opened_path, round_key
from server_ref.rounds import lifecycle, opening, reaggregate
from tests import command
from tests.unit.secure_sum.federation import SecureFederation


def assert_averaged(fed: SecureFederation, task: Task, sites: list[str]) -> None:
    expected, merged = fed.expected_model(task, sites), fed.merged_model()
    assert all(np.abs(merged[name] - expected[name]).max() <= 1e-6 for name in expected)


def test_a_round_gives_the_model_of_plain_averaging(fed: SecureFederation) -> None:
    task = fed.open()
    asked = fed.ask(task)
    assert asked["waiting"] == "helper"
    assert not asked["published"]
    assert fed.aggregate()["waiting"] == "helper"  # asking again changes nothing
    merged = fed.finish()
    assert merged["published"]
    assert merged["sum"] == {"updates": 4, "examples": 100, "val": 40, "correct": 10}
    assert merged["claims"] == []  # nobody knows what a single site counts
    assert_averaged(fed, task, merged["accepted"])
    assert_round_goes_on(fed)


def assert_round_goes_on(fed: SecureFederation) -> None:
    task = fed.open()
    fed.ask(task, without=("site-002",))
    assert fed.finish()["accepted"] == ["site-001", "site-003", "site-004"]
    assert_averaged(fed, task, ["site-001", "site-003", "site-004"])


def test_after_the_round_nobody_can_open_its_updates(fed: SecureFederation) -> None:
    task = fed.open()
    assert len(task.recipients) == 1  # no archive
    fed.ask(task)
    rows = fed.hub.database.rows("SELECT hash FROM shares")
    assert all(opened_path(fed.hub, row["hash"]).exists() for row in rows)
    key = round_key(fed.hub, fed.coordinator_keys, 1)
    assert age.recipient_of(key) == task.recipients[0]
    fed.finish()
    assert list((fed.hub.home / "round-keys").iterdir()) == list((fed.hub.home / "shares").iterdir()) == []


def test_the_same_bits_in_any_order_of_arrival(fed: SecureFederation, tmp_path: Path) -> None:
    task = fed.open()
    paths = [fed.give(task, clinic) for clinic in fed.clinics]
    other = fed.copy_to(tmp_path / "other")
    models = []
    for federation, order in ((fed, paths), (other, paths[::-1])):
        for path in order:
            receive.receive(federation.hub, path)
        federation.aggregate()
        federation.exchange()
        models.append(federation.finish()["merged_sha256"])
    other.hub.database.close()
    assert models[0] == models[1]


def test_fewer_sites_than_the_quorum_are_not_named(fed: SecureFederation) -> None:
    task = fed.open()
    fed.send_updates(task, without=("site-001", "site-002"))
    with pytest.raises(QuorumError):
        fed.aggregate(now=True)
    assert not fed.hub.named_set()


def test_a_late_update_is_refused_and_changes_no_set(fed: SecureFederation) -> None:
    task = fed.open()
    late = fed.give(task, fed.clinics[0])
    fed.ask(task, without=("site-001",))
    with pytest.raises(Exception, match="round 1 is over"):
        receive.receive(fed.hub, late)
    assert fed.finish()["accepted"] == ["site-002", "site-003", "site-004"]
    fed.open()
    with pytest.raises(Exception, match="round 1 is over"):  # stale updates do not count either
        receive.receive(fed.hub, late)


def test_a_doubled_update_counts_once(fed: SecureFederation) -> None:
    task = fed.open()
    path = fed.give(task, fed.clinics[0])
    receive.receive(fed.hub, path)
    assert not receive.receive(fed.hub, path).new
    with pytest.raises(Exception, match="sent another update"):
        receive.receive(fed.hub, fed.give(task, fed.clinics[0]))
    fed.ask(task, without=("site-001",))
    assert len(fed.seeds()) == 4
    assert_sum(fed, task)


def assert_sum(fed: SecureFederation, task: Task) -> None:
    assert fed.finish()["published"]
    assert_averaged(fed, task, [clinic.id for clinic in fed.clinics])


def test_an_answer_that_comes_twice_counts_once(fed: SecureFederation) -> None:
    fed.ask()
    assert fed.answer().state == "answered"
    assert fed.answer().state == "again"
    (first,) = fed.on_stick("sum", TO_COORDINATOR)
    assert [taken.new for taken in fed.exchange().taken if taken.hash == first.stem] == [True]
    for path in (fed.helper / "answers").glob("*.fhx"):
        path.unlink()
    assert fed.answer().state == "answered"  # a lost answer is made again, to the same bytes
    assert list(fed.on_stick("sum", TO_COORDINATOR)) == [first]
    with parcel.open(first, parcel.any_signer) as opened:
        context = {**opened.statement.context, "created": "2030-01-01T00:00:00Z"}
        helper_keys = keys.load(fed.helper, lambda: "")
        parcel.seal(first.with_name("other.fhx"), context, opened.body.read(), helper_keys.sign)
    assert [refused["code"] for refused in fed.exchange().refused] == ["E_DUPLICATE_ROUND"]
    assert fed.aggregate()["published"]
    assert {refused["code"] for refused in fed.exchange().refused} == {"E_ROUND_CLOSED"}


def test_an_update_damaged_on_disk_is_opened_again(fed: SecureFederation) -> None:
    fed.ask()
    first, second, *_ = sorted((fed.hub.home / "shares").iterdir())
    first.unlink()
    second.write_bytes(b"else")
    assert fed.finish()["published"]


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({"seed": {"round": 7}}, "E_INNER_CONTEXT"),
        ({"seed": {"base": "0" * 64}}, "E_INNER_CONTEXT"),
        ({"wire": {"seed": np.zeros(9, np.uint8)}}, "E_MAGIC"),
        ({"facts": {"examples": 3}}, "E_SAMPLES"),
        ({"wire": {"masked": np.zeros(5, np.int64)}}, "E_SCHEMA_SHAPE"),
        ({"helper": age.recipient_of(age.new_identity())}, "E_INNER_CONTEXT"),
    ],
)
def test_an_update_whose_halves_do_not_fit_is_not_accepted(
    fed: SecureFederation, how: dict[str, object], code: str
) -> None:
    task = fed.open()
    receive.receive(fed.hub, fed.give(task, fed.clinics[0], **how))
    assert [decision["code"] for decision in fed.judge()] == [code]


def test_a_masked_vector_of_another_update_does_not_fit_its_seed(fed: SecureFederation) -> None:
    task = fed.open()
    vector = np.zeros(fed.format.length, np.int64)
    receive.receive(fed.hub, fed.give(task, fed.clinics[0], wire={"masked": vector}))
    assert [decision["code"] for decision in fed.judge()] == ["E_INNER_CONTEXT"]


def test_a_site_that_sends_random_words_fails_the_round_and_the_next_one_goes_on(fed: SecureFederation) -> None:
    """Nobody sees which site it was; the model stays as it was."""
    task = fed.open()
    words = np.random.default_rng(0).integers(0, 2**64, fed.format.length, np.uint64)
    receive.receive(fed.hub, fed.give(task, fed.clinics[0], words=words))
    fed.ask(task, without=("site-001",))
    with pytest.raises(SumRangeError):
        fed.finish()
    assert fed.hub.newest_round()["model"] == task.base
    task = fed.open()
    fed.ask(task)
    assert_sum(fed, task)


def test_while_the_helper_is_awaited_no_round_opens_and_nothing_is_finished(fed: SecureFederation) -> None:
    fed.ask()
    with pytest.raises(NotNowError, match="waits for the helper"):
        opening.open_next(fed.hub, fed.coordinator_keys)
    with pytest.raises(NotNowError, match="waits for the helper"):
        opening.check_open(fed.hub)
    assert not lifecycle.is_finished(fed.hub)
    done = command.run_in_process(
        "status", home=fed.folder, program=command.COORDINATOR, env={"FEDHELP_HOME": str(fed.hub.home)}
    )
    assert "has brought the helper's answer" in done.stderr


def test_aggregating_again_without_a_site_is_refused_with_the_reason(fed: SecureFederation) -> None:
    fed.ask()
    fed.finish()
    with pytest.raises(NotNowError, match="nobody has a single update"):
        reaggregate.check_contributed(fed.hub, "site-001")


def test_the_unattended_coordinator_asks_waits_and_merges(fed: SecureFederation) -> None:
    def step() -> list[str]:
        return unattended.step(fed.hub, fed.coordinator_keys, fed.stick)[1]

    step()
    fed.send_updates(next(iter(fed.hub.tasks().values())))
    assert "round 1: 4 updates; waiting for the helper" in step()
    assert step() == []
    fed.answer()
    assert {"round 1: 4 updates merged", "round 2 is open"} <= set(step())


def test_the_unattended_coordinator_goes_on_after_a_sum_that_is_none(fed: SecureFederation) -> None:
    unattended.step(fed.hub, fed.coordinator_keys, fed.stick)
    task = next(iter(fed.hub.tasks().values()))
    words = np.random.default_rng(0).integers(0, 2**64, fed.format.length, np.uint64)
    receive.receive(fed.hub, fed.give(task, fed.clinics[0], words=words))
    fed.send_updates(task, without=("site-001",))
    unattended.step(fed.hub, fed.coordinator_keys, fed.stick)
    fed.answer()
    news = unattended.step(fed.hub, fed.coordinator_keys, fed.stick)[1]
    assert any(line.startswith("the round failed: ") for line in news)
    assert "round 2 is open" in news


def test_the_set_leaves_the_stick_once_the_round_is_merged(fed: SecureFederation) -> None:
    fed.ask()
    assert len(fed.on_stick("set")) == 1
    fed.finish()
    fed.exchange()
    assert fed.on_stick("set") == {}


def test_an_auditor_checks_a_secure_round_without_any_key(fed: SecureFederation, tmp_path: Path) -> None:
    fed.ask()
    merged = fed.finish()
    audit_export.export_round(fed.hub, 1, tmp_path / "exported")
    report = audit.check(tmp_path / "exported")
    assert report.model == merged["merged_sha256"]
    assert [entry["site"] for entry in report.merged] == merged["accepted"]


def test_a_front_cannot_exchange_the_answer(fed: SecureFederation) -> None:
    fed.ask()
    fed.answer()
    fed.exchange()
    stored = fed.hub.database.parcel_path(fed.hub.database.row("SELECT hash FROM parcels WHERE kind = 'sum'")["hash"])
    statement = parcel.inspect(stored, parcel.any_signer).statement
    with parcel.open(stored, parcel.any_signer) as opened:
        body = opened.body.read()
    stored.unlink()
    parcel.seal(stored, statement.context, body, fed.hub.front_keys().sign)
    with pytest.raises(Exception, match="not the helper's answer"):
        fed.aggregate()
    shutil.rmtree(fed.stick)
