"""Which images belong together: of one patient or lesion, or almost the same picture. They stay in one part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


class DisjointSets:
    """Places that are united step by step; each set is known by its first place."""

    def __init__(self, count: int) -> None:
        self._above = list(range(count))

    def first(self, index: int) -> int:
        while (parent := self._above[index]) != index:
            self._above[index] = index = self._above[parent]
        return index

    def unite(self, first: int, second: int) -> None:
        early, late = sorted((self.first(first), self.first(second)))
        self._above[late] = early


def connect(*links: Sequence[str]) -> list[int]:
    """For each place the first place that it belongs together with: both have one name in one of the links.

    "" is no name. Whoever belongs together with a third belongs together.
    """
    sets = DisjointSets(len(links[0]))
    for names in links:
        seen: dict[str, int] = {}
        for index, name in enumerate(names):
            if name:
                sets.unite(index, seen.setdefault(name, index))
    return [sets.first(index) for index in range(len(links[0]))]


def name_groups(patients: Sequence[str], firsts: Sequence[int], hashes: Sequence[str]) -> tuple[str, ...]:
    """The name of each image's group: its patient's, else that of its first image's hash; "" where it stands alone."""
    sizes, names = Counter(firsts), dict[int, str]()
    for patient, first in zip(patients, firsts, strict=True):
        if patient:
            names.setdefault(first, patient)
    return tuple(names.get(first) or (hashes[first][:16] if sizes[first] > 1 else "") for first in firsts)


def members(groups: Sequence[str]) -> list[list[int]]:
    """The places of each group, in order of its first; an image without a group is one by itself."""
    by_group: dict[str | int, list[int]] = {}
    for index, group in enumerate(groups):
        by_group.setdefault(group or index, []).append(index)
    return list(by_group.values())
