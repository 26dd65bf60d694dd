"""Consecutive rounds over a carrier folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge.codec import CODECS
from fedhelp_edge.data import pack as packs
from fedhelp_edge.errors import (
    DuplicateRoundError,
    KnowledgeMissingError,
    NotNowError,
    QuorumError,
    RoundClosedError,
    SignerMismatchError,
)
from fedhelp_edge.merge import rules
from fedhelp_edge.parcel import keys, parcel
from server_ref.admin import exchange, status
from server_ref.hub import models
from server_ref.intake import judge, receive
from server_ref.rounds import lifecycle, reaggregate, review
from tests.federation import PLAN, Federation
from tests.unit.data import test_pack
from tests.unit.methods import toy

pytestmark = pytest.mark.usefixtures("open_in_process")


def test_a_round_over_a_folder_merges_the_mean_of_the_updates(three: Federation, tmp_path: Path) -> None:
    task = three.open()
    stick = tmp_path / "stick"
    exchange.exchange(three.hub, stick)
    updates, examples = {}, {}
    for number, clinic in enumerate(three.clinics):
        round_, base = clinic.model(stick / exchange.FROM_COORDINATOR)
        assert round_ == 0
        arrays = {name: (array + 0.01 * (number + 1)).astype(np.float32) for name, array in base.items()}
        updates[clinic.id], examples[clinic.id] = arrays, 100 * (number + 1)
        path = clinic.give(task, arrays, examples=examples[clinic.id])
        path.rename(stick / exchange.TO_COORDINATOR / f"anything {number}.bin")
    exchanged = exchange.exchange(three.hub, stick)
    assert len(exchanged.taken) == 3
    outcome = three.aggregate()
    expected = rules.merge(base, updates, examples, three.plan.merge)
    exchange.exchange(three.hub, stick)
    for clinic in three.clinics:
        round_, merged = clinic.model(stick / exchange.FROM_COORDINATOR)
        assert round_ == 1
        assert all((merged[name] == expected[name]).all() for name in expected)
    assert outcome["accepted"] == ["site-001", "site-002", "site-003"]
    assert outcome["published"]
    model_file = three.hub.database.model_path(outcome["merged_sha256"]).read_bytes()
    assert outcome["merged_sha256"] == hashlib.sha256(model_file).hexdigest()


@pytest.mark.parametrize("up", ["f16", "int8-delta", "lowrank"])
def test_a_hub_merges_updates_as_their_codec_brings_them_late_ones_too(tmp_path: Path, up: str) -> None:
    plan = f"{PLAN}\n[wire]\nup = '{up}'\n" if "[wire]" not in PLAN else PLAN.replace("[wire]", f"[wire]\nup = '{up}'")
    fed = Federation(tmp_path, plan)
    first = fed.open()
    base = fed.base(first)
    arrived = {}
    late = fed.clinics[2]
    for clinic in fed.clinics:
        arrays = fed.drawn_update(first, clinic)
        wire, _ = CODECS[up].encode(arrays, base, {})
        arrived[clinic.id] = {name: np.array(array) for name, array in CODECS[up].decode(wire, base).items()}
        path = clinic.give(first, arrays, codec=up, base_arrays=base)
        if clinic is not late:
            receive.receive(fed.hub, path)
    fed.aggregate(now=True)
    two = {site: arrays for site, arrays in arrived.items() if site != late.id}
    merged = rules.merge(base, two, dict.fromkeys(two, 100), fed.plan.merge)
    second = fed.open()
    now = fed.base(second)
    assert all((now[name] == merged[name]).all() for name in merged)
    receive.receive(fed.hub, path)
    for clinic in fed.clinics[:2]:
        receive.receive(fed.hub, clinic.give(second, fed.drawn_update(second, clinic), codec=up, base_arrays=now))
    assert set(fed.aggregate(now=True)["accepted"]) == set(arrived)


def test_rounds_follow_one_another_until_the_plan_is_done(tmp_path: Path) -> None:
    three = Federation(tmp_path, PLAN.replace("rounds = 12", "rounds = 3"))
    for number in (1, 2, 3):
        task = three.open()
        assert task.round == number
        three.send_updates(task)
        three.aggregate()
    with pytest.raises(NotNowError, match="finished"):
        three.open()


def test_a_round_waits_for_everybody_until_its_deadline(three: Federation) -> None:
    three.send_updates(three.open(), without=("site-002",))
    with pytest.raises(QuorumError, match="missing: site-002"):
        three.aggregate()
    three.clock.advance(days=8)
    assert three.aggregate()["accepted"] == ["site-001", "site-003"]


def test_aggregate_now_closes_a_round_before_its_deadline(three: Federation) -> None:
    three.send_updates(three.open(), without=("site-002",))
    assert three.aggregate(now=True)["accepted"] == ["site-001", "site-003"]


def test_aggregate_now_merges_nothing_below_the_quorum(three: Federation) -> None:
    three.send_updates(three.open(), without=("site-001", "site-002"))
    with pytest.raises(QuorumError):
        three.aggregate(now=True)
    assert three.hub.newest_round()["state"] == "open"


def test_a_round_without_quorum_fails_at_its_deadline_and_the_next_begins_from_the_same_model(
    three: Federation,
) -> None:
    first = three.open()
    three.send_updates(first, without=("site-001", "site-002"))
    three.clock.advance(days=8)
    with pytest.raises(QuorumError):
        three.aggregate()
    assert three.hub.newest_round()["state"] == "failed"
    second = three.open()
    assert second.base == first.base
    three.send_updates(second, without=("site-003",))  # its update of the failed round still counts
    assert three.aggregate()["accepted"] == ["site-001", "site-002", "site-003"]


def test_a_late_update_counts_in_the_next_round_as_its_change_of_the_base_model(three: Federation) -> None:
    first = three.open()
    late = three.clinics[2].give(first, three.drawn_update(first, three.clinics[2]))
    three.send_updates(first, without=("site-003",))
    three.aggregate(now=True)
    second = three.open()
    receive.receive(three.hub, late)
    three.send_updates(second, without=("site-003",))
    outcome = three.aggregate()
    assert outcome["accepted"] == ["site-001", "site-002", "site-003"]
    then, now = three.base(first), three.base(second)
    arrays = three.drawn_update(first, three.clinics[2])
    updates = {clinic.id: three.drawn_update(second, clinic) for clinic in three.clinics[:2]}
    updates["site-003"] = {name: now[name] + (arrays[name] - then[name]) for name in now}
    expected = rules.merge(now, updates, dict.fromkeys(updates, 100), three.plan.merge)
    merged = models.load(three.hub, outcome["merged_sha256"])
    assert all((merged[name] == expected[name]).all() for name in expected)


def test_a_fresh_update_supersedes_a_late_one(three: Federation) -> None:
    first = three.open()
    clinic = three.clinics[2]
    late = clinic.give(first, three.drawn_update(first, clinic))
    three.send_updates(first, without=("site-003",))
    three.aggregate(now=True)
    second = three.open()
    receive.receive(three.hub, late)
    three.judge()
    three.send_updates(second)
    three.aggregate()
    assert three.update_states()["site-003/1"] == "superseded"
    assert three.update_states()["site-003/2"] == "merged"


def test_an_update_of_an_old_round_is_refused(three: Federation) -> None:
    first = three.open()
    old = three.clinics[2].give(first, three.drawn_update(first, three.clinics[2]))
    three.send_updates(first, without=("site-003",))
    three.aggregate(now=True)
    three.send_updates(three.open(), without=("site-003",))
    three.aggregate(now=True)
    with pytest.raises(RoundClosedError):
        receive.receive(three.hub, old)


def test_an_update_of_failed_rounds_counts_while_the_plan_allows_it_and_no_longer(three: Federation) -> None:
    """The round's key still exists; the update's age decides."""
    three.send_updates(three.open(), without=("site-001", "site-002"))
    for failed in (1, 2):
        assert three.judge()[0]["state"] == "accepted", failed
        three.clock.advance(days=8)
        with pytest.raises(QuorumError):
            three.aggregate()
        three.open()
    assert three.judge() == [
        {"site": "site-003", "state": "refused", "code": "E_ROUND_CLOSED", "cause": "round 1 is over; this is round 3"}
    ]


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("shares", "site", "site-002"),
        ("shares", "round", 0),
        ("shares", "seq", 99),
        ("shares", "nonce", "7" * 32),
        ("rounds", "task", "e" * 64),
        ("rounds", "base", "e" * 64),
    ],
)
def test_an_update_counts_only_for_what_its_site_signed(
    three: Federation, table: str, column: str, value: object
) -> None:
    """The database is not trusted, because the front can write to it."""
    receive.receive(three.hub, three.clinics[0].give(task := three.open(), three.drawn_update(task, three.clinics[0])))
    (row,) = three.hub.database.rows("SELECT * FROM shares")
    judge.check_statement(three.hub, row)
    three.hub.database.run(f"UPDATE {table} SET {column} = ? WHERE round = 1", value)
    (row,) = three.hub.database.rows("SELECT * FROM shares")
    with pytest.raises(SignerMismatchError):
        judge.check_statement(three.hub, row)


def test_a_second_update_for_one_round_is_refused(three: Federation) -> None:
    task = three.open()
    clinic = three.clinics[0]
    receive.receive(three.hub, clinic.give(task, three.drawn_update(task, clinic)))
    with pytest.raises(DuplicateRoundError):
        receive.receive(three.hub, clinic.give(task, three.drawn_update(task, clinic)))


def test_the_same_update_by_two_carriers_is_one_update_with_one_receipt(three: Federation) -> None:
    task = three.open()
    clinic = three.clinics[0]
    path = clinic.give(task, three.drawn_update(task, clinic))
    first, second = receive.receive(three.hub, path), receive.receive(three.hub, path)
    assert (second.receipt, second.new) == (first.receipt, False)
    assert list(three.update_states()) == ["site-001/1"]


def test_reaggregate_merges_all_rounds_without_a_site_and_the_next_round_starts_from_it(three: Federation) -> None:
    """Expected: the merge of the other two sites' changes, applied to the model without the third."""
    tasks, merged = [], []
    for _ in range(2):
        tasks.append(three.open())
        three.send_updates(tasks[-1])
        merged.append(three.aggregate()["merged_sha256"])
    archive = keys.load(three.folder / "hub" / "root", lambda: "")
    outcome = reaggregate.without_site(three.hub, three.coordinator_keys, "site-002", archive)
    base = three.base(tasks[0])
    for task in tasks:
        round_base = three.base(task)
        updates = {}
        for clinic in (three.clinics[0], three.clinics[2]):
            arrays = three.drawn_update(task, clinic)
            moved = {name: base[name] + (arrays[name] - round_base[name]) for name in base}
            updates[clinic.id] = arrays if task is tasks[0] else moved
        base = rules.merge(base, updates, dict.fromkeys(updates, 100), three.plan.merge)
    reaggregated = models.load(three.hub, outcome["merged_sha256"])
    assert all((reaggregated[name] == base[name]).all() for name in base)
    assert three.open().base == outcome["merged_sha256"]
    assert outcome["merged_sha256"] not in merged


def test_an_update_that_was_sealed_for_its_round_alone_ends_reaggregate_with_a_cause_and_a_remedy(
    three: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = three.open()
    three.send_updates(task, without=("site-001",))
    seal = parcel.seal
    with monkeypatch.context() as patched:
        patched.setattr(parcel, "seal", lambda *args, **more: seal(*args[:4], args[4][:1], **more))
        three.send_updates(task, without=("site-002", "site-003"))
    three.aggregate()
    archive = keys.load(three.folder / "hub" / "root", lambda: "")
    with pytest.raises(NotNowError, match="site-001 in round 1 cannot be opened again: E_NO_MATCH") as raised:
        reaggregate.without_site(three.hub, three.coordinator_keys, "site-002", archive)
    assert "revoke site-001" in raised.value.remedy


def test_reaggregate_cancels_the_open_round_whose_updates_then_count_as_late(three: Federation) -> None:
    three.send_updates(three.open())
    three.aggregate()
    three.send_updates(three.open(), without=("site-002",))
    three.judge()
    archive = keys.load(three.folder / "hub" / "root", lambda: "")
    outcome = reaggregate.without_site(three.hub, three.coordinator_keys, "site-002", archive)
    assert (outcome["round"], three.hub.newest_round()["state"]) == (3, "merged")
    three.open()
    three.judge()
    assert lifecycle.accepted_and_missing(three.hub, lifecycle.open_round(three.hub)) == (
        ["site-001", "site-003"],
        ["site-002"],
    )


def test_a_quarantined_update_waits_for_a_person(three: Federation) -> None:
    task = three.open()
    three.send_updates(task, without=("site-003",))
    lazy = three.clinics[2]
    receive.receive(three.hub, lazy.give(task, three.base(task)))
    with pytest.raises(QuorumError, match="missing: site-003"):
        three.aggregate()
    assert three.update_states()["site-003/1"] == "quarantined"
    review.decide(three.hub, three.coordinator_keys, "site-003", release=True)
    assert three.aggregate()["accepted"] == ["site-001", "site-002", "site-003"]


def test_patience_ends_a_federation_whose_model_does_not_improve(tmp_path: Path) -> None:
    three = Federation(tmp_path, PLAN.replace("stale = 1", "stale = 1\npatience = 2"))
    named = []
    for correct in (50, 60, 60, 59):
        task = three.open()
        for clinic in three.clinics:
            facts = {"examples": 100, "val": 100, "correct": correct}
            receive.receive(three.hub, clinic.give(task, three.drawn_update(task, clinic), facts=facts))
        named.append(three.aggregate()["best_round"])
    with pytest.raises(NotNowError, match="finished"):
        three.open()
    assert named == [None, None, None, 2]  # its updates are about the models of rounds 0 to 3; 2 is the last of 60
    summary = status.summary(three.hub)
    assert (summary["state"], summary["best_round"]) == ("finished", 2)


# --- a method that does not average --------------------------------------------------------------------------------
@pytest.fixture
def tables(tmp_path: Path) -> Iterator[Federation]:
    """A federation of three sites whose method, of another package, merges tables by a rule of its own."""
    with toy.installed(tmp_path):
        fed = Federation(tmp_path / "federation", PLAN.replace('"fedavg"', '"toy"'))
        yield fed
        fed.hub.database.close()


def publish(fed: Federation, images: int) -> None:
    pack = test_pack.sample_pack(images)
    (fed.folder / f"{images}.safetensors").unlink(missing_ok=True)
    packs.save(fed.folder / f"{images}.safetensors", pack)
    with (fed.folder / f"{images}.safetensors").open("rb") as body:
        fed.hub.publish_knowledge(fed.coordinator_keys, body, pack)


def test_a_hub_merges_tables_by_the_methods_own_rule_and_takes_none_late(tables: Federation) -> None:
    publish(tables, 10)
    first = tables.open()
    late = tables.clinics[2].give(first, tables.drawn_update(first, tables.clinics[2]))
    tables.send_updates(first, without=("site-003",))
    expected = np.max([tables.drawn_update(first, clinic)["answers.rows"] for clinic in tables.clinics[:2]], axis=0)
    outcome = tables.aggregate(now=True)
    assert (models.load(tables.hub, outcome["merged_sha256"])["answers.rows"] == expected).all()
    tables.open()
    with pytest.raises(RoundClosedError):
        receive.receive(tables.hub, late)


def test_a_round_of_a_method_that_works_on_public_images_opens_with_a_pack(tables: Federation) -> None:
    with pytest.raises(KnowledgeMissingError, match="toy works on the public images") as raised:
        tables.open()
    assert "fedhelp-coordinator knowledge publish" in raised.value.remedy
    publish(tables, 10)
    assert tables.open().knowledge
    assert (len(tables.hub.public or ()), getattr(tables.hub.public, "classes", None)) == (10, ("a", "b", "c"))


def test_such_a_method_keeps_its_pack_from_the_first_round_on(tables: Federation) -> None:
    publish(tables, 10)
    publish(tables, 20)  # before the first round another may take its place
    tables.open()
    publish(tables, 20)
    with pytest.raises(NotNowError, match="one pack from the first round to the last"):
        publish(tables, 10)


def test_no_model_of_such_a_method_can_be_made_again_without_a_site(tables: Federation) -> None:
    publish(tables, 10)
    tables.send_updates(tables.open())
    tables.aggregate()
    with pytest.raises(NotNowError, match="makes each model anew") as raised:
        reaggregate.check_contributed(tables.hub, "site-001")
    assert "fedhelp-coordinator revoke site-001" in raised.value.remedy
