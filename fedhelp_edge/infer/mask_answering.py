"""Answer images by a model for masks: one at a time, so that memory holds one volume."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedhelp_edge.data import resample
from fedhelp_edge.data.source_row import Decoded
from fedhelp_edge.errors import BadBundleError, FedhelpError, ImageSizeError
from fedhelp_edge.infer import answer_formats, drawing, mask_files, trained_kinds
from fedhelp_edge.infer.bundle import MaskBundle
from fedhelp_edge.infer.drawing import Outline
from fedhelp_edge.infer.inputs import InputItem

# writes further files for each image, also for one that cannot be used; returns their names
WriteOutline = Callable[[InputItem, Mapping[str, Any], Outline | None], list[str]]

_NO_FILES = dict.fromkeys(("mask", "uncertain_mask", "overlay"))


def answer_items(
    bundle: MaskBundle, items: Iterable[InputItem], folder: Path | None = None, *, pictures: bool = False,
    results: WriteOutline | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Yield a row for each item, in order; an unusable file gives a row with its error.

    With a folder, the files of each outline are written there first. With `pictures` a row has a picture for a page;
    with `results` the names of the DICOM files that were written.
    """
    image = bundle.facts.image
    for item in items:
        row: dict[str, Any] = {"file": item.name, "stamp": item.stamp}
        try:
            decoded = item.decode(image)
            doubt = trained_kinds.doubt(bundle, decoded)
            shown = (
                decoded.pixels
                if image.is_volume
                else item.decode(answer_formats.display_size(image, mask_files.SIDE)).pixels
            )
            size = None if image.is_volume else (decoded.height, decoded.width)
            answer = drawing.outline(bundle, decoded.pixels, size)
        except BadBundleError:
            raise
        except (FedhelpError, MemoryError) as error:
            row |= answer_formats.identity_keys(item.identify()) | _unusable(error)
            yield row | ({"dicom": results(item, row, None)} if results else {})
            continue
        names: dict[str, Any] = dict(_NO_FILES)
        if folder and answer.verdict != "unlike":
            names |= mask_files.write(folder, item.name, answer.drawn, decoded.grid, shown)
        row |= answer_formats.identity_keys(decoded.identity) | numbers(bundle, decoded, answer) | names
        row |= {"doubt": doubt, "error": None}
        if results:
            row["dicom"] = results(item, row, answer)
        if pictures:
            row["picture"] = mask_files.page_picture(shown, answer)
        yield row


def numbers(bundle: MaskBundle, decoded: Decoded, answer: Outline) -> dict[str, Any]:
    """What a row says of an outline. Of an unlike image nothing: it would mean nothing."""
    grid, names = decoded.grid, bundle.facts.classes
    mask, uncertain = (
        resample.to_sides_nearest(part, grid.sides) if grid else part
        for part in (answer.drawn.mask, answer.drawn.uncertain)
    )
    pixels, doubtful = (
        [np.count_nonzero(part == label) for label in range(1, len(names) + 1)] for part in (mask, mask[uncertain])
    )
    spacing, measure = (grid.spacing, "volume_mm3") if grid else (decoded.spacing, "area_mm2")
    classes = [
        {
            "name": name, "pixels": int(count), "uncertain_pixels": int(unsure),
            measure: round(int(count) * math.prod(spacing), 2) if spacing else None,
        }
        for name, count, unsure in zip(names, pixels, doubtful, strict=True)
    ]  # fmt: skip
    is_unlike = answer.verdict == "unlike"
    return {
        "verdict": answer.verdict, "reason": answer.reason,
        "distance": round(answer.distance, 4) if math.isfinite(answer.distance) else None,
        "classes": [] if is_unlike else classes,
        "uncertain": None if is_unlike else round(answer.drawn.uncertainty, 4),
    }  # fmt: skip


def _unusable(error: FedhelpError | MemoryError) -> dict[str, Any]:
    """The row of a file that cannot be used."""
    if isinstance(error, MemoryError):
        error = ImageSizeError("there is not enough memory to open it")
    nothing: dict[str, Any] = {
        "verdict": None,
        "reason": error.cause,
        "distance": None,
        "classes": [],
        "uncertain": None,
    }
    return (
        nothing | _NO_FILES | {"doubt": "", "error": {"code": error.code, "cause": error.cause, "remedy": error.remedy}}
    )
