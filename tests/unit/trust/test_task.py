from __future__ import annotations

from typing import Any

import pytest

from fedhelp_edge.errors import BadBodyError, FedhelpError, ParcelKindError, RoundKeyGoneError, SchemaNamesError
from fedhelp_edge.trust import task
from fedhelp_edge.trust.log import Log
from tests.attacks.federation import BASE, DAY, SCHEMA, START, Federation, SignedParcel


@pytest.fixture(scope="module")
def fed() -> Federation:
    return Federation()


@pytest.fixture(scope="module")
def rests_on(fed: Federation) -> SignedParcel:
    return fed.roster(5)


def test_a_task_is_read_as_written(fed: Federation, rests_on: SignedParcel) -> None:
    signed = fed.task(rests_on, 3, log=Log(9, "a" * 64), closes=START + DAY)
    read = fed.read_task(signed, fed.read_roster(rests_on))
    assert (read.federation, read.rank, read.base) == (fed.id, (1, 3), BASE)
    assert (read.roster, read.roster_version) == (rests_on.statement.hash, 5)
    assert (read.plan, read.schema, read.recipients) == ("[plan]\n", SCHEMA, tuple(fed.recipients))
    assert (read.limit, read.knowledge, read.log) == (1 << 20, "", Log(9, "a" * 64))
    assert (read.opens, read.closes, read.hash) == (START, START + DAY, signed.statement.hash)


@pytest.mark.parametrize(
    "changes",
    [
        {"recipients": []},
        {"recipients": ["age1"]},
        {"limit": "1"},
        {"knowledge": "e" * 63},
        {"log": {"length": 1}},
        {"log": {"length": 1, "head": "a"}},
        {"opens": "now"},
        {"closes": ""},
        {"more": 1},
    ],
    ids=str,
)
def test_a_body_of_another_form_is_refused(fed: Federation, rests_on: SignedParcel, changes: dict[str, Any]) -> None:
    statement, signers, payload = fed.task(rests_on)
    with pytest.raises(FedhelpError):
        task.read(statement, signers, {**payload, **changes}, fed.pinned, fed.read_roster(rests_on))


def test_a_plan_that_is_not_text_is_refused(fed: Federation, rests_on: SignedParcel) -> None:
    statement, signers, payload = fed.task(rests_on)
    with pytest.raises(BadBodyError):
        task.read(statement, signers, {**payload, "plan": ["a"]}, fed.pinned, fed.read_roster(rests_on))


def test_a_schema_that_names_a_tensor_twice_is_refused(fed: Federation, rests_on: SignedParcel) -> None:
    statement, signers, payload = fed.task(rests_on)
    with pytest.raises(SchemaNamesError):
        task.read(statement, signers, {**payload, "schema": ["a F32 2"] * 2}, fed.pinned, fed.read_roster(rests_on))


def test_a_round_key_is_found_by_its_round_while_it_exists() -> None:
    assert task.round_identity(3, {2: "old", 3: "new"}) == "new"
    with pytest.raises(RoundKeyGoneError, match="round 1"):
        task.round_identity(1, {2: "old", 3: "new"})


def test_a_roster_is_not_a_task(fed: Federation, rests_on: SignedParcel) -> None:
    with pytest.raises(ParcelKindError):
        task.read(*rests_on, fed.pinned, fed.read_roster(rests_on))
