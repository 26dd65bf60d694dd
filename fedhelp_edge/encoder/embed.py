"""The features of images, which learners see in the place of pixels. Each image's are computed once (`data.features`).

Public images of a knowledge pack have one view, for which their sources answered.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data import features, views
from fedhelp_edge.data.features import Features, Progress
from fedhelp_edge.data.images import Images, Pixels
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.encoder import onnx_file
from fedhelp_edge.encoder.onnx_file import Encoder
from fedhelp_edge.errors import EncoderError, UsageError
from fedhelp_edge.plan import Plan

_FOLDER = "features"


def beside(plan_file: Path, plan: Plan) -> Path | None:
    """Where the encoder of a plan's file lies unless a person names it: in the same folder. None if it has none."""
    return plan_file.with_name(plan.nets.encoder) if plan.nets.encoder else None


def find(plan: Plan, path: Path | None) -> Encoder | None:
    """Opens the plan's encoder; None if it has none."""
    if not plan.nets.encoder:
        if path:
            raise UsageError("this plan has no encoder", remedy="leave --encoder away, or name the encoder in the plan")
        return None
    if path is None or not path.exists():
        raise EncoderError(f"the plan's encoder {plan.nets.encoder} is not here")
    return onnx_file.check_plan(onnx_file.read(path), plan)


def embed_images(
    images: Images, plan: Plan, encoder: Encoder | None, cache_dir: Path, *, workers: int | None = None,
    progress: Progress | None = None,
) -> Images:  # fmt: skip
    """What the plan's learners see of images: `pixels` are their features, `decoded` the pixels.

    Images stay as they are where the plan has no encoder.
    """
    if (encoder := _required(plan, encoder)) is None:
        return images
    hashes = images.hashes or tuple(features.hash_image(images.pixels[i]) for i in range(len(images)))
    rows = _cached(cache_dir, encoder, plan, plan.nets.encoder_views, hashes, images.pixels, workers, progress)
    return replace(images, pixels=rows, decoded=images.pixels, hashes=hashes)


def embed_pack(
    pack: Pack, plan: Plan, encoder: Encoder | None, cache_dir: Path, *, workers: int | None = None,
    progress: Progress | None = None,
) -> Pack:  # fmt: skip
    """What the plan's learners see of a pack: `pixels` are features of its images, or these at the plan's public size.

    For the encoder each image is resized to the plan's image size when its turn comes.
    """
    if (encoder := _required(plan, encoder)) is None:
        resized = pack.for_plan(plan)
        if not plan.weighs_pixels or pack.masks is None:
            return resized
        from fedhelp_edge.data import border  # which imports scipy

        return border.attach(resized, plan, cache_dir)
    hashes = [features.hash_image(image) for image in pack.pixels]
    rows = _cached(cache_dir, encoder, plan, 1, hashes, _Resized(pack, plan.image.size), workers, progress)
    return replace(pack, pixels=np.asarray(rows))


def _required(plan: Plan, encoder: Encoder | None) -> Encoder | None:
    if plan.nets.encoder and encoder is None:
        raise EncoderError(f"the plan's nets work on features of {plan.nets.encoder}, which is not given")
    return encoder if plan.nets.encoder else None


class _Resized:
    """Public images at the encoder's side, each resized when its turn comes."""

    def __init__(self, pack: Pack, side: int) -> None:
        self._pack, self._side = pack, side

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        one = replace(self._pack, pixels=self._pack.pixels[index : index + 1])
        return np.asarray(one.resized(self._side, 3).pixels[0])


def _cached(
    cache_dir: Path, encoder: Encoder, plan: Plan, count: int, hashes: Sequence[str], images: Any,
    workers: int | None, progress: Progress | None,
) -> Pixels:  # fmt: skip
    """Features of `count` views, from the cache or computed."""
    name = f"{encoder.sha256[:32]}-{plan.image.size}-{count}-{views.VERSION}"

    def compute(missing: Sequence[int]) -> Generator[Features]:
        if (width := encoder.measured_width(plan.image.size)) != plan.nets.encoder_width:
            raise onnx_file.width_error(plan, width)
        yield from encoder.all_features((views.views(images[i], count) for i in missing), workers)

    return features.cached(cache_dir / _FOLDER / name, hashes, (count, plan.nets.encoder_width), compute, progress)
