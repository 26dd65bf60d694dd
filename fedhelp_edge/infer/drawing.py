"""Turn a model's probabilities of pixels into a mask, or into "don't know" with a reason in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data import resample
from fedhelp_edge.infer import appearance, tiles
from fedhelp_edge.infer.bundle import MaskBundle
from fedhelp_edge.infer.decide import MIN_ODDS, Verdict
from fedhelp_edge.infer.metadata import MaskFacts

if TYPE_CHECKING:
    from fedhelp_edge.infer.engine import MaskOutputs  # which imports onnxruntime

_BAND_PIXELS = 1 << 20  # of a large picture, whose probabilities are in memory together

Run: TypeAlias = "Callable[[NDArray[np.uint8]], MaskOutputs]"


@dataclass(frozen=True)
class Drawn:
    """The class of each pixel, and what a verdict needs. Features are means over the blocks and slices of a volume."""

    mask: NDArray[np.uint8]  # 0: the background
    uncertain: NDArray[np.bool_]  # pixels whose likeliest class is hardly likelier than the next one
    embedding: NDArray[np.float64]
    looks: Mapping[str, NDArray[np.float64]]  # by `appearance.KINDS`; empty for images too small to have any
    uncertainty: float  # the share of uncertain pixels among those that show a class, or may


@dataclass(frozen=True)
class Outline:
    """The complete answer for one image or volume."""

    verdict: Verdict
    reason: str  # why not to rely on it, "" if there is no reason
    distance: float  # from the training images, in limits; above 1 the image is unlike them
    drawn: Drawn


def outline(bundle: MaskBundle, pixels: NDArray[np.uint8], size: tuple[int, int] | None = None) -> Outline:
    """The outline in an image (side x side x channels), at this size (rows, columns); or in a whole volume."""
    facts = bundle.facts
    return judge(facts, draw(bundle.engine, pixels, facts.image.block, len(facts.classes) + 1, size))


def judge(facts: MaskFacts, drawn: Drawn) -> Outline:
    """Decide whether a person may rely on what was drawn."""
    likeness, limit = facts.likeness, facts.calibration.most_uncertain
    looks = [distribution.distance(drawn.looks[name]) for name, distribution in likeness.looks.items()]
    distance = float(np.max([likeness.distance(drawn.embedding), *looks]))
    verdict: Verdict = "answered"
    reason = ""
    if not distance <= 1:
        verdict, reason = "unlike", f"unlike the training images ({distance:.1f} times the distance limit)"
    elif drawn.uncertainty > limit:
        verdict = "uncertain"
        reason = f"{drawn.uncertainty:.0%} of the outlined pixels are uncertain; up to {limit:.0%} is usual"
    return Outline(verdict, reason, distance, drawn)


def draw(
    run: Run, pixels: NDArray[np.uint8], block: tuple[int, ...], outputs: int, size: tuple[int, int] | None = None
) -> Drawn:
    """The mask of an image or a volume. `run` knows images, or blocks of a volume, that have the sides of `block`."""
    sides = size or pixels.shape[:-1]
    mask, uncertain = np.empty(sides, np.uint8), np.empty(sides, np.bool_)
    features: list[list[NDArray[Any]]] = []

    def run_one(part: NDArray[np.uint8]) -> NDArray[np.float32]:
        outcome, slices = run(part[None]), part.reshape(-1, *part.shape[-3:])
        features.append([outcome.embedding[0], *(look(slices).mean(0) for look in kinds.values())])
        probabilities: NDArray[np.float32] = outcome.probabilities[0]
        return probabilities

    kinds = appearance.KINDS if block[-1] >= appearance.MIN_SIDE else {}
    parts = tiles.blended(run_one, pixels, block, outputs) if len(block) == 3 else _bands(run_one(pixels), sides)
    for rows, probabilities in parts:
        mask[rows], uncertain[rows] = _classes(probabilities)
    embedding, *looks = (np.asarray(np.mean(kind, 0, np.float64)) for kind in zip(*features, strict=True))
    uncertainty = int(uncertain.sum()) / max(1, int(((mask > 0) | uncertain).sum()))
    return Drawn(mask, uncertain, embedding, dict(zip(kinds, looks, strict=True)), uncertainty)


def _bands(probabilities: NDArray[np.float32], size: tuple[int, ...]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Probabilities (outputs x side x side) at another size, a band of rows at a time."""
    if probabilities.shape[1:] == size:
        yield slice(None), probabilities
        return
    down, across = (resample.weights(old, new) for old, new in zip(probabilities.shape[1:], size, strict=True))
    height = max(1, _BAND_PIXELS // size[1])
    for top in range(0, size[0], height):
        yield slice(top, top + height), down[top : top + height] @ probabilities @ across.T


def _classes(probabilities: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The likeliest class of each pixel, and whether another one is nearly as likely."""
    second, first = np.partition(probabilities, -2, axis=0)[-2:]
    return probabilities.argmax(0), ~(first >= MIN_ODDS * second)
