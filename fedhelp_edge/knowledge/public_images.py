"""The public images that foundation models are asked about: an NPZ as it is, or a folder or table at one size.

An NPZ for segmentation has `masks` in place of labels, each as large as its image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data import budget
from fedhelp_edge.data.loading import load_unsplit, no_images_error
from fedhelp_edge.data.pack import Pack, of_masks, without_predictions
from fedhelp_edge.errors import BadPackError
from fedhelp_edge.knowledge.sources import answers
from fedhelp_edge.plan.tables import MAX_MASK_CLASSES


def read(path: Path, cache: Path) -> Pack:
    """Images with labels or masks, as a pack without predictions. An NPZ keeps its images' order and size: saved
    answers depend on them."""
    if path.suffix.lower() == ".npz":
        return _read_npz(path)
    gathered = load_unsplit(path, None, cache_dir=cache, mapping={})
    if not len(gathered.images):
        raise no_images_error(path, gathered.images.problems)
    return without_predictions(np.asarray(gathered.images.pixels), gathered.images.labels, gathered.classes)


def _read_npz(path: Path) -> Pack:
    kinds = ("images", "labels", "masks")
    archive = answers.read_arrays(path, *kinds, *(f"train_{kind}" for kind in kinds), "class_names")
    prefix = "" if "images" in archive else "train_"
    pixels, labels, masks = (archive.get(f"{prefix}{kind}") for kind in kinds)
    names = archive.get("class_names")
    truth = masks if labels is None else labels
    if pixels is None or truth is None:
        raise BadPackError(f"{path.name} is not an NPZ with 'images' and 'labels' or 'masks'")
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or not len(pixels):
        raise BadPackError(f"{path.name}: images should be 8-bit, grey or colour")
    if labels is None:
        return _with_masks(pixels, truth, names, path.name)
    if labels.dtype.kind not in "iu" or labels.shape not in ((len(pixels),), (len(pixels), 1)):
        raise BadPackError(f"{path.name}: labels should be one whole number for each image")
    labels = labels.astype(np.int64).ravel()
    if labels.max() >= budget.COLUMNS and names is None:
        raise BadPackError(f"{path.name}: there are more than {budget.COLUMNS} classes")
    classes = tuple(map(str, names)) if names is not None else tuple(f"class {n}" for n in range(int(labels.max()) + 1))
    if labels.min() < 0 or labels.max() >= len(classes):
        raise BadPackError(f"{path.name}: a label is outside its {len(classes)} classes")
    return without_predictions(np.ascontiguousarray(pixels), labels, classes)


def _with_masks(pixels: NDArray[np.uint8], masks: NDArray[Any], names: NDArray[Any] | None, file: str) -> Pack:
    """Without names each value of the masks above 0 is a class."""
    if masks.shape != pixels.shape[:3] or masks.dtype.kind not in "iu" or pixels.shape[1] != pixels.shape[2]:
        raise BadPackError(f"{file}: masks should be whole numbers, one for each pixel of square images")
    classes = tuple(map(str, range(1, int(masks.max()) + 1))) if names is None else tuple(map(str, names))
    if not 1 <= len(classes) <= MAX_MASK_CLASSES or masks.min() < 0 or masks.max() > len(classes):
        raise BadPackError(f"{file}: the values of masks should be 0, the background, to the number of classes")
    return of_masks(np.ascontiguousarray(pixels), masks.astype(np.uint8), classes)
