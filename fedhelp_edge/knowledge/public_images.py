"""The public images that foundation models are asked about: an NPZ as it is, or a folder or table at one size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data import budget
from fedhelp_edge.data.loading import load_unsplit, no_images_error
from fedhelp_edge.errors import BadPackError
from fedhelp_edge.knowledge.sources import answers

PublicImages = tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]


def read(path: Path, cache: Path) -> PublicImages:
    """Images, labels and class names. An NPZ keeps its images' order and size: saved answers depend on them."""
    if path.suffix.lower() == ".npz":
        return _read_npz(path)
    gathered = load_unsplit(path, None, cache_dir=cache, mapping={})
    if not len(gathered.images):
        raise no_images_error(path, gathered.images.problems)
    return np.asarray(gathered.images.pixels), gathered.images.labels, gathered.classes


def _read_npz(path: Path) -> PublicImages:
    archive = answers.read_arrays(path, "images", "labels", "train_images", "train_labels", "class_names")
    prefix = "" if "images" in archive else "train_"
    pixels, labels, names = (archive.get(name) for name in (f"{prefix}images", f"{prefix}labels", "class_names"))
    if pixels is None or labels is None:
        raise BadPackError(f"{path.name} is not an NPZ with 'images' and 'labels'")
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or not len(pixels):
        raise BadPackError(f"{path.name}: images should be 8-bit, grey or colour")
    if labels.dtype.kind not in "iu" or labels.shape not in ((len(pixels),), (len(pixels), 1)):
        raise BadPackError(f"{path.name}: labels should be one whole number for each image")
    labels = labels.astype(np.int64).ravel()
    if labels.max() >= budget.COLUMNS and names is None:
        raise BadPackError(f"{path.name}: there are more than {budget.COLUMNS} classes")
    classes = tuple(map(str, names)) if names is not None else tuple(f"class {n}" for n in range(int(labels.max()) + 1))
    if labels.min() < 0 or labels.max() >= len(classes):
        raise BadPackError(f"{path.name}: a label is outside its {len(classes)} classes")
    return np.ascontiguousarray(pixels), labels, classes
