"""What a hub receives, how much, and how it decides: limits and simultaneous events."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge import files
from fedhelp_edge.errors import (
    AmbiguousError,
    FileKindError,
    HubDamagedError,
    KeyReusedError,
    PayloadSizeError,
    QuotaError,
    ReplayError,
    SignerMismatchError,
    SiteUnknownError,
)
from fedhelp_edge.parcel import canon, keys, parcel, statement
from fedhelp_edge.parcel.keys import Keys
from fedhelp_edge.parcel.statement import ZERO_HASH, Statement
from fedhelp_edge.trust.task import Task
from server_ref.admin import status
from server_ref.hub import members
from server_ref.hub.hub import Hub, to_json
from server_ref.intake import enrolment, judge, receive, shown
from tests.federation import PLAN, Federation, SimulatedClinic

pytestmark = pytest.mark.usefixtures("open_in_process")

MANUAL = PLAN.replace("stale = 1", 'stale = 1\nenrolment = "manual"')


def draw_update(fed: Federation, task: Task, /, number: int = 0, **changes: Any) -> Path:
    clinic = fed.clinics[number]
    return clinic.give(task, fed.drawn_update(task, clinic), **changes)


def key_change(fed: Federation, clinic: SimulatedClinic, seq: int, new: Keys) -> Path:
    """Seals a site's request to rotate its keys."""
    context = statement.new_context("rotate", federation=fed.hub.federation, sender=clinic.id, seq=seq)
    body = to_json({"sign": new.public.sign, "recipient": new.public.recipient})
    path = fed.folder / f"change {os.urandom(8).hex()}.fhx"
    parcel.seal(path, context, body, [clinic.keys.sign, new.sign])
    return path


def new_clinics(fed: Federation, *names: str) -> list[tuple[SimulatedClinic, str]]:
    """New clinics, each with the code of its own invite."""
    return [
        (SimulatedClinic(fed.hub.federation, fed.folder / name), members.invite(fed.hub, name, "small", 14)[0])
        for name in names
    ]


def log_types(fed: Federation, subject: str) -> list[str]:
    return [
        row["type"] for row in fed.hub.database.rows("SELECT type FROM log WHERE subject = ? ORDER BY seq", subject)
    ]


def newest_receipt(fed: Federation, subject: str) -> tuple[str, str]:
    """The state and code in the newest receipt of a parcel."""
    query = "SELECT hash FROM parcels WHERE kind = 'receipt' AND site = ? ORDER BY rowid DESC LIMIT 1"
    receipt = fed.hub.read_json(fed.hub.database.require_row(query, subject)["hash"])[2]
    return receipt["state"], receipt["code"]


# --- limits --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["enrol", "rotate"])
def test_a_request_has_at_most_64_kib(three: Federation, kind: str) -> None:
    clinic = three.clinics[0]
    sender = {"sender": clinic.id, "seq": 1} if kind == "rotate" else {}
    context = statement.new_context(kind, federation=three.hub.federation, **sender)
    signers = clinic.keys.public.sign, keys.generate().public.sign
    assert receive.admit(three.hub, statement.create(context, ZERO_HASH, 65_536), signers) == 65_536
    with pytest.raises(PayloadSizeError):
        receive.admit(three.hub, statement.create(context, ZERO_HASH, 65_537), signers)


def test_the_longest_facts_fit_into_an_update_and_nothing_longer_is_read(three: Federation) -> None:
    task = three.open()
    facts = {"examples": 100, "pad": ""}
    hashes = {"body_sha256": ZERO_HASH, "context_sha256": ZERO_HASH, "salt": ZERO_HASH}
    facts["pad"] = "x" * (parcel.INNER_LIMIT - 1 - len(canon.encode({**hashes, "facts": facts})))
    path = draw_update(three, task, facts=facts)
    with path.open("rb") as file:
        update_statement, _ = parcel.read_prologue(file)
    assert update_statement.size == task.limit
    clinic = three.clinics[1]
    context = {**context_of(draw_update(three, task, 1)), "nonce": "7" * 32}
    longer = three.folder / "longer.fhx"  # it has no payload
    longer.write_bytes(parcel._build_prologue(statement.create(context, ZERO_HASH, task.limit + 1), [clinic.keys.sign]))
    with pytest.raises(PayloadSizeError):
        receive.receive(three.hub, longer)
    assert receive.receive(three.hub, path).new
    three.judge()
    assert three.update_states() == {"site-001/1": "accepted"}


def context_of(path: Path) -> dict[str, Any]:
    return dict(parcel.inspect(path, parcel.any_signer).statement.context)


def test_a_site_may_send_four_updates_worth_of_bytes_in_a_round_and_no_more(three: Federation) -> None:
    task = three.open()
    path = draw_update(three, task)
    statement = parcel.inspect(path, parcel.any_signer).statement
    receive.check_quota(three.hub, statement, 1000, in_transit=4000 - statement.size)
    with pytest.raises(QuotaError):
        receive.check_quota(three.hub, statement, 1000, in_transit=4001 - statement.size)
    stored = three.hub.database.parcel_path(receive.receive(three.hub, path).hash).stat().st_size
    receive.check_quota(three.hub, statement, 1000, in_transit=4000 - statement.size - stored)
    with pytest.raises(QuotaError):
        receive.check_quota(three.hub, statement, 1000, in_transit=4001 - statement.size - stored)


def test_twenty_key_changes_of_one_site_may_wait_and_no_more(three: Federation) -> None:
    clinic, new = three.clinics[0], keys.generate()
    for seq in range(1, 21):
        receive.receive(three.hub, key_change(three, clinic, seq, new))
    with pytest.raises(QuotaError, match="one sender"):
        receive.receive(three.hub, key_change(three, clinic, 21, keys.generate()))
    receive.receive(three.hub, key_change(three, three.clinics[1], 1, keys.generate()))  # another site is not affected
    decisions = three.judge()
    assert [decision["state"] for decision in decisions] == ["approved"] + 19 * ["refused"] + ["approved"]
    clinic.keys = new
    assert receive.receive(three.hub, key_change(three, clinic, 21, keys.generate())).new


def test_ten_thousand_requests_may_wait_and_no_more(three: Federation) -> None:
    three.hub.database.db.execute("PRAGMA foreign_keys=OFF")
    numbers = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 9999)"
    row = "SELECT printf('%064x', n), 'enrol', 'waiting', '', '', '', '', '' FROM numbers"
    three.hub.database.db.execute(f"INSERT INTO requests {numbers} {row}")
    (first, code), (second, late_code) = new_clinics(three, "last", "too late")
    assert receive.receive(three.hub, first.enrolment_request(code)).new
    with pytest.raises(QuotaError, match="wait for the coordinator"):
        receive.receive(three.hub, second.enrolment_request(late_code))


# --- carriers ------------------------------------------------------------------------------------------------------
@pytest.mark.skipif(os.name == "nt", reason="links")
def test_receive_follows_no_link(three: Federation) -> None:
    link = three.folder / "link.fhx"
    link.symlink_to(draw_update(three, three.open()))
    with pytest.raises(FileKindError):
        receive.receive(three.hub, link)
    assert three.update_states() == {}


def test_an_update_is_synced_to_the_disk_before_it_gets_its_name(
    three: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = three.open()
    flushed, flush = set(), os.fsync

    def record_flush(descriptor: int) -> None:
        flushed.add(os.fstat(descriptor).st_ino)
        flush(descriptor)

    def renamed(part: Path) -> None:
        assert part.stat().st_ino in flushed
        share_with_group(part)

    share_with_group = files.share_with_group
    monkeypatch.setattr(os, "fsync", record_flush)
    monkeypatch.setattr(files, "share_with_group", renamed)  # the last step before the file gets its name
    with monkeypatch.context() as quiet:
        quiet.setattr(
            receive, "_copy_up_to", lambda file, part, limit: part.write_bytes(file.read(limit))
        )  # not flushed
        assert receive.receive(three.hub, draw_update(three, task)).new


def test_a_parcel_received_by_two_carriers_at_once_gets_one_receipt(
    three: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tries each point where the other carrier may have been faster."""
    path = draw_update(three, three.open())
    part = Path(shutil.copy(path, three.folder / "part"))
    admit, first = receive.admit, []

    def slow(hub: Hub, statement: Statement, signers: tuple[str, ...]) -> int:
        if not first:
            first.append(None)
            first[0] = receive.receive(three.hub, path)
        return admit(hub, statement, signers)

    monkeypatch.setattr(receive, "admit", slow)
    second = receive.receive(three.hub, path)
    third = receive.store_received(three.hub, part)
    assert first[0].new
    assert [(result.receipt, result.state, result.new) for result in (second, third)] == 2 * [
        (first[0].receipt, "received", False)
    ]


def test_a_hub_gives_no_receipt_for_its_own_parcels(three: Federation) -> None:
    for kind in ("global", "roster"):
        assert receive.earlier_result(three.hub, parcel.inspect(
            three.hub.database.parcel_path(three.hub.newest_parcel(kind)["hash"]), parcel.any_signer
        ).statement) is None  # fmt: skip


# --- changes of keys -----------------------------------------------------------------------------------------------
def test_key_changes_and_updates_share_one_sequence_number(three: Federation) -> None:
    task, clinic = three.open(), three.clinics[0]
    receive.receive(three.hub, key_change(three, clinic, 5, keys.generate()))
    for path in (key_change(three, clinic, 5, keys.generate()), draw_update(three, task, seq=5)):
        with pytest.raises(ReplayError):
            receive.receive(three.hub, path)
    assert receive.receive(three.hub, draw_update(three, task, seq=6)).new


def test_a_key_change_gets_a_receipt(three: Federation) -> None:
    answer = receive.receive(three.hub, key_change(three, three.clinics[0], 1, keys.generate()))
    assert three.judge() == [{"site": "site-001", "state": "approved", "code": "", "cause": ""}]
    assert newest_receipt(three, answer.hash) == ("approved", "")


def test_a_site_may_change_its_keys_before_its_first_round(three: Federation) -> None:
    clinic = three.clinics[0]
    with three.hub.database.transaction():
        late = replace(members.find(three.hub, clinic.id), from_round=1000)
        members.change(three.hub, three.coordinator_keys, [late], "approve")
    assert receive.receive(three.hub, key_change(three, clinic, 1, keys.generate())).new


# --- updates -------------------------------------------------------------------------------------------------------
def test_a_late_update_after_a_fresh_one_of_its_site_is_refused(three: Federation) -> None:
    first = three.open()
    late = draw_update(three, first, seq=1000)
    three.send_updates(first, without=("site-001",))
    three.aggregate(now=True)
    receive.receive(three.hub, draw_update(three, three.open()))
    three.judge()
    receive.receive(three.hub, late)
    assert three.judge() == [
        {
            "site": "site-001", "state": "refused", "code": "E_DUPLICATE_ROUND",
            "cause": "site-001 sent another update for round 2 before",
        }
    ]  # fmt: skip


def test_the_first_of_two_updates_for_one_round_that_a_front_accepts_counts(three: Federation) -> None:
    task = three.open()
    first = receive.receive(three.hub, draw_update(three, task)).hash
    three.hub.database.run("UPDATE shares SET round = 0")  # so that `admit` does not see it
    second = receive.receive(three.hub, draw_update(three, task)).hash
    three.hub.database.run("UPDATE shares SET round = 1")
    assert [decision["code"] for decision in three.judge()] == ["", "E_DUPLICATE_ROUND"]
    rows = three.hub.database.rows("SELECT hash, state FROM shares ORDER BY seq")
    assert [(row["hash"], row["state"]) for row in rows] == [(first, "accepted"), (second, "refused")]


def test_an_update_of_an_unknown_round_does_not_match_its_statement(three: Federation) -> None:
    receive.receive(three.hub, draw_update(three, three.open()))
    three.hub.database.run("UPDATE shares SET round = 99")
    with pytest.raises(SignerMismatchError):
        judge.check_statement(three.hub, three.hub.database.require_row("SELECT * FROM shares"))


def test_an_update_with_a_second_signature_is_refused(three: Federation) -> None:
    """The file was written directly: `receive` accepts no two signatures."""
    path = draw_update(three, three.open())
    payload = path.read_bytes()[parcel.inspect(path, parcel.any_signer).offset :]
    answer = receive.receive(three.hub, path)
    statement = parcel.inspect(three.hub.database.parcel_path(answer.hash), parcel.any_signer).statement
    both = [three.clinics[0].keys.sign, three.clinics[1].keys.sign]
    three.hub.database.parcel_path(answer.hash).write_bytes(parcel._build_prologue(statement, both) + payload)
    with pytest.raises(SignerMismatchError, match="not signed with a key of site-001"):
        judge.check_statement(three.hub, three.hub.database.require_row("SELECT * FROM shares"))


# --- requests to join ----------------------------------------------------------------------------------------------
def test_an_admitted_site_and_a_refused_one_each_get_a_receipt(three: Federation) -> None:
    ((clinic, code),) = new_clinics(three, "one")
    request_hash = receive.receive(three.hub, clinic.enrolment_request(code)).hash
    assert three.judge() == [{"site": "site-004", "state": "approved", "code": "", "cause": ""}]
    assert newest_receipt(three, request_hash) == ("approved", "")
    again = receive.receive(three.hub, clinic.enrolment_request(code, "typed again")).hash
    (decisions,) = three.judge()
    assert (decisions["site"], decisions["state"], decisions["code"]) == ("", "refused", "E_INVITE_USED")
    assert newest_receipt(three, again) == ("refused", "E_INVITE_USED")


def test_a_site_admitted_during_a_round_takes_part_from_the_next_one(three: Federation) -> None:
    three.open()
    ((clinic, code),) = new_clinics(three, "one")
    receive.receive(three.hub, clinic.enrolment_request(code))
    three.judge()
    assert members.find(three.hub, "site-004").from_round == 2
    assert [site.id for site in three.hub.roster.active(1)] == ["site-001", "site-002", "site-003"]


def test_a_contested_invite_raises_one_alarm_however_often_it_is_judged(three: Federation) -> None:
    (clinic, code), (thief, _) = new_clinics(three, "one", "thief")
    hashes = [receive.receive(three.hub, requester.enrolment_request(code)).hash for requester in (clinic, thief)]
    for _ in range(2):
        assert three.judge() == []
    assert [log_types(three, hash_).count("alarm") for hash_ in hashes] == [0, 1]


@pytest.mark.parametrize("taken", ["sign", "identity"])
def test_the_first_of_two_requests_with_one_key_is_admitted(three: Federation, taken: str) -> None:
    (first, code), (other, second_code) = new_clinics(three, "one", "other")
    other.keys = replace(other.keys, **{taken: getattr(first.keys, taken)})
    receive.receive(three.hub, first.enrolment_request(code))
    receive.receive(three.hub, other.enrolment_request(second_code))
    decisions = three.judge()
    assert {name["site"]: (name["state"], name["code"]) for name in decisions} == {
        "site-004": ("approved", ""), "site-005": ("refused", KeyReusedError.code),
    }  # fmt: skip
    assert members.find(three.hub, "site-004").sign == first.keys.public.sign


def test_a_request_is_admitted_only_for_the_site_of_its_own_invite(tmp_path: Path) -> None:
    fed = Federation(tmp_path, MANUAL, clinics=0)
    for clinic, code in new_clinics(fed, "one", "other"):
        receive.receive(fed.hub, clinic.enrolment_request(code))
    fed.judge()
    first, second = enrolment.waiting_requests(fed.hub)
    for wrong in (replace(first, site=second.site), replace(first, row=second.row, site=first.site)):
        with pytest.raises(HubDamagedError):
            enrolment.admit_site(fed.hub, fed.coordinator_keys, wrong)
    assert fed.hub.roster.sites == ()
    assert enrolment.approve(fed.hub, fed.coordinator_keys, first.hash) == {
        "site": "site-001", "state": "approved", "code": "", "cause": "",
    }  # fmt: skip
    fed.hub.database.close()


def test_a_person_names_a_request_by_its_words_its_site_or_the_start_of_its_hash(tmp_path: Path) -> None:
    fed = Federation(tmp_path, MANUAL, clinics=0)
    (clinic, code), (other_clinic, second_code) = new_clinics(fed, "one", "other")
    receive.receive(fed.hub, clinic.enrolment_request(code))
    enrolment.check_request_name(fed.hub, "site-009")  # not refused while requests are not judged
    fed.judge()
    receive.receive(fed.hub, other_clinic.enrolment_request(second_code))
    fed.judge()
    first, _ = enrolment.waiting_requests(fed.hub)
    words = first.words.split()
    spoken = first.words, "-".join(words).upper(), f" {first.words} "
    for name in (*spoken, first.hash, first.hash[:12].upper(), first.site):
        assert enrolment.find_request(fed.hub, name).hash == first.hash
        enrolment.check_request_name(fed.hub, name)
    for name in (first.hash[:11], " ".join(words[:-1]), f"{first.hash[:12]}x", "site-009", ""):
        with pytest.raises(SiteUnknownError):
            enrolment.find_request(fed.hub, name)
        with pytest.raises(SiteUnknownError):
            enrolment.check_request_name(fed.hub, name)
    receive.receive(fed.hub, clinic.enrolment_request(code, "typed again"))
    fed.judge()
    for name in (first.words, first.site):  # two requests with the same keys: the first one
        assert enrolment.find_request(fed.hub, name).hash == first.hash
    fed.hub.database.close()


@pytest.mark.parametrize(("list_name", "command"), [("requests", "requests"), ("updates", "review")])
def test_a_decision_on_what_was_not_shown_is_refused_and_the_remedy_names_the_list(
    three: Federation, list_name: str, command: str
) -> None:
    shown.check(three.hub, list_name, "site-001", "b" * 64)  # nothing was shown yet
    shown.record(three.hub, list_name, [{"site": "site-001", "hash": letter * 64} for letter in "ac"])
    shown.check(three.hub, list_name, "site-001", "c" * 64)
    shown.check(three.hub, list_name, "site-002", "b" * 64)
    with pytest.raises(AmbiguousError) as caught:
        shown.check(three.hub, list_name, "site-001", "b" * 64)
    assert f"'fedhelp-coordinator {command}'" in caught.value.remedy
    other = {"requests": "updates", "updates": "requests"}[list_name]
    shown.check(three.hub, other, "site-001", "b" * 64)


def test_all_waiting_sites_are_admitted_in_the_order_of_their_requests(
    three: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "_SITES_PER_ROSTER", 2)
    for clinic, code in reversed(new_clinics(three, *"abcde")):
        receive.receive(three.hub, clinic.enrolment_request(code))
    assert [decision["site"] for decision in three.judge()] == [f"site-00{number}" for number in (8, 7, 6, 5, 4)]
    assert status.join_requests(three.hub) == []
    assert len(three.hub.roster.sites) == 8
