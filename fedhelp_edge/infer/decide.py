"""Turn a model's outputs into an answer, or into "don't know" with a reason in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.infer import appearance
from fedhelp_edge.infer.bundle import Bundle
from fedhelp_edge.infer.metadata import Facts

Verdict = Literal["answered", "uncertain", "unlike"]

MIN_PROBABILITY = 0.5  # of an answer: at least as likely right as wrong
MIN_ODDS = 1.5  # of an answer to the next class; 0.6 to 0.4 is the narrowest that passes


@dataclass(frozen=True)
class Answer:
    """The complete answer for one image."""

    answer: str | None  # None: don't know
    verdict: Verdict
    reason: str  # why there is no answer, "" if there is one
    probabilities: dict[str, float]
    set: tuple[str, ...]  # the classes that cannot be ruled out
    between: tuple[str, ...]  # the two likeliest classes if they are too close for an answer
    flags: tuple[str, ...]  # the classes whose threshold (for the target sensitivity) is reached
    distance: float  # from the training images, in limits; above 1 the image is unlike them
    # classes x rows x columns: the mean of each, plus the bias, is its logit; None where the model has none
    heatmaps: NDArray[np.float32] | None

    @property
    def remaining(self) -> tuple[str, ...]:
        """The classes that a person cannot rule out: the set, and those that the reason calls close or likeliest."""
        likeliest = max(self.probabilities, key=self.probabilities.__getitem__)
        named = {*self.set, *self.between, *([likeliest] if self.set else [])}
        return tuple(name for name in self.probabilities if name in named)

    def to_json(self) -> dict[str, Any]:
        """The row of `predict --format json`, without the file's name."""
        rounded = {name: round(p, 6) for name, p in self.probabilities.items()}
        return {
            "answer": self.answer, "verdict": self.verdict, "reason": self.reason, "probabilities": rounded,
            "set": list(self.set), "flags": list(self.flags),
            "distance": round(self.distance, 4) if math.isfinite(self.distance) else None,
        }  # fmt: skip


def answer_images(bundle: Bundle, images: NDArray[np.uint8]) -> list[Answer]:
    """Answer images (N x height x width x channels, decoded to the model's size)."""
    if not len(images):
        return []
    outputs, facts = bundle.engine(images), bundle.facts
    likeness = facts.likeness
    looks_distances = [
        distribution.distance(appearance.KINDS[name](images)) for name, distribution in likeness.looks.items()
    ]
    distances = np.max([likeness.distance(outputs.embedding), *looks_distances], 0)
    heatmaps = [None] * len(images) if outputs.cam is None else outputs.cam
    return [
        decide(facts, probabilities, float(distance), cam)
        for probabilities, distance, cam in zip(outputs.probabilities, distances, heatmaps, strict=True)
    ]


def decide(
    facts: Facts, probabilities: NDArray[np.float32], distance: float, cam: NDArray[np.float32] | None
) -> Answer:
    """Decide the answer for one image from its probabilities and its distance from the training images."""
    calibration, names = facts.calibration, facts.classes
    possible = [name for name, p, minimum in zip(names, probabilities, calibration.least, strict=True) if p >= minimum]
    flags = [
        name
        for name, p, threshold in zip(names, probabilities, calibration.thresholds, strict=True)
        if threshold.at is not None and p >= threshold.at
    ]
    first, second = (int(index) for index in np.argsort(-probabilities, kind="stable")[:2])
    likeliest = names[first]
    by_name = {name: float(p) for name, p in zip(names, probabilities, strict=True)}
    is_close = probabilities[first] < MIN_ODDS * probabilities[second]
    between = (likeliest, names[second]) if is_close and not {likeliest, names[second]} <= set(possible) else ()
    if not distance <= 1:
        reason = f"unlike the training images ({distance:.1f} times the distance limit)"
    elif between:
        reason = f"uncertain between {' and '.join(with_probabilities(between, by_name))}"
    elif not possible:
        reason = "no class is likely enough"
    elif len(possible) > 1:
        reason = f"it may be {' or '.join(possible)}"
    elif possible != [likeliest] or probabilities[first] < MIN_PROBABILITY:
        reason = f"{likeliest} is likeliest, but not likely enough to be sure"
    else:
        reason = ""
    verdict: Verdict = "answered" if not reason else "uncertain" if distance <= 1 else "unlike"
    return Answer(
        None if reason else likeliest, verdict, reason, by_name, tuple(possible), between, tuple(flags), distance, cam
    )


def with_probabilities(names: Sequence[str], probabilities: Mapping[str, float]) -> list[str]:
    """Class names with their probabilities, for a person."""
    return [f"{name} ({percent(probabilities[name])})" for name in names]


def percent(value: float) -> str:
    """Format a probability; it is never shown as 0 % or 100 %."""
    return ">99.9%" if value > 0.999 else "<0.1%" if value < 0.001 else f"{value:.1%}"
