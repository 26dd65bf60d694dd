"""Images of one source, dealt out to the sites of a federation on one machine.

What shows one patient, one lesion or nearly one picture is at one site, and there in one part unless the source says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedhelp_edge import console
from fedhelp_edge.data import groups
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.source_row import split_word
from fedhelp_edge.errors import UsageError


@dataclass(frozen=True)
class Part:
    """One site's images."""

    id: str
    name: str
    tier: str
    images: Images

    def of(self, split: str) -> Images:
        return self.images.part(split)


def deal(images: Images, how: str, seed: int, *, sites: int = 0, large: int = 0, val: float = 0.1) -> list[Part]:
    """`natural:centers`, `natural:folder`, `dirichlet:ALPHA` or `sizes:TRAIN/TEST,…`.

    The large sites are those with most training images.
    """
    kind, _, what = how.partition(":")
    if kind == "natural":
        dealt = _natural(images, what)
    elif kind == "dirichlet":
        dealt = _dirichlet(images, _number(what), sites or 2, seed)
    elif kind == "sizes":
        dealt = _sizes(images, what, seed, val)
    else:
        raise UsageError(
            f"a split is natural:centers, natural:folder, dirichlet:ALPHA or sizes:TRAIN/TEST,..., not {how!r}"
        )
    train = [sum(split == "train" for split in part.splits) for _, part in dealt]
    if without := [name for (name, _), count in zip(dealt, train, strict=True) if not count]:
        raise UsageError(f"{how} leaves {without[0]!r} without training images; take fewer sites, or another split")
    ranked = sorted(range(len(dealt)), key=lambda place: (-train[place], place))
    big = set(ranked[:large])
    return [
        Part(f"site-{place + 1:03}", name, "large" if place in big else "small", part)
        for place, (name, part) in enumerate(dealt)
    ]


_DEALT = "let the program deal the images out, as with --split dirichlet:1 --sites 3"


def _natural(images: Images, by: str) -> list[tuple[str, Images]]:
    """As the source has them: by centre, or by first folder. Fewest digits first, so that 10 follows 9."""
    if by not in ("centers", "folder"):
        raise UsageError(f"a natural split is natural:centers or natural:folder, not natural:{by}")
    given = images.centres if by == "centers" else tuple(map(_first_folder, images.names))
    if len(set(given)) < 2:
        what = "centres" if by == "centers" else "folders"
        raise UsageError(f"these images name no {what} to split by", remedy=_DEALT)
    if by == "folder" and all(len({label for label, own in zip(images.labels, given, strict=True) if own == name}) == 1
                              for name in set(given)):  # fmt: skip
        raise UsageError(
            "the first folders are the classes, not the sites",
            remedy=f"put a folder for each site above them; or {_DEALT}",
        )
    owners = list(given)
    for places in groups.members(images.groups):
        for i in places:
            owners[i] = _most([given[j] for j in places])
    if moved := sum(one != other for one, other in zip(given, owners, strict=True)):
        console.say(f"{moved} images moved to the site that has most images of their patient")
    names = sorted(set(owners), key=lambda name: (len(name), name))
    return [(name, images.only(np.flatnonzero(np.array(owners) == name))) for name in names]


def _first_folder(name: str) -> str:
    """`train`, `val` and `test` are no sites."""
    return next((folder for folder in name.split("/")[:-1] if not split_word(folder)), "")


def _dirichlet(images: Images, alpha: float, sites: int, seed: int) -> list[tuple[str, Images]]:
    """Whole groups of each class to the sites, in proportions from Dirichlet(alpha): train, val and test alike."""
    stream = np.random.Generator(np.random.Philox(seed))
    owner = np.zeros(len(images), np.int64)
    members = groups.members(images.groups)
    kinds = [(_most(images.labels[places].tolist()), images.splits[places[0]]) for places in members]
    for label in np.unique([label for label, _ in kinds]):
        bounds = np.cumsum(stream.dirichlet([alpha] * sites))[:-1]
        for split in ("train", "val", "test"):
            own = [places for places, kind in zip(members, kinds, strict=True) if kind == (label, split)]
            own = [own[i] for i in stream.permutation(len(own))]
            sizes = np.array([len(places) for places in own])
            middles = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
            for places, site in zip(own, np.searchsorted(bounds, middles), strict=True):
                owner[places] = site
    return [(f"site {place + 1}", images.only(np.flatnonzero(owner == place))) for place in range(sites)]


def _most(values: Sequence[Any]) -> Any:
    """The value that most have; of several the smallest."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


def _sizes(images: Images, what: str, seed: int, val: float) -> list[tuple[str, Images]]:
    """So many training and test images each, drawn from all images whatever their split; val is cut from train.

    Sizes are given by what a data set is said to hold: what it holds twice is missing from the largest site.
    """
    pairs = [text.partition("/") for text in what.split(",")]
    wanted = [(int(_number(train)), int(_number(test))) for train, _, test in pairs]
    needed = sum(train + test for train, test in wanted)
    missing = max(needed - len(images), 0)
    largest = wanted.index(max(wanted))
    wanted[largest] = wanted[largest][0] - missing, wanted[largest][1]
    if missing > len(images.problems) or wanted[largest][0] < 1:
        raise UsageError(f"the sizes ask for {needed} images, and there are {len(images)}")
    if missing:
        console.say(f"{missing} images cannot be used or are there twice: site {largest + 1} has so many fewer")
    cuts = [(train, round(train * val), test) for train, test in wanted]
    rooms = [room for train, kept, test in cuts for room in (kept, train - kept, test)]
    members = groups.members(images.groups)
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(members))
    filled = _filled(rooms, [members[i] for i in order])
    dealt = []
    for place in range(len(wanted)):
        own = filled[3 * place : 3 * place + 3]
        splits = [split for split, found in zip(("val", "train", "test"), own, strict=True) for _ in found]
        part = images.only(np.array([i for found in own for i in found], np.int64))
        dealt.append((f"site {place + 1}", replace(part, splits=tuple(splits))))
        if differs := [
            f"{len(found) - room:+d} {split}"
            for split, found, room in zip(("val", "train", "test"), own, rooms[3 * place :], strict=False)
            if len(found) != room
        ]:
            console.say(f"whole groups do not fit the sizes: site {place + 1} has {', '.join(differs)} images")
    return dealt


def _filled(rooms: Sequence[int], members: Sequence[Sequence[int]]) -> list[list[int]]:
    """Each group whole into the first room that still takes it; then, of those left, what brings a room nearest."""
    filled: list[list[int]] = [[] for _ in rooms]
    left: list[Sequence[int]] = []
    first = 0
    for places in members:
        while first < len(rooms) and len(filled[first]) == rooms[first]:
            first += 1
        fits = (at for at in range(first, len(rooms)) if len(filled[at]) + len(places) <= rooms[at])
        if (at := next(fits, None)) is None:
            left.append(places)
        else:
            filled[at] += places
    for room, found in zip(rooms, filled, strict=True):
        lacks = room - len(found)
        nearest = min(left, key=len, default=())  # all of them are larger than what lacks
        if 0 < len(nearest) < 2 * lacks:
            found += nearest
            left.remove(nearest)
    return filled


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise UsageError(f"{text!r} is not a number above 0")
    return number
