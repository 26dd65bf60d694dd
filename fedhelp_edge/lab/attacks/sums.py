"""What class means (FedGH) and sums of features (ridge) tell of few images. No noise covers them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.lab.attacks import PLAIN, SECURE_SUM, AttackResult
from fedhelp_edge.lab.attacks.membership import area

_TRIALS = 200
_MEANS_OF, _IMAGES_PER_DIMENSION = (1, 2, 5, 10), (0.5, 1.0, 2.0, 4.0)

Features = NDArray[np.float64]


def class_means(features: Features, labels: NDArray[np.int64], seed: int) -> Iterator[AttackResult]:
    """Whether the image that lies nearest to a class mean is one of those that it was made of."""
    draw = np.random.default_rng(seed)
    for count in _MEANS_OF:
        hits, chances = [], []
        for _ in range(_TRIALS):
            of_class = np.flatnonzero(labels == draw.choice(labels))
            if len(of_class) < 2 * count:
                continue
            members = draw.choice(of_class, count, replace=False)
            distances = ((features[of_class] - features[members].mean(0)) ** 2).sum(1)
            hits.append(of_class[distances.argmin()] in members)
            chances.append(count / len(of_class))
        if hits:
            measure = "the nearest image is one of them"
            yield AttackResult(
                "class means", PLAIN, f"the mean of {count}", measure, float(np.mean(hits)), float(np.mean(chances))
            )


def gram(features: Features, seed: int, sites: int) -> Iterator[AttackResult]:
    """Whether an image is in the sum of the products of features, by its leverage: members have less."""
    draw = np.random.default_rng(seed)
    width = min(features.shape[1], len(features) // (2 * round(_IMAGES_PER_DIMENSION[-1])))
    mixed = features @ draw.standard_normal((features.shape[1], width)) / np.sqrt(width)
    for protection, together in ((PLAIN, 1), (SECURE_SUM, sites)):
        for ratio in _IMAGES_PER_DIMENSION:
            count = round(ratio * width) * together
            if 2 * count > len(mixed):
                continue
            areas = []
            for _ in range(20):
                order = draw.permutation(len(mixed))
                members, others = mixed[order[:count]], mixed[order[count : 2 * count]]
                products = members.T @ members + 1e-6 * np.eye(width)
                leverage = [np.einsum("nd,de,ne->n", x, np.linalg.inv(products), x) for x in (members, others)]
                areas.append(area(-leverage[0], -leverage[1]))
            sees = f"a sum of {ratio:g} images a dimension" + (f" from each of {sites} sites" if together > 1 else "")
            yield AttackResult("ridge sums", protection, sees, "area under the ROC curve", float(np.mean(areas)), 0.5)
