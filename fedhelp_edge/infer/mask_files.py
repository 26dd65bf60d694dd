"""The files of an outline: a mask, the uncertain pixels, and a picture that shows both on the image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedhelp_edge import files
from fedhelp_edge.data import masks, nifti, resample
from fedhelp_edge.data.grid import Grid, as_viewed
from fedhelp_edge.infer import answer_formats, mask_formats
from fedhelp_edge.infer.drawing import Drawn, Outline

SIDE = 512  # pixels of the longer side of an overlay
_UNCERTAIN = np.array([240, 228, 66], np.uint8)
_LINE = 400  # pixels of a picture's longer side for each pixel of a line's width
_TINT = 64  # of 255: how much the area inside an outline is covered


def write(folder: Path, name: str, drawn: Drawn, grid: Grid | None, picture: NDArray[np.uint8]) -> dict[str, str]:
    """Write the files of an image by its name; return their names below `folder`, by what they are.

    `picture` is what `overlay` shows. Masks of a volume lie where its voxels do; those of a picture are PNG.
    """
    encoded = {"overlay": (".png", _png(overlay(picture, drawn))), **encode(drawn, grid)}
    names = {}
    for what, (suffix, data) in encoded.items():
        path = _path(f"{name}_{what}{suffix}")
        files.make_folder((folder / path).parent)
        files.write_atomic(folder / path, data, private=False)
        names[what] = path.as_posix()
    return names


def encode(drawn: Drawn, grid: Grid | None) -> dict[str, tuple[str, bytes]]:
    """Suffix and content of the files that hold the mask and the uncertain pixels."""
    return {
        what: (".nii.gz", nifti.encode(values, grid)) if grid else (".png", masks.encode(values))
        for what, values in (("mask", drawn.mask), ("uncertain_mask", drawn.uncertain.astype(np.uint8)))
    }


def page_picture(picture: NDArray[np.uint8], answer: Outline) -> dict[str, Any]:
    """The picture of an outline for a page; of an image that is unlike the training images the image alone."""
    drawn = answer.drawn
    if answer.verdict == "unlike":
        drawn = replace(drawn, mask=np.zeros_like(drawn.mask), uncertain=np.zeros_like(drawn.uncertain))
    shown = overlay(picture, drawn)
    width = round(min(answer_formats.SIDE * shown.shape[1] / shown.shape[0], 2 * answer_formats.SIDE))
    return answer_formats.page_picture(shown, width, "the image with what the model outlines")


def overlay(picture: NDArray[np.uint8], drawn: Drawn) -> NDArray[np.uint8]:
    """The image in its proportions (rows x columns x 3) with outlines in colours; uncertain pixels are dotted yellow.

    Of a volume (slices x rows x columns x channels), the slice that shows most.
    """
    mask, uncertain = drawn.mask, drawn.uncertain
    if mask.ndim == 3:
        shown = fullest(drawn)
        picture, mask, uncertain = as_viewed(picture[shown]), as_viewed(mask[shown]), as_viewed(uncertain[shown])
    return draw_over(picture, mask, uncertain)


def draw_over(picture: NDArray[np.uint8], mask: NDArray[np.uint8], uncertain: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A picture (rows x columns x channels) in the proportions of a mask, with its outlines."""
    scale = SIDE / max(mask.shape)
    size = tuple(max(1, round(side * scale)) for side in mask.shape)
    grey = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).convert("RGB")
    lines = Image.fromarray(outlines(mask, uncertain, size))
    grey = grey.resize(lines.size, Image.Resampling.BILINEAR)
    grey.paste(lines, mask=lines.getchannel("A"))
    return np.asarray(grey)


def fullest(drawn: Drawn) -> int:
    """The slice of a volume that shows most."""
    return int(np.count_nonzero((drawn.mask > 0) | drawn.uncertain, axis=(1, 2)).argmax())


def colour_of(label: int) -> tuple[int, ...]:
    """The colour (red, green, blue) of a class, from 1, on every picture; of uncertain pixels for 0."""
    return tuple(map(int, masks.COLOURS[(label - 1) % len(masks.COLOURS)] if label else _UNCERTAIN))


def outlines(mask: NDArray[np.uint8], uncertain: NDArray[np.bool_], size: Sequence[int]) -> NDArray[np.uint8]:
    """Outlines alone at this size (rows x columns x 4): colours, and how much they cover of what lies below."""
    rows, columns = size
    down, across = (resample.nearest(old, new) for old, new in zip(mask.shape, size, strict=True))
    mask, uncertain = mask[down[:, None], across], uncertain[down[:, None], across]
    canvas = np.zeros((rows, columns, 4), np.uint8)
    inside = mask > 0
    canvas[inside, :3] = masks.COLOURS[(mask[inside].astype(np.int64) - 1) % len(masks.COLOURS)]
    canvas[inside, 3] = _TINT
    canvas[_edges(mask, max(1, max(size) // _LINE)), 3] = 255
    dots = (np.add.outer(np.arange(rows), np.arange(columns)) % 4 < 2) & uncertain
    canvas[dots] = (*_UNCERTAIN, 255)
    return canvas


def _edges(mask: NDArray[np.uint8], near: int) -> NDArray[np.bool_]:
    """Pixels of a class that lie near pixels of another one, at most so many pixels away."""
    padded, inner = np.pad(mask, near, mode="edge"), slice(near, -near)
    others = (
        padded[: -2 * near, inner],
        padded[2 * near :, inner],
        padded[inner, : -2 * near],
        padded[inner, 2 * near :],
    )
    return np.asarray((mask > 0) & np.any([mask != other for other in others], axis=0))


def _path(name: str) -> PurePosixPath:
    """Where a file of this name goes: below the folder of masks, whatever the name is."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return PurePosixPath(mask_formats.FOLDER, *(part.replace(":", "_") for part in parts))


def _png(picture: NDArray[np.uint8]) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, "PNG")
    return sink.getvalue()
