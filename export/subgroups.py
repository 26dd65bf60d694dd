"""How the answers do in groups of images: of one class, centre or kind of DICOM file, of patients of one sex or age.

Groups of very few patients are left out, because a model's card travels: it would tell how each of them was answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fedhelp_edge.data import groups
from fedhelp_edge.data.images import ImageKind, Images
from fedhelp_edge.infer.decide import Answer

PEOPLE = ("sex", "age")
MIN_PATIENTS = 5  # of a sex, or a band of ages


def count(images: Images, answers: Sequence[Answer], classes: Sequence[str], part: str) -> list[dict[str, Any]]:
    """A row for each group: its images, those that are answered, and those whose likeliest class is the true one."""
    likeliest = [max(answer.probabilities, key=answer.probabilities.__getitem__) for answer in answers]
    is_right = [guess == classes[label] for guess, label in zip(likeliest, images.labels, strict=True)]
    return [
        {
            "part": part, "by": by, "name": name, "images": len(inside),
            "answered": sum(answers[index].answer is not None for index in inside),
            "right": sum(is_right[index] for index in inside),
        }
        for by, name, inside in members(images, classes)
    ]  # fmt: skip


def members(images: Images, classes: Sequence[str]) -> Iterator[tuple[str, str, list[int]]]:
    """What tells each group apart, its name, and its images.

    Groups of which there is only one are left out: they are all images.
    """
    for by, values in _columns(images, classes):
        names = [name for name in dict.fromkeys([*classes, *sorted(values)]) if name and name in values]
        inside = {name: [index for index, value in enumerate(values) if value == name] for name in names}
        if by in PEOPLE:
            inside = _large_enough(inside, groups.numbers(images.groups).tolist())
        if len(inside) > 1:
            yield from ((by, name, indices) for name, indices in inside.items())


def _large_enough(inside: dict[str, list[int]], patients: Sequence[int]) -> dict[str, list[int]]:
    """The groups of enough patients. None if the others and those of whom nothing is known are too few together:
    the figures of all images would tell theirs."""
    large = {name: indices for name, indices in inside.items() if len({patients[i] for i in indices}) >= MIN_PATIENTS}
    shown = {index for indices in large.values() for index in indices}
    rest = {patient for index, patient in enumerate(patients) if index not in shown}
    return {} if len(large) < len(inside) and len(rest) < MIN_PATIENTS else large


def _columns(images: Images, classes: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """What tells groups apart, and the group of each image; "" where it is not known."""
    yield "class", [classes[label] for label in images.labels]
    yield "centre", list(images.centres)
    for name in ImageKind._fields:
        yield name.replace("_", " "), [getattr(kind, name) if kind else "" for kind in images.kinds]
    yield from zip(PEOPLE, (list(images.sexes), list(images.ages)), strict=True)
