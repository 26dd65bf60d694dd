"""What noise has cost the images of a site, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def sentence(spent: Mapping[str, Any]) -> str:
    """The sentence for `epsilon`, `delta` and `budget`."""
    return (
        f"Noise hides each training image: epsilon {spent['epsilon']:.3g} of {spent['budget']:g} is spent, "
        f"with delta {spent['delta']:g}."
    )
