"""Which images belong together: of one patient or lesion, or almost the same picture. They stay in one part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


class Union:
    """Places that are united step by step; each set is known by its first place."""

    def __init__(self, count: int) -> None:
        self._above = list(range(count))

    def first(self, place: int) -> int:
        while (above := self._above[place]) != place:
            self._above[place] = place = self._above[above]
        return place

    def unite(self, one: int, two: int) -> None:
        early, late = sorted((self.first(one), self.first(two)))
        self._above[late] = early


def together(*links: Sequence[str]) -> list[int]:
    """For each place the first place that it belongs together with: both have one name in one of the links.

    "" is no name. Whoever belongs together with a third belongs together.
    """
    found = Union(len(links[0]))
    for names in links:
        seen: dict[str, int] = {}
        for place, name in enumerate(names):
            if name:
                found.unite(place, seen.setdefault(name, place))
    return [found.first(place) for place in range(len(links[0]))]


def named(patients: Sequence[str], firsts: Sequence[int], hashes: Sequence[str]) -> tuple[str, ...]:
    """The name of each image's group: its patient's, else that of its first image's hash; "" where it stands alone."""
    sizes, names = Counter(firsts), dict[int, str]()
    for patient, first in zip(patients, firsts, strict=True):
        if patient:
            names.setdefault(first, patient)
    return tuple(names.get(first) or (hashes[first][:16] if sizes[first] > 1 else "") for first in firsts)


def members(groups: Sequence[str]) -> list[list[int]]:
    """The places of each group, in order of its first; an image without a group is one by itself."""
    found: dict[str | int, list[int]] = {}
    for place, group in enumerate(groups):
        found.setdefault(group or place, []).append(place)
    return list(found.values())
