"""How the answers do in groups of images: of one class, one centre, or one kind of DICOM file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fedhelp_edge.data.images import ImageKind, Images
from fedhelp_edge.infer.decide import Answer


def count(images: Images, answers: Sequence[Answer], classes: Sequence[str], part: str) -> list[dict[str, Any]]:
    """A row for each group: its images, those that are answered, and those whose likeliest class is the true one.

    Groups of which there is only one are left out: they are all images.
    """
    likeliest = [max(answer.probabilities, key=answer.probabilities.__getitem__) for answer in answers]
    is_right = [guess == classes[label] for guess, label in zip(likeliest, images.labels, strict=True)]
    rows = []
    for by, values in _columns(images, classes):
        names = [name for name in dict.fromkeys([*classes, *sorted(values)]) if name and name in values]
        for name in names if len(names) > 1 else ():
            inside = [index for index, value in enumerate(values) if value == name]
            rows.append({
                "part": part, "by": by, "name": name, "images": len(inside),
                "answered": sum(answers[index].answer is not None for index in inside),
                "right": sum(is_right[index] for index in inside),
            })  # fmt: skip
    return rows


def _columns(images: Images, classes: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """What tells groups apart, and the group of each image; "" where it is not known."""
    yield "class", [classes[label] for label in images.labels]
    yield "centre", list(images.centres)
    for name in ImageKind._fields:
        yield name.replace("_", " "), [getattr(kind, name) if kind else "" for kind in images.kinds]
