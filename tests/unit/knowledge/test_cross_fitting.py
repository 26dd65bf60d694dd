"""An encoder's answers about public images are honest: no image's own label is a part of its answer."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from fedhelp_edge.knowledge import cross_fitting

kinds = pytest.mark.parametrize("kind", cross_fitting.KINDS)


def hashes(count: int) -> list[str]:
    return [hashlib.sha256(bytes([number % 256, number // 256])).hexdigest() for number in range(count)]


def clusters(count: int, classes: int, width: int, spread: float) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    draw = np.random.default_rng(0)
    labels = np.arange(count) % classes
    centres = draw.normal(size=(classes, width))
    return (centres[labels] + spread * draw.normal(size=(count, width))).astype(np.float16), labels


def answers(kind: str, features: NDArray[np.float16], labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    return cross_fitting.answer(kind, features, labels, classes, hashes(len(labels)))


@kinds
def test_another_label_of_an_image_does_not_change_its_answer_by_a_bit(kind: str) -> None:
    features, labels = clusters(60, 3, 8, 1.0)
    before = answers(kind, features, labels, 3)
    for image in (0, 7, 59):
        changed = labels.copy()
        changed[image] = (changed[image] + 1) % 3
        after = answers(kind, features, changed, 3)
        assert after[image].tobytes() == before[image].tobytes()
        assert after.tobytes() != before.tobytes()  # for other images it counts


@kinds
def test_the_same_image_twice_does_not_tell_its_own_label(kind: str) -> None:
    features, labels = clusters(60, 3, 8, 1.0)
    twice = [*hashes(60), *hashes(60)]
    doubled, given = np.concatenate([features, features]), np.concatenate([labels, labels])
    before = cross_fitting.answer(kind, doubled, given, 3, twice)
    given[60] = (given[60] + 1) % 3  # the copy of image 0
    assert cross_fitting.answer(kind, doubled, given, 3, twice)[0].tobytes() == before[0].tobytes()


@kinds
def test_of_features_that_tell_nothing_the_answers_are_as_good_as_the_shares_of_the_classes(kind: str) -> None:
    draw = np.random.default_rng(1)
    features, labels = draw.normal(size=(600, 20)).astype(np.float16), draw.choice(3, 600, p=(0.6, 0.3, 0.1))
    given = answers(kind, features, labels, 3)
    loss = -np.log(given[np.arange(600), labels]).mean()
    best = -np.log(np.bincount(labels) / 600)[labels].mean()
    assert loss < best + 0.02


@kinds
def test_of_features_that_tell_the_class_the_answers_are_right_and_as_sure_as_they_are_right(kind: str) -> None:
    features, labels = clusters(600, 5, 16, 1.2)
    given = answers(kind, features, labels, 5)
    right = given.argmax(1) == labels
    assert right.mean() > 0.9
    assert given.max(1).mean() == pytest.approx(right.mean(), abs=0.06)


@kinds
def test_a_class_of_one_image_and_very_few_images_have_probabilities_too(kind: str) -> None:
    features, labels = clusters(31, 3, 8, 0.5)
    labels[-1] = 3  # the only image of its class
    for count in (1, 2, 31):
        given = answers(kind, features[-count:], labels[-count:], 4)
        assert given.shape == (count, 4)
        assert given.sum(1) == pytest.approx(np.ones(count), abs=1e-5)
        assert (given > 0).all()


@pytest.mark.parametrize("count", [10, 40])
def test_a_probe_is_ridge_regression_whatever_the_number_of_images(count: int) -> None:
    """With fewer images than features the smaller system is solved: both give the textbook's solution."""
    features, labels = clusters(count, 3, 20, 1.0)
    parts = np.zeros(count, np.int64)
    examples = cross_fitting.Examples(features.astype(np.float64), labels, parts, 3)
    scores = cross_fitting.probe(examples, 0.1)(examples.features)
    x = examples.features - examples.features.mean(0)
    y = np.eye(3)[labels]
    weights = np.linalg.solve(x.T @ x + 0.1 * (x**2).sum() / 20 * np.eye(20), x.T @ (y - y.mean(0)))
    assert scores == pytest.approx(x @ weights, abs=1e-9)
