"""What the log says of a round: the model, the updates in it, and the lines about each."""

from __future__ import annotations

from typing import Any

import pytest

from fedhelp_edge.trust import round_record
from fedhelp_edge.trust.round_record import LogLine, RoundRecord
from tests.attacks.federation import Federation, line


def logged(type_: str, subject: str, **detail: Any) -> LogLine:
    return {"type": type_, "subject": subject, "detail": detail}


def model(type_: str, round_: int) -> LogLine:
    subject = f"round {round_}" if round_ else "coordinator"
    return logged(type_, subject, model=f"model {round_}", parcel=f"parcel {round_}", roster="roster")


def given(state: str, update: str, site: str, round_: int = 1) -> LogLine:
    kind = {"kind": "update"} if state == "received" else {"code": ""}
    return logged(state, update, site=site, round=round_, **kind)


def told(lines: list[LogLine], round_: int) -> RoundRecord:
    record = round_record.read_round(lines, round_)
    assert record
    return record


START = [logged("charter", "coordinator", version=1), model("start", 0), logged("roster", "coordinator")]
OPEN = logged("open", "round 1", model="model 0")
MERGE = model("merge", 1)


def test_a_merged_model_is_made_of_the_accepted_updates_in_the_order_of_their_sites() -> None:
    first = [given("received", "d", "site-001"), given("accepted", "d", "site-001")]
    second = [given("received", "a", "site-002"), given("accepted", "a", "site-002")]
    odd = [given("received", "c", "site-003"), given("quarantined", "c", "site-003")]
    again = [given("accepted", "b", "site-004"), given("superseded", "b", "site-004")]
    record = told([*START, OPEN, *second, *odd, *first, *again, MERGE, given("received", "z", "site-003")], 1)
    assert record.model is MERGE
    assert record.merged == {"d": "site-001", "a": "site-002"}
    assert record.inputs == ["d", "a"]
    assert record.updates == {"a": second, "b": again, "c": odd, "d": first}


def test_the_log_names_no_model_of_a_round_that_was_not_merged() -> None:
    assert round_record.read_round([*START, OPEN], 1) is None
    assert round_record.read_round([], 0) is None


def test_the_first_model_has_the_number_0_and_is_made_of_nothing() -> None:
    record = told([*START, OPEN, given("accepted", "a", "site-001"), MERGE], 0)
    assert (record.model, record.merged, record.updates) == (START[1], {}, {})


@pytest.mark.parametrize("end", ["call off", "fail"])
def test_what_was_accepted_for_a_round_that_came_to_nothing_is_in_no_later_model(end: str) -> None:
    second = logged("open", "round 2", model="model 0")
    early, late = given("accepted", "a", "site-001"), given("accepted", "b", "site-002", 2)
    record = told([*START, OPEN, early, logged(end, "round 1"), second, late, model("merge", 2)], 2)
    assert record.merged == {"b": "site-002"}
    assert record.updates == {"b": [late]}


def test_an_update_of_an_earlier_round_that_counts_in_this_one_is_named_with_all_that_was_said_of_it() -> None:
    stale = [given("received", "a", "site-001"), given("accepted", "a", "site-001")]
    quorum = given("accepted", "b", "site-002", 2)
    lines = [*START, OPEN, stale[0], MERGE, logged("open", "round 2"), stale[1], quorum, model("merge", 2)]
    record = told(lines, 2)
    assert record.merged == {"a": "site-001", "b": "site-002"}
    assert record.updates == {"a": stale, "b": [quorum]}
    assert told(lines, 1).updates == {"a": stale[:1]}


def test_what_is_decided_between_two_rounds_belongs_to_the_round_that_it_was_made_for() -> None:
    of_round_2, of_round_1 = given("refused", "a", "site-001", 2), given("refused", "b", "site-002")
    record = told([*START, OPEN, MERGE, of_round_2, of_round_1, logged("open", "round 2"), model("merge", 2)], 2)
    assert record.updates == {"a": [of_round_2]}


def test_what_is_accepted_before_a_round_opens_counts_in_it() -> None:
    early = given("accepted", "a", "site-001")
    record = told([*START, OPEN, MERGE, early, logged("open", "round 2"), model("merge", 2)], 2)
    assert (record.merged, record.updates) == ({"a": "site-001"}, {"a": [early]})


def test_a_model_that_was_merged_again_without_a_site_has_no_updates_of_its_own() -> None:
    late = given("accepted", "b", "site-002")
    record = told([*START, OPEN, given("accepted", "a", "site-001"), MERGE, late, model("undo", 2)], 2)
    assert (record.merged, record.updates) == ({}, {})


def test_of_two_models_of_a_round_the_last_one_is_told_of() -> None:
    again = model("start", 0)
    assert told([*START, again, OPEN], 0).model is again


def test_requests_and_other_decisions_are_no_updates() -> None:
    others = [
        logged("received", "b", kind="enrol", site="", round=1),
        logged("refused", "carrier", codes={"E_KIND": 1}),
        logged("alarm", "a", site="site-001", round=1),
    ]
    mine = given("accepted", "a", "site-001")
    assert told([*START, OPEN, *others[:2], mine, others[2], MERGE], 1).updates == {"a": [mine]}


@pytest.mark.parametrize(
    "other",
    [
        logged("merge", "round 1", model="model 1"),
        logged("open", "round 1", parcel="parcel 1"),
        model("merge", 2),
    ],
    ids=["of no parcel", "no merge", "of another round"],
)
def test_a_line_that_is_not_about_the_model_of_a_round_publishes_none(other: LogLine) -> None:
    assert round_record.read_round([*START, OPEN, other], 1) is None


def test_the_signers_of_a_round_are_the_roots_the_coordinator_the_front_and_the_active_sites_each_for_its_own() -> None:
    fed = Federation()
    site_roster = fed.read_roster(fed.roster(sites=[fed.site("site-002", status="revoked")]))
    rows = round_record.allowed_signers(fed.pinned, site_roster).splitlines()
    expected = [*(("root", line(root), "charter") for root in fed.roots)]
    expected += [("coordinator", line(fed.coordinator), "roster task global receipt knowledge kit")]
    expected += [("front", line(fed.front), "receipt")]
    expected += [(name, fed.site_keys[name].public.sign, "update enrol rotate") for name in ("site-001", "site-003")]
    assert rows == [
        f'{principal} namespaces="{",".join(f"{kind}.v1.fedhelp-edge" for kind in kinds.split())}" {key}'
        for principal, key, kinds in expected
    ]
