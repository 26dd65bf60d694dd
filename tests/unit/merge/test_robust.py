"""Merging rules that tolerate some dishonest updates: the norm limit, the median, the trimmed mean."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fedhelp_edge import update
from fedhelp_edge.merge import norm_limit, outliers, rules
from fedhelp_edge.plan import MergeSettings
from fedhelp_edge.update import Array

Arrays = dict[str, Array]

SHAPES = {
    "conv.weight": (4, 3, 3, 3),
    "bn.bias": (4,),
    "bn.running_mean": (4,),
    "bn.running_var": (4,),
    "linear.weight": (2, 5),
}
WEIGHTS = ("conv.weight", "bn.bias", "linear.weight")
STATISTICS = ("bn.running_mean", "bn.running_var")


def drawn(generator: np.random.Generator, scale: float = 1.0) -> Arrays:
    return {name: (generator.standard_normal(shape) * scale).astype(np.float32) for name, shape in SHAPES.items()}


def moved(base: Arrays, change: Arrays, times: float = 1.0, names: tuple[str, ...] = tuple(SHAPES)) -> Arrays:
    return {name: base[name] + np.float32(times if name in names else 1) * change[name] for name in base}


def federation(sites: int, seed: int, spread: float = 1.0) -> tuple[Arrays, dict[str, Arrays]]:
    """A base and honest updates of it; the longest change is about at most `spread` times the shortest."""
    generator = np.random.default_rng(seed)
    base = drawn(generator)
    scales = generator.uniform(0.1, 0.1 * spread, sites)
    return base, {f"site-{n:03}": moved(base, drawn(generator, scale)) for n, scale in enumerate(scales, 1)}


def distance(first: Mapping[str, Array], second: Mapping[str, Array], names: tuple[str, ...]) -> float:
    return math.sqrt(sum(float(((first[name].astype(np.float64) - second[name]) ** 2).sum()) for name in names))


def bits(merged: Mapping[str, Array]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in merged.items()}


def flower_trimmed(stack: Array, part: float) -> Array:
    """The trimmed mean of Flower's strategy FedTrimmedAvg."""
    low = int(part * len(stack))
    high = len(stack) - low
    return np.asarray(np.partition(stack, (low, high - 1), 0)[low:high].mean(axis=0))


# --- median and trimmed mean ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sites", range(1, 8))
def test_the_median_is_that_of_each_number(sites: int) -> None:
    _, updates = federation(sites, seed=sites)
    merged = rules.median(updates)
    for name in SHAPES:
        assert (
            merged[name].tobytes()
            == np.median(np.stack([update[name] for update in updates.values()]), axis=0).tobytes()
        )


@given(st.integers(1, 12), st.floats(0, 0.49), st.integers(0, 2**32))
def test_the_trimmed_mean_is_flowers(sites: int, part: float, seed: int) -> None:
    _, updates = federation(sites, seed)
    merged = rules.trimmed_mean(updates, part)
    for name in SHAPES:
        expected = flower_trimmed(np.stack([update[name] for update in updates.values()]), part)
        assert np.abs(merged[name] - expected).max() < 1e-6


def test_nothing_trimmed_is_the_plain_mean() -> None:
    _, updates = federation(4, seed=0)
    plain = rules.mean(updates, dict.fromkeys(updates, 0.25))
    assert all(np.abs(rules.trimmed_mean(updates, 0.2)[name] - plain[name]).max() < 1e-6 for name in plain)


@pytest.mark.parametrize("rule", ["median", "trimmed"])
def test_two_of_five_cannot_move_a_value_out_of_the_others_range(rule: str) -> None:
    base, updates = federation(5, seed=1)
    honest = np.stack([updates[site]["conv.weight"] for site in list(updates)[:3]])
    for site in list(updates)[3:]:
        updates[site] = moved(base, dict.fromkeys(SHAPES, np.float32(1e3)))
    how = MergeSettings(rule=rule, clip="none", trim=0.4)
    merged = rules.merge(base, updates, dict.fromkeys(updates, 1), how)["conv.weight"]
    assert (honest.min(0) <= merged).all()
    assert (merged <= honest.max(0)).all()


@pytest.mark.parametrize("rule", ["median", "trimmed"])
def test_a_tensor_larger_than_a_block_is_merged_the_same(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, updates = federation(5, seed=2)
    how = MergeSettings(rule=rule)
    in_one_block = rules.merge(base, updates, dict.fromkeys(updates, 1), how)
    monkeypatch.setattr(rules, "_BLOCK", 35)
    assert bits(rules.merge(base, updates, dict.fromkeys(updates, 1), how)) == bits(in_one_block)


def test_no_more_numbers_of_all_sites_are_in_memory_than_intended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, updates = federation(5, seed=2)
    monkeypatch.setattr(rules, "_BLOCK", 35)
    sizes: list[int] = []

    def counted(numbers: Array) -> Array:
        sizes.append(numbers.size)
        return np.asarray(np.median(numbers, axis=0))

    merged = rules._elementwise(updates, counted)
    assert max(sizes) == 35
    assert bits(merged) == bits(rules.median(updates))


@pytest.mark.parametrize("rule", ["mean", "median", "trimmed"])
def test_every_rule_gives_the_same_bits_in_any_order_of_updates(rule: str) -> None:
    base, updates = federation(4, seed=3)
    updates["site-002"] = moved(base, updates["site-002"], 50)
    examples = {"site-001": 10, "site-002": 20, "site-003": 5, "site-004": 1}
    results = [
        bits(rules.merge(base, {site: updates[site] for site in order}, examples, MergeSettings(rule=rule, trim=0.25)))
        for order in itertools.permutations(updates)
    ]
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("rule", ["median", "trimmed"])
def test_the_rules_without_weights_ignore_examples(rule: str) -> None:
    base, updates = federation(5, seed=4)
    first, second = (
        rules.merge(base, updates, dict(zip(updates, counts, strict=True)), MergeSettings(rule=rule))
        for counts in ([1] * 5, [1, 1000, 2, 50, 7])
    )
    assert bits(first) == bits(second)


# --- the clip ------------------------------------------------------------------------------------------------------

ATTACKS: dict[str, tuple[float, tuple[str, ...]]] = {
    "scaled up": (50, tuple(SHAPES)),
    "turned round and scaled up": (-50, tuple(SHAPES)),
    "in the weights alone": (50, WEIGHTS),
    "in the running statistics alone": (50, STATISTICS),
    "almost without end": (1e12, tuple(SHAPES)),
}


def attacked(sites: int, seed: int, attack: str, spread: float = 3.0) -> tuple[Arrays, dict[str, Arrays]]:
    base, updates = federation(sites, seed, spread)
    attacker = list(updates)[seed % sites]
    times, names = ATTACKS[attack]
    updates[attacker] = moved(base, {name: updates[attacker][name] - base[name] for name in base}, times, names)
    return base, updates


@given(
    st.integers(3, 9),
    st.integers(0, 2**32),
    st.sampled_from(list(ATTACKS)),
    st.lists(st.integers(1, 5000), min_size=9, max_size=9),
)
def test_a_scaled_up_update_moves_the_mean_by_no_more_than_the_norm_limit_allows(
    sites: int, seed: int, attack: str, counts: list[int]
) -> None:
    base, updates = attacked(sites, seed, attack)
    examples = dict(zip(updates, counts[:sites], strict=True))
    merged = rules.merge(base, updates, examples, MergeSettings())
    parts = rules.weights(list(examples.values()))
    for what, names in (("weights", WEIGHTS), ("statistics", STATISTICS)):
        median = float(np.median([distance(update, base, names) for update in updates.values()]))
        bound = sum(part * 5 * median for part in parts)
        assert distance(merged, base, names) <= bound * (1 + 1e-5) + 1e-5, what


@pytest.mark.parametrize("attack", ["scaled up", "turned round and scaled up", "in the running statistics alone"])
def test_without_the_norm_limit_the_same_update_moves_the_mean_further(attack: str) -> None:
    base, updates = attacked(5, 7, attack)
    examples = dict.fromkeys(updates, 1)
    bare, clipped = (rules.merge(base, updates, examples, MergeSettings(clip=how)) for how in ("none", "auto"))
    assert distance(bare, base, STATISTICS) > 3 * distance(clipped, base, STATISTICS)


@given(st.integers(3, 9), st.integers(0, 2**32))
def test_updates_within_five_medians_are_merged_unchanged_to_the_bit(sites: int, seed: int) -> None:
    base, updates = federation(sites, seed, spread=4.0)
    norms = {site: norm_limit.update_norm(base, update) for site, update in updates.items()}
    for kind in ("weights", "statistics"):
        lengths = [norm[kind] for norm in norms.values()]
        assume(max(lengths) <= 5 * np.median(lengths))  # eight random numbers may differ more
    assert norm_limit.scale_factors(norms) == {}
    examples = dict.fromkeys(updates, 3)
    bare, clipped = (rules.merge(base, updates, examples, MergeSettings(clip=how)) for how in ("none", "auto"))
    assert bits(bare) == bits(clipped)


def test_an_update_clipped_in_its_statistics_keeps_its_weights_to_the_bit() -> None:
    base, updates = attacked(4, 0, "in the running statistics alone", spread=1.0)
    (attacker, factors), *others = norm_limit.scale_factors(
        {site: norm_limit.update_norm(base, update) for site, update in updates.items()}
    ).items()
    assert not others
    clipped = norm_limit.ClippedUpdate(base, updates[attacker], factors)
    assert {name for name in SHAPES if clipped[name].tobytes() != updates[attacker][name].tobytes()} == set(STATISTICS)
    assert list(clipped) == list(updates[attacker])


def test_tensors_that_are_not_clipped_are_the_updates_own_to_the_bit() -> None:
    """For 1e4 and 1e-20, adding the difference again is not exact."""
    base, update = {"w": np.array([1e4], np.float32)}, {"w": np.array([1e-20], np.float32)}
    clipped = norm_limit.ClippedUpdate(base, update, {"weights": 1.0, "statistics": 0.5})
    assert clipped["w"].tobytes() == update["w"].tobytes()
    assert len(clipped) == 1


def test_a_clipped_update_keeps_its_direction_and_ends_at_five_medians() -> None:
    base, updates = attacked(5, 1, "scaled up", spread=1.0)
    norms = {site: norm_limit.update_norm(base, update) for site, update in updates.items()}
    ((attacker, factors),) = norm_limit.scale_factors(norms).items()
    clipped = norm_limit.ClippedUpdate(base, updates[attacker], factors)
    for names in (WEIGHTS, STATISTICS):
        median = float(np.median([distance(update, base, names) for update in updates.values()]))
        assert distance(clipped, base, names) == pytest.approx(5 * median, rel=1e-5)
    before, after = (np.ravel(arrays["conv.weight"] - base["conv.weight"]) for arrays in (updates[attacker], clipped))
    assert np.dot(before, after) / np.linalg.norm(before) / np.linalg.norm(after) == pytest.approx(1, abs=1e-6)


def test_of_two_updates_neither_is_clipped() -> None:
    base, updates = attacked(2, 0, "scaled up")
    assert (
        norm_limit.scale_factors({site: norm_limit.update_norm(base, update) for site, update in updates.items()}) == {}
    )


def test_updates_that_change_nothing_cause_no_division_by_zero() -> None:
    base, _ = federation(1, seed=0)
    still = {f"site-{n}": dict(base) for n in range(4)}
    assert bits(rules.merge(base, still, dict.fromkeys(still, 1), MergeSettings())) == bits(base)


def test_a_single_changed_update_among_unchanged_ones_does_not_change_the_model() -> None:
    base, _ = federation(1, seed=0)
    updates = {f"site-{n}": dict(base) for n in range(4)}
    updates["site-3"] = moved(base, dict.fromkeys(SHAPES, np.float32(1)))
    assert bits(rules.merge(base, updates, dict.fromkeys(updates, 1), MergeSettings())) == bits(base)


def test_given_norms_are_not_computed_again() -> None:
    base, updates = attacked(5, 2, "scaled up")
    norms = {site: norm_limit.update_norm(base, update) for site, update in updates.items()}
    examples = dict.fromkeys(updates, 1)
    opened = Files(updates)
    merged = rules.merge(base, opened, examples, MergeSettings(), norms)
    assert bits(merged) == bits(rules.merge(base, updates, examples, MergeSettings()))
    assert opened.opened == sorted(updates)


@pytest.mark.parametrize(
    ("name", "role", "kind"),
    [
        ("bn1.running_mean", "stat", "statistics"), ("running_var", "stat", "statistics"),
        ("layer1.0.bn1.weight", "norm", "weights"), ("linear.bias", "weight", "weights"),
    ],
)  # fmt: skip
def test_the_role_of_a_tensor_that_declares_none_follows_from_its_name(name: str, role: str, kind: str) -> None:
    assert update.role_by_name(name) == role
    base, changed = {name: np.zeros(3, np.float32)}, {name: np.full(3, 2, np.float32)}
    assert norm_limit.update_norm(base, changed) == {"weights": 0.0, "statistics": 0.0, kind: math.sqrt(12)}


def test_tensors_for_the_plain_mean_are_neither_limited_nor_weighed() -> None:
    base = {"w": np.zeros(2, np.float32), "moments": np.zeros(2, np.float32)}
    updates = {
        site: {"w": np.full(2, value, np.float32), "moments": np.full(2, 1000 * value, np.float32)}
        for site, value in (("a", 1), ("b", 1), ("c", 100))
    }
    schema = update.Schema.parse(["w F32 2 weight", "moments F32 2 even"])
    examples = {"a": 8, "b": 1, "c": 1}
    merged = rules.merge(base, updates, examples, MergeSettings(cap=1.0), None, schema)
    assert list(merged) == ["w", "moments"]
    assert merged["moments"].tolist() == [np.float32(34000)] * 2
    assert merged["w"].tolist() == pytest.approx([0.8 + 0.1 + 0.1 * 5] * 2)  # c is limited to 5 times the median


def test_an_update_of_tables_alone_has_no_norm_and_is_not_suspicious() -> None:
    tables = {site: {"answers": np.full((2, 2), value, np.float32)} for value, site in enumerate("abcdef")}
    norms = {site: norm_limit.update_norm({}, table, lambda name: "table") for site, table in tables.items()}
    assert all(set(norm.values()) == {0.0} for norm in norms.values())
    assert outliers.suspicious_updates({}, tables, norms, lambda name: "table") == {}


# --- updates in files ----------------------------------------------------------------------------------------------


class Files(Mapping[str, Mapping[str, Array]]):
    """Updates opened in turn; counts the opened ones and the arrays in memory at once."""

    def __init__(self, updates: dict[str, Arrays]) -> None:
        self._updates = updates
        self.opened: list[str] = []
        self.open, self.most_open = 0, 0
        self.held, self.most = 0, 0

    def __getitem__(self, site: str) -> Mapping[str, Array]:
        self.opened.append(site)
        opened = Opened(self._updates[site], self)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        weakref.finalize(opened, self.close)
        return opened

    def close(self) -> None:
        self.open -= 1

    def __iter__(self) -> Iterator[str]:
        return iter(self._updates)

    def __len__(self) -> int:
        return len(self._updates)

    def hold(self, by: int) -> None:
        self.held += by
        self.most = max(self.most, self.held)


class Opened(Mapping[str, Array]):
    """An update whose arrays are read on request."""

    def __init__(self, arrays: Arrays, files: Files) -> None:
        self._arrays, self._files = arrays, files

    def __getitem__(self, name: str) -> Array:
        array = self._arrays[name].copy()
        self._files.hold(1)
        weakref.finalize(array, self._files.hold, -1)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


@pytest.mark.parametrize(("how", "times"), [("none", 1), ("auto", 2)])
def test_for_the_mean_updates_are_opened_in_turn_and_one_array_is_in_memory(how: str, times: int) -> None:
    base, updates = attacked(5, 3, "scaled up")
    files = Files(updates)
    merged = rules.merge(base, files, dict.fromkeys(updates, 1), MergeSettings(clip=how))
    assert files.opened == sorted(updates) * times
    assert files.most == 1
    assert bits(merged) == bits(rules.merge(base, updates, dict.fromkeys(updates, 1), MergeSettings(clip=how)))


@pytest.mark.parametrize("rule", ["median", "trimmed"])
def test_for_rules_over_all_sites_one_tensor_of_each_is_in_memory(rule: str) -> None:
    base, updates = federation(5, seed=5)
    files = Files(updates)
    merged = rules.merge(base, files, dict.fromkeys(updates, 1), MergeSettings(rule=rule, clip="none"))
    assert files.most == 5
    assert bits(merged) == bits(
        rules.merge(base, updates, dict.fromkeys(updates, 1), MergeSettings(rule=rule, clip="none"))
    )


def test_the_search_for_outliers_has_at_most_two_updates_open() -> None:
    base, updates = federation(8, seed=6)
    norms = {site: norm_limit.update_norm(base, update) for site, update in updates.items()}
    files = Files(updates)
    assert outliers.suspicious_updates(base, files, norms) == {}
    assert len(files.opened) > 2 * len(updates)
    assert files.most_open <= 2
