"""Group images of one patient, one lesion, or nearly the same pixels. A group is never split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class DisjointSets:
    """Union-find over the indices 0 to count - 1; each set is named by its smallest index."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def first(self, index: int) -> int:
        """The smallest index of the set that holds `index`."""
        while (parent := self._parents[index]) != index:
            self._parents[index] = index = self._parents[parent]
        return index

    def unite(self, first: int, second: int) -> None:
        """Unite the sets of two indices."""
        early, late = sorted((self.first(first), self.first(second)))
        self._parents[late] = early


def connect(*links: Sequence[str]) -> list[int]:
    """Return, for each index, the smallest index of its connected component.

    Two indices are connected if they share a name in any of `links`; "" connects nothing.
    """
    sets = DisjointSets(len(links[0]))
    for names in links:
        seen: dict[str, int] = {}
        for index, name in enumerate(names):
            if name:
                sets.unite(index, seen.setdefault(name, index))
    return [sets.first(index) for index in range(len(links[0]))]


def name_groups(patients: Sequence[str], firsts: Sequence[int], hashes: Sequence[str]) -> tuple[str, ...]:
    """Name each image's group: by its patient, else by the hash of its first image; "" for a single image."""
    sizes, names = Counter(firsts), dict[int, str]()
    for patient, first in zip(patients, firsts, strict=True):
        if patient:
            names.setdefault(first, patient)
    return tuple(names.get(first) or (hashes[first][:16] if sizes[first] > 1 else "") for first in firsts)


def members(groups: Sequence[str]) -> list[list[int]]:
    """Return the indices of each group, ordered by their first; an image without a group is a group of one."""
    by_group: dict[str | int, list[int]] = {}
    for index, group in enumerate(groups):
        by_group.setdefault(group or index, []).append(index)
    return list(by_group.values())


def numbers(groups: Sequence[str]) -> NDArray[np.int64]:
    """Return a number for each image's group; an image without a group is a group of one."""
    numbered = np.zeros(len(groups), np.int64)
    for number, indices in enumerate(members(groups)):
        numbered[indices] = number
    return numbered
