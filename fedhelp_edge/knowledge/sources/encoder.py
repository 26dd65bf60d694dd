"""A frozen encoder, and what the public labels make of its features: `encoder:FILE`, `prototypes:FILE`.

Each image is answered by a linear probe, or by class prototypes, that has not seen its label (`cross_fitting`). Needs
no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data import features
from fedhelp_edge.data.features import Features
from fedhelp_edge.data.picture import resize
from fedhelp_edge.encoder import onnx_file
from fedhelp_edge.encoder.onnx_file import Encoder
from fedhelp_edge.knowledge import cross_fitting
from fedhelp_edge.knowledge.asking import Asking, Source
from fedhelp_edge.knowledge.source_spec import SourceSpec

SIDE = 224  # pixels, for an encoder that takes any


class EncoderSource(Source):
    """An encoder's answers, which exist once all images have their features."""

    def __init__(self, kind: str, encoder: Encoder, classes: int) -> None:
        self._kind, self._encoder, self._classes = kind, encoder, classes
        self._answers = np.zeros((0, classes), np.float32)

    def prepare(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64], cache: Path, progress: Callable[[int], None]
    ) -> None:
        side = self._encoder.side or SIDE
        hashes = [features.hash_image(image) for image in images]

        def compute(missing: Sequence[int]) -> Generator[Features]:
            views = ((_colour(resize(images[index], side)),) for index in missing)
            yield from self._encoder.all_features(views)

        width = len(self._encoder.features(np.zeros((side, side, 3), np.uint8)))
        folder = cache / "features" / f"{self._encoder.sha256[:32]}-{side}"
        rows = features.cached(
            folder, hashes, (1, width), compute, lambda done, count, rate: progress(len(images) - count + done)
        )
        given = np.asarray(rows)[:, 0]
        self._answers = cross_fitting.answer(self._kind, given, labels, self._classes, hashes)

    def probabilities(self, images: NDArray[np.uint8], first: int) -> NDArray[np.float32]:
        return self._answers[first : first + len(images)]


def open_source(spec: SourceSpec, classes: Sequence[str], asking: Asking) -> EncoderSource:
    """The source of an encoder's file."""
    fit = {"encoder": "probe", "prototypes": "prototypes"}[spec.kind]
    return EncoderSource(fit, onnx_file.read(Path(spec.argument)), len(classes))


def _colour(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A grey image in three channels."""
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))
