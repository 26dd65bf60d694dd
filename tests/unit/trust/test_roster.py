from __future__ import annotations

from typing import Any

import pytest

from fedhelp_edge.errors import BadBodyError, FedhelpError, ParcelKindError
from fedhelp_edge.parcel import age
from fedhelp_edge.trust import roster
from tests.attacks.federation import DAY, START, Federation, line


@pytest.fixture(scope="module")
def fed() -> Federation:
    return Federation()


def test_a_roster_is_read_as_written(fed: Federation) -> None:
    changed = fed.site("site-002", status="revoked", since_round=3, reason="the PC was stolen")
    read = fed.read_roster(fed.roster(7, sites=changed, expires=START + DAY))
    assert read.sites == (fed.site("site-001"), changed, fed.site("site-003"))
    assert (read.federation, read.rank, read.charter) == (fed.id, (1, 7), fed.pinned.hash)
    assert (read.front, read.archive) == (line(fed.front), age.recipient_of(fed.archive))
    assert (read.expires, read.created) == (START + DAY, START)


def test_a_site_is_found_by_its_id_and_by_its_key(fed: Federation) -> None:
    read, second = fed.read_roster(fed.roster()), fed.site("site-002")
    assert read.site("site-002") == read.owner(second.sign) == second


def test_nobody_is_found_by_an_unknown_id_or_key(fed: Federation) -> None:
    read = fed.read_roster(fed.roster())
    assert read.site("site-009") is read.owner(line(fed.coordinator)) is None


def test_sites_of_a_round_are_active_and_admitted_before_it(fed: Federation) -> None:
    sites = [fed.site("site-001", from_round=4), fed.site("site-002", status="suspended")]
    read = fed.read_roster(fed.roster(sites=sites))
    assert [[site.id for site in read.active(number)] for number in (3, 4)] == [["site-003"], ["site-001", "site-003"]]


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "site-002"},
        {"id": "front"},
        {"id": "coordinator"},
        {"id": "Site"},
        {"id": "-a"},
        {"id": "a\n"},
        {"tier": "medium"},
        {"status": "gone"},
        {"from_round": "1"},
        {"from_round": True},
        {"more": 1},
    ],
    ids=str,
)
def test_an_invalid_site_is_refused(fed: Federation, changes: dict[str, Any]) -> None:
    statement, signers, payload = fed.roster()
    payload["sites"][0].update(changes)
    with pytest.raises(BadBodyError):
        roster.read(statement, signers, payload, fed.pinned)


@pytest.mark.parametrize("key", ["", "ssh-rsa AAAA", "ssh-ed25519 AAAA", "ssh-ed25519 \ud800", "\ud800"], ids=ascii)
def test_an_invalid_key_anywhere_is_refused(fed: Federation, key: str) -> None:
    for field in ("front", "archive"):
        statement, signers, payload = fed.roster()
        with pytest.raises(FedhelpError):
            roster.read(statement, signers, {**payload, field: key}, fed.pinned)
    for field in ("sign", "recipient"):
        statement, signers, payload = fed.roster()
        payload["sites"][0][field] = key
        with pytest.raises(FedhelpError):
            roster.read(statement, signers, payload, fed.pinned)


def test_an_invalid_expiry_time_is_refused(fed: Federation) -> None:
    statement, signers, payload = fed.roster()
    with pytest.raises(FedhelpError):
        roster.read(statement, signers, {**payload, "expires": "tomorrow"}, fed.pinned)


def test_a_charter_is_not_a_roster(fed: Federation) -> None:
    with pytest.raises(ParcelKindError):
        roster.read(*fed.charter(), fed.pinned)
