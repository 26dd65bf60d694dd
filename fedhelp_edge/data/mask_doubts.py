"""Masks that a person should look at: empty ones, and those that differ much from the other masks of the source.

A case is an image or a whole volume. Nothing is left out for a doubt: unusual patients are the ones that matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data import resample
from fedhelp_edge.data.images import Images, Problem
from fedhelp_edge.errors import MaskDoubtError, MaskEmptyError

MIN_CASES = 10  # outlines that tell what is usual
_FAR, _TIMES = 5.0, 3.0  # robust standard deviations of the logarithm of an area, and how many times the median
_GRID = 16  # places on a side, to compare where masks lie
_USUAL = 0.9  # part of the masks that must fit the others best as they are: otherwise a turned one is nothing special
_BETTER = 0.2  # cosine by which a turned mask must fit the others better

Turn = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def doubts(images: Images, classes: Sequence[str]) -> Iterator[Problem]:
    """The doubtful masks, each with a reason."""
    names, areas, small = [], [], []
    for case, mask in zip(images.cases, images.case_masks(), strict=True):
        names.append(images.blocks[case[0]].volume if images.blocks else images.names[case[0]])
        areas.append(np.bincount(mask.ravel(), minlength=len(classes) + 1)[1:])
        small.append(mask[np.ix_(*(resample.nearest(side, _GRID) for side in mask.shape))])
    for name, area in zip(names, areas, strict=True):
        if not area.any():
            yield Problem.from_error(name, MaskEmptyError("its mask outlines nothing"))
    for label, class_name in enumerate(classes):
        yield from _unusual_areas(names, np.array([area[label] for area in areas]), class_name)
    for index in _turned(small, len(classes)):
        cause = "turned or mirrored, its mask would fit the other masks much better"
        yield Problem.from_error(names[index], MaskDoubtError(cause))


def _unusual_areas(names: Sequence[str], areas: NDArray[np.int64], class_name: str) -> Iterator[Problem]:
    """Outlines of a class that are far larger or smaller than most."""
    shown = np.flatnonzero(areas)
    if len(shown) < MIN_CASES:
        return
    logs = np.log(areas[shown])
    middle = float(np.median(logs))
    spread = max(1.4826 * float(np.median(np.abs(logs - middle))), math.log(_TIMES) / _FAR)
    for index, log in zip(shown.tolist(), logs.tolist(), strict=True):
        if abs(log - middle) > _FAR * spread:
            times = math.exp(abs(log - middle))
            size = "larger" if log > middle else "smaller"
            cause = f"its outline of {class_name} is {times:.1f} times {size} than usual"
            yield Problem.from_error(names[index], MaskDoubtError(cause))


def _turned(masks: Sequence[NDArray[np.uint8]], classes: int) -> Iterator[int]:
    """Masks that would fit the mean of the others much better if they were turned or mirrored."""
    shown = [index for index, mask in enumerate(masks) if mask.any()]
    if len(shown) < MIN_CASES:
        return
    parts = np.array([masks[index][..., None] == np.arange(1, classes + 1) for index in shown])
    total, turns = parts.sum(0, dtype=np.float32), list(_turns(parts.ndim - 2))
    fits = np.array([[_cosine(turn(part), total - part) for turn in turns] for part in parts.astype(np.float32)])
    if np.mean(fits.argmax(1) == 0) < _USUAL:
        return
    yield from (shown[place] for place, (own, *others) in enumerate(fits) if max(others) > own + _BETTER)


def _turns(dimensions: int) -> Iterator[Turn]:
    """Nothing, then all mirrorings, of pictures also with a quarter turn. Sides have one length."""
    quarters = [0, 1] if dimensions == 2 else [0]
    for quarter, mirrored in product(quarters, product((False, True), repeat=dimensions)):
        axes = tuple(axis for axis, is_mirrored in enumerate(mirrored) if is_mirrored)
        yield partial(_turn, quarter, axes)


def _turn(quarter: int, axes: tuple[int, ...], part: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.flip(np.rot90(part, quarter), axes)


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    size = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float((one * other).sum()) / size if size else 0.0
