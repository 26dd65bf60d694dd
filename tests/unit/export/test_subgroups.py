"""Groups of images: by class, centre and kind of file, and none where there is only one."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

from export import subgroups
from fedhelp_edge.data.images import ImageKind
from fedhelp_edge.infer.decide import Answer
from tests import bundles


def answer(name: str, answered: bool = True) -> Answer:
    """An answer whose likeliest class is this one."""
    probabilities = {each: 0.9 if each == name else 0.05 for each in bundles.CLASSES}
    if answered:
        return Answer(name, "answered", "", probabilities, (name,), (), (), 0.1, None)
    return Answer(None, "uncertain", "two are close", probabilities, (name,), (), (), 0.1, None)


def test_images_are_counted_by_class_centre_and_kind() -> None:
    test = bundles.site().images.split("test")
    images = replace(
        test.only(range(4)), labels=test.labels[:4] * 0 + [0, 0, 1, 1], centres=("North", "South", "South", ""),
        kinds=(ImageKind("DX", "CHEST", "MONOCHROME1"), ImageKind("CR", "CHEST", "MONOCHROME2"), None, None),
    )  # fmt: skip
    first, second, _ = bundles.CLASSES
    answers = [answer(first), answer(second), answer(second), answer(first, answered=False)]
    rows = subgroups.count(images, answers, bundles.CLASSES, "test")
    counts = {(row["by"], row["name"]): (row["images"], row["answered"], row["right"]) for row in rows}
    assert counts == {
        ("class", first): (2, 2, 1), ("class", second): (2, 1, 1),
        ("centre", "North"): (1, 1, 1), ("centre", "South"): (2, 2, 1),
        ("modality", "CR"): (1, 1, 0), ("modality", "DX"): (1, 1, 1),
        ("photometric interpretation", "MONOCHROME1"): (1, 1, 1),
        ("photometric interpretation", "MONOCHROME2"): (1, 1, 0),
    }  # fmt: skip
