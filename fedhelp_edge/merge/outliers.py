"""Shares that are well-formed and still odd. Nothing is dropped here: what is named goes before a person.

Judged over a whole round at once, so that the verdict does not depend on who came first. Honest sites with rare cases
look odd too; the thresholds are far from what honest training was seen to give (docs/decisions/merging.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

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
from fedhelp_edge.merge.norm_limit import FEWEST, Arrays, Pull, part
from fedhelp_edge.safe_text import shortened

FAR = 20.0  # times the median pull; beyond `clip.TIMES` a share is shortened, beyond this it is not believed
MANY = 20.0  # times the median number of images that the other sites claim
GROWN = 2.0  # times the largest number that a person let in before
AGAINST = -0.9  # cosine to the sum of all others' directions
CROWD = 5  # shares that make a direction; where few sites have come to rest, each honestly pulls against the rest


def suspects(base: Arrays, shares: Mapping[str, Arrays], pulls: Mapping[str, Pull]) -> dict[str, HubError]:
    """The sites whose shares a person should look at, each with the reason."""
    found: dict[str, HubError] = {}
    digests: dict[str, list[str]] = {}
    for site in sorted(shares):
        digests.setdefault(_digest(shares[site]), []).append(site)
    for alike in digests.values():
        for site in alike if len(alike) > 1 else ():
            found[site] = CopiedUpdateError(
                f"the same weights as {shortened(other for other in alike if other != site)}"
            )
    for site in sorted(shares):
        if pulls[site]["weights"] == 0:
            found[site] = LazyUpdateError("the weights are those that it was given")
    rest = [site for site in sorted(shares) if site not in found]
    if len(rest) < FEWEST:
        return found
    for what in ("weights", "statistics"):
        median = float(np.median([pulls[site][what] for site in rest]))
        for site in rest:
            if median and pulls[site][what] > FAR * median:
                found[site] = DistantUpdateError(
                    f"{pulls[site][what] / median:.0f} times the median pull of the {what}"
                )
    return found | _opposed(base, shares, [site for site in rest if site not in found], pulls)


def inflated(examples: Mapping[str, int], released: Mapping[str, int]) -> dict[str, HubError]:
    """The sites that claim far more images than the others do, and than a person let in of them before.

    Only what a person let in raises a site's limit: claims that grow a little each round do not add up.
    """
    found: dict[str, HubError] = {}
    if len(examples) < FEWEST:
        return found
    ordered = np.sort(np.array(list(examples.values()), dtype=np.float64))
    for site, claimed in sorted(examples.items()):
        median = _median_without(ordered, claimed)
        if claimed > max(MANY * median, GROWN * released.get(site, 0)):
            found[site] = InflatedUpdateError(f"it claims {claimed} images; the median of the others is {median:.0f}")
    return found


def _median_without(ordered: NDArray[np.float64], value: float) -> float:
    """The median of sorted numbers when one of them is left out."""
    out = int(np.searchsorted(ordered, value))
    middle = [(len(ordered) - 2) // 2, (len(ordered) - 1) // 2]
    return float(np.mean([ordered[place + (place >= out)] for place in middle]))


def _opposed(
    base: Arrays, shares: Mapping[str, Arrays], sites: Sequence[str], pulls: Mapping[str, Pull]
) -> dict[str, HubError]:
    """Who of `sites` pulls against the sum of the others' directions; two passes, one share in memory at a time."""
    if len(sites) < CROWD:
        return {}
    total = sum((_direction(base, shares[site], pulls[site]) for site in sites), np.zeros(1))
    found: dict[str, HubError] = {}
    for site in sites:
        own = _direction(base, shares[site], pulls[site])
        others = total - own
        cosine = float(own @ others) / (float(np.linalg.norm(others)) or 1.0)
        if cosine < AGAINST:
            found[site] = OpposedUpdateError(f"its direction has cosine {cosine:.2f} with that of the others")
    return found


def _direction(base: Arrays, share: Arrays, pull: Pull) -> NDArray[np.float64]:
    parts = [(share[name] - base[name]).ravel() for name in share if part(name) == "weights"]
    return np.concatenate(parts).astype(np.float64) / pull["weights"]


def _digest(share: Arrays) -> str:
    digest = hashlib.sha256()
    for name in share:
        digest.update(name.encode() + share[name].tobytes())
    return digest.hexdigest()
