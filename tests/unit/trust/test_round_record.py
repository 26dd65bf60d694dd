"""The log's record of a round: its model, the updates in it, and the lines about each."""

from __future__ import annotations

from typing import Any

import pytest

from fedhelp_edge.trust import round_record
from fedhelp_edge.trust.round_record import LogLine, RoundRecord
from tests.attacks.federation import Federation, line


def log_line(type_: str, subject: str, **detail: Any) -> LogLine:
    return {"type": type_, "subject": subject, "detail": detail}


def model_line(type_: str, round_: int) -> LogLine:
    subject = f"round {round_}" if round_ else "coordinator"
    return log_line(type_, subject, model_line=f"model {round_}", parcel=f"parcel {round_}", roster="roster")


def update_line(state: str, update: str, site: str, round_: int = 1) -> LogLine:
    kind = {"kind": "update"} if state == "received" else {"code": ""}
    return log_line(state, update, site=site, round=round_, **kind)


def record_of(lines: list[LogLine], round_: int) -> RoundRecord:
    record = round_record.read_round(lines, round_)
    assert record
    return record


START = [log_line("charter", "coordinator", version=1), model_line("start", 0), log_line("roster", "coordinator")]
OPEN = log_line("open", "round 1", model_line="model 0")
MERGE = model_line("merge", 1)


def test_a_merged_model_has_the_accepted_updates_in_the_order_of_their_sites() -> None:
    first = [update_line("received", "d", "site-001"), update_line("accepted", "d", "site-001")]
    second = [update_line("received", "a", "site-002"), update_line("accepted", "a", "site-002")]
    quarantined = [update_line("received", "c", "site-003"), update_line("quarantined", "c", "site-003")]
    again = [update_line("accepted", "b", "site-004"), update_line("superseded", "b", "site-004")]
    record = record_of(
        [*START, OPEN, *second, *quarantined, *first, *again, MERGE, update_line("received", "z", "site-003")], 1
    )
    assert record.model is MERGE
    assert record.merged == {"d": "site-001", "a": "site-002"}
    assert record.inputs == ["d", "a"]
    assert record.updates == {"a": second, "b": again, "c": quarantined, "d": first}


def test_the_log_names_no_model_of_a_round_that_was_not_merged() -> None:
    assert round_record.read_round([*START, OPEN], 1) is None
    assert round_record.read_round([], 0) is None


def test_the_first_model_is_that_of_round_0_and_has_no_updates() -> None:
    record = record_of([*START, OPEN, update_line("accepted", "a", "site-001"), MERGE], 0)
    assert (record.model, record.merged, record.updates) == (START[1], {}, {})


@pytest.mark.parametrize("end", ["call off", "fail"])
def test_updates_accepted_for_a_failed_round_are_in_no_later_model(end: str) -> None:
    second = log_line("open", "round 2", model_line="model 0")
    early, late = update_line("accepted", "a", "site-001"), update_line("accepted", "b", "site-002", 2)
    record = record_of([*START, OPEN, early, log_line(end, "round 1"), second, late, model_line("merge", 2)], 2)
    assert record.merged == {"b": "site-002"}
    assert record.updates == {"b": [late]}


def test_a_late_update_that_counts_in_a_round_is_listed_with_all_its_lines() -> None:
    stale = [update_line("received", "a", "site-001"), update_line("accepted", "a", "site-001")]
    quorum = update_line("accepted", "b", "site-002", 2)
    lines = [*START, OPEN, stale[0], MERGE, log_line("open", "round 2"), stale[1], quorum, model_line("merge", 2)]
    record = record_of(lines, 2)
    assert record.merged == {"a": "site-001", "b": "site-002"}
    assert record.updates == {"a": stale, "b": [quorum]}
    assert record_of(lines, 1).updates == {"a": stale[:1]}


def test_a_decision_between_two_rounds_belongs_to_the_round_of_its_update() -> None:
    of_round_2, of_round_1 = update_line("refused", "a", "site-001", 2), update_line("refused", "b", "site-002")
    record = record_of(
        [*START, OPEN, MERGE, of_round_2, of_round_1, log_line("open", "round 2"), model_line("merge", 2)], 2
    )
    assert record.updates == {"a": [of_round_2]}


def test_an_update_accepted_before_a_round_opens_counts_in_it() -> None:
    early = update_line("accepted", "a", "site-001")
    record = record_of([*START, OPEN, MERGE, early, log_line("open", "round 2"), model_line("merge", 2)], 2)
    assert (record.merged, record.updates) == ({"a": "site-001"}, {"a": [early]})


def test_a_model_merged_again_without_a_site_has_no_updates_of_its_own() -> None:
    late = update_line("accepted", "b", "site-002")
    record = record_of([*START, OPEN, update_line("accepted", "a", "site-001"), MERGE, late, model_line("undo", 2)], 2)
    assert (record.merged, record.updates) == ({}, {})


def test_of_two_models_of_a_round_the_last_one_counts() -> None:
    again = model_line("start", 0)
    assert record_of([*START, again, OPEN], 0).model is again


def test_requests_and_other_decisions_are_not_updates() -> None:
    others = [
        log_line("received", "b", kind="enrol", site="", round=1),
        log_line("refused", "carrier", codes={"E_KIND": 1}),
        log_line("alarm", "a", site="site-001", round=1),
    ]
    own_line = update_line("accepted", "a", "site-001")
    assert record_of([*START, OPEN, *others[:2], own_line, others[2], MERGE], 1).updates == {"a": [own_line]}


@pytest.mark.parametrize(
    "other",
    [
        log_line("merge", "round 1", model_line="model 1"),
        log_line("open", "round 1", parcel="parcel 1"),
        model_line("merge", 2),
    ],
    ids=["of no parcel", "no merge", "of another round"],
)
def test_only_a_line_about_a_rounds_model_publishes_one(other: LogLine) -> None:
    assert round_record.read_round([*START, OPEN, other], 1) is None


def test_the_signers_of_a_round_are_the_roots_the_coordinator_the_front_and_the_active_sites() -> None:
    fed = Federation()
    site_roster = fed.read_roster(fed.roster(sites=[fed.site("site-002", status="revoked")]))
    rows = round_record.allowed_signers(fed.pinned, site_roster).splitlines()
    expected = [*(("root", line(root), "charter") for root in fed.roots)]
    expected += [("coordinator", line(fed.coordinator), "roster task global receipt knowledge encoder kit")]
    expected += [("front", line(fed.front), "receipt")]
    expected += [(name, fed.site_keys[name].public.sign, "update enrol rotate") for name in ("site-001", "site-003")]
    assert rows == [
        f'{principal} namespaces="{",".join(f"{kind}.v1.fedhelp-edge" for kind in kinds.split())}" {key}'
        for principal, key, kinds in expected
    ]
