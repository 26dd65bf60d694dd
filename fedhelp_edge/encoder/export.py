"""Write an encoder's features of a folder, table or NPZ of images into one NPZ, for programs of scientists."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedhelp_edge import files
from fedhelp_edge.data.features import Progress
from fedhelp_edge.data.loading import load_unsplit, no_images_error
from fedhelp_edge.encoder import embed
from fedhelp_edge.encoder.onnx_file import Encoder
from fedhelp_edge.errors import TargetExistsError
from fedhelp_edge.plan import ImageSettings, NetSettings, Plan


@dataclass(frozen=True)
class Written:
    """What the NPZ holds."""

    images: int
    width: int
    left_out: int  # files that could not be used, or are copies


def write(
    encoder: Encoder, source: Path, out: Path, views: int, size: int, *, workers: int | None = None,
    progress: Progress | None = None,
) -> Written:  # fmt: skip
    """Write `features`, `labels`, `class_names` and `names`. What was computed lies beside `out` until all is there."""
    if out.exists():
        raise TargetExistsError(f"{out.name} is there already")
    side, width = encoder.side or size, encoder.measured_width(size)
    nets = NetSettings(encoder="encoder.onnx", encoder_sha256=encoder.sha256, encoder_width=width, encoder_views=views)
    plan, cache_dir = Plan(image=ImageSettings(size=side), nets=nets), out.with_name(f"{out.name}.partial")
    unsplit = load_unsplit(source, None, cache_dir=cache_dir, mapping={}, workers=workers, image=plan.image)
    if not len(unsplit.images):
        shutil.rmtree(cache_dir, ignore_errors=True)
        raise no_images_error(source, unsplit.images.problems)
    images = embed.embed_images(unsplit.images, plan, encoder, cache_dir, workers=workers, progress=progress)
    rows = images.pixels[:]
    with files.writing(out, private=True) as file:
        np.savez(
            file, features=rows[:, 0] if views == 1 else rows, labels=images.labels,
            class_names=np.array(unsplit.classes), names=np.array(images.names),
        )  # fmt: skip
    shutil.rmtree(cache_dir, ignore_errors=True)
    return Written(len(images), width, len(images.problems))
