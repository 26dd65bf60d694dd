"""Phantoms: labelled images that resemble microscopy and show no patient, for the demo, the tests and the tutorials.

Two families. `cells` are stained blood cells among red ones; `tissue` are cuts of tissue, for a public set. All classes
of a family come from one formula with different parameters. Difficulty pulls the parameters together, varies each image
more, and adds blur and noise. Stains absorb light as in a microscope (Beer-Lambert law). No shape here is anybody's
anatomy, and no model trained on them diagnoses anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]  # float32: half the time of float64

CLASSES = ("round", "lobed", "granular", "sickle", "speckled", "ringed")  # by nucleus, or by what fills the cell
TISSUES = ("bubbles", "glands", "crowded", "fibres", "swirls", "plain")
PARTS = ("cell", "nucleus")  # of the cells, as masks have them
FAMILIES = {"cells": CLASSES, "tissue": TISSUES}

#            nucleus: radius, lobes, bite: away, bite: radius; cell: grains, specks, blue
_CELLS = np.array(
    [
        [0.66, 0.0, 0.00, 0.00, 0.0, 0.0, 0.9],
        [0.60, 1.0, 0.00, 0.00, 0.1, 0.0, 0.2],
        [0.52, 0.4, 0.00, 0.00, 1.0, 0.0, 0.3],
        [0.72, 0.0, 0.52, 0.56, 0.0, 0.0, 0.7],
        [0.56, 0.2, 0.00, 0.00, 0.0, 1.0, 0.4],
        [0.66, 0.0, 0.06, 0.36, 0.0, 0.1, 0.4],
    ],
    np.float32,
)
#            fibres, swirls, bubbles, glands, nuclei
_TISSUES = np.array(
    [
        [0.0, 0.0, 1.0, 0.0, 0.1],
        [0.0, 0.0, 0.0, 1.0, 0.2],
        [0.0, 0.0, 0.0, 0.0, 1.0],
        [1.0, 0.0, 0.0, 0.0, 0.3],
        [0.0, 1.0, 0.0, 0.0, 0.3],
        [0.1, 0.1, 0.0, 0.0, 0.1],
    ],
    np.float32,
)
_AZURE, _EOSIN, _ORANGE = np.array([[0.95, 1.05, 0.38], [0.14, 0.56, 0.36], [0.12, 0.50, 0.85]], np.float32)
_HAEMATOXYLIN, _ROSE = np.array([[0.95, 0.95, 0.42], [0.10, 0.80, 0.42]], np.float32)
_BLOCK_PIXELS = 1 << 18  # pixels drawn at once
_NUMBERS_PER_IMAGE = 512  # random numbers of an image for its shapes, at most
_GOLDEN = (5**0.5 - 1) / 2


def draw(
    count: int,
    classes: int,
    *,
    size: int = 64,
    channels: int = 3,
    seed: int = 0,
    difficulty: float = 0.5,
    site: int = 0,
    family: str = "cells",
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw images (count x size x size x channels) of the family's first `classes` classes; return them with labels.

    Image i is the same however many are drawn. Sites other than 0 stain, light and focus in their own way, whatever the
    seed, and have their own class frequencies. Difficulty runs from 0 (obvious) to 1 (nearly impossible).
    """
    kinds = FAMILIES[family]
    if not 2 <= classes <= len(kinds) or channels not in (1, 3) or not 0 <= difficulty <= 1:
        raise ValueError(f"2 to {len(kinds)} classes, 1 or 3 channels, a difficulty from 0 to 1")
    stream = 2 * site + list(FAMILIES).index(family)
    labels = _labels(count, classes, seed, stream, site)
    images = np.empty((count, size, size, channels), np.uint8)
    for block, _, pictures in _blocks(labels, family, size, channels, seed, stream, difficulty, site):
        images[block] = pictures
    return images, labels


def draw_outlined(
    count: int, *, size: int = 64, channels: int = 3, seed: int = 0, difficulty: float = 0.5, site: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw the cells of `draw`, of all classes, with a mask each: 1 is the cell around its nucleus, which is 2."""
    stream = 2 * site
    labels = _labels(count, len(CLASSES), seed, stream, site)
    images, masks = np.empty((count, size, size, channels), np.uint8), np.empty((count, size, size), np.uint8)
    for block, scene, pictures in _blocks(labels, "cells", size, channels, seed, stream, difficulty, site):
        images[block], masks[block] = pictures, sum(part > 0.5 for part in scene.parts)
    return images, masks


def _blocks(
    labels: NDArray[np.int64], family: str, size: int, channels: int, seed: int, stream: int, difficulty: float,
    site: int,
) -> Iterator[tuple[slice, _Scene, NDArray[np.uint8]]]:  # fmt: skip
    """Draw as many images at once as suit the memory."""
    count, step = len(labels), max(1, _BLOCK_PIXELS // size**2)
    for start in range(0, count, step):
        block = slice(start, min(start + step, count))
        generators = [_generator(seed, stream, index) for index in range(block.start, block.stop)]
        numbers = _RandomNumbers(
            np.stack([generator.random(_NUMBERS_PER_IMAGE, np.float32) for generator in generators])
        )
        noise = np.stack([generator.standard_normal((size, size, channels), np.float32) for generator in generators])
        scene = _Scene(numbers, size, difficulty, _SiteStyle(site))
        light = (_draw_cells if family == "cells" else _draw_tissue)(scene, labels[block])
        yield block, scene, _photograph(scene, light, noise)


def _generator(seed: int, stream: int, index: int, purpose: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, index, purpose]))


def _labels(count: int, classes: int, seed: int, stream: int, site: int) -> NDArray[np.int64]:
    """Labels that follow the site's class frequencies as evenly as possible from the first image on."""
    tilt = _generator(site, 0, 0, 2).standard_normal(len(CLASSES))[:classes] if site else np.zeros(classes)
    frequencies = np.exp(0.3 * tilt) / np.exp(0.3 * tilt).sum()
    position = (_generator(seed, stream, 0, 1).random() + _GOLDEN * np.arange(count)) % 1
    return np.minimum(np.searchsorted(frequencies.cumsum(), position, side="right"), classes - 1)


class _RandomNumbers:
    """The random numbers of a block of images, handed out in sequence."""

    def __init__(self, numbers: Floats) -> None:
        self._numbers, self._at = numbers, 0

    def between(self, low: Any, high: Any, *shape: int) -> Floats:
        """Uniform numbers of images x shape; without a shape of images x 1 x 1, which broadcasts over pixels."""
        size = int(np.prod(shape))
        numbers = self._numbers[:, self._at : self._at + size].reshape(len(self._numbers), *(shape or (1, 1)))
        self._at += size
        return np.asarray(low + (high - low) * numbers, np.float32)

    def around(self, spread: Any, *shape: int) -> Floats:
        """Triangular numbers around zero, of images x shape."""
        return self.between(-spread, spread, *shape) + self.between(-spread, spread, *shape)


class _SiteStyle:
    """How a site stains, lights and focuses. Site 0 is the mean of all."""

    def __init__(self, site: int) -> None:
        deviation = _generator(site, 0, 0, 3).uniform(-1, 1, 12).astype(np.float32) * bool(site)
        self.stain = 1 + 0.16 * deviation[:3]  # a colour
        self.strength = 1 + 0.18 * deviation[3:5]  # a stain
        self.light = (1 + 0.06 * deviation[5:8]) * (1 + 0.05 * deviation[8])
        self.slope = 0.08 * deviation[9:11]
        self.blur = 0.35 * abs(deviation[11])


class _Scene:
    """The pixel coordinates of a block of images, from -1 to 1, and what all drawing shares."""

    def __init__(self, numbers: _RandomNumbers, size: int, difficulty: float, style: _SiteStyle) -> None:
        self.numbers, self.size, self.difficulty, self.style = numbers, size, np.float32(difficulty), style
        self.line = ((np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1).astype(np.float32)
        self.x, self.y = self.line[None, None, :], self.line[None, :, None]
        self.parts: tuple[Floats, ...] = ()  # of what is drawn, each within the one before

    def kind(self, table: Floats, labels: NDArray[np.int64]) -> list[Floats]:
        """The parameters of each image: those of its class, pulled to the mean and varied by difficulty."""
        middle, spread = table.mean(0), table.std(0)
        pulled = middle + (1 - 0.85 * self.difficulty) * (table[labels] - middle)
        stray = self.numbers.around(0.08 + 0.42 * self.difficulty, table.shape[1])
        return [column[:, None, None] for column in np.maximum(pulled + stray * spread, 0).T]

    def waves(self, low: float, high: float, turn: Floats | None = None, count: int = 14) -> Floats:
        """A texture of `low` to `high` waves across, with a variance of about one; along `turn`, or all ways.

        A plane wave is a product of one along x and one along y, so that a texture is a product of two matrices.
        """
        angle = self.numbers.between(0, 2 * np.pi, count) if turn is None else turn + self.numbers.around(0.09, count)
        pace = np.pi * self.numbers.between(low, high, count)
        along = (pace * np.cos(angle))[:, :, None] * self.line + self.numbers.between(0, 2 * np.pi, count, 1)
        down = (pace * np.sin(angle))[:, :, None] * self.line
        left = np.concatenate([np.cos(down), -np.sin(down)], 1).transpose(0, 2, 1)
        return np.asarray(left @ np.concatenate([np.cos(along), np.sin(along)], 1) * (2 / count) ** 0.5)

    def inside(self, depth: Floats, soft: float = 1.0) -> Floats:
        """1 where `depth` is above zero, 0 where below, and in between over about a pixel."""
        return np.asarray(np.clip(depth * (self.size / (2.4 * soft)) + 0.5, 0, 1))


def _draw_cells(scene: _Scene, labels: NDArray[np.int64]) -> Floats:
    """Light that comes through a stained cell among red cells."""
    numbers, difficulty = scene.numbers, scene.difficulty
    radius, lobes, bite_offset, bite, grains, specks, blue = scene.kind(_CELLS, labels)
    scale = numbers.between(0.5, 0.62) + numbers.around(0.04 + 0.05 * difficulty)
    x, y = (side - numbers.around(0.07 + 0.08 * difficulty) for side in (scene.x, scene.y))
    turn = numbers.between(0, 2 * np.pi)
    u, v = (x * np.cos(turn) + y * np.sin(turn)) / scale, (y * np.cos(turn) - x * np.sin(turn)) / scale
    v = v * numbers.between(0.9, 1.1)
    distance = np.sqrt(u * u + v * v) + np.float32(1e-6)
    c1, s1 = u / distance, v / distance
    c2, s2 = c1 * c1 - s1 * s1, 2 * c1 * s1
    rim = 1 + numbers.around(0.04) * c2 + numbers.around(0.04) * s2 + numbers.around(0.03) * (c1 * c2 - s1 * s2)
    cell = scene.inside((rim - distance) * scale)

    depth = radius * (1 + numbers.around(0.05) * c1 + numbers.around(0.07) * c2 + numbers.around(0.05) * s2) - distance
    trefoil = _lobes(numbers, u, v)
    depth = depth + np.minimum(lobes, 1) * (trefoil - depth)
    bite_depth = np.sqrt((u - bite_offset) ** 2 + (v - numbers.around(0.06)) ** 2) - (1.3 * bite - 0.18)
    nucleus = scene.inside(np.minimum(depth, bite_depth) * scale) * cell

    scene.parts = cell, nucleus
    chromatin = scene.waves(5, 11)
    grain = np.clip(scene.waves(11, 17, count=24) * 1.6 - 0.5, 0, 1) * cell * (1 - 0.75 * nucleus) * grains
    speck = np.clip(scene.waves(12, 20, count=24) * 1.8 - 1.2, 0, 1) * cell * specks
    red = _red_cells(scene) * (1 - cell)
    azure = nucleus * (1.15 + 0.16 * chromatin) + cell * (0.06 + 0.22 * blue) + speck * 0.9
    eosin = red + cell * (0.16 + 0.03 * chromatin) + nucleus * 0.25 + 0.05 + 0.02 * scene.waves(1, 4)
    return _transmitted(scene, [(azure, _AZURE), (eosin, _EOSIN), (grain * 0.95, _ORANGE)])


def _lobes(numbers: _RandomNumbers, u: Floats, v: Floats) -> Floats:
    """The depth of a point in three discs that blend into each other."""
    discs = []
    for turn in (-1.75, 0.1, 1.85):
        angle, offset = turn + numbers.around(0.2), numbers.between(0.36, 0.46)
        distance = np.sqrt((u - offset * np.cos(angle)) ** 2 + (v - offset * np.sin(angle)) ** 2)
        discs.append(numbers.between(0.26, 0.34) - distance)
    depth, *others = discs
    for disc in others:
        overlap = np.maximum(0.22 - np.abs(depth - disc), 0)
        depth = np.maximum(depth, disc) + overlap * overlap * (0.25 / 0.22)
    return np.asarray(depth)


def _red_cells(scene: _Scene) -> Floats:
    """The thickness of the red cells around the centre: discs, paler in their middle."""
    numbers = scene.numbers
    thickness = np.float32(0)
    size, pale = numbers.between(0.34, 0.44), numbers.between(0.3, 0.6)
    for _ in range(6):
        angle, offset = numbers.between(0, 2 * np.pi), numbers.between(0.85, 1.35)
        x, y = scene.x - offset * np.cos(angle), scene.y - offset * np.sin(angle)
        reach = size * numbers.between(0.9, 1.1)
        distance = (x * x + y * y * numbers.between(0.85, 1.15)) / (reach * reach)
        disc = scene.inside((1 - distance) * reach * 0.5) * (1 - pale * np.maximum(1 - 1.6 * distance, 0))
        thickness = np.maximum(thickness, disc * numbers.between(0.75, 1.0))
    return np.asarray(thickness)


def _draw_tissue(scene: _Scene, labels: NDArray[np.int64]) -> Floats:
    """Light that comes through a cut of stained tissue."""
    numbers = scene.numbers
    fibres, swirls, bubbles, glands, nuclei = scene.kind(_TISSUES, labels)
    turn = numbers.between(0, np.pi)
    slow = scene.waves(0.5, 2.5)
    strand = scene.waves(6, 9, turn[:, :, 0])
    across = scene.x * np.cos(turn) + scene.y * np.sin(turn)
    swirl = np.sin(numbers.between(6, 10) * across + 2.2 * slow + numbers.between(0, 6.3))
    nearest, wall = _neighbours(scene)
    lumen = scene.inside(wall - 0.1, 3) * np.minimum(bubbles, 1)
    reach = numbers.between(0.2, 0.27)
    ring = np.clip(1 - np.abs(nearest - reach) / 0.085, 0, 1) * np.minimum(glands, 1.2)
    hollow = scene.inside(reach - 0.08 - nearest, 3) * np.minimum(glands, 1)
    dots = np.clip(scene.waves(8, 13, count=24) * 1.7 - 1.9 + nuclei, 0, 1)
    rose = (
        (0.62 + 0.1 * slow + 0.22 * fibres * strand + 0.22 * swirls * swirl) * (1 - 0.92 * lumen) * (1 - 0.85 * hollow)
    )
    purple = 0.1 + 0.75 * dots * (1 - lumen) * (1 - hollow) + ring * (0.65 + 0.25 * strand) + 0.12 * swirls * swirl
    return _transmitted(scene, [(np.maximum(purple, 0), _HAEMATOXYLIN), (np.maximum(rose, 0), _ROSE)])


def _neighbours(scene: _Scene) -> tuple[Floats, Floats]:
    """The distance to the nearest of some scattered points, and how much further the second is."""
    numbers = scene.numbers
    nearest = second = np.full((1, 1, 1), 9, np.float32)
    shift = numbers.between(-0.35, 0.35, 2)
    for row in (-1.4, -0.7, 0, 0.7, 1.4):
        for column in (-1.4, -0.7, 0, 0.7, 1.4):
            x = scene.x - column - shift[:, :1, None] - numbers.around(0.12)
            y = scene.y - row - shift[:, 1:, None] - numbers.around(0.12)
            distance = x * x + y * y
            second = np.minimum(second, np.maximum(nearest, distance))
            nearest = np.minimum(nearest, distance)
    first_distance, second_distance = np.sqrt(nearest), np.sqrt(second)
    return first_distance, second_distance - first_distance


def _transmitted(scene: _Scene, stains: list[tuple[Floats, Floats]]) -> Floats:
    """White light after the stains: images x colours x rows x columns."""
    numbers, style = scene.numbers, scene.style
    strength_factor = 1 - 0.3 * scene.difficulty
    strengths = [
        style.strength[min(index, 1)] * numbers.between(0.85, 1.15) * strength_factor for index in range(len(stains))
    ]
    tints = [colour * style.stain * (1 + numbers.around(0.05, 3)) for _, colour in stains]
    densities = [amount * strength for (amount, _), strength in zip(stains, strengths, strict=True)]
    planes = [sum(d * t[:, c, None, None] for d, t in zip(densities, tints, strict=True)) for c in range(3)]
    return np.asarray(np.exp(-np.stack(planes, 1)))


def _photograph(scene: _Scene, light: Floats, noise: Floats) -> NDArray[np.uint8]:
    """Simulate the camera: uneven lamp, focus, colours or grey, noise, bytes."""
    numbers, style, difficulty = scene.numbers, scene.style, scene.difficulty
    across, down = (numbers.around(0.04) + slope for slope in style.slope)
    lamp = 1 + across * scene.x + down * scene.y - 0.05 * (scene.x**2 + scene.y**2)
    width = (numbers.between(0.35, 0.6) + style.blur + difficulty * numbers.between(0.3, 1.1)) * (scene.size / 64)
    steps = np.arange(scene.size, dtype=np.float32)
    kernel = np.exp(-((steps[:, None] - steps) ** 2) / (2 * width * width))
    kernel = (kernel / kernel.sum(2, keepdims=True))[:, None]
    sharp = light * (lamp * numbers.between(0.94, 1.0))[:, None] * (style.light * 246)[:, None, None]
    photograph = (kernel @ sharp @ kernel.transpose(0, 1, 3, 2)).transpose(0, 2, 3, 1)
    if noise.shape[3] == 1:
        photograph = photograph @ np.array([[0.299], [0.587], [0.114]], np.float32)
    return np.asarray(np.clip(photograph + noise * (2.5 + 17 * difficulty * difficulty) + 0.5, 0, 255).astype(np.uint8))
