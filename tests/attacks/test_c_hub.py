"""Faults B03, B17, B18, B20, B21, C01-C12, C15 and D11 of the catalogue at a real hub whose sites use folders."""

from __future__ import annotations

import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge import errors
from fedhelp_edge.errors import (
    AmbiguousError,
    BadBodyError,
    BaseModelError,
    DuplicateRoundError,
    FedhelpError,
    InviteExpiredError,
    InviteProofError,
    InviteUnknownError,
    InviteUsedError,
    KeyReusedError,
    ParcelKindError,
    QuotaError,
    RecipientsError,
    ReplayError,
    RoundClosedError,
    RoundKeyGoneError,
    RoundUnknownError,
    SignerMismatchError,
    SignerRevokedError,
    WrongTaskError,
)
from fedhelp_edge.parcel import keys, parcel, sshsig, statement
from fedhelp_edge.trust import enrol
from fedhelp_edge.trust.task import Task
from server_ref.admin import decisions, exchange, status
from server_ref.hub import hub, members
from server_ref.hub.hub import Hub
from server_ref.hub.states import State
from server_ref.hub.tables import log_table
from server_ref.intake import enrolment, receive
from server_ref.intake import shown as intake_shown
from server_ref.rounds import review
from tests.federation import PLAN, Federation, SimulatedClinic

pytestmark = pytest.mark.usefixtures("open_in_process")


def draw_update(fed: Federation, task: Task, /, number: int = 0, **changes: Any) -> Path:
    clinic = fed.clinics[number]
    return clinic.give(task, fed.drawn_update(task, clinic), **changes)


def stored_counts(fed: Federation) -> tuple[int, int, int]:
    """The numbers of updates, log lines and parcels."""
    database = fed.hub.database
    counts = [database.row(f"SELECT count(*) AS n FROM {table}") for table in ("shares", "log", "parcels")]
    first, second, third = (count["n"] for count in counts if count)
    return first, second, third


def check_refused(fed: Federation, path: Path, fault: type[FedhelpError]) -> None:
    """Checks that the hub refuses with this error and stores nothing."""
    before = stored_counts(fed)
    with pytest.raises(fault):
        receive.receive(fed.hub, path)
    assert stored_counts(fed) == before
    assert list(fed.hub.home.glob(".*.part")) == []


# --- B: who may send ---------------------------------------------------------------------------------------------
def test_b03_a_sender_revoked_between_the_first_byte_and_the_last_is_refused(three: Federation, tmp_path: Path) -> None:
    path = draw_update(three, three.open())
    with path.open("rb") as file:
        statement, signers = parcel.read_prologue(file)
    receive.admit(three.hub, statement, signers)
    members.revoke(three.hub, three.coordinator_keys, "site-001", 1, "PC stolen")
    part = Path(shutil.copy(path, tmp_path / "part"))
    with pytest.raises(SignerRevokedError):
        receive.store_received(three.hub, part)
    assert three.update_states() == {}


@pytest.mark.parametrize("judged", [False, True])
def test_b03_an_update_of_a_site_revoked_since_is_not_merged(three: Federation, judged: bool) -> None:
    three.send_updates(three.open())
    if judged:
        three.judge()
    members.revoke(three.hub, three.coordinator_keys, "site-001", 1, "PC stolen")
    outcome = three.aggregate()
    assert outcome["accepted"] == ["site-002", "site-003"]
    assert outcome["refused"] == [
        {"site": "site-001", "code": "E_SIGNER_REVOKED", "cause": "the key of site-001 was revoked"}
    ]


def test_b03_updates_before_the_round_of_the_revocation_count(three: Federation) -> None:
    three.send_updates(three.open())
    members.revoke(three.hub, three.coordinator_keys, "site-001", 2, "PC stolen")
    assert three.aggregate()["accepted"] == ["site-001", "site-002", "site-003"]


@pytest.fixture
def stranger(three: Federation) -> SimulatedClinic:
    return SimulatedClinic(three.hub.federation, three.folder / "stranger")


def join_outcome(fed: Federation, path: Path) -> str:
    """The code or state that a request to join ends with."""
    try:
        request_hash = receive.receive(fed.hub, path).hash
    except FedhelpError as fault:  # nothing is stored of a request without the code
        assert not fed.hub.database.row("SELECT 1 FROM parcels WHERE hash = ?", path.stem)
        return fault.code
    fed.judge()
    row = fed.hub.database.row("SELECT state, code FROM requests WHERE hash = ?", request_hash)
    assert row
    return str(row["code"] or row["state"])


def test_b17_a_code_admits_one_site(three: Federation, stranger: SimulatedClinic) -> None:
    code, site = members.invite(three.hub, "Clinic 4", "small", 14)
    assert join_outcome(three, stranger.enrolment_request(code)) == "approved"
    second = SimulatedClinic(three.hub.federation, three.folder / "second")
    assert join_outcome(three, second.enrolment_request(code)) == InviteUsedError.code
    assert [listed.id for listed in three.hub.roster.sites].count(site) == 1


def alarms(fed: Federation) -> list[str]:
    return [alarm["site"] for alarm in status.summary(fed.hub)["alarms"]]


@pytest.fixture
def thief(three: Federation) -> SimulatedClinic:
    """Another person who has seen the code."""
    return SimulatedClinic(three.hub.federation, three.folder / "thief")


def test_b20_no_site_is_admitted_automatically_on_a_contested_invite(
    three: Federation, stranger: SimulatedClinic, thief: SimulatedClinic
) -> None:
    code, site = members.invite(three.hub, "Clinic 4", "small", 14)
    receive.receive(three.hub, thief.enrolment_request(code))
    assert join_outcome(three, stranger.enrolment_request(code)) == "waiting"
    assert three.hub.roster.site(site) is None
    first, second = status.join_requests(three.hub)
    assert (first["contested"], second["contested"]) == (True, True)
    assert alarms(three) == [site]
    with pytest.raises(AmbiguousError, match=f"{first['hash'][:12]}, {second['hash'][:12]}"):
        enrolment.approve(three.hub, three.coordinator_keys, site)
    enrolment.approve(three.hub, three.coordinator_keys, second["words"])
    assert members.find(three.hub, site).sign == stranger.keys.public.sign
    assert join_outcome(three, thief.enrolment_request(code, "again")) == InviteUsedError.code
    assert status.join_requests(three.hub) == []
    states = three.hub.database.rows("SELECT state FROM requests WHERE site = ? ORDER BY rowid", site)
    assert [row["state"] for row in states][-2:] == ["refused", "approved"]


def test_b20_a_request_with_other_keys_after_a_sites_admission_is_an_alarm(
    three: Federation, stranger: SimulatedClinic, thief: SimulatedClinic
) -> None:
    code, site = members.invite(three.hub, "Clinic 4", "small", 14)
    assert join_outcome(three, stranger.enrolment_request(code)) == "approved"
    assert join_outcome(three, stranger.enrolment_request(code, "typed again")) == InviteUsedError.code
    assert alarms(three) == []
    assert join_outcome(three, thief.enrolment_request(code)) == InviteUsedError.code
    assert alarms(three) == [site]
    assert [row["type"] for row in three.hub.database.rows("SELECT type FROM log WHERE type = 'alarm'")] == ["alarm"]
    members.revoke(three.hub, three.coordinator_keys, site, 0, "its invite was stolen")
    assert alarms(three) == []


def test_b20_two_requests_of_one_site_with_its_own_keys_are_no_alarm_and_admit_it_once(
    three: Federation, stranger: SimulatedClinic
) -> None:
    code, site = members.invite(three.hub, "Clinic 4", "small", 14)
    receive.receive(three.hub, stranger.enrolment_request(code))
    assert join_outcome(three, stranger.enrolment_request(code, "typed again")) == "approved"
    assert (status.join_requests(three.hub), alarms(three)) == ([], [])
    assert members.find(three.hub, site).sign == stranger.keys.public.sign


def test_b20_approval_by_name_admits_only_the_request_that_was_shown(tmp_path: Path) -> None:
    fed = Federation(tmp_path, PLAN.replace("stale = 1", 'stale = 1\nenrolment = "manual"'), clinics=0)
    code, site = members.invite(fed.hub, "Clinic 1", "small", 14)
    clinic, thief = (SimulatedClinic(fed.hub.federation, tmp_path / name) for name in ("clinic", "thief"))
    receive.receive(fed.hub, clinic.enrolment_request(code))
    fed.judge()
    (shown,) = status.join_requests(fed.hub)
    intake_shown.record(fed.hub, "requests", [shown])
    other_code, _ = members.invite(fed.hub, "Clinic 2", "small", 14)
    receive.receive(fed.hub, clinic.enrolment_request(other_code))  # so the keys of the shown request are taken
    fed.judge()
    enrolment.approve(fed.hub, fed.coordinator_keys, "site-002")
    receive.receive(fed.hub, thief.enrolment_request(code))
    fed.judge()
    (remaining,) = status.join_requests(fed.hub)
    with pytest.raises(AmbiguousError, match="than the one that was shown"):
        enrolment.approve(fed.hub, fed.coordinator_keys, site)
    assert fed.hub.roster.site(site) is None
    enrolment.approve(fed.hub, fed.coordinator_keys, remaining["hash"][:12])
    assert members.find(fed.hub, site).sign == thief.keys.public.sign
    fed.hub.database.close()


def test_b20_a_file_in_place_of_the_request_that_was_shown_is_detected(
    three: Federation, stranger: SimulatedClinic, thief: SimulatedClinic
) -> None:
    code, site = members.invite(three.hub, "Clinic 4", "small", 14)
    mine, others = (receive.receive(three.hub, clinic.enrolment_request(code)).hash for clinic in (stranger, thief))
    three.judge()
    three.hub.database.parcel_path(others).replace(three.hub.database.parcel_path(mine))
    with pytest.raises(errors.HubDamagedError, match="does not match its name"):
        enrolment.approve(three.hub, three.coordinator_keys, mine)
    assert three.hub.roster.site(site) is None


def quarantined_update(fed: Federation, task: Task, number: int) -> str:
    """A quarantined update with an alarm: another site's ciphertext under the sender's own name."""
    sequence = next(fed.clinics[number]._seq)
    path = stolen(fed, draw_update(fed, task, 0, seq=sequence), fed.clinics[number])
    update_hash = receive.receive(fed.hub, path).hash
    path.unlink()
    fed.judge()
    return update_hash


def test_b21_a_decision_applies_only_to_the_update_that_was_shown(three: Federation) -> None:
    task = three.open()
    first, second = quarantined_update(three, task, 1), quarantined_update(three, task, 1)
    shown = status.quarantined_updates(three.hub)
    assert {row["hash"] for row in shown} == {first, second}
    with pytest.raises(AmbiguousError, match="2 updates of site-002 wait"):
        review.decide(three.hub, three.coordinator_keys, "site-002", release=False)
    decisions.record(three.hub, first, "refuse")
    assert {row["hash"]: row["decided"] for row in status.quarantined_updates(three.hub)} == {
        first: "refuse",
        second: "",
    }
    decisions.apply(three.hub, three.coordinator_keys)
    assert [row["hash"] for row in status.quarantined_updates(three.hub)] == [second]
    intake_shown.record(three.hub, "updates", status.quarantined_updates(three.hub))
    review.decide(three.hub, three.coordinator_keys, second[:12], release=False)
    quarantined_update(three, task, 1)
    with pytest.raises(AmbiguousError, match="than the one that was shown"):
        review.decide(three.hub, three.coordinator_keys, "site-002", release=False)


def test_b17_an_invite_expires(three: Federation, stranger: SimulatedClinic) -> None:
    code, _ = members.invite(three.hub, "Clinic 4", "small", 14)
    three.clock.advance(days=15)
    assert join_outcome(three, stranger.enrolment_request(code)) == InviteExpiredError.code


def test_b17_a_code_that_was_never_issued_is_refused(three: Federation, stranger: SimulatedClinic) -> None:
    assert join_outcome(three, stranger.enrolment_request(enrol.new_code())) == InviteUnknownError.code


def test_b17_a_request_that_names_an_invite_without_its_code_is_refused(
    three: Federation, stranger: SimulatedClinic
) -> None:
    _, site = members.invite(three.hub, "Clinic 4", "small", 14)
    invite = three.hub.database.row("SELECT id FROM invites WHERE site = ?", site)
    assert invite
    context = statement.new_context("enrol", federation=three.hub.federation)
    body = enrol.request_body(enrol.new_code(), "Clinic 4", stranger.keys.public, context) | {"invite": invite["id"]}
    assert join_outcome(three, stranger._sealed(context, hub.to_json(body), [])) == InviteProofError.code


@pytest.mark.parametrize("taken", ["sign", "identity"])
def test_b18_a_key_of_another_clinic_is_refused(three: Federation, stranger: SimulatedClinic, taken: str) -> None:
    stranger.keys = replace(stranger.keys, **{taken: getattr(three.clinics[0].keys, taken)})
    code, site = members.invite(three.hub, "Clinic 4", "small", 14)
    assert join_outcome(three, stranger.enrolment_request(code)) == KeyReusedError.code
    assert three.hub.roster.site(site) is None


def test_b18_two_requests_with_one_key_cannot_both_be_approved_by_hand(tmp_path: Path) -> None:
    fed = Federation(tmp_path, PLAN.replace("stale = 1", 'stale = 1\nenrolment = "manual"'), clinics=0)
    clinic = SimulatedClinic(fed.hub.federation, tmp_path / "one")
    for name in ("Clinic 1", "Clinic 2"):
        code, _ = members.invite(fed.hub, name, "small", 14)
        receive.receive(fed.hub, clinic.enrolment_request(code))
    fed.judge()
    enrolment.approve(fed.hub, fed.coordinator_keys, "site-001")
    with pytest.raises(KeyReusedError):
        enrolment.approve(fed.hub, fed.coordinator_keys, "site-002")
    assert [site.id for site in fed.hub.roster.sites] == ["site-001"]
    fed.hub.database.close()


@pytest.mark.parametrize("body", [b"\xff", b"[", b"[]", b"{}", b'{"a":1,"a":2}'], ids=ascii)
def test_a_malformed_request_is_refused_and_stops_no_other(
    three: Federation, stranger: SimulatedClinic, body: bytes
) -> None:
    context = statement.new_context("enrol", federation=three.hub.federation)
    assert join_outcome(three, stranger._sealed(context, body, [])) == BadBodyError.code
    code, _ = members.invite(three.hub, "Clinic 4", "small", 14)
    assert join_outcome(three, stranger.enrolment_request(code)) == "approved"


def test_c20_a_request_signed_again_by_another_does_not_block_the_genuine_one(
    three: Federation, stranger: SimulatedClinic
) -> None:
    code, _ = members.invite(three.hub, "Clinic 4", "small", 14)
    path = stranger.enrolment_request(code)
    genuine, thief = path.read_bytes(), keys.generate()
    inspected = parcel.inspect(path, parcel.any_signer)
    armor = sshsig.sign(inspected.statement.line, thief.sign, inspected.statement.namespace).encode()
    path.write_bytes(parcel.MAGIC + inspected.statement.line + b"\n" + armor + genuine[inspected.offset :])
    assert join_outcome(three, path) == SignerMismatchError.code
    path.write_bytes(genuine)
    assert join_outcome(three, path) == "approved"


def test_c20_strangers_requests_store_nothing_in_a_hub(three: Federation, stranger: SimulatedClinic) -> None:
    before = sorted(path for path in three.hub.home.rglob("*.fhx"))
    for _ in range(5):
        with pytest.raises(InviteUnknownError):
            receive.receive(three.hub, stranger.enrolment_request(enrol.new_code()))
    assert sorted(path for path in three.hub.home.rglob("*.fhx")) == before


def test_c20_one_code_allows_at_most_twenty_requests(three: Federation, stranger: SimulatedClinic) -> None:
    code, _ = members.invite(three.hub, "Clinic 4", "small", 14)
    for _ in range(20):
        receive.receive(three.hub, stranger.enrolment_request(code))
    with pytest.raises(QuotaError):
        receive.receive(three.hub, stranger.enrolment_request(code))


def test_c20_a_sites_stored_bytes_in_a_round_are_limited_to_a_few_updates(three: Federation) -> None:
    task = three.open()
    large = {"pad": "x" * 200_000}  # without a count of images, so each is refused and another may be sent
    with pytest.raises(QuotaError):
        for _ in range(5 * task.limit // 200_000):
            receive.receive(
                three.hub, three.clinics[0].give(task, three.drawn_update(task, three.clinics[0]), facts=large)
            )
            three.judge()
    stored_bytes = sum(
        three.hub.database.parcel_path(row["hash"]).stat().st_size
        for row in three.hub.database.rows("SELECT * FROM shares")
    )
    assert 3 * task.limit < stored_bytes <= 4 * task.limit + 5 * (80 << 10)


# --- C: the right thing in the wrong place ----------------------------------------------------------------------
def test_c01_one_file_through_two_carriers_is_one_update_one_line_and_one_receipt(three: Federation) -> None:
    path = draw_update(three, three.open())
    sticks = [three.folder / name for name in ("stick", "cloud")]
    for stick in sticks:
        (stick / exchange.TO_COORDINATOR).mkdir(parents=True)
        shutil.copy(path, stick / exchange.TO_COORDINATOR / f"from {stick.name}")
    first = exchange.exchange(three.hub, sticks[0]).taken[0]
    before = stored_counts(three)
    second = exchange.exchange(three.hub, sticks[1]).taken[0]
    assert (first.hash, first.receipt, first.new) == (second.hash, second.receipt, True)
    assert not second.new
    assert stored_counts(three) == before
    about = three.hub.database.rows("SELECT * FROM log WHERE subject = ?", first.hash)
    assert [line["type"] for line in about] == ["received"]


def test_c01_a_file_received_again_after_its_verdict_gets_the_verdict(three: Federation) -> None:
    path = draw_update(three, three.open())
    first = receive.receive(three.hub, path)
    three.judge()
    before = stored_counts(three)
    second = receive.receive(three.hub, path)
    assert (second.state, second.new) == (State.ACCEPTED, False)
    assert second.receipt != first.receipt
    assert stored_counts(three) == before


def test_c02_a_second_different_update_for_a_round_is_refused(three: Federation) -> None:
    task = three.open()
    receive.receive(three.hub, draw_update(three, task))
    check_refused(three, draw_update(three, task, examples=999), DuplicateRoundError)


def test_c02_a_second_different_update_after_the_verdict_is_refused_too(three: Federation) -> None:
    task = three.open()
    receive.receive(three.hub, draw_update(three, task))
    three.judge()
    check_refused(three, draw_update(three, task, examples=999), DuplicateRoundError)


def test_c03_one_update_sent_eight_times_at_once_gets_one_receipt(three: Federation) -> None:
    path = draw_update(three, three.open())

    def send(_: int) -> receive.IntakeResult:
        hub = Hub(three.hub.home, clock=three.clock)
        try:
            return receive.receive(hub, path)
        finally:
            hub.database.close()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(8)))
    assert len({answer.receipt for answer in answers}) == 1
    assert [answer.new for answer in answers].count(True) == 1
    assert stored_counts(three)[0] == 1
    lines = three.hub.database.rows("SELECT * FROM log WHERE subject = ?", answers[0].hash)
    assert [line["type"] for line in lines] == ["received"]
    assert list(three.hub.home.glob(".*.part")) == []
    log_table.verify(three.hub.database)


def test_c03_eight_simultaneous_clinics_give_eight_updates(tmp_path: Path) -> None:
    fed = Federation(tmp_path, clinics=8)
    task = fed.open()
    paths = [draw_update(fed, task, number) for number in range(8)]

    def send(path: Path) -> bool:
        hub = Hub(fed.hub.home, clock=fed.clock)
        try:
            return receive.receive(hub, path).new
        finally:
            hub.database.close()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(send, paths))
    assert stored_counts(fed)[0] == 8
    log_table.verify(fed.hub.database)
    fed.hub.database.close()


def two_rounds_on(fed: Federation) -> tuple[Task, Task]:
    """The task of a round that is too old for updates, and the open one."""
    first = fed.open()
    fed.send_updates(first)
    fed.aggregate()
    fed.send_updates(fed.open())
    fed.aggregate()
    return first, fed.open()


def test_c04_an_update_of_a_closed_round_is_refused(three: Federation) -> None:
    first, _ = two_rounds_on(three)
    check_refused(three, draw_update(three, first), RoundClosedError)


def test_c04_an_update_of_a_future_round_is_refused(three: Federation) -> None:
    task = three.open()
    check_refused(three, draw_update(three, task, round=task.round + 1), RoundUnknownError)


def test_c05_an_update_for_the_task_of_another_round_is_refused(three: Federation) -> None:
    first = three.open()
    three.send_updates(first)
    three.aggregate()
    check_refused(three, draw_update(three, three.open(), task=first.hash), WrongTaskError)


def test_c06_an_update_for_another_federation_is_refused(three: Federation) -> None:
    check_refused(three, draw_update(three, three.open(), federation="fh-" + "e" * 32), errors.FederationError)


def test_c06_a_request_to_join_another_federation_is_refused(three: Federation, stranger: SimulatedClinic) -> None:
    code, _ = members.invite(three.hub, "Clinic 4", "small", 14)
    stranger.federation = "fh-" + "e" * 32
    assert join_outcome(three, stranger.enrolment_request(code)) == errors.FederationError.code


def test_c07_an_update_made_from_another_model_is_refused(three: Federation) -> None:
    check_refused(three, draw_update(three, three.open(), base="e" * 64), BaseModelError)


def test_c08_a_number_that_does_not_rise_is_a_replay_and_one_that_jumps_is_not(three: Federation) -> None:
    task = three.open()
    receive.receive(three.hub, draw_update(three, task, seq=1000))
    three.send_updates(task, without=("site-001",))
    three.aggregate()
    later = three.open()
    for number in (0, 7, 1000):
        check_refused(three, draw_update(three, later, seq=number), ReplayError)
    assert receive.receive(three.hub, draw_update(three, later, seq=1001)).new


def test_c09_a_nonce_seen_before_is_a_replay_whatever_its_number(three: Federation) -> None:
    task = three.open()
    receive.receive(three.hub, draw_update(three, task, nonce="7" * 32))
    three.send_updates(task, without=("site-001",))
    three.aggregate()
    check_refused(three, draw_update(three, three.open(), nonce="7" * 32), ReplayError)


@pytest.mark.parametrize("kind", ["charter", "roster", "task", "global", "receipt"])
def test_a_hub_receives_no_kind_that_only_hubs_publish(three: Federation, kind: str) -> None:
    receive.receive(three.hub, draw_update(three, three.open()))
    with three.hub.database.parcel_path(three.hub.newest_parcel(kind)["hash"]).open("rb") as file:
        statement, signers = parcel.read_prologue(file)
    with pytest.raises(ParcelKindError):
        receive.admit(three.hub, statement, signers)


@pytest.mark.parametrize("more", [True, False])
def test_c11_an_update_for_other_recipients_than_the_tasks_is_refused(three: Federation, more: bool) -> None:
    task = three.open()
    spy = three.clinics[1].keys.public.recipient
    readers = [*task.recipients, spy] if more else list(task.recipients[:1])
    check_refused(three, draw_update(three, task, recipients=readers), RecipientsError)


def stolen(fed: Federation, original: Path, thief: SimulatedClinic) -> Path:
    """An intercepted update whose ciphertext another clinic signed as its own."""
    inspected = parcel.inspect(original, parcel.any_signer)
    payload = original.read_bytes()[inspected.offset :]
    context = dict(inspected.statement.context) | {
        "sender": thief.id,
        "sender_key": sshsig.fingerprint(thief.keys.public.sign),
        "nonce": os.urandom(16).hex(),
    }
    forged = statement.Statement(context, "age", hashlib.sha256(payload).hexdigest(), len(payload))
    stolen_path = fed.folder / "stolen.fhx"
    stolen_path.write_bytes(parcel._build_prologue(forged, [thief.keys.sign]) + payload)
    return stolen_path


def test_c12_a_stolen_and_signed_again_update_is_quarantined_with_an_alarm(three: Federation) -> None:
    task = three.open()
    honest = draw_update(three, task)
    receive.receive(three.hub, stolen(three, honest, three.clinics[1]))
    receive.receive(three.hub, honest)
    three.send_updates(task, without=("site-001", "site-002"))
    three.judge()
    assert three.update_states() == {"site-001/1": "accepted", "site-002/1": "quarantined", "site-003/1": "accepted"}
    outcome = three.aggregate(now=True)
    assert outcome["accepted"] == ["site-001", "site-003"]
    assert [quarantined_update["code"] for quarantined_update in outcome["quarantined"]] == ["E_INNER_CONTEXT"]
    with pytest.raises(errors.NotNowError, match="cannot be released"):
        review.decide(three.hub, three.coordinator_keys, "site-002", release=True)


def test_c12_the_victim_and_the_thief_can_still_send_updates_of_their_own(three: Federation) -> None:
    task = three.open()
    receive.receive(three.hub, stolen(three, draw_update(three, task, seq=1), three.clinics[1]))
    three.judge()
    three.send_updates(task, without=("site-002",))
    receive.receive(three.hub, draw_update(three, task, 1, seq=2))
    assert three.aggregate()["accepted"] == ["site-001", "site-002", "site-003"]


@pytest.mark.parametrize("year", [1970, 2099])
def test_c15_the_date_on_an_update_changes_nothing(three: Federation, year: int) -> None:
    task = three.open()
    receive.receive(three.hub, draw_update(three, task, created=f"{year}-01-01T00:00:00Z"))
    three.send_updates(task, without=("site-001",))
    assert three.aggregate()["accepted"] == ["site-001", "site-002", "site-003"]
    assert three.hub.now == three.clock.time


# --- D11 ---------------------------------------------------------------------------------------------------------
def test_d11_an_update_whose_round_key_was_deleted_is_refused_with_its_code(three: Federation) -> None:
    task = three.open()
    three.send_updates(task, without=("site-001",))
    three.aggregate(now=True)
    receive.receive(three.hub, draw_update(three, task))
    three.send_updates(three.open(), without=("site-001",))
    (three.hub.home / "round-keys" / "000001.age").unlink()
    three.judge()
    row = three.hub.database.row("SELECT state, code FROM shares WHERE site = 'site-001'")
    assert row
    assert (row["state"], row["code"]) == ("refused", RoundKeyGoneError.code)
    assert three.aggregate(now=True)["accepted"] == ["site-002", "site-003"]


def test_d11_a_round_key_exists_as_long_as_a_late_update_may_arrive_and_no_longer(three: Federation) -> None:
    round_keys = []
    for _ in range(3):
        three.send_updates(three.open())
        three.aggregate()
        round_keys.append(sorted(path.stem for path in (three.hub.home / "round-keys").iterdir()))
    assert round_keys == [["000001"], ["000002"], ["000003"]]
