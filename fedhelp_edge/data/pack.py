"""The knowledge pack: public images and the predictions of foundation models for them, in one safetensors file.

The images are one tensor `images` (uint8). Or `webp` holds all files in one byte tensor, `ends` says where each ends,
and the metadata have the shape. Further tensors are `labels` and, if any source was asked, `probabilities` (sources x
images x classes, float16). Names, origin and licence are in the metadata. A site resizes the images to the plan's
channels and side.

For segmentation `masks` (images x side x side, uint8) stand in place of labels. Then `probabilities` are maps, of 8-bit
numbers: sources x images x (background and classes) x side x side.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files, update
from fedhelp_edge.data import webp
from fedhelp_edge.data.images import ImageSet
from fedhelp_edge.data.picture import resize
from fedhelp_edge.data.resample import nearest, resize_maps
from fedhelp_edge.errors import BadPackError, ImageBrokenError, UpdateError
from fedhelp_edge.plan import Plan

MAP_SCALE = 255  # of the 8-bit probabilities of pixels
_PROVENANCE = ("origin", "licence")
_FACTS = {"sha256", "asked", "protocol", "model", "prompts"}  # of a source
METADATA_KEYS = ("classes", "sources", "asked", "shape", *_PROVENANCE)


@dataclass(frozen=True)
class Pack(ImageSet):
    """A knowledge pack in memory."""

    pixels: NDArray[Any]  # P x side x side x channels, uint8; or an encoder's features, P x views x width, float16
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    sources: tuple[str, ...]
    # sources x P x classes; of masks 8-bit numbers, sources x P x (classes and background) x side x side
    probabilities: NDArray[Any]
    provenance: Mapping[str, str] = field(default_factory=dict)  # origin, licence
    asked: tuple[Mapping[str, str], ...] = ()  # of each source: what is known of how it was asked; () of old packs

    masks: Any = None  # P x side x side, and what else `ImageSet` has of them
    borders: Any = None
    mask_pixels: Any = None

    @property
    def outputs(self) -> int:
        """The numbers that a source gives for an image, or for each pixel: its classes, and the background first."""
        return len(self.classes) + (self.masks is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """For messages: public images have no names."""
        return tuple(f"public image {index}" for index in range(len(self)))

    def whole(self) -> Pack:
        """Itself: of a pack that is not in memory only the facts may be known."""
        return self

    def subset(self, size: int, seed: int = 0) -> Pack:
        """A stratified random subset of `size` images; a smaller subset lies within a larger one of the same seed."""
        if size >= len(self):
            return self
        return self.only(subset_rows(self.labels, size, seed))

    def only(self, rows: NDArray[np.int64]) -> Pack:
        """The images in these rows."""
        masks, mask_pixels = (None if array is None else array[rows] for array in (self.masks, self.mask_pixels))
        return replace(
            self, pixels=self.pixels[rows], labels=self.labels[rows], probabilities=self.probabilities[:, rows],
            masks=masks, mask_pixels=mask_pixels,
        )  # fmt: skip

    def for_plan(self, plan: Plan) -> Pack:
        """Resize the images as a plan says. An encoder's features stay as they are."""
        if self.pixels.dtype == np.float16:
            return self
        return self.resized(plan.public.size, plan.image.channels)

    def resized(self, side: int, channels: int) -> Pack:
        """Resize the images to a side and channels."""
        pixels = self.pixels
        if pixels.shape[3] != channels:
            grey = np.rint(pixels.mean(3, keepdims=True)).astype(np.uint8)
            pixels = np.repeat(grey, channels, 3) if channels > 1 else grey
        if pixels.shape[1] != side or pixels.shape[2] != side:
            pixels = np.stack([resize(image, side) for image in pixels])
        if self.masks is None or self.masks.shape[1:] == (side, side):
            return replace(self, pixels=pixels)
        across = nearest(self.masks.shape[2], side)
        masks = np.stack([mask[nearest(len(mask), side)[:, None], across] for mask in self.masks])
        maps = np.empty((*self.probabilities.shape[:3], side, side), np.uint8)
        for index in np.ndindex(maps.shape[:2]):
            maps[index] = np.rint(resize_maps(self.probabilities[index], (side, side)))
        return of_masks(pixels, masks, self.classes, self.sources, maps, self.provenance, self.asked)


def subset_rows(labels: NDArray[np.int64], size: int, seed: int = 0) -> NDArray[np.int64]:
    """The indices of a stratified random subset, in order; of all images where `size` is not smaller."""
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(labels))
    rank = np.empty(len(labels))  # an image's rank within its class, from 0 to 1
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        rank[of_class] = (np.arange(len(of_class)) + 0.5) / len(of_class)
    return np.sort(np.argsort(rank, kind="stable")[:size])


def without_predictions(pixels: NDArray[np.uint8], labels: NDArray[np.int64], classes: Sequence[str]) -> Pack:
    """A pack of public images and labels, without predictions."""
    return Pack(pixels, labels, tuple(classes), (), _no_predictions(len(pixels), len(classes)))


def of_masks(
    pixels: NDArray[np.uint8], masks: NDArray[np.uint8], classes: Sequence[str], sources: Sequence[str] = (),
    probabilities: NDArray[np.uint8] | None = None, provenance: Mapping[str, str] = {},
    asked: tuple[Mapping[str, str], ...] = (),
) -> Pack:  # fmt: skip
    """A pack of public images and masks. The label of an image has bit k-1 where its mask shows the class k."""
    outputs = len(classes) + 1
    mask_pixels = np.stack([np.bincount(mask.ravel(), minlength=outputs) for mask in masks])
    labels = (mask_pixels[:, 1:] > 0) @ (1 << np.arange(len(classes), dtype=np.int64))
    if probabilities is None:
        probabilities = np.zeros((0, len(pixels), outputs, *masks.shape[1:]), np.uint8)
    return Pack(
        pixels, labels, tuple(classes), tuple(sources), probabilities, provenance, asked, masks=masks,
        mask_pixels=mask_pixels,
    )  # fmt: skip


def save(path: Path, pack: Pack, quality: int | None = None) -> None:
    """Write a pack; images as raw pixels, or as WebP with a quality from 1 to `webp.LOSSLESS`."""
    notes = {"classes": json.dumps(pack.classes), "sources": json.dumps(pack.sources), **pack.provenance}
    if pack.asked:
        notes["asked"] = json.dumps([dict(facts) for facts in pack.asked])
    arrays: dict[str, update.Array] = {"images": pack.pixels}
    if quality:
        arrays = dict(zip(("webp", "ends"), webp.encode(pack.pixels, quality), strict=True))
        notes["shape"] = json.dumps(pack.pixels.shape[1:])
    arrays |= {"labels": pack.labels} if pack.masks is None else {"masks": pack.masks}
    if pack.sources:  # our safetensors have no empty tensors
        arrays["probabilities"] = pack.probabilities
    with files.writing(path, private=False) as file:
        update.write(file, arrays, notes)


def load(source: Path | BinaryIO) -> Pack:
    """Read and validate a pack."""
    name = source.name if isinstance(source, Path) else "the pack"
    try:
        with files.reading(source) if isinstance(source, Path) else nullcontext(source) as file:
            header = update.read_header(file, metadata=METADATA_KEYS)
            arrays = dict(update.FileArrays(file, header))
        classes, sources = (tuple(map(str, json.loads(header.metadata[name]))) for name in ("classes", "sources"))
        asked = _read_facts(header.metadata.get("asked", "[]"))
        if "webp" in arrays:
            pixels = webp.decode(arrays.pop("webp"), arrays.pop("ends"), json.loads(header.metadata["shape"]))
        else:
            pixels = arrays.pop("images")
        masks = arrays.pop("masks", None)
        labels = arrays.pop("labels") if masks is None else np.zeros(0, np.int64)
        probabilities = arrays.pop("probabilities") if sources else None
    except (UpdateError, ImageBrokenError) as error:
        raise BadPackError(f"{name}: {error.cause}") from error
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise BadPackError(f"{name} does not hold images, labels and probabilities") from error
    provenance = {name: text for name, text in header.metadata.items() if name in _PROVENANCE}
    if masks is not None:
        if not _maps_fit(pixels, masks, classes, sources, probabilities, asked) or arrays:
            raise BadPackError(f"{name}: images, masks and probabilities do not fit together")
        return of_masks(pixels, masks, classes, sources, probabilities, provenance, asked)
    if probabilities is None:
        probabilities = _no_predictions(len(pixels), len(classes))
    fits = (
        pixels.dtype == np.uint8 and pixels.ndim == 4 and pixels.shape[3] in (1, 3) and labels.dtype == np.int64
        and probabilities.dtype == np.float16 and probabilities.shape == (len(sources), len(pixels), len(classes))
        and labels.shape == (len(pixels),) and not arrays and len(pixels) > 0 and len(asked) in (0, len(sources))
        and 0 <= labels.min() <= labels.max() < len(classes)
    )  # fmt: skip
    if not fits:
        raise BadPackError(f"{name}: images, labels and probabilities do not fit together")
    if (
        not np.isfinite(probabilities).all()
        or probabilities.min(initial=0) < 0
        or np.abs(probabilities.sum(2, dtype=np.float32) - 1).max(initial=0) > 0.02
    ):
        raise BadPackError(f"{name}: the predictions of its sources are not probabilities")
    return Pack(pixels, labels, classes, sources, probabilities, provenance, asked)


def _maps_fit(
    pixels: NDArray[Any], masks: NDArray[Any], classes: Sequence[str], sources: Sequence[str],
    maps: NDArray[Any] | None, asked: Sequence[Mapping[str, str]],
) -> bool:  # fmt: skip
    """Whether masks and maps of probabilities have the size of their images, and their values a meaning."""
    if not (pixels.dtype == masks.dtype == np.uint8 and pixels.ndim == 4 and len(pixels) and len(classes)):
        return False
    if pixels.shape[3] not in (1, 3) or masks.shape != pixels.shape[:3] or masks.max() > len(classes):
        return False
    if maps is None:
        return not asked
    outputs = len(classes) + 1
    if maps.dtype != np.uint8 or maps.shape != (len(sources), len(pixels), outputs, *masks.shape[1:]):
        return False
    sums = maps.sum(2, dtype=np.int64)  # each of the numbers was rounded
    return len(asked) in (0, len(sources)) and bool((np.abs(sums - MAP_SCALE) <= outputs).all())


def _read_facts(text: str) -> tuple[Mapping[str, str], ...]:
    """What a pack says of each source: texts by known names."""
    match json.loads(text):
        case [*sources] if all(isinstance(facts, dict) and facts.keys() <= _FACTS for facts in sources):
            if all(isinstance(fact, str) for facts in sources for fact in facts.values()):
                return tuple(sources)
    raise ValueError("facts of another form")


def _no_predictions(images: int, classes: int) -> NDArray[np.float16]:
    return np.zeros((0, images, classes), np.float16)
