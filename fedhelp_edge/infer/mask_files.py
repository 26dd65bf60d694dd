"""The files of an outline: a mask, the uncertain pixels, and a picture that shows both on the image."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedhelp_edge import files
from fedhelp_edge.data import masks, nifti, resample
from fedhelp_edge.data.grid import Grid
from fedhelp_edge.infer import answer_formats
from fedhelp_edge.infer.drawing import Drawn, Outline

FOLDER = "masks"
SIDE = 512  # pixels of the longer side of an overlay
_UNCERTAIN = np.array([240, 228, 66], np.uint8)
_TINT = 0.25  # of the area inside an outline


def write(folder: Path, name: str, drawn: Drawn, grid: Grid | None, picture: NDArray[np.uint8]) -> dict[str, str]:
    """Write the files of an image by its name; return their names below `folder`, by what they are.

    `picture` is what `overlay` shows. Masks of a volume lie where its voxels do; those of a picture are PNG.
    """
    encoded = {"overlay": (".png", _png(overlay(picture, drawn)))}
    for what, values in (("mask", drawn.mask), ("uncertain_mask", drawn.uncertain.astype(np.uint8))):
        encoded[what] = (".nii.gz", nifti.encode(values, grid)) if grid else (".png", masks.encode(values))
    names = {}
    for what, (suffix, data) in encoded.items():
        path = _path(f"{name}_{what}{suffix}")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(folder / path, data, private=False)
        names[what] = path.as_posix()
    return names


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
        shown = np.count_nonzero((mask > 0) | uncertain, axis=(1, 2)).argmax()
        picture, mask, uncertain = picture[shown], mask[shown], uncertain[shown]
        picture, mask, uncertain = picture[::-1], mask[::-1], uncertain[::-1]  # the front is up
    scale = SIDE / max(mask.shape)
    rows, columns = size = [max(1, round(side * scale)) for side in mask.shape]
    grey = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).convert("RGB")
    canvas = np.array(grey.resize((columns, rows), Image.Resampling.BILINEAR))
    down, across = (resample.nearest(old, new) for old, new in zip(mask.shape, size, strict=True))
    mask, uncertain = mask[down[:, None], across], uncertain[down[:, None], across]
    colours = masks.COLOURS[(mask.astype(np.int64) - 1) % len(masks.COLOURS)]
    inside = mask > 0
    canvas[inside] = ((1 - _TINT) * canvas[inside] + _TINT * colours[inside]).astype(np.uint8)
    edge = _edges(mask)
    canvas[edge] = colours[edge]
    dots = (np.add.outer(np.arange(rows), np.arange(columns)) % 4 < 2) & uncertain
    canvas[dots] = _UNCERTAIN
    return canvas


def _edges(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels of a class beside pixels of another one."""
    padded = np.pad(mask, 1, mode="edge")
    others = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return np.asarray((mask > 0) & np.any([mask != other for other in others], axis=0))


def _path(name: str) -> PurePosixPath:
    """Where a file of this name goes: below the folder of masks, whatever the name is."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return PurePosixPath(FOLDER, *(part.replace(":", "_") for part in parts))


def _png(picture: NDArray[np.uint8]) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, "PNG")
    return sink.getvalue()
