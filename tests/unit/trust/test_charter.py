from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhelp_edge.errors import BadBodyError, ParcelKindError, RootChainError, SigAlgError, ThresholdError
from fedhelp_edge.trust import charter
from tests.attacks.federation import LAST, START, Federation, line


@pytest.fixture(scope="module")
def fed() -> Federation:
    """Two of its three roots must sign."""
    return Federation(threshold=2)


@pytest.fixture(scope="module")
def newcomer() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def test_a_federation_is_named_by_the_hash_of_its_first_charter(fed: Federation) -> None:
    statement = fed.charter().statement
    assert fed.pinned.federation == "fh-" + statement.hash[:32]


def test_a_charter_is_read_as_written(fed: Federation) -> None:
    pinned = fed.pinned
    assert (pinned.name, pinned.threshold, pinned.rank) == ("Clinics of the valley", 2, (1, 1))
    assert pinned.roots == tuple(line(root) for root in fed.roots)
    assert (pinned.coordinator, pinned.created) == (line(fed.coordinator), START)


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (1, 2), (2, 1)])
def test_any_two_of_three_roots_found_a_federation(fed: Federation, pair: tuple[int, int]) -> None:
    charter.read_first(*fed.charter(signers=[fed.roots[index] for index in pair]))


def test_one_of_three_roots_founds_nothing(fed: Federation) -> None:
    with pytest.raises(ThresholdError):
        charter.read_first(*fed.charter(signers=fed.roots[:1]))


def test_a_later_charter_keeps_the_name_of_the_federation(fed: Federation) -> None:
    second = charter.read_next(fed.pinned, *fed.charter(fed.pinned, coordinator=fed.front))
    third = charter.read_next(second, *fed.charter(second))
    assert (third.federation, third.rank) == (fed.id, (1, 3))


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (1, 2)])
def test_any_two_of_three_roots_name_another_coordinator(fed: Federation, pair: tuple[int, int]) -> None:
    signed = fed.charter(fed.pinned, coordinator=fed.front, signers=[fed.roots[index] for index in pair])
    assert charter.read_next(fed.pinned, *signed).coordinator == line(fed.front)


def test_a_lost_root_is_replaced_by_the_other_two(fed: Federation, newcomer: Ed25519PrivateKey) -> None:
    roots = [*fed.roots[:2], newcomer]
    after = charter.read_next(fed.pinned, *fed.charter(fed.pinned, roots=roots, signers=fed.roots[:2]))
    assert after.roots == tuple(line(root) for root in roots)


def test_a_replaced_root_has_no_authority(fed: Federation, newcomer: Ed25519PrivateKey) -> None:
    roots = [*fed.roots[:2], newcomer]
    after = charter.read_next(fed.pinned, *fed.charter(fed.pinned, roots=roots, signers=fed.roots[:2]))
    with pytest.raises(ThresholdError, match="version 2"):
        charter.read_next(after, *fed.charter(after, roots=roots, signers=fed.roots[1:]))


def test_all_roots_change_when_old_and_new_ones_sign(fed: Federation) -> None:
    fresh = [Ed25519PrivateKey.generate() for _ in range(3)]
    signed = fed.charter(fed.pinned, roots=fresh, signers=[*fed.roots[:2], *fresh[:2]])
    assert charter.read_next(fed.pinned, *signed).roots == tuple(line(root) for root in fresh)


@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 1), (0, 3), (3, 0)])
def test_roots_do_not_change_without_two_of_the_old_and_two_of_the_new(fed: Federation, old: int, new: int) -> None:
    fresh = [Ed25519PrivateKey.generate() for _ in range(3)]
    with pytest.raises(ThresholdError):
        charter.read_next(fed.pinned, *fed.charter(fed.pinned, roots=fresh, signers=[*fed.roots[:old], *fresh[:new]]))


def test_a_charter_cannot_lower_its_own_threshold_with_fewer_signatures(fed: Federation) -> None:
    with pytest.raises(ThresholdError):
        charter.read_next(fed.pinned, *fed.charter(fed.pinned, threshold=1, signers=fed.roots[:1]))


def test_the_charter_of_another_federation_does_not_follow(fed: Federation) -> None:
    other = Federation(threshold=2)
    with pytest.raises(RootChainError):
        charter.read_next(fed.pinned, *other.charter(other.pinned))


@pytest.mark.parametrize("version", [1, 3, LAST])
def test_a_charter_must_have_the_next_version(fed: Federation, version: int) -> None:
    with pytest.raises(RootChainError):
        charter.read_next(fed.pinned, *fed.charter(fed.pinned, version=version))


@pytest.mark.parametrize("threshold", [0, 4])
def test_an_impossible_threshold_is_refused(fed: Federation, threshold: int) -> None:
    with pytest.raises(BadBodyError):
        charter.read_first(*fed.charter(threshold=threshold))


def test_a_repeated_root_is_refused(fed: Federation) -> None:
    with pytest.raises(BadBodyError):
        charter.read_first(*fed.charter(roots=[fed.roots[0]] * 2, threshold=1, signers=fed.roots[:1]))


@pytest.mark.parametrize(
    "changes",
    [{"threshold": True}, {"threshold": 1.0}, {"roots": "a"}, {"roots": [1]}, {"name": None}, {"x": 1}],
    ids=str,
)
def test_a_body_of_another_form_is_refused(fed: Federation, changes: dict[str, object]) -> None:
    statement, signers, payload = fed.charter()
    with pytest.raises(BadBodyError):
        charter.read_first(statement, signers, {**payload, **changes})


def test_a_threshold_may_be_all_roots_and_eight_is_the_maximum(fed: Federation) -> None:
    roots = [Ed25519PrivateKey.generate() for _ in range(9)]
    first = charter.read_first(*fed.charter(roots=roots[:8], threshold=8, signers=roots[:8]))
    assert (len(first.roots), first.threshold) == (8, 8)
    with pytest.raises(BadBodyError):
        charter.read_first(*fed.charter(roots=roots, threshold=1, signers=roots[:1]))


def test_the_default_threshold_is_one() -> None:
    assert charter.body("name", ("root",), "coordinator")["threshold"] == 1


@pytest.mark.parametrize("key", ["", "ssh-rsa AAAA", "ssh-ed25519 AAAA"])
def test_an_invalid_key_in_a_charter_is_refused(fed: Federation, key: str) -> None:
    statement, signers, payload = fed.charter()
    for changes in ({"coordinator": key}, {"roots": [*payload["roots"], key]}):
        with pytest.raises(SigAlgError):
            charter.read_first(statement, signers, {**payload, **changes})


def test_a_roster_is_not_a_charter(fed: Federation) -> None:
    with pytest.raises(ParcelKindError):
        charter.read_first(*fed.roster())
    with pytest.raises(ParcelKindError):
        charter.read_next(fed.pinned, *fed.roster())


def test_the_coordinators_key_may_not_be_a_root() -> None:
    fed = Federation()
    with pytest.raises(BadBodyError):
        charter.read_first(*fed.charter(coordinator=fed.roots[0]))


def test_a_strangers_charter_of_the_same_version_raises_no_alarm() -> None:
    fed = Federation()
    other = Federation()
    with pytest.raises(ThresholdError):
        fed.trusted().with_charter(*other.charter())
