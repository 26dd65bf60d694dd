"""Published figures to show beside our own: facts with their source, in published.json."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from fedhelp_edge.errors import UsageError


def load() -> dict[str, Any]:
    """By data set: the source, the names of the columns, and each method's accuracies with the mean last."""
    return dict(json.loads((files(__package__) / "published.json").read_text(encoding="utf-8")))


def check(name: str) -> None:
    """Refuses a data set without published figures."""
    if name and name not in load():
        raise UsageError(f"there are no published figures of {name!r}", remedy=f"name one of {', '.join(load())}")
