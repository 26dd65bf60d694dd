"""The part of a U-Net's weight map that a mask alone decides (FedHelp, Eq. 10), once a mask, by exact distances.

For each pixel exp(-(d1 + d2)^2 / 2 sigma^2): d1 and d2 are the distances to the outlines of the nearest two cells. A
cell is a connected part of one class, its outline its pixels beside other ones. The plan's beta_0 multiplies this, and
the weight of the pixel's class is added, where a batch is made.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data import features
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.errors import MissingPackageError
from fedhelp_edge.plan import Plan

try:
    from scipy import ndimage
except ImportError as error:
    raise MissingPackageError("masks need scipy", remedy="pip install 'fedhelp-edge[train]'") from error

S = TypeVar("S", Images, Pack)
VERSION = 1  # increase it when the same mask gives other numbers than before
_REACH = 6.0  # sigmas, beyond which half precision holds 0


def border(mask: NDArray[np.uint8], weights: str, sigma: float) -> NDArray[np.float16]:
    """How near each pixel is to two outlines ("cells") or to one ("outlines", where d2 is d1): from 0 to 1."""
    reach = math.ceil(_REACH * sigma)
    first, second = (np.full(mask.shape, np.inf) for _ in range(2))
    for label in np.unique(mask[mask > 0]):
        cells, _ = ndimage.label(mask == label)
        for number, box in enumerate(ndimage.find_objects(cells), 1):
            near = tuple(slice(max(0, side.start - reach), side.stop + reach) for side in box)
            cell = cells[near] == number
            outline = cell & ~ndimage.binary_erosion(cell, border_value=1)
            if not outline.any():  # the cell is the whole image
                continue
            distance = ndimage.distance_transform_edt(~outline)
            second[near] = np.minimum(second[near], np.maximum(first[near], distance))
            first[near] = np.minimum(first[near], distance)
    total = first + (second if weights == "cells" else first)
    nearness: NDArray[np.float16] = np.exp(-(total**2) / (2 * sigma**2)).astype(np.float16)
    return nearness


def attach(images: S, plan: Plan, state_dir: Path) -> S:
    """The images, a site's or a pack's, with the border of each mask, where the plan's loss weighs pixels.

    The folder caches them.
    """
    if not plan.weighs_pixels:
        return images
    settings, masks = plan.masks, cast(Any, images.masks)  # a plan's images have them
    sides = masks.shape[1:]
    shape = math.prod(sides[:-1]), sides[-1]

    def compute(missing: Sequence[int]) -> Generator[features.Features]:
        for i in missing:
            yield border(masks[i], settings.weights, settings.sigma).reshape(shape)

    folder = state_dir / "borders" / f"{settings.weights}-{settings.sigma:g}-{'x'.join(map(str, sides))}-{VERSION}"
    hashes = [features.hash_image(masks[i]) for i in range(len(masks))]
    return replace(images, borders=features.cached(folder, hashes, shape, compute))
