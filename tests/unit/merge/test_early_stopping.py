"""Early stopping by the sites' validation counts."""

from __future__ import annotations

import pytest

from fedhelp_edge.merge.early_stopping import ValidationCounts, best, has_plateaued


@pytest.mark.parametrize(
    ("right", "patience", "spent"),
    [
        ([50, 60, 70, 80], 2, False),
        ([80, 70, 80], 2, True),
        ([80, 70, 81], 2, False),
        ([80, 70], 2, False),
        ([70, 80, 60], 2, False),  # better in the first of the last two
        ([50, 80, 70], 1, True),  # than the best of all rounds before, not than the first
        ([50, 80, 60, 70, 75], 2, True),
        ([80, 80, 80], 0, False),
        ([], 1, False),
    ],
)
def test_no_improvement_for_as_many_rounds_as_patience_is_the_end(right: list[int], patience: int, spent: bool) -> None:
    assert has_plateaued([{"a": (100, correct)} for correct in right], patience) is spent


def test_what_counts_is_the_rate_and_not_the_number_of_images() -> None:
    assert not has_plateaued([{"a": (100, 60)}, {"a": (10, 7)}], 1)
    assert has_plateaued([{"a": (10, 7)}, {"a": (100, 60)}], 1)


BETTER, WORSE = [50, 55, 60, 65], [65, 60, 55, 50]
LIES = {
    "all right at first, then none": [(10**9, 10**9), *[(10**9, 0)] * 3],
    "always better": [(10**9, 10**8 * round_) for round_ in range(4)],
    "nothing": [(0, 0)] * 4,
}


def federation(honest: list[int], lie: str, sites: int = 3) -> list[ValidationCounts]:
    names = [f"site-{number}" for number in range(sites - 1)]
    return [dict.fromkeys(names, (100, right)) | {"liar": LIES[lie][index]} for index, right in enumerate(honest)]


@pytest.mark.parametrize("sites", [2, 3, 6, 100])
@pytest.mark.parametrize("lie", LIES)
def test_no_site_alone_ends_a_federation(lie: str, sites: int) -> None:
    assert not has_plateaued(federation(BETTER, lie, sites), 2)


@pytest.mark.parametrize("sites", [3, 6, 100])
@pytest.mark.parametrize("lie", LIES)
def test_no_site_alone_keeps_a_federation_alive(lie: str, sites: int) -> None:
    assert has_plateaued(federation(WORSE, lie, sites), 2)


def test_a_single_site_with_validation_images_does_not_decide_for_all() -> None:
    assert not has_plateaued([{"a": (100, 50), "b": (0, 0), "c": (0, 0)}] * 4, 2)


def test_a_new_site_has_nothing_to_compare_and_does_not_end_a_federation() -> None:
    assert not has_plateaued([{"a": (10, 5)}, {"a": (10, 4), "b": (10, 4), "c": (10, 4)}], 1)


def test_a_site_without_a_newer_report_counts_as_improving() -> None:
    assert not has_plateaued([{"a": (10, 5)}, {"a": (0, 0)}, {"a": (0, 0)}], 2)


def test_the_sites_of_the_last_round_vote_and_no_others() -> None:
    better, worse = (10, 6), (10, 4)
    start = dict.fromkeys("abc", (10, 5))
    assert has_plateaued([start, dict.fromkeys("abc", worse), {"a": worse}], 1)
    assert has_plateaued([start, {"b": better, "c": better}, {"a": worse}], 1)
    assert not has_plateaued([start, {"b": worse, "c": worse}, {"a": better}], 1)


@pytest.mark.parametrize(
    ("right", "index"),
    [([50, 60, 70], 2), ([50, 70, 60], 1), ([70, 60, 50], 0), ([50, 70, 60, 70], 3), ([60, 60], 1), ([50], 0), ([], 0)],
)
def test_the_best_model_is_the_last_that_is_not_worse_than_the_best_before(right: list[int], index: int) -> None:
    assert best([{"a": (100, correct)} for correct in right]) == index


def test_each_site_has_one_vote_on_the_best_model_whatever_it_claims() -> None:
    honest = [{"a": (100, correct), "b": (20, correct // 5)} for correct in (50, 60, 55)]
    for lie in ([(10**9, 0), (10**9, 0), (10**9, 10**9)], [(10**9, 10**9), (10**9, 0), (10**9, 0)]):
        assert best([{**report, "liar": claim} for report, claim in zip(honest, lie, strict=True)]) == 1


def test_models_that_no_common_site_judged_are_not_compared_and_the_last_counts() -> None:
    assert best([{"a": (10, 9)}, {"b": (10, 1)}, {"a": (0, 0)}]) == 2
