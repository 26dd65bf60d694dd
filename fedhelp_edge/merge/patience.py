"""When a federation has learned what it can: the same rule for the coordinator and for the lab."""

from __future__ import annotations

from collections.abc import Sequence


def is_spent(rates: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` merged models were all no better than the best before; 0 waits for ever."""
    return bool(patience) and len(rates) > patience and max(rates[-patience:]) <= max(rates[:-patience])
