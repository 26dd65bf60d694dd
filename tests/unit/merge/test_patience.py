"""When to stop."""

from __future__ import annotations

import pytest

from fedhelp_edge.merge.patience import is_spent


@pytest.mark.parametrize(
    ("rates", "patience", "spent"),
    [
        ([0.5, 0.6, 0.7, 0.8], 2, False),
        ([0.8, 0.7, 0.8], 2, True),
        ([0.8, 0.7, 0.81], 2, False),
        ([0.8, 0.7], 2, False),
        ([0.8, 0.8, 0.8], 0, False),
        ([], 1, False),
    ],
)
def test_no_better_for_as_many_rounds_as_there_is_patience_is_the_end(
    rates: list[float], patience: int, spent: bool
) -> None:
    assert is_spent(rates, patience) is spent
