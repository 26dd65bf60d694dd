"""From what a model says to an answer, or to "don't know" with the reason in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.infer import looks
from fedhelp_edge.infer.bundle import Bundle
from fedhelp_edge.infer.metadata import Facts

Verdict = Literal["answered", "uncertain", "unlike"]

SURE = 0.5  # an answer is at least as likely right as wrong
ODDS = 1.5  # an answer is so many times as likely as the next class; 0.6 to 0.4 is the nearest that passes


@dataclass(frozen=True)
class Answer:
    """All that is said of one image."""

    answer: str | None  # None: it does not know
    verdict: Verdict
    reason: str  # why there is no answer, "" if there is one
    probabilities: dict[str, float]
    set: tuple[str, ...]  # the classes that cannot be ruled out
    between: tuple[str, ...]  # the two likeliest classes, where they are too near to each other for an answer
    flags: tuple[str, ...]  # the classes whose threshold for the wanted sensitivity is reached
    distance: float  # from the images it was trained on; above 1 it is unlike them
    heatmaps: NDArray[np.float32]  # classes x rows x columns: the mean of each, plus the bias, is its logit

    def to_json(self) -> dict[str, Any]:
        rounded = {name: round(p, 6) for name, p in self.probabilities.items()}
        return {
            "answer": self.answer, "verdict": self.verdict, "reason": self.reason, "probabilities": rounded,
            "set": list(self.set), "flags": list(self.flags),
            "distance": round(self.distance, 4) if math.isfinite(self.distance) else None,
        }  # fmt: skip


def answers(bundle: Bundle, images: NDArray[np.uint8]) -> list[Answer]:
    """The whole answer for each of N x height x width x channels: images as `data` decodes them to the model's size."""
    if not len(images):
        return []
    said, facts = bundle.engine(images), bundle.facts
    likeness = facts.likeness
    clouds = [cloud.distance(looks.KINDS[name](images)) for name, cloud in likeness.looks.items()]
    distances = np.max([likeness.distance(said.embedding), *clouds], 0)
    return [
        decide(facts, one, float(distance), cam)
        for one, distance, cam in zip(said.probabilities, distances, said.cam, strict=True)
    ]


def decide(facts: Facts, probabilities: NDArray[np.float32], distance: float, cam: NDArray[np.float32]) -> Answer:
    """The answer for one image, from its probabilities and its distance."""
    calibration, names = facts.calibration, facts.classes
    kept = [name for name, p, least in zip(names, probabilities, calibration.least, strict=True) if p >= least]
    flags = [
        name
        for name, p, threshold in zip(names, probabilities, calibration.thresholds, strict=True)
        if threshold.at is not None and p >= threshold.at
    ]
    first, second = (int(place) for place in np.argsort(-probabilities, kind="stable")[:2])
    likeliest = names[first]
    shown = {name: float(p) for name, p in zip(names, probabilities, strict=True)}
    near = probabilities[first] < ODDS * probabilities[second]
    between = (likeliest, names[second]) if near and not {likeliest, names[second]} <= set(kept) else ()
    if not distance <= 1:
        reason = f"unlike the images it was trained on ({distance:.1f} times as far as they may lie)"
    elif between:
        reason = f"uncertain between {' and '.join(sure(between, shown))}"
    elif not kept:
        reason = "no class is likely enough"
    elif len(kept) > 1:
        reason = f"it may be {' or '.join(kept)}"
    elif kept != [likeliest] or probabilities[first] < SURE:
        reason = f"{likeliest} is likeliest, but not likely enough to be sure"
    else:
        reason = ""
    verdict: Verdict = "answered" if not reason else "uncertain" if distance <= 1 else "unlike"
    return Answer(
        None if reason else likeliest, verdict, reason, shown, tuple(kept), between, tuple(flags), distance, cam
    )


def sure(names: Sequence[str], probabilities: Mapping[str, float]) -> list[str]:
    """Classes with their probabilities, as a person reads them."""
    return [f"{name} ({percent(probabilities[name])})" for name in names]


def percent(value: float) -> str:
    """A probability, which is never quite nothing or all."""
    return ">99.9%" if value > 0.999 else "<0.1%" if value < 0.001 else f"{value:.1%}"
