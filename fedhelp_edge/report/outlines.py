"""How good masks are: what one case tells, and the figures of many cases.

A case is an image or a whole volume. Of each, one row of numbers is kept, and no pixel. First comes the confusion
matrix of its pixels: a row a true class, a column an answer, the background first. Then each other class has its
Hausdorff distance. Figures are means over the cases that can tell them, then over classes. A class that neither the
mask nor the answer has tells nothing. One that only one of them has is wholly wrong: Dice and IoU are 0, the distance
is the image's diagonal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.errors import MissingPackageError

Floats: TypeAlias = NDArray[np.float64]
Measure: TypeAlias = "Callable[[NDArray[np.bool_], NDArray[np.bool_]], float]"
Tally: TypeAlias = "tuple[Floats, NDArray[np.int64]]"  # a row for each case, and which classes its mask shows, as bits

FIGURES = ("dice", "iou", "accuracy", "hd95")
PERCENTILE = 95
_PARTS = 1000  # that `right` counts of a case


def tally(
    answers: Iterable[NDArray[Any]], truth: Iterable[NDArray[Any]], outputs: int, spacing: Sequence[float] = (),
    *, distances: bool = True,
) -> Tally:  # fmt: skip
    """The rows of cases, from the class that each pixel got and has. Distances are in pixels, or as `spacing` says.

    Without `distances` they are NaN, and nothing needs scipy.
    """
    measure = partial(hausdorff, spacing=spacing) if distances else _no_distance
    rows = [_row(answer, mask, outputs, measure) for answer, mask in zip(answers, truth, strict=True)]
    confusion = np.array([row[: outputs**2] for row in rows]).reshape(-1, outputs, outputs)
    shown = (confusion.sum(2)[:, 1:] > 0) << np.arange(outputs - 1)
    return np.array(rows, np.float64).reshape(len(rows), width(outputs)), shown.sum(1).astype(np.int64)


def width(outputs: int) -> int:
    """The numbers of a row."""
    return outputs**2 + outputs - 1


def by_case(rows: Floats) -> dict[str, Floats]:
    """Each figure of each case and class (cases x classes); accuracy of each case (cases x 1). NaN: it cannot tell."""
    outputs = (math.isqrt(4 * rows.shape[1] + 5) - 1) // 2
    confusion = rows[:, : outputs**2].reshape(-1, outputs, outputs)
    both = np.diagonal(confusion, axis1=1, axis2=2)
    true, named = confusion.sum(2), confusion.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        dice = (2 * both / (true + named))[:, 1:]
        iou = (both / (true + named - both))[:, 1:]
        accuracy = (both.sum(1) / true.sum(1))[:, None]
    return {"dice": dice, "iou": iou, "accuracy": accuracy, "hd95": rows[:, outputs**2 :]}


def figures(rows: Floats, weights: Floats) -> dict[str, Floats]:
    """Each figure for each row of `weights` (draws x cases: how often a case counts); NaN: no case tells it."""
    return {name: _mean_of_classes(values, weights) for name, values in by_case(rows).items()}


def class_figures(rows: Floats, weights: Floats) -> dict[str, Floats]:
    """The same of each class: draws x classes."""
    return {name: _means(values, weights) for name, values in by_case(rows).items()}


def right(rows: Floats) -> tuple[int, int]:
    """Thousandths of cases, and those of them that are right: by Dice, the mean over a case's classes."""
    return _PARTS * len(rows), int(np.floor(_PARTS * dice_of_cases(rows) + 0.5).sum())


def dice_of_cases(rows: Floats) -> Floats:
    """The mean Dice of each case over its classes; 1 where neither net nor mask shows any."""
    dice = by_case(rows)["dice"]
    known = ~np.isnan(dice)
    return np.where(known.any(1), np.where(known, dice, 0).sum(1) / np.maximum(known.sum(1), 1), 1.0)


def hausdorff(one: NDArray[np.bool_], other: NDArray[np.bool_], spacing: Sequence[float] = ()) -> float:
    """The distance within which 95 % of each side's outline lie from the other's: the larger of both.

    An outline is the pixels that have a neighbour outside, or lie at the edge. NaN if both sides are empty. If one is,
    the diagonal of the image.
    """
    steps = np.asarray(spacing or (1.0,) * one.ndim, np.float64)
    if not (one.any() and other.any()):
        return float(np.sqrt(((np.array(one.shape) * steps) ** 2).sum())) if one.any() or other.any() else math.nan
    ndimage = _ndimage()
    box = ndimage.find_objects((one | other).astype(np.uint8))[0]
    outlines = [side[box] & ~ndimage.binary_erosion(side[box]) for side in (one, other)]
    far = [ndimage.distance_transform_edt(~outline, steps) for outline in outlines]
    return float(max(np.percentile(far[1][outlines[0]], PERCENTILE), np.percentile(far[0][outlines[1]], PERCENTILE)))


def _no_distance(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return math.nan


def _row(answer: NDArray[Any], mask: NDArray[Any], outputs: int, measure: Measure) -> list[float]:
    pairs = mask.ravel().astype(np.int64) * outputs + answer.ravel()
    confusion = np.bincount(pairs, minlength=outputs**2)
    return [*confusion.tolist(), *(measure(answer == label, mask == label) for label in range(1, outputs))]


def _means(values: Floats, weights: Floats) -> Floats:
    """The mean of each column (draws x columns) over the cases that have a number in it."""
    known = ~np.isnan(values)
    counts = weights @ known
    sums = weights @ np.where(known, values, 0)
    means: Floats = np.divide(sums, counts, out=np.full(counts.shape, np.nan), where=counts > 0)
    return means


def _mean_of_classes(values: Floats, weights: Floats) -> Floats:
    means = _means(values, weights)
    known = ~np.isnan(means)
    sums, counts = np.where(known, means, 0).sum(1), known.sum(1)
    mean: Floats = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return mean


def _ndimage() -> Any:
    try:
        from scipy import ndimage
    except ImportError as error:
        raise MissingPackageError("distances need scipy", remedy="pip install 'fedhelp-edge[train]'") from error
    return ndimage


def joined(tallies: Iterable[Tally]) -> Floats:
    """The rows of several tallies."""
    return np.concatenate([rows for rows, _ in tallies])


def named(rows: Floats, names: Sequence[str]) -> Iterator[tuple[str, dict[str, float | None]]]:
    """Each class with its figures; None: no case tells it."""
    means = class_figures(rows, np.ones((1, len(rows))))
    for index, name in enumerate(names):
        values = {figure: float(means[figure][0, index]) for figure in FIGURES if figure != "accuracy"}
        yield name, {figure: None if math.isnan(value) else value for figure, value in values.items()}
