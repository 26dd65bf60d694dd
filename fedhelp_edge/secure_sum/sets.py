"""Which sets of sites may be added up: sums from one base model can be subtracted from each other."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from fedhelp_edge.methods.registry import MIN_SECURE_SITES
from fedhelp_edge.plan import Plan


def fewest_sites(plan: Plan) -> int:
    """Sites in a set, at least."""
    return max(plan.round.quorum, MIN_SECURE_SITES)


def smallest_group(sets: Sequence[Collection[str]]) -> list[str]:
    """The fewest sites that a combination of the sums of these sets can show.

    Sites that are in the same ones of the sets always stay together, and others can be parted.
    """
    groups: dict[tuple[bool, ...], list[str]] = {}
    for site in sorted(set[str]().union(*sets)):
        groups.setdefault(tuple(site in each for each in sets), []).append(site)
    return min(groups.values(), key=len)
