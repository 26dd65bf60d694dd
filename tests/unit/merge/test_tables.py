"""The merger of tables: a plain mean, read one site at a time; or weighted by confidence (property 6.3.7)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from fedhelp_edge.data.pack import Pack
from fedhelp_edge.errors import ProbabilitiesError
from fedhelp_edge.merge import tables
from fedhelp_edge.merge.tables import LOSSES, PREDICTED_IN, ROWS, TOTALS
from fedhelp_edge.methods import registry
from fedhelp_edge.methods.registry import PublicFacts
from fedhelp_edge.plan import Plan
from fedhelp_edge.update import Array, Schema, check_probabilities
from tests.unit.methods import small

PUBLIC = PublicFacts(6, ("a", "b", "c", "d", "e"), (), small.pack)
Updates = dict[str, dict[str, Array]]


def plan(method: str, **settings: Any) -> Plan:
    return small.plan(method, **{method: {"images": 6, **settings}})


def drawn(sites: int = 3, classes: int = 5) -> Updates:
    stream = np.random.Generator(np.random.Philox(2))
    return {
        f"site-{n:03}": {ROWS: stream.standard_normal((6, classes)).astype(np.float32)} for n in range(1, sites + 1)
    }


def merged(plan: Plan, updates: Mapping[str, Mapping[str, Array]], round_: int = 4) -> dict[str, Array]:
    return registry.merge(plan, round_, {}, updates, dict.fromkeys(updates, 10), public=PUBLIC)


class OneAtATime(Mapping[str, Mapping[str, Array]]):
    """Updates that are read from a file when their turn comes: no two are in memory."""

    def __init__(self, updates: Updates) -> None:
        self.updates, self.read = updates, list[str]()

    def __getitem__(self, site: str) -> Mapping[str, Array]:
        self.read.append(site)
        return self.updates[site]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.updates, reverse=True))

    def __len__(self) -> int:
        return len(self.updates)


@pytest.mark.parametrize("method", ["fedmd", "fccl"])
def test_6_5_the_merged_table_is_the_plain_mean_of_the_logits_whatever_the_sites_claim(method: str) -> None:
    classes = 5 if method == "fedmd" else 4
    updates, agreed = drawn(classes=classes), plan(method)
    claims = {"site-001": 1, "site-002": 1000, "site-003": 7}
    result = registry.merge(agreed, 4, {}, updates, claims, public=PUBLIC)
    expected = np.mean([update[ROWS].astype(np.float64) for update in updates.values()], axis=0)
    assert np.array_equal(result[ROWS], expected.astype(np.float32))
    assert result[PREDICTED_IN].tolist() == [4]


def test_one_table_is_read_at_a_time_in_the_order_of_the_sites_ids() -> None:
    updates = OneAtATime(drawn())
    result = merged(plan("fedmd"), updates)
    assert updates.read == ["site-001", "site-002", "site-003"]
    assert small.same(result, merged(plan("fedmd"), updates.updates))


@pytest.mark.parametrize(
    ("method", "settings", "up", "down"),
    [
        ("fedmd", {}, ["table.rows F32 6x5 table"], ["table.rows F32 6x5 table", "table.predicted_in I64 1 table"]),
        ("fedmd", {"head": "private"}, ["table.rows F32 6x4 table"],
         ["table.rows F32 6x4 table", "table.predicted_in I64 1 table"]),
        ("fccl", {"images": 4}, ["table.rows F32 4x4 table"],
         ["table.rows F32 4x4 table", "table.predicted_in I64 1 table"]),
        ("mdhfl", {}, ["table.rows F32 6x4 probabilities"],
         ["table.rows F32 6x4 probabilities", "table.predicted_in I64 1 table"]),
        ("mdhfl", {"ccr": True}, ["table.rows F32 6x4 probabilities", "confidence.losses F32 2 table"],
         ["table.rows F32 6x4 probabilities", "table.predicted_in I64 1 table", "confidence.totals F32 2 table"]),
    ],
)  # fmt: skip
def test_a_table_has_a_row_for_each_image_of_a_round_and_a_column_for_each_class(
    method: str, settings: dict[str, Any], up: list[str], down: list[str]
) -> None:
    agreed, public = plan(method, **settings), small.pack()
    assert registry.METHODS[method].up(agreed, public).lines() == up
    assert registry.METHODS[method].down(agreed, public).lines() == down
    assert Schema.parse(up) == registry.METHODS[method].up(agreed, PUBLIC)


# --- confidence (6.3.7) ----------------------------------------------------------------------------------------------
def confident(losses: Mapping[str, tuple[float, float]]) -> tuple[dict[str, Array], Updates]:
    stream = np.random.Generator(np.random.Philox(5))
    updates = {
        site: {ROWS: stream.dirichlet(np.ones(4), 6).astype(np.float32), LOSSES: np.array(pair, np.float32)}
        for site, pair in losses.items()
    }
    return merged(plan("mdhfl", ccr=True), updates), updates


def weights_of(losses: Mapping[str, tuple[float, float]]) -> list[float]:
    gains = [tables.relative_gain(*pair) for pair in losses.values()]
    return [tables.weight(gain, sum(map(abs, gains)), 0.5) for gain in gains]


def test_6_3_7_a_site_whose_loss_falls_by_a_larger_part_weighs_more_and_every_weight_is_positive() -> None:
    losses = {"site-001": (2.0, 1.0), "site-002": (2.0, 1.9), "site-003": (1.0, 1.4)}
    weights = weights_of(losses)
    assert weights[0] > weights[1] > weights[2] > 0
    result, updates = confident(losses)
    expected = sum(w * updates[site][ROWS].astype("f8") for w, site in zip(weights, updates, strict=True))
    assert np.allclose(result[ROWS], expected / sum(weights), atol=1e-6)
    assert result[TOTALS][1] == pytest.approx(sum(weights))


def test_6_3_7_in_the_first_round_all_weigh_alike() -> None:
    result, updates = confident({"site-001": (0.0, 1.0), "site-002": (0.0, 3.0)})
    assert np.allclose(result[ROWS], np.mean([update[ROWS] for update in updates.values()], axis=0), atol=1e-7)
    assert result[TOTALS].tolist() == [0, 2]


@pytest.mark.parametrize(
    "losses",
    [
        ((2.0, 1.0), (1.0, 2.0)),
        ((1.0, 2.0), (1.0, 3.0)),
        ((1.0, 1.0), (2.0, 2.0)),
        ((2.0, 1.0), (0.5, 1.0)),
        ((1e4, 1e-4), (1.0, 1.0)),
        ((-1.0, 0.0), (0.0, 0.0)),
    ],
)
def test_6_3_7_weights_are_finite_and_in_order_where_the_gains_sum_to_zero_or_less(
    losses: tuple[tuple[float, float], ...],
) -> None:
    """RHFL divides by the sum of gains, which explodes near zero and turns the order below it."""
    by_site = {f"site-{number:03}": pair for number, pair in enumerate(losses, 1)}
    gains, weights = [tables.relative_gain(*pair) for pair in losses], weights_of(by_site)
    assert np.isfinite(weights).all()
    assert (np.argsort(weights, kind="stable") == np.argsort(gains, kind="stable")).all()
    assert max(weights) / min(weights) <= np.e + 1e-9  # of two liars none outweighs the other more
    check_probabilities(confident(by_site)[0], registry.METHODS["mdhfl"].up(plan("mdhfl"), PUBLIC))


# --- values ----------------------------------------------------------------------------------------------------------
PROBABILITIES = registry.METHODS["mdhfl"].up(plan("mdhfl"), PUBLIC)


def rows(classes: int = 4, dtype: str = "f4") -> Array:
    return np.random.Generator(np.random.Philox(1)).dirichlet(np.ones(classes), 6).astype(dtype).astype("f4")


@pytest.mark.parametrize("dtype", ["f4", "f2"])
def test_rows_of_probabilities_pass_also_when_they_travelled_in_half_precision(dtype: str) -> None:
    check_probabilities({ROWS: rows(dtype=dtype)}, PROBABILITIES)


@pytest.mark.parametrize("classes", [100, 1000])
def test_half_precision_of_many_classes_still_sums_to_1(classes: int) -> None:
    schema = Schema.parse([f"{ROWS} F32 6x{classes} probabilities"])
    check_probabilities({ROWS: rows(classes, "f2")}, schema)
    check_probabilities({ROWS: np.full((6, classes), 1 / classes, "f2").astype("f4")}, schema)


@pytest.mark.parametrize(
    "row",
    [
        [0.5, 0.5, 0.5, 0.0],
        [1.5, -0.5, 0.0, 0.0],
        [0.0] * 4,
        [9.0, 9.0, 9.0, 9.0],
        [np.nan, 0.0, 0.0, 1.0],
        [np.inf, 0.0, 0.0, 0.0],
        [0.25, 0.25, 0.25, 0.2],
    ],
)
def test_a_row_that_is_no_probabilities_is_refused_with_its_number(row: list[float]) -> None:
    hostile = rows()
    hostile[3] = row
    with pytest.raises(ProbabilitiesError, match="1 of 6 rows; the first is row 3"):
        check_probabilities({ROWS: hostile}, PROBABILITIES)


def test_logits_need_not_sum_to_anything() -> None:
    check_probabilities({ROWS: np.full((6, 5), -7, np.float32)}, registry.METHODS["fedmd"].up(plan("fedmd"), PUBLIC))


def test_a_pack_itself_tells_the_tables_size() -> None:
    pack: Pack = small.pack()
    for method in ("fedmd", "fccl", "mdhfl"):
        describe = registry.METHODS[method].up
        assert describe(plan(method), pack) == describe(plan(method), PUBLIC)
