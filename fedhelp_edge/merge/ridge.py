"""Closed-form linear heads from sums: ridge regression of the classes on features, as in AFL and Fed3R.

Each site sends three sums over its images. They are the products of any two features (the Gram matrix), the features
of each class, and the number of images of each class. The merger adds them. So the merged sums, and the head that
follows from them, are those of all images together, however these are spread over sites.

Features are whole multiples of a grid, so all sums are whole numbers. They have the same bits in any order, for any
batches and threads, on every machine. A site that is subtracted leaves no trace. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.errors import SumsError
from fedhelp_edge.merge.closing import Closing
from fedhelp_edge.merge.norm_limit import LIMIT_FACTOR, MIN_UPDATES
from fedhelp_edge.nets import spec
from fedhelp_edge.plan import Plan
from fedhelp_edge.update import Array, Schema, TensorSpec

GRAM, FEATURES, COUNTS = "sums.gram", "sums.features", "sums.counts"
GRID = 2.0**-10  # of features: from 1 on, half precision has no finer one
LARGEST = 2**16  # of a feature, in steps of the grid; what is larger counts as this
MOST_DIMENSIONS = 2048  # the Gram matrix of these takes 17 MB
_MOST_IMAGES = 2**30  # whose sums fit into 64 bits, whatever their features are
_SIGNS = 1  # of the plan's random streams: the one of the random dimensions
_ROUNDING = 1e-12  # of a matrix's trace or largest eigenvalue: what floating point adds to its smallest
_NO_IMAGE = 1e-22  # the probability of a class that no site has

STRENGTHS = (1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # to choose from

Integers = NDArray[np.int64]
Doubles = NDArray[np.float64]
Groups = Sequence[Integers]  # of each group, such as a patient: the indices of its images


def dimensions(plan: Plan) -> int:
    """How many numbers stand for an image: the plan's random dimensions, or all features where these are as few."""
    width, asked = spec.width(plan.nets.small, spec.Form.of(plan)), int(plan.tables["ridge"].dimensions)
    return min(asked or width, width)


def schema(plan: Plan, public: Any = None) -> Schema:
    """The sums: the upper triangle of the Gram matrix by rows, the features of each class, the images of each class."""
    sums = shapes(len(plan.classes), dimensions(plan))
    return Schema(tuple(TensorSpec(name, "I64", shape, "sum") for name, shape in sums.items()))


def shapes(classes: int, count: int) -> dict[str, tuple[int, ...]]:
    """The shape of each sum."""
    return {GRAM: (count * (count + 1) // 2,), FEATURES: (classes, count), COUNTS: (classes,)}


def start(plan: Plan) -> dict[str, Array]:
    """The sums of no image."""
    return {tensor.name: np.zeros(tensor.shape, np.int64) for tensor in schema(plan).tensors}


def check(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """Yields what a plan asks that ridge cannot do."""
    width, asked = spec.Form.of(plan).features, plan.tables["ridge"].dimensions
    if not width:
        yield "nets", "encoder", "ridge works on the features of an encoder: name one"
    elif not asked and width > MOST_DIMENSIONS:
        yield "ridge", "dimensions", f"the encoder gives {width} features: say {MOST_DIMENSIONS} or fewer here"
    if plan.training.loss != "ce":
        yield "training", "loss", "ridge solves for its heads, and no loss is used: leave this out"
    if plan.merge.weight == "uniform":
        yield "merge", "weight", "ridge adds sums, in which each image weighs alike: leave this out"


def advise(plan: Plan) -> Iterator[str]:
    """Yields what other number of rounds would serve."""
    if plan.rounds == 1:
        yield "with rounds = 2 each site also makes a head of its own, from the sums of the others"
    if plan.rounds > 2:
        yield "rounds = 2 is enough: later rounds change nothing unless sites join or have many new images"


def add(closing: Closing) -> dict[str, Array]:
    """The merger: the sums of all sites. Whole numbers are added, so no order of sites changes a bit."""
    factors = _scale_factors(closing)
    images = sum(int(closing.updates[site][COUNTS].sum()) for site in closing.updates)
    if images > _MOST_IMAGES:
        raise SumsError(f"the sites claim {images} images together, more than {_MOST_IMAGES}")
    merged: dict[str, Array] = {tensor.name: np.zeros(tensor.shape, np.int64) for tensor in closing.schema.tensors}
    for site in sorted(closing.updates):
        update, factor = closing.updates[site], factors.get(site, 1.0)
        for name, power in ((GRAM, 2), (FEATURES, 1), (COUNTS, 0)):
            merged[name] += update[name] if factor == 1 else np.rint(update[name] * factor**power).astype(np.int64)
    return merged


def _scale_factors(closing: Closing) -> dict[str, float]:
    """By site, what its features are multiplied by: with `clip = "auto"` they are no longer than 5 medians.

    All sites use one encoder. Without this limit a site could outweigh all others by the scale of its features.
    """
    if closing.settings.clip != "auto" or len(closing.updates) < MIN_UPDATES:
        return {}
    lengths = {site: _length(closing.updates[site]) for site in closing.updates}
    limit = LIMIT_FACTOR * float(np.median([length for length in lengths.values() if length] or [0.0]))
    return {site: limit / length for site, length in lengths.items() if length > limit}


def _length(update: Mapping[str, Array]) -> float:
    """The root of the mean square of an image's features, over all images of a site."""
    count = update[FEATURES].shape[1]
    diagonal = update[GRAM][np.cumsum([0, *range(count, 1, -1)])]
    return float(np.sqrt(diagonal.sum(dtype=np.float64) / max(int(update[COUNTS].sum()), 1)))


def verify(arrays: Mapping[str, Array], claims: Mapping[str, int]) -> None:
    """Refuses sums that no images have: so a hostile site can do no more than send wrong features and labels.

    Features and one-hot labels together have a Gram matrix too. It is positive semidefinite.
    """
    counts = arrays[COUNTS]
    if counts.min() < 0 or int(counts.max()) > _MOST_IMAGES or int(counts.sum()) > claims["examples"]:
        raise SumsError(f"they are of {int(counts.sum())} images, and the update claims {claims['examples']}")
    largest = LARGEST * (images := int(counts.sum()))
    for name, limit in ((FEATURES, largest), (GRAM, LARGEST * largest)):
        if arrays[name].max() > limit or arrays[name].min() < -limit:
            raise SumsError(f"they are larger than those of {images} images can be")
    sums = Sums.of(arrays)
    joint = np.block([[sums.gram, sums.features.T], [sums.features, np.diag(sums.counts)]])
    joint[np.diag_indices_from(joint)] += _ROUNDING * np.trace(joint)
    if images:
        try:
            np.linalg.cholesky(joint)
        except np.linalg.LinAlgError as error:
            raise SumsError("no images have this Gram matrix with these sums of classes") from error


@dataclass(frozen=True)
class Sums:
    """The sums over some images, in the units of features. They may be weighted."""

    gram: Doubles  # d x d
    features: Doubles  # classes x d
    counts: Doubles  # classes

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> Sums:
        """The sums that travel."""
        count = arrays[FEATURES].shape[1]
        gram = np.zeros((count, count))
        gram[np.triu_indices(count)] = arrays[GRAM] * GRID**2
        gram += np.triu(gram, 1).T
        return cls(gram, arrays[FEATURES] * GRID, arrays[COUNTS].astype(np.float64))

    def plus(self, other: Sums, weight: float) -> Sums:
        """These sums and, with this weight, others."""
        return Sums(
            self.gram + weight * other.gram,
            self.features + weight * other.features,
            self.counts + weight * other.counts,
        )


def are_equal(sums: Mapping[str, Array], before: Mapping[str, Array]) -> bool:
    """Whether two sums are the same number by number."""
    return all(np.array_equal(sums[name], before[name]) for name in before)


def is_revealing(sums: Mapping[str, Array], before: Mapping[str, Array]) -> bool:
    """Whether sums differ from earlier ones by fewer images than dimensions, which the difference would then show."""
    if are_equal(sums, before):
        return False
    change = Sums.of(sums).plus(Sums.of(before), -1.0).gram  # 0 where only labels changed
    return int(np.linalg.matrix_rank(change, hermitian=True)) < len(change)


@dataclass(frozen=True)
class Reduction:
    """From an encoder's features to the whole numbers that stand for an image. The same bits on every machine."""

    signs: Doubles | None  # width x dimensions, each 1 or -1, drawn from the plan's seed; none: all features
    count: int  # of dimensions
    shift: float  # a power of two, which brings sums of features back to their scale

    @classmethod
    def of(cls, plan: Plan) -> Reduction:
        """The plan's reduction."""
        width, count = spec.width(plan.nets.small, spec.Form.of(plan)), dimensions(plan)
        if count == width:
            return cls(None, count, 1.0)
        stream = np.random.Generator(np.random.Philox(key=[plan.seed, _SIGNS]))
        signs = 2 * stream.integers(0, 2, (width, count)) - 1
        return cls(signs.astype(np.float64), count, 2.0 ** round(np.log2(width) / 2))

    def __call__(self, features: Doubles) -> Doubles:
        """N x dimensions, in steps of the grid."""
        steps = np.clip(np.rint(features / GRID), -LARGEST, LARGEST)
        if self.signs is not None:
            steps = np.clip(np.rint(steps @ self.signs / self.shift), -LARGEST, LARGEST)
        return np.asarray(steps)

    def unfold(self, weights: Doubles) -> Doubles:
        """The weights of a head on all features that does what these (classes x dimensions) do on the reduced ones."""
        return weights if self.signs is None else weights @ self.signs.T / self.shift


def sums_of(features: Doubles, labels: Integers, classes: int) -> dict[str, Integers]:
    """The sums over images whose features are whole multiples of the grid, in steps of it. Exact: no order matters."""
    members = np.eye(classes)[labels]
    gram = features.T @ features
    exact = {GRAM: gram[np.triu_indices(len(gram))], FEATURES: members.T @ features, COUNTS: members.sum(0)}
    return {name: array.astype(np.int64) for name, array in exact.items()}


# --- the head ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Spectrum:
    """Sums in the eigenvectors of the features' covariance, in which a head of any strength takes a division."""

    images: float
    mean: Doubles  # of the features: d
    values: Doubles  # the covariance's eigenvalues, none below 0
    vectors: Doubles  # one a column
    covariances: Doubles  # classes x d: of each class's membership with the features, in these vectors
    means: Doubles  # classes x d: of each class's features from the mean of all, in these vectors
    shares: Doubles  # of the classes

    @classmethod
    def of(cls, sums: Sums) -> Spectrum:
        """The spectrum of sums over at least one image."""
        images = float(sums.counts.sum())
        mean, shares = sums.features.sum(0) / images, sums.counts / images
        values, vectors = np.linalg.eigh(sums.gram / images - np.outer(mean, mean))
        covariances = (sums.features / images - np.outer(shares, mean)) @ vectors
        means = np.divide(covariances, shares[:, None], out=np.zeros_like(covariances), where=shares[:, None] > 0)
        return cls(images, mean, np.maximum(values, 0), vectors, covariances, means, shares)

    def shrunk(self, strength: float) -> Doubles:
        """The eigenvalues with the penalty: `strength` times their mean is added to each."""
        return np.asarray(self.values + max(strength * float(self.values.mean()), np.finfo(np.float64).tiny))

    def head(self, strength: float) -> tuple[Doubles, Doubles]:
        """The weights (classes x d) and biases of least squared error to the one-hot labels; no bias is penalised."""
        weights = (self.covariances / self.shrunk(strength)) @ self.vectors.T
        return weights, self.shares - weights @ self.mean

    def discriminant(self, strength: float, balance: float) -> tuple[Doubles, Doubles]:
        """The matrix and offsets that make logits of this head's scores: linear discriminant analysis of the scores.

        That is penalised discriminant analysis of the features (Hastie, Buja and Tibshirani 1995). `balance` 0 counts
        classes as often as they are, 1 all alike. A class without images gets no probability.
        """
        weights = self.covariances / self.shrunk(strength)
        means = weights @ self.means.T  # the scores of each class from their mean, one class a column
        within = weights @ self.covariances.T - (means * self.shares) @ means.T
        matrix = means.T @ np.linalg.pinv(within, rcond=_ROUNDING, hermitian=True)
        priors = np.where(self.shares > 0, np.maximum(self.shares, _NO_IMAGE) ** (1 - balance), 0)
        logits = np.log(np.maximum(priors / priors.sum(), _NO_IMAGE)) - (matrix * means.T).sum(1) / 2
        return matrix, logits - matrix @ self.shares

    def best_strength(self) -> float:
        """The strength that costs least by generalised cross-validation."""
        return min(STRENGTHS, key=self.cross_validated)

    def cross_validated(self, strength: float) -> float:
        """The generalised cross-validation of Golub, Heath and Wahba: what an image that was left out would cost."""
        shrunk = self.shrunk(strength)
        explained = (self.covariances**2 * (2 / shrunk - self.values / shrunk**2)).sum()
        error = float((self.shares * (1 - self.shares)).sum() - explained)
        freedom = 1 + float((self.values / shrunk).sum())
        return error / max(1 - freedom / self.images, 1e-9) ** 2

    def rotated(self, features: Doubles) -> Doubles:
        """Features (images x d) from their mean, in these vectors."""
        return (features - self.mean) @ self.vectors

    def left_out(self, strength: float, rotated: Doubles, one_hot: Doubles, groups: Groups) -> Doubles:
        """The scores (images x classes) of each image by the head that is made without its group.

        The images weigh 1 in these sums. Let H be a group's block of the hat matrix. A head without the group misses
        its images by (I - H)^-1 times what the whole head misses them by.
        """
        shrunk = self.shrunk(strength)
        errors = one_hot - (rotated @ (self.covariances / shrunk).T + self.shares)
        rows = rotated / np.sqrt(shrunk * self.images)
        one = 1 + _ROUNDING  # without the group of all images there is no head: it misses them by far
        missed = errors / (one - np.square(rows).sum(1) - 1 / self.images)[:, None]  # by itself, a group of one
        for members in (members for members in groups if len(members) > 1):
            hat = rows[members] @ rows[members].T + 1 / self.images
            missed[members] = np.linalg.solve(one * np.eye(len(members)) - hat, errors[members])
        return np.asarray(one_hot - missed)
