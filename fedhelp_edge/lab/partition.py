"""Images of one source, dealt out to the sites of a federation on one machine."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import shell
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.row import split_word
from fedhelp_edge.errors import Usage


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
        raise Usage(f"a split is natural:centers, natural:folder, dirichlet:ALPHA or sizes:TRAIN/TEST,..., not {how!r}")
    train = [sum(split == "train" for split in part.splits) for _, part in dealt]
    if without := [name for (name, _), count in zip(dealt, train, strict=True) if not count]:
        raise Usage(f"{how} leaves {without[0]!r} without training images; take fewer sites, or another split")
    ranked = sorted(range(len(dealt)), key=lambda place: (-train[place], place))
    big = set(ranked[:large])
    return [
        Part(f"site-{place + 1:03}", name, "large" if place in big else "small", part)
        for place, (name, part) in enumerate(dealt)
    ]


def _natural(images: Images, by: str) -> list[tuple[str, Images]]:
    """As the source has them: by centre, or by first folder. Fewest digits first, so that 10 follows 9."""
    if by not in ("centers", "folder"):
        raise Usage(f"a natural split is natural:centers or natural:folder, not natural:{by}")
    owners = images.centres if by == "centers" else tuple(map(_first_folder, images.names))
    names = sorted(set(owners), key=lambda name: (len(name), name))
    dealt = [(name, images.only(np.flatnonzero(np.array(owners) == name))) for name in names]
    if len(dealt) < 2:
        raise Usage(f"these images name no {'centres' if by == 'centers' else 'folders'} to split by")
    if by == "folder" and all(len(np.unique(part.labels)) == 1 for _, part in dealt):
        raise Usage("the first folders are the classes; put a folder for each site above them")
    return dealt


def _first_folder(name: str) -> str:
    """`train`, `val` and `test` are no sites."""
    return next((folder for folder in name.split("/")[:-1] if not split_word(folder)), "")


def _dirichlet(images: Images, alpha: float, sites: int, seed: int) -> list[tuple[str, Images]]:
    """Each class to the sites in proportions drawn from Dirichlet(alpha): train, val and test alike."""
    stream = np.random.Generator(np.random.Philox(seed))
    owner = np.zeros(len(images), np.int64)
    for label in np.unique(images.labels):
        bounds = np.cumsum(stream.dirichlet([alpha] * sites))[:-1]
        for split in ("train", "val", "test"):
            own = np.flatnonzero((images.labels == label) & (np.array(images.splits) == split))
            own = own[stream.permutation(len(own))]
            owner[own] = np.searchsorted(bounds, (np.arange(len(own)) + 0.5) / max(len(own), 1))
    return [(f"site {place + 1}", images.only(np.flatnonzero(owner == place))) for place in range(sites)]


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
        raise Usage(f"the sizes ask for {needed} images, and there are {len(images)}")
    if missing:
        shell.say(f"{missing} images cannot be used or are there twice: site {largest + 1} has so many fewer")
    order: NDArray[np.int64] = np.random.Generator(np.random.Philox(seed)).permutation(len(images))
    dealt, at = [], 0
    for place, (train, test) in enumerate(wanted):
        part = images.only(order[at : at + train + test])
        kept = round(train * val)
        splits = ("val",) * kept + ("train",) * (train - kept) + ("test",) * test
        dealt.append((f"site {place + 1}", replace(part, splits=splits)))
        at += train + test
    return dealt


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise Usage(f"{text!r} is not a number above 0")
    return number
