"""Updates that a person should review, and honest ones that nobody needs to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhelp_edge.errors import CopiedUpdateError, DistantUpdateError, HubError, LazyUpdateError, OpposedUpdateError
from fedhelp_edge.merge import norm_limit, outliers
from fedhelp_edge.update import Array

Arrays = dict[str, Array]
BASE: Arrays = {"conv.weight": np.zeros(64, np.float32), "bn.running_mean": np.zeros(4, np.float32)}


def site_id(number: int) -> str:
    return f"site-{number:03}"


def honest(count: int, *, spread: float = 0.5) -> dict[str, Arrays]:
    """Updates with a common direction and a part of each site's own."""
    common = np.random.default_rng(0).standard_normal(64)
    return {
        site_id(n): {
            "conv.weight": (common + spread * np.random.default_rng(n).standard_normal(64)).astype(np.float32),
            "bn.running_mean": np.random.default_rng(n).uniform(1, 2, 4).astype(np.float32),
        }
        for n in range(1, count + 1)
    }


def faults(updates: dict[str, Arrays]) -> dict[str, HubError]:
    return outliers.suspicious_updates(
        BASE, updates, {name: norm_limit.update_norm(BASE, update) for name, update in updates.items()}
    )


def error_types(updates: dict[str, Arrays]) -> dict[str, type]:
    return {name: type(fault) for name, fault in faults(updates).items()}


def one_way(*lengths: float, what: str = "conv.weight") -> dict[str, Arrays]:
    """Updates whose weights, or statistics, change by exactly these lengths, the other kind by 1; no two are equal."""
    moves = {name: np.full(len(lengths), 1.0) for name in BASE} | {what: np.array(lengths)}
    return {
        site_id(n + 1): {
            name: np.roll(np.eye(1, BASE[name].size, dtype=np.float32)[0] * np.float32(move[n]), n % 4)
            for name, move in moves.items()
        }
        for n in range(len(lengths))
    }


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_honest_updates_are_not_suspicious(count: int) -> None:
    assert error_types(honest(count)) == {}


def test_converged_sites_with_different_directions_are_not_suspicious() -> None:
    assert error_types(honest(8, spread=50)) == {}


def test_copies_are_named_with_each_other_also_of_unchanged_weights() -> None:
    updates = honest(5)
    updates[site_id(2)] = updates[site_id(4)]
    assert error_types(updates) == {site_id(2): CopiedUpdateError, site_id(4): CopiedUpdateError}
    updates[site_id(1)] = BASE
    assert error_types(updates) == {
        site_id(1): LazyUpdateError,
        site_id(2): CopiedUpdateError,
        site_id(4): CopiedUpdateError,
    }


@pytest.mark.parametrize("what", list(BASE))
@pytest.mark.parametrize(("times", "fault"), [(15, None), (30, DistantUpdateError)])
def test_only_a_change_far_above_the_median_is_suspicious(what: str, times: float, fault: type | None) -> None:
    updates = honest(5)
    updates[site_id(3)][what] = updates[site_id(3)][what] * np.float32(times)
    assert error_types(updates) == ({site_id(3): fault} if fault else {})


@pytest.mark.parametrize("what", list(BASE))
@pytest.mark.parametrize(("length", "odd"), [(40.0, False), (40.125, True)])
def test_a_change_of_exactly_twenty_times_the_median_is_not_suspicious(what: str, length: float, odd: bool) -> None:
    assert error_types(one_way(1.0, 2.0, length, what=what)) == ({site_id(3): DistantUpdateError} if odd else {})


def test_a_site_that_changes_statistics_is_not_compared_with_a_median_of_zero() -> None:
    assert error_types(one_way(0.0, 0.0, 0.0, 5.0, what="bn.running_mean")) == {}


def test_the_cause_names_equal_updates_and_the_size_of_a_change() -> None:
    updates = honest(6)
    updates[site_id(2)] = updates[site_id(4)] = updates[site_id(6)]
    assert str(faults(updates)[site_id(4)]).endswith("the same weights as site-002, site-006")
    far = {name: str(fault) for name, fault in faults(one_way(2.0, 2.0, 100.0)).items()}
    assert far[site_id(3)].endswith("50 times the median change of the weights")


def test_directions_that_cancel_out_give_no_opposed_update() -> None:
    axes = np.eye(64, dtype=np.float32)
    moves = [axes[0], -axes[0], axes[1], -axes[1], axes[2]]
    updates = {
        site_id(n + 1): {"conv.weight": move, "bn.running_mean": np.full(4, 1 + n, np.float32)}
        for n, move in enumerate(moves)
    }
    assert error_types(updates) == {}


@pytest.mark.parametrize(("count", "fault"), [(4, None), (5, OpposedUpdateError), (8, OpposedUpdateError)])
def test_a_reversed_update_is_detected_if_enough_others_give_a_direction(count: int, fault: type | None) -> None:
    updates = honest(count, spread=0.1)
    updates[site_id(2)]["conv.weight"] = -updates[site_id(2)]["conv.weight"]
    assert error_types(updates) == ({site_id(2): fault} if fault else {})


def test_a_site_half_opposed_to_the_others_is_not_suspicious() -> None:
    """The largest site of a real federation was honest at a cosine of -0.62."""
    updates = honest(6, spread=0.1)
    others = np.sum([update["conv.weight"] for update in updates.values()], axis=0)
    aside = np.random.default_rng(9).standard_normal(64)
    aside -= (aside @ others) / (others @ others) * others
    unit = others / np.linalg.norm(others), aside / np.linalg.norm(aside)
    updates[site_id(2)]["conv.weight"] = (8 * (-0.62 * unit[0] + 0.78 * unit[1])).astype(np.float32)
    assert error_types(updates) == {}


def test_updates_cannot_hide_behind_an_extreme_one() -> None:
    """The extreme one is excluded first, so that it does not determine the direction of the others."""
    updates = honest(6, spread=0.1)
    updates[site_id(1)]["conv.weight"] = updates[site_id(1)]["conv.weight"] * np.float32(-1000)
    assert error_types(updates) == {site_id(1): DistantUpdateError}


@pytest.mark.parametrize(("cosine", "fault"), [(-0.92, OpposedUpdateError), (-0.88, None)])
def test_a_site_is_compared_only_with_the_others_and_not_with_itself(cosine: float, fault: type | None) -> None:
    others, aside = np.eye(64)[0], np.eye(64)[1]
    against = 3 * (cosine * others + np.sqrt(1 - cosine**2) * aside)
    moves = [others * (1 + 0.1 * n) for n in range(4)] + [against]
    updates = {
        site_id(n + 1): {"conv.weight": move.astype(np.float32), "bn.running_mean": np.full(4, 1 + n, np.float32)}
        for n, move in enumerate(moves)
    }
    assert error_types(updates) == ({site_id(5): fault} if fault else {})


@given(st.lists(st.integers(1, 12).map(lambda power: 3**power), min_size=norm_limit.MIN_UPDATES, max_size=9))
def test_claims_are_compared_with_the_median_of_the_other_sites(claims: list[int]) -> None:
    examples = {site_id(number): claimed for number, claimed in enumerate(claims)}
    expected = {
        name
        for name, claimed in examples.items()
        if claimed > outliers.EXAMPLES_FACTOR * np.median([other for site_, other in examples.items() if site_ != name])
    }
    assert set(outliers.inflated_claims(examples, {})) == expected


@pytest.mark.parametrize(("claimed", "odd"), [(2000, False), (2001, True)])
def test_a_claim_of_exactly_twenty_times_the_others_median_is_accepted(claimed: int, odd: bool) -> None:
    assert list(outliers.inflated_claims({"a": 100, "b": 100, "c": claimed}, {})) == ["c"] * odd


@pytest.mark.parametrize(("claimed", "odd"), [(10_000, False), (10_001, True)])
def test_a_claim_of_exactly_twice_what_a_person_released_is_accepted(claimed: int, odd: bool) -> None:
    assert list(outliers.inflated_claims({"a": 100, "b": 100, "c": claimed}, {"c": 5000})) == ["c"] * odd


# --- methods whose update is no model ---------------------------------------------------------------------------------
def test_tables_of_few_different_numbers_are_no_copies_and_others_are() -> None:
    def errors(values: int) -> dict[str, HubError]:
        rows = np.arange(64, dtype=np.float32).reshape(8, 8) % values
        updates = {site_id(n): {"rows": rows.copy()} for n in (1, 2)}
        norms = {site: norm_limit.update_norm({}, update, lambda name: "table") for site, update in updates.items()}
        return outliers.suspicious_updates({}, updates, norms, lambda name: "table")

    assert not errors(outliers.MIN_VALUES - 1)
    assert {type(error) for error in errors(outliers.MIN_VALUES).values()} == {CopiedUpdateError}


def test_weights_that_no_model_has_are_neither_watched_nor_shortened() -> None:
    """What goes up may have other names than what comes down."""
    updates = {site: {**update, "extra.weight": 10 * update["conv.weight"]} for site, update in honest(6).items()}
    updates[site_id(1)]["extra.weight"] = np.full(64, 1e4, np.float32)
    assert not faults(updates)
    extra = {site: {"extra.weight": update["extra.weight"]} for site, update in updates.items()}
    assert not faults(extra)
    clipped = norm_limit.ClippedUpdate(BASE, updates[site_id(1)], {"weights": 0.5, "statistics": 1.0})
    assert np.array_equal(clipped["extra.weight"], updates[site_id(1)]["extra.weight"])
    assert np.allclose(clipped["conv.weight"], 0.5 * updates[site_id(1)]["conv.weight"])
