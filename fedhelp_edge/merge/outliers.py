"""Suspicious updates: well-formed, and still unlike what honest training gives. A person decides about each.

A whole round is judged at once, so that the verdict does not depend on the order of arrival. Honest sites with rare
cases look suspicious too; the thresholds are far from all that honest training gave (docs/decisions/merging.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.errors import (
    CopiedUpdateError,
    DistantUpdateError,
    HubError,
    InflatedUpdateError,
    LazyUpdateError,
    OpposedUpdateError,
)
from fedhelp_edge.merge.norm_limit import MIN_UPDATES, Arrays, UpdateNorm
from fedhelp_edge.safe_text import counted, shortened
from fedhelp_edge.update import RoleOf, role_by_name

DISTANCE_FACTOR = 20.0  # times the median norm; above `norm_limit.LIMIT_FACTOR` an update is scaled down
EXAMPLES_FACTOR = 20.0  # times the median of the images that the other sites claim
GROWTH_FACTOR = 2.0  # times the largest claim that a person released before
OPPOSED_COSINE = -0.9  # cosine to the sum of all others' directions
MIN_VALUES = 32  # different numbers in a table; with fewer, such as counts, honest sites may well send the same one
MIN_FOR_DIRECTION = 5  # updates; with fewer, each honest one near convergence points against the sum of the others


def suspicious_updates(
    base: Arrays,
    updates: Mapping[str, Arrays],
    norms: Mapping[str, UpdateNorm],
    role_of: RoleOf = role_by_name,
) -> dict[str, HubError]:
    """The sites whose updates a person must review, each with the reason."""
    errors: dict[str, HubError] = {}
    digests: dict[str, list[str]] = {}
    watched = [site for site in sorted(updates) if _watched_names(base, updates[site], role_of)]
    for site in sorted(updates):
        if site not in watched and _is_common(updates[site]):
            continue
        digests.setdefault(_digest(updates[site]), []).append(site)
    for same_weights in digests.values():
        for site in same_weights if len(same_weights) > 1 else ():
            errors[site] = CopiedUpdateError(
                f"the same weights as {shortened(other for other in same_weights if other != site)}"
            )
    for site in watched:
        if norms[site]["weights"] == 0:
            errors[site] = LazyUpdateError("the weights are unchanged")
    remaining = [site for site in watched if site not in errors]
    if len(remaining) < MIN_UPDATES:
        return errors
    for kind in norms[remaining[0]]:
        median = float(np.median([norms[site][kind] for site in remaining]))
        for site in remaining:
            if median and norms[site][kind] > DISTANCE_FACTOR * median:
                errors[site] = DistantUpdateError(
                    f"{norms[site][kind] / median:.0f} times the median change of the {kind}"
                )
    directions = _Directions(base, updates, norms, role_of)
    return errors | _opposed(directions, [site for site in remaining if site not in errors])


def inflated_claims(examples: Mapping[str, int], released: Mapping[str, int]) -> dict[str, HubError]:
    """The sites that claim far more images than the others do, and than a person released of theirs before.

    Only what a person released raises a site's limit, against claims that grow a little each round.
    """
    errors: dict[str, HubError] = {}
    if len(examples) < MIN_UPDATES:
        return errors
    ordered = np.sort(np.array(list(examples.values()), dtype=np.float64))
    for site, claimed in sorted(examples.items()):
        median = _median_without(ordered, claimed)
        if claimed > max(EXAMPLES_FACTOR * median, GROWTH_FACTOR * released.get(site, 0)):
            errors[site] = InflatedUpdateError(
                f"it claims {counted(claimed, 'image')}; the median of the others is {median:.0f}"
            )
    return errors


def _median_without(ordered: NDArray[np.float64], value: float) -> float:
    """The median of sorted numbers when one of them is left out."""
    excluded = int(np.searchsorted(ordered, value))
    middle = [(len(ordered) - 2) // 2, (len(ordered) - 1) // 2]
    return float(np.mean([ordered[index + (index >= excluded)] for index in middle]))


@dataclass(frozen=True)
class _Directions:
    """Each update's change of the weights, in one row and of length 1. Norm layers' scales count, statistics do not."""

    base: Arrays
    updates: Mapping[str, Arrays]
    norms: Mapping[str, UpdateNorm]
    role_of: RoleOf

    def __getitem__(self, site: str) -> NDArray[np.float64]:
        return direction(self.base, self.updates[site], self.norms[site]["weights"], self.role_of)


def direction(base: Arrays, update: Arrays, norm: float, role_of: RoleOf) -> NDArray[np.float64]:
    """The change of all weights in one row, divided by its norm."""
    parts = [(update[name] - base[name]).ravel() for name in _watched_names(base, update, role_of)]
    return np.concatenate(parts).astype(np.float64) / norm


def _opposed(directions: _Directions, sites: Sequence[str]) -> dict[str, HubError]:
    """Those of `sites` that point against the sum of the others' directions. One update is in memory at a time."""
    if len(sites) < MIN_FOR_DIRECTION:
        return {}
    total = sum((directions[site] for site in sites), np.zeros(1))
    errors: dict[str, HubError] = {}
    for site in sites:
        direction = directions[site]
        others = total - direction
        cosine = float(direction @ others) / (float(np.linalg.norm(others)) or 1.0)
        if cosine < OPPOSED_COSINE:
            errors[site] = OpposedUpdateError(f"its direction has cosine {cosine:.2f} with that of the others")
    return errors


def _watched_names(base: Arrays, update: Arrays, role_of: RoleOf) -> list[str]:
    """The tensors whose change is watched: weights, and scales of norm layers, of a model that travels both ways."""
    return [name for name in update if role_of(name) in ("weight", "norm") and name in base]


def _is_common(update: Arrays) -> bool:
    """Whether an update has so few different numbers that another site may have the same by chance."""
    return len(np.unique(np.concatenate([update[name].ravel() for name in update]))) < MIN_VALUES


def _digest(update: Arrays) -> str:
    digest = hashlib.sha256()
    for name in update:
        digest.update(name.encode() + update[name].tobytes())
    return digest.hexdigest()
