"""Distributes the images of one source over the sites of a federation on one machine.

Images of one patient or lesion, and near duplicates, are at one site; there in one split unless the source splits them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data import groups
from fedhelp_edge.data.findings import Finding, left_out
from fedhelp_edge.data.findings import findings as findings_of_images
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.source_row import parse_split
from fedhelp_edge.errors import UsageError
from fedhelp_edge.safe_text import counted, shortened

Say = Callable[[str], None]


def _say_nothing(line: str) -> None:
    pass


@dataclass(frozen=True)
class SiteImages:
    """One site's images."""

    id: str
    name: str
    tier: str
    images: Images
    noise: str = ""  # of its training labels, as `label_noise` reads it
    flipped: int = 0  # of its training labels

    def split(self, split: str) -> Images:
        """The images of "train", "val" or "test"."""
        return self.images.split(split)


def findings(sites: Sequence[SiteImages], classes: Sequence[str]) -> tuple[Finding, ...]:
    """What the images of a federation cannot tell, and what `check` would refuse or leave out of them."""
    first, *others = (site.images for site in sites)
    problems = list(dict.fromkeys(problem for site in sites for problem in site.images.problems))
    return (
        *findings_of_images(first, classes, *others),
        *left_out(problems, sum(len(site.images) for site in sites)),
        *_unvalidated_classes(sites, classes),
    )


def _unvalidated_classes(sites: Sequence[SiteImages], classes: Sequence[str]) -> Iterator[Finding]:
    """A site's validation images should show every class that it trains on: by them it chooses its net."""
    named, images = [], 0
    for site in sites:
        counts, validated = (site.split(split).shows(len(classes)).sum(0).tolist() for split in ("train", "val"))
        unseen = [label for label, count in enumerate(counts) if count and not validated[label]]
        if unseen:
            named.append(f"{site.name} ({', '.join(classes[label] for label in unseen)})")
            images += sum(counts[label] for label in unseen)
    if named and len(sites) > 1:
        sentence = (
            f"at {len(named)} of {len(sites)} sites, validation images lack a class that the site trains on. "
            f"Missing: {shortened(named, 6)}"
        )
        yield Finding("no-validation-images", "val", images, sum(len(site.split("train")) for site in sites), sentence)


def distribute(
    images: Images, spec: str, seed: int, *, sites: int = 0, large: int = 0, val: float = 0.1, say: Say = _say_nothing
) -> list[SiteImages]:
    """Distributes by `natural:centers`, `natural:folder`, `dirichlet:ALPHA`, `labels:K` or `sizes:TRAIN/TEST,…`.

    The large sites are those with the most training images. `say` gets a line for each thing that a person should know.
    """
    kind, _, argument = spec.partition(":")
    if kind == "natural":
        assigned = _natural(images, argument, say)
    elif kind == "dirichlet":
        assigned = _dirichlet(images, _positive_number(argument), sites or 2, seed)
    elif kind == "labels":
        assigned = _labels(images, argument, sites or 2, seed)
    elif kind == "sizes":
        assigned = _sizes(images, argument, seed, val, say)
    else:
        raise UsageError(
            "a split is natural:centers, natural:folder, dirichlet:ALPHA, labels:K or sizes:TRAIN/TEST,..., "
            f"not {spec!r}"
        )
    train = [sum(split == "train" for split in part.splits) for _, part in assigned]
    if empty := [name for (name, _), count in zip(assigned, train, strict=True) if not count]:
        raise UsageError(
            f"{spec} leaves {empty[0]!r} without training images", remedy="take fewer sites, or another split or seed"
        )
    by_size = sorted(range(len(assigned)), key=lambda index: (-train[index], index))
    large_sites = set(by_size[:large])
    return [
        SiteImages(f"site-{index + 1:03}", name, "large" if index in large_sites else "small", part)
        for index, (name, part) in enumerate(assigned)
    ]


_DIRICHLET_REMEDY = "let the program distribute the images, as with --split dirichlet:1 --sites 3"


def _natural(images: Images, by: str, say: Say) -> list[tuple[str, Images]]:
    """A site for each centre or first folder of the source. Shorter names come first, so that 10 follows 9."""
    if by not in ("centers", "folder"):
        raise UsageError(f"a natural split is natural:centers or natural:folder, not natural:{by}")
    origins = images.centres if by == "centers" else tuple(map(_first_folder, images.names))
    if len(set(origins)) < 2:
        unit = "centres" if by == "centers" else "folders"
        raise UsageError(f"these images name no {unit} to split by", remedy=_DIRICHLET_REMEDY)
    pairs = set(zip(origins, images.labels.tolist(), strict=True))
    if by == "folder" and images.masks is None and len(pairs) == len(set(origins)):  # each folder has one class
        raise UsageError(
            "the first folders are the classes, not the sites",
            remedy=f"put a folder for each site above them; or {_DIRICHLET_REMEDY}",
        )
    owners = list(origins)
    for members in groups.members(images.groups):
        for i in members:
            owners[i] = _most_common([origins[j] for j in members])
    if moved := sum(before != after for before, after in zip(origins, owners, strict=True)):
        say(f"{counted(moved, 'image')} moved to the site with most images of the same patient")
    names = sorted(set(owners), key=lambda name: (len(name), name))
    return [(name, images.only(np.flatnonzero(np.array(owners) == name))) for name in names]


def _first_folder(name: str) -> str:
    """The first folder that does not name a split: `train`, `val` and `test` are no sites."""
    return next((folder for folder in name.split("/")[:-1] if not parse_split(folder)), "")


def _dirichlet(images: Images, alpha: float, sites: int, seed: int) -> list[tuple[str, Images]]:
    """Distributes each class in proportions from Dirichlet(alpha)."""
    generator = np.random.Generator(np.random.Philox(seed))
    return _by_class(images, lambda label: generator.dirichlet([alpha] * sites), sites, generator)


def _labels(images: Images, argument: str, sites: int, seed: int) -> list[tuple[str, Images]]:
    """Deals the classes out, so many to each site; the sites of a class have equal parts of it."""
    labels = np.unique(images.labels)
    if images.masks is not None:
        raise UsageError("labels:K deals out classes, and a mask has several", remedy=_DIRICHLET_REMEDY)
    per_site = int(argument) if argument.isdecimal() else 0
    if not 1 <= per_site <= len(labels):
        raise UsageError(f"labels:K gives each site 1 to {len(labels)} classes, not {argument!r}")
    if per_site * sites < len(labels):
        need = -(-len(labels) // per_site)
        raise UsageError(
            f"sites: {sites}, with {per_site} of {len(labels)} classes each, cannot have all", remedy=f"--sites {need}"
        )
    generator = np.random.Generator(np.random.Philox(seed))
    dealt = np.resize(generator.permutation(labels), (sites, per_site))  # round and round: no class twice at a site
    owners = {label: (dealt == label).any(1) for label in labels}
    return _by_class(images, lambda label: owners[label] / owners[label].sum(), sites, generator)


def _by_class(
    images: Images, parts_of: Callable[[int], NDArray[np.float64]], sites: int, generator: np.random.Generator
) -> list[tuple[str, Images]]:
    """Distributes whole groups of each class in the given parts, the same in train, val and test."""
    owner = np.zeros(len(images), np.int64)
    members = groups.members(images.groups)
    strata = [(_most_common(images.labels[group].tolist()), images.splits[group[0]]) for group in members]
    for label in np.unique([label for label, _ in strata]):
        bounds = np.cumsum(parts_of(label))[:-1]
        for split in ("train", "val", "test"):
            stratum_groups = [
                group for group, stratum in zip(members, strata, strict=True) if stratum == (label, split)
            ]
            stratum_groups = [stratum_groups[i] for i in generator.permutation(len(stratum_groups))]
            sizes = np.array([len(group) for group in stratum_groups])
            middles = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
            for group, site in zip(stratum_groups, np.searchsorted(bounds, middles), strict=True):
                owner[group] = site
    return [(f"site {index + 1}", images.only(np.flatnonzero(owner == index))) for index in range(sites)]


def _most_common(values: Sequence[Any]) -> Any:
    """The most common value; of several, the smallest."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


def _sizes(images: Images, spec: str, seed: int, val: float, say: Say) -> list[tuple[str, Images]]:
    """Draws each site's numbers of training and test images, whatever the images' split; val is cut from train.

    Published sizes count duplicates and unusable images: the largest site has fewer images by their number.
    """
    pairs = [text.partition("/") for text in spec.split(",")]
    sizes = [(int(_positive_number(train)), int(_positive_number(test))) for train, _, test in pairs]
    needed = sum(train + test for train, test in sizes)
    missing = max(needed - len(images), 0)
    largest = sizes.index(max(sizes))
    sizes[largest] = sizes[largest][0] - missing, sizes[largest][1]
    if missing > len(images.problems) or sizes[largest][0] < 1:
        raise UsageError(f"the sizes ask for {counted(needed, 'image')}, and there are {len(images)}")
    if missing:
        unusable = counted(missing, "image is unusable or a duplicate", "images are unusable or duplicates")
        say(f"{unusable}: site {largest + 1} has {missing} fewer")
    cuts = [(train, round(train * val), test) for train, test in sizes]
    capacities = [capacity for train, val_count, test in cuts for capacity in (val_count, train - val_count, test)]
    members = groups.members(images.groups)
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(members))
    filled = _fill(capacities, [members[i] for i in order])
    assigned = []
    for index in range(len(sizes)):
        site_parts = filled[3 * index : 3 * index + 3]
        splits = [split for split, indices in zip(("val", "train", "test"), site_parts, strict=True) for _ in indices]
        part = images.only(np.array([i for indices in site_parts for i in indices], np.int64))
        assigned.append((f"site {index + 1}", replace(part, splits=tuple(splits))))
        if differences := [
            f"{len(indices) - capacity:+d} {split}"
            for split, indices, capacity in zip(
                ("val", "train", "test"), site_parts, capacities[3 * index :], strict=False
            )
            if len(indices) != capacity
        ]:
            say(f"whole groups do not fit the sizes: site {index + 1} has {', '.join(differences)} images")
    return assigned


def _fill(capacities: Sequence[int], groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """Puts each whole group where it fits first; then fills gaps with the remaining group that comes nearest."""
    filled: list[list[int]] = [[] for _ in capacities]
    remaining: list[Sequence[int]] = []
    first = 0
    for group in groups:
        while first < len(capacities) and len(filled[first]) == capacities[first]:
            first += 1
        fits = (
            index for index in range(first, len(capacities)) if len(filled[index]) + len(group) <= capacities[index]
        )
        if (index := next(fits, None)) is None:
            remaining.append(group)
        else:
            filled[index] += group
    for capacity, indices in zip(capacities, filled, strict=True):
        missing = capacity - len(indices)
        nearest = min(remaining, key=len, default=())  # each is larger than the gap
        if 0 < len(nearest) < 2 * missing:
            indices += nearest
            remaining.remove(nearest)
    return filled


def _positive_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise UsageError(f"{text!r} is not a number above 0")
    return number
