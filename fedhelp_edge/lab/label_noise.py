"""Wrong training labels on purpose: how a method bears them. Validation and test images keep their labels.

Each kind of noise is a transition matrix: row c has the probabilities of the labels that an image of class c gets.
Symmetric noise goes to all other classes alike, pair flips go to the next class (as in Co-teaching, Han et al. 2018).
Every image draws once from a stream named by seed and site. So a higher rate of the same kind flips the images that a
lower one flips, and more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files
from fedhelp_edge.errors import UsageError
from fedhelp_edge.lab.partition import SiteImages

Matrix = NDArray[np.float64]

_REMEDY = "as in symmetric:0.2, pairflip:0.2, asymmetric:nevus=melanoma:0.2 or matrix:noise.csv"


def add(sites: Sequence[SiteImages], specs: Sequence[str], classes: Sequence[str], seed: int) -> list[SiteImages]:
    """The sites, each with the noise that the specs name for it: `KIND:RATE` for all, or `SITE=KIND:RATE` for one."""
    if specs and any(site.images.masks is not None for site in sites):
        raise UsageError("wrong labels are for classification", remedy="leave --noise away: masks have no single label")
    spec_of: dict[str, str] = {}
    for spec in specs:
        site, noise = _parse_site(spec, sites)
        if site in spec_of:
            raise UsageError(f"two kinds of label noise for {site or 'all sites'}: {spec_of[site]} and {noise}")
        spec_of[site] = noise
    matrices = {noise: transition_matrix(noise, classes) for noise in spec_of.values()}
    noise_of = {site.id: spec_of.get(site.id, spec_of.get("", "")) for site in sites}
    return [_flip(site, noise_of[site.id], matrices, seed) for site in sites]


def transition_matrix(noise: str, classes: Sequence[str]) -> Matrix:
    """The probabilities of the labels that an image of each class gets: classes x classes, rows sum to 1."""
    kind, _, argument = noise.partition(":")
    count = len(classes)
    if kind == "matrix":
        return _read_matrix(Path(argument), count)
    matrix = np.eye(count)
    if kind == "symmetric":
        rate = _rate(argument)
        matrix = np.full((count, count), rate / (count - 1))
        np.fill_diagonal(matrix, 1 - rate)
    elif kind == "pairflip":
        rate = _rate(argument)
        matrix = (1 - rate) * matrix + rate * np.roll(matrix, 1, axis=1)
    elif kind == "asymmetric":
        for pair in argument.split(","):
            names, _, rate_text = pair.rpartition(":")
            true, wrong = (_class_index(name, classes) for name in (names.partition("=")[0], names.partition("=")[2]))
            if true == wrong or matrix[true, wrong]:
                raise UsageError(f"{names!r} names one class twice, or one pair twice", remedy=_REMEDY)
            matrix[true, wrong] = _rate(rate_text)
            matrix[true, true] -= matrix[true, wrong]
        if matrix.min() < -1e-9:
            raise UsageError(f"the rates of one class in {noise!r} sum to more than 1", remedy=_REMEDY)
    else:
        raise UsageError(f"{noise!r} is no kind of label noise", remedy=_REMEDY)
    return np.clip(matrix, 0, 1)


def noisy_labels(labels: NDArray[np.int64], matrix: Matrix, draw: np.random.Generator) -> NDArray[np.int64]:
    """A label for each image, drawn from the row of its class. Each image takes one number from the stream."""
    count = len(matrix)
    turn = (np.arange(count)[:, None] + np.arange(count)) % count  # each row begins with the class itself
    cumulative = np.take_along_axis(matrix, turn, 1).cumsum(1)
    cumulative /= cumulative[:, -1:]  # exactly 1 at the end: no label of probability 0 is drawn
    steps = (draw.random(len(labels))[:, None] >= cumulative[labels]).sum(1)
    return np.asarray((labels + steps) % count, np.int64)


def _flip(site: SiteImages, noise: str, matrix_of: dict[str, Matrix], seed: int) -> SiteImages:
    """A site whose training labels went through the noise."""
    if not noise:
        return site
    key = np.frombuffer(hashlib.sha256(f"{seed}/{site.id}/label noise".encode()).digest()[:16], np.uint64)
    train = np.flatnonzero(np.array(site.images.splits) == "train")
    labels = site.images.labels.copy()
    labels[train] = noisy_labels(labels[train], matrix_of[noise], np.random.Generator(np.random.Philox(key=key)))
    flipped = int((labels != site.images.labels).sum())
    return replace(site, images=replace(site.images, labels=labels), noise=noise, flipped=flipped)


def _parse_site(spec: str, sites: Sequence[SiteImages]) -> tuple[str, str]:
    """The id of the site that a spec names ("" for all), and the noise. A site has an id and a name."""
    name, equals, noise = spec.partition("=")
    if not equals or ":" in name:
        return "", spec
    ids = [site.id for site in sites if name in (site.id, site.name)]
    if len(ids) != 1:
        known = ", ".join(f"{site.id} ({site.name})" for site in sites[:10])
        raise UsageError(f"{name!r} names no site for label noise", remedy=f"name one of {known}")
    return ids[0], noise


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 1:
        raise UsageError(f"{text!r} is not a rate from 0 to 1", remedy=_REMEDY)
    return rate


def _class_index(name: str, classes: Sequence[str]) -> int:
    names = [known.casefold() for known in classes]
    if name.strip().casefold() not in names:
        raise UsageError(f"{name!r} is not a class of the plan", remedy=f"name two of {', '.join(classes)}")
    return names.index(name.strip().casefold())


def _read_matrix(path: Path, count: int) -> Matrix:
    """A matrix from a text file: a line of comma-separated numbers for each class, in the plan's order."""
    with files.reading(path) as file:
        text = file.read(1 << 20).decode("utf-8-sig", "replace")
    try:
        matrix = np.array([[float(cell) for cell in line.split(",")] for line in text.splitlines() if line.strip()])
        fits = matrix.shape == (count, count) and matrix.min() >= 0 and np.abs(matrix.sum(1) - 1).max() < 1e-6
    except ValueError:
        fits = False
    if not fits:
        raise UsageError(
            f"{path.name} is not a matrix of label noise",
            remedy=f"write {count} lines of {count} numbers from 0 to 1, with commas; each line sums to 1",
        )
    return matrix
