"""From what a model says to an answer, or to "don't know" with the reason in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.infer.bundle import Bundle
from fedhelp_edge.infer.facts import Facts


@dataclass(frozen=True)
class Answer:
    """All that is said of one image."""

    answer: str | None  # None: it does not know
    reason: str  # why it does not, "" if it does
    probabilities: dict[str, float]
    set: tuple[str, ...]  # the classes that cannot be ruled out
    flags: tuple[str, ...]  # the classes whose threshold for the wanted sensitivity is reached
    distance: float  # from the images it was trained on; above 1 it is unlike them
    heatmaps: NDArray[np.float32]  # classes x rows x columns: the mean of each, plus the bias, is its logit

    def to_json(self) -> dict[str, Any]:
        rounded = {name: round(p, 6) for name, p in self.probabilities.items()}
        return {
            "answer": self.answer, "reason": self.reason, "probabilities": rounded, "set": list(self.set),
            "flags": list(self.flags), "distance": round(self.distance, 4) if math.isfinite(self.distance) else None,
        }  # fmt: skip


def answers(bundle: Bundle, images: NDArray[np.uint8]) -> list[Answer]:
    """The whole answer for each of N x height x width x channels: images as `data` decodes them to the model's size."""
    if not len(images):
        return []
    said, facts = bundle.engine(images), bundle.facts
    distances = facts.likeness.distance(said.embedding)
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
    likeliest = names[int(probabilities.argmax())]
    if not distance <= 1:
        reason = f"unlike the images it was trained on ({distance:.1f} times as far as they may lie)"
    elif not kept:
        reason = "no class is likely enough"
    elif len(kept) > 1:
        reason = f"it may be {' or '.join(kept)}"
    elif kept != [likeliest]:
        reason = f"{likeliest} is likeliest, but not likely enough to be sure"
    else:
        reason = ""
    return Answer(
        None if reason else likeliest, reason,
        {name: float(p) for name, p in zip(names, probabilities, strict=True)},
        tuple(kept), tuple(flags), distance, cam,
    )  # fmt: skip
