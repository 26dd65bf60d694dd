from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fedhelp_edge.demo import phantoms
from fedhelp_edge.demo.phantoms import CLASSES, FAMILIES, TISSUES, draw

families = pytest.mark.parametrize("family", FAMILIES)


def small(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """16 x 16 means of each image, as a row."""
    count, side = images.shape[:2]
    return images.reshape(count, 16, side // 16, 16, side // 16, -1).mean((2, 4)).reshape(count, -1)


def learned(classes: int, difficulty: float, family: str) -> float:
    """The accuracy of a nearest-mean classifier on new images."""
    seen, labels = draw(600, classes, size=32, seed=1, difficulty=difficulty, family=family)
    fresh, truth = draw(400, classes, size=32, seed=2, difficulty=difficulty, family=family)
    means = np.stack([small(seen[labels == label]).mean(0) for label in range(classes)])
    return float(np.mean(((small(fresh)[:, None] - means) ** 2).sum(2).argmin(1) == truth))


def colour(site: int, seed: int, family: str = "cells") -> NDArray[np.float64]:
    """A site's mean colour."""
    return np.asarray(draw(150, 4, size=32, seed=seed, site=site, family=family)[0].mean((0, 1, 2)))


@families
def test_the_same_arguments_draw_the_same_images(family: str) -> None:
    first, second = (draw(40, 5, size=32, seed=3, site=2, family=family) for _ in range(2))
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])


@families
def test_an_image_is_the_same_however_many_are_drawn(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = draw(70, 4, size=32, family=family)
    for count in (1, 33, 69):
        fewer, other_labels = draw(count, 4, size=32, family=family)
        assert np.array_equal(fewer, images[:count]) and np.array_equal(other_labels, labels[:count])
    monkeypatch.setattr(phantoms, "_BLOCK_PIXELS", 7 * 32 * 32)  # images in memory at once
    assert np.array_equal(draw(70, 4, size=32, family=family)[0], images)


@families
@pytest.mark.parametrize("changed", [{"seed": 1}, {"site": 1}, {"difficulty": 0.6}])
def test_another_seed_site_or_difficulty_draws_other_images(family: str, changed: dict[str, float]) -> None:
    images, other_labels = draw(20, 3, size=32, family=family)[0], draw(20, 3, size=32, family=family, **changed)[0]
    assert not (images == other_labels).all((1, 2, 3)).any()


def test_no_image_is_drawn_twice() -> None:
    images = np.concatenate([draw(100, 4, size=16, seed=seed, site=site)[0] for seed in (0, 1) for site in (0, 1)])
    assert len(np.unique(images.reshape(400, -1), axis=0)) == 400


@families
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 31, 64])
def test_images_are_bytes_of_the_requested_size(family: str, channels: int, size: int) -> None:
    images, labels = draw(12, 4, size=size, channels=channels, family=family)
    assert (images.dtype, images.shape) == (np.uint8, (12, size, size, channels))
    assert (labels.dtype, labels.shape) == (np.int64, (12,))
    assert images.min() < 128 < images.max() and (images.std((1, 2, 3)) > 5).all()


def test_zero_images_can_be_requested() -> None:
    images, labels = draw(0, 2, size=16)
    assert (images.shape, labels.shape) == ((0, 16, 16, 3), (0,))


def test_grey_images_are_the_coloured_ones_without_their_colour() -> None:
    grey, coloured = (draw(30, 4, size=32, channels=channels, difficulty=0.1)[0] for channels in (1, 3))
    light = coloured @ np.array([0.299, 0.587, 0.114])
    alike = [np.corrcoef(first.ravel(), second.ravel())[0, 1] for first, second in zip(light, grey, strict=True)]
    assert min(alike) > 0.95


@families
@pytest.mark.parametrize("site", range(4))
def test_every_class_appears_early_and_often(family: str, site: int) -> None:
    kinds = len(FAMILIES[family])
    labels = draw(300, kinds, size=16, site=site, family=family)[1]
    assert set(labels[:40]) == set(range(kinds))
    assert np.bincount(labels).min() > 300 / kinds / 3


def test_sites_have_their_own_class_frequencies() -> None:
    even, *of_sites = (np.bincount(draw(400, 4, size=16, site=site)[1], minlength=4) for site in range(4))
    assert np.abs(even - 100).max() <= 3
    assert all(np.abs(counts - 100).max() > 10 for counts in of_sites)


@families
def test_a_site_has_its_own_mean_colour_whatever_the_seed(family: str) -> None:
    first, second = (np.stack([colour(site, seed, family) for site in range(4)]) for seed in (1, 2))
    within = np.linalg.norm(first - second, axis=1).max()
    between = [np.linalg.norm(first[a] - first[b]) for a in range(4) for b in range(a)]
    assert min(between) > 2 * within


@families
def test_a_simple_model_learns_them_in_part_and_less_the_harder_they_are(family: str) -> None:
    easy, middle, hard = (learned(4, difficulty, family) for difficulty in (0, 0.5, 1))
    assert easy > middle + 0.05 > hard + 0.1
    assert 0.25 + 0.08 < middle < 0.9
    assert easy > 0.6


def test_the_families_look_different() -> None:
    cells, tissue = (small(draw(200, 5, size=32, family=family, seed=4)[0]) for family in FAMILIES)
    means = np.stack([cells[:100].mean(0), tissue[:100].mean(0)])
    for index, fresh in enumerate((cells[100:], tissue[100:])):
        assert (((fresh[:, None] - means) ** 2).sum(2).argmin(1) == index).mean() > 0.95


def test_the_families_share_no_name() -> None:
    assert len(set(CLASSES + TISSUES)) == len(CLASSES) + len(TISSUES)


@pytest.mark.parametrize("wrong", [{"classes": 1}, {"classes": 7}, {"channels": 4}, {"difficulty": 1.1}])
def test_invalid_requests_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="2 to 6 classes"):
        draw(**{"count": 1, "classes": 2, **wrong})
