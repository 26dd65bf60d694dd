"""What noise has cost a site or its images, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def sentence(spent: Mapping[str, Any]) -> str:
    """The sentence for `epsilon`, `delta` and `budget`, of an image or of another `unit`."""
    hidden = "this site among others" if spent.get("unit") == "site" else "each training image"
    return (
        f"Noise hides {hidden}: epsilon {spent['epsilon']:.3g} of {spent['budget']:g} is spent, "
        f"with delta {spent['delta']:g}."
    )
