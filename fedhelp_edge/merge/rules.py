"""Aggregation rules: one model from all sites' updates.

Sites are read in the order of their ids, so that the bits do not depend on the order of arrival. An update is read
tensor by tensor when its turn comes; `updates[site]` may open a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.merge import norm_limit
from fedhelp_edge.merge.closing import Closing, SiteUpdates
from fedhelp_edge.merge.norm_limit import Arrays
from fedhelp_edge.plan import MergeSettings
from fedhelp_edge.update import Array, RoleOf, Schema, role_by_name

_BLOCK = 1 << 20  # numbers that an elementwise rule gets at once


def average(closing: Closing) -> dict[str, Array]:
    """The merger of every method that averages weights: the plan's rule, weights and limit."""
    settings = closing.settings
    merged = merge(closing.base, closing.updates, closing.examples, settings, closing.norms, closing.schema)
    if settings.step == 1:
        return merged
    return {
        name: ((1 - settings.step) * closing.base[name].astype(np.float64) + settings.step * array).astype(np.float32)
        for name, array in merged.items()
    }


def merge(
    base: Arrays,
    updates: SiteUpdates,
    examples: Mapping[str, int],
    settings: MergeSettings,
    norms: Mapping[str, norm_limit.UpdateNorm] | None = None,
    schema: Schema | None = None,
) -> dict[str, Array]:
    """Aggregates a round's updates as the plan says. `norms`: of the updates, where they are known already.

    Without a schema the tensors have the roles that their names tell. Those of the role "even" get the plain mean,
    whatever the plan's rule, weights and limit are.
    """
    sites, role_of = sorted(updates), schema.role_of if schema else role_by_name
    if schema and (even := [tensor.name for tensor in schema.tensors if tensor.role == "even"]):
        others = Schema(tuple(tensor for tensor in schema.tensors if tensor.role != "even"))
        merged = mean(_Chosen(updates, even), dict.fromkeys(sites, 1 / len(sites)))
        if names := [tensor.name for tensor in others.tensors]:
            merged |= merge(base, _Chosen(updates, names), examples, settings, norms, others)
        return {tensor.name: merged[tensor.name] for tensor in schema.tensors}
    if settings.clip == "auto":
        if norms is None:
            norms = {site: norm_limit.update_norm(base, updates[site], role_of) for site in sites}
        factors = norm_limit.scale_factors({site: norms[site] for site in sites})
        updates = _ClippedUpdates(base, updates, factors, role_of)
    if settings.rule == "mean":
        return mean(updates, site_weights({site: examples[site] for site in sites}, settings))
    if settings.rule == "median":
        return median(updates)
    return trimmed_mean(updates, settings.trim)


def weights_by_examples(settings: MergeSettings) -> bool:
    """Whether a site's number of images decides its weight."""
    return settings.rule == "mean" and settings.weight == "examples"


def site_weights(examples: Mapping[str, int], settings: MergeSettings) -> dict[str, float]:
    """Each site's weight in the mean, in the order of their ids; empty where the rule has no weights."""
    sites = sorted(examples)
    if not sites or settings.rule != "mean":
        return {}
    return dict(zip(sites, weights([examples[site] for site in sites], settings.weight, settings.cap), strict=True))


def weights(examples: Sequence[int], kind: str = "examples", cap: float = 1.0) -> list[float]:
    """Weights that sum to 1: by examples or uniform, none above `cap` where the others can make up for it."""
    fractions = np.array({"examples": examples, "uniform": [1] * len(examples)}[kind], np.float64)
    fractions /= fractions.sum()
    cap = max(cap, 1 / len(fractions))
    for _ in fractions:  # what is cut from the largest goes to the others, which may then be above the cap in turn
        over, under = fractions > cap, fractions < cap
        below_cap = fractions[under].sum()
        if not over.any() or not below_cap:
            break
        fractions[under] *= 1 + (fractions[over] - cap).sum() / below_cap
        fractions[over] = cap
    return [float(fraction) for fraction in fractions]


def mean(updates: SiteUpdates, weights: Mapping[str, float]) -> dict[str, Array]:
    """The weighted mean, summed in float64; one update is read at a time, into one row of all its numbers."""
    first, *others = sorted(updates)
    row, shapes = _flattened(updates[first])
    total, views = row * weights[first], _unflattened(row, shapes)
    for site in others:
        arrays = updates[site]
        for name, view in views.items():
            view[...] = arrays[name]
        row *= weights[site]
        total += row
    return {name: summed.astype(np.float32) for name, summed in _unflattened(total, shapes).items()}


def median(updates: SiteUpdates) -> dict[str, Array]:
    """The elementwise median over sites."""
    return _elementwise(updates, lambda numbers: np.median(numbers, axis=0))


def trimmed_mean(updates: SiteUpdates, trim: float) -> dict[str, Array]:
    """The elementwise mean over sites without the lowest and the highest part, `trim`, of them."""
    cut = int(trim * len(updates))
    return _elementwise(
        updates, lambda numbers: np.sort(numbers, axis=0)[cut : len(numbers) - cut].mean(axis=0, dtype="f8")
    )


def _elementwise(updates: SiteUpdates, rule: Callable[[Array], Array]) -> dict[str, Array]:
    """Applies a rule to all sites' numbers; one tensor of every site is in memory at a time."""
    sites = sorted(updates)
    merged: dict[str, Array] = {}
    for name in updates[sites[0]]:
        stack = np.stack([updates[site][name] for site in sites])
        rows = stack.reshape(len(sites), -1)
        width = max(_BLOCK // len(sites), 1)
        blocks = [rule(rows[:, start : start + width]) for start in range(0, rows.shape[1], width)]
        merged[name] = np.concatenate(blocks).reshape(stack.shape[1:]).astype(np.float32)
    return merged


def _flattened(arrays: Arrays) -> tuple[NDArray[np.float64], dict[str, tuple[int, ...]]]:
    """All numbers of an update in one row, and the shapes of its tensors."""
    doubles = {name: arrays[name].astype(np.float64) for name in arrays}
    return np.concatenate([array.ravel() for array in doubles.values()]), {n: a.shape for n, a in doubles.items()}


def _unflattened(row: NDArray[np.float64], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float64]]:
    """Views of a row in the shapes of the tensors."""
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    return {n: values.reshape(shapes[n]) for n, values in zip(shapes, np.split(row, ends[:-1]), strict=True)}


@dataclass(frozen=True)
class _ClippedUpdates(Mapping[str, Arrays]):
    """The updates, scaled down where their norm is above the limit."""

    base: Arrays
    updates: SiteUpdates
    factors: Mapping[str, norm_limit.UpdateNorm]
    role_of: RoleOf

    def __getitem__(self, site: str) -> Arrays:
        update, factors = self.updates[site], self.factors.get(site)
        return norm_limit.ClippedUpdate(self.base, update, factors, self.role_of) if factors else update

    def __iter__(self) -> Iterator[str]:
        return iter(self.updates)

    def __len__(self) -> int:
        return len(self.updates)


@dataclass(frozen=True)
class _Chosen(Mapping[str, Arrays]):
    """Some tensors of each update."""

    updates: SiteUpdates
    names: Sequence[str]

    def __getitem__(self, site: str) -> Arrays:
        update = self.updates[site]
        return {name: update[name] for name in self.names}

    def __iter__(self) -> Iterator[str]:
        return iter(self.updates)

    def __len__(self) -> int:
        return len(self.updates)
