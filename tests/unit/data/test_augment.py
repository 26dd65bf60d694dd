"""Augmentation mirrors and shifts a batch, reproducibly, and changes nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedhelp_edge.data.augment import augment
from tests.unit.data import samples


def plainly(image: NDArray[np.uint8], flip: bool, down: int, right: int) -> NDArray[np.uint8]:
    """The same augmentation by numpy's padding."""
    height, width, _ = image.shape
    edge = max(height, width) // 8
    padded = np.pad(image, ((edge, edge), (edge, edge), (0, 0)), mode="reflect")
    moved = padded[edge + down :, edge + right :][:height, :width]
    return moved[:, ::-1] if flip else moved


@given(st.integers(0, 2**32), st.sampled_from([(32, 32, 3), (28, 28, 1), (16, 24, 3), (9, 8, 1)]))
def test_each_image_is_a_mirrored_or_shifted_one(seed: int, shape: tuple[int, int, int]) -> None:
    batch = samples.noise(3, *shape, seed=1)
    down, right = shape[0] // 8, shape[1] // 8
    for before, after in zip(batch, augment(batch, np.random.default_rng(seed)), strict=True):
        assert any(
            np.array_equal(after, plainly(before, flip, y, x))
            for flip in (False, True)
            for y in range(-down, down + 1)
            for x in range(-right, right + 1)
        )


def test_the_same_seed_gives_the_same_batch_and_the_input_is_unchanged() -> None:
    batch = samples.noise(8)
    before = batch.copy()
    first, second = (augment(batch, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.array_equal(batch, before)
    assert not np.array_equal(augment(batch, np.random.default_rng(4)), first)


def test_half_of_the_images_are_mirrored_and_shifts_go_in_all_directions() -> None:
    ramp = np.zeros((4000, 16, 16, 1), np.uint8)
    ramp[...] = np.arange(16, dtype=np.uint8)[:, None] * 10
    done = augment(ramp, np.random.default_rng(0)).astype(int)
    mirrored = done[:, 0, 8, 0] < done[:, 0, 7, 0]
    assert 0.46 < mirrored.mean() < 0.54
    shifts = (done[:, 0, 8, 0] - np.where(mirrored, 70, 80)) // 10
    assert set(shifts.tolist()) == {-2, -1, 0, 1, 2}


def test_pixels_read_from_a_map_can_be_augmented() -> None:
    batch = samples.noise(4, 8, 8, 3)[::2]
    assert augment(batch, np.random.default_rng(0)).shape == (2, 8, 8, 3)


@pytest.mark.parametrize("count", [0, 1])
def test_a_batch_of_no_or_one_image_is_valid(count: int) -> None:
    assert augment(samples.noise(2)[:count], np.random.default_rng(0)).shape == (count, 16, 16, 3)


@given(st.integers(0, 2**32), st.integers(0, 7), st.integers(0, 7))
def test_a_part_of_a_batch_is_augmented_as_in_the_whole_batch(seed: int, begin: int, end: int) -> None:
    batch, part = samples.noise(7, 16, 16, 3, seed=2), slice(begin, end)
    augmented = augment(batch, np.random.default_rng(seed))
    assert np.array_equal(augment(batch[part], np.random.default_rng(seed), part, len(batch)), augmented[part])
