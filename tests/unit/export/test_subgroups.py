"""Groups of images: by class, centre and kind of file, and none where there is only one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from export import subgroups
from fedhelp_edge.data.images import ImageKind
from fedhelp_edge.infer.decide import Answer
from tests import bundles


def people(sexes: str, ages: list[str] | None = None, patients: str = "") -> dict[tuple[str, str], int]:
    """How many images the groups of patients have: a letter for the sex of each image, and for its patient."""
    test = bundles.site().images.split("test")
    count = len(sexes)
    words = {"f": "female", "m": "male", "?": ""}
    images = replace(
        test.only(np.arange(count) % len(test)), sexes=tuple(words[sex] for sex in sexes), ages=tuple(ages or ()),
        groups=tuple(patients) or tuple(map(str, range(count))), kinds=(), centres=("",) * count,
    )  # fmt: skip
    found = subgroups.members(images, bundles.CLASSES)
    return {(by, name): len(inside) for by, name, inside in found if by in subgroups.PEOPLE}


def test_patients_are_counted_by_sex_and_band_of_age() -> None:
    ages = ["0-17"] * 5 + ["80 or older"] * 6
    assert people("fffff" + "mmmmmm", ages) == {
        ("sex", "female"): 5, ("sex", "male"): 6, ("age", "0-17"): 5, ("age", "80 or older"): 6,
    }  # fmt: skip


def test_a_group_of_few_patients_is_left_out_however_many_images_it_has() -> None:
    assert people("fffff" + "mmmmm", patients="aabbccddee"[:5] + "vwxyz") == {}
    ages = ["0-17"] * 3 + ["18-39"] * 5 + ["40-64"] * 6 + [""] * 2
    assert set(people("?" * 16, ages)) == {("age", "18-39"), ("age", "40-64")}


def test_a_small_group_that_the_totals_would_tell_hides_all() -> None:
    ages = ["0-17"] * 3 + ["18-39"] * 5 + ["40-64"] * 6
    assert people("?" * 14, ages) == {}


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
