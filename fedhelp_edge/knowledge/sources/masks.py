"""A net that gives probabilities of each pixel, from an ONNX file: `masks:FILE`. Needs no torch.

It takes N images (N x height x width x 1 or 3, uint8). It gives N x (1 + classes) x height x width numbers, the
background first. They are probabilities; an output of the name `logits` is put through a softmax. A bundle of this
kit is such a file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import files
from fedhelp_edge.data.picture import resize
from fedhelp_edge.data.resample import resize_maps
from fedhelp_edge.errors import BadBundleError, SourceAnswerError, UsageError
from fedhelp_edge.infer import structure
from fedhelp_edge.infer.bundle import MAX_SIZE
from fedhelp_edge.infer.structure import Tensor
from fedhelp_edge.knowledge.asking import Asking, Source
from fedhelp_edge.knowledge.source_spec import SourceSpec

_FLOAT, _UINT8 = 1, 2  # types in onnx.proto
_OUTPUTS = ("probabilities", "logits")


class MaskSource(Source):
    """A net for masks. It sees one image at a time."""

    def __init__(self, model: bytes, name: str, image: Tensor, output: Tensor) -> None:
        from fedhelp_edge.infer.engine import Session  # which imports onnxruntime

        self._name, self._image, self._output = name, image, output
        self._session = Session(model)

    def probabilities(self, images: NDArray[np.uint8], first: int) -> NDArray[np.float32]:
        return np.stack([self._maps(image) for image in images])

    def _maps(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        sides, channels = image.shape[:2], self._image.shape[3]
        if channels == 1 and image.shape[2] == 3:
            image = np.rint(image.mean(2, keepdims=True)).astype(np.uint8)
        elif channels == 3:
            image = np.broadcast_to(image, (*sides, 3))
        side = self._image.shape[1]
        if side and sides != (side, side):
            image = resize(image, side)
        try:
            (maps,) = self._session.run(self._image.name, image[None], [self._output.name])
        except BadBundleError as error:
            raise SourceAnswerError(f"{self._name}: {error.cause}") from error
        if maps.ndim != 4 or len(maps) != 1:
            raise SourceAnswerError(f"{self._name} gives {' x '.join(map(str, maps.shape))} numbers for one image")
        if self._output.name == "logits":
            powers = np.exp(maps - maps.max(1, keepdims=True))
            maps = powers / powers.sum(1, keepdims=True)
        return maps[0] if maps.shape[2:] == sides else resize_maps(maps[0], sides)


def open_source(spec: SourceSpec, classes: Sequence[str], asking: Asking) -> MaskSource:
    """The source of an ONNX file; raises unless it takes images and gives maps of the public classes."""
    path = Path(spec.argument)
    with files.reading(path) as file:
        if file.seek(0, os.SEEK_END) > MAX_SIZE:
            raise _unfit(f"{path.name} is larger than {MAX_SIZE >> 20} MiB")
        file.seek(0)
        model = file.read()
    try:
        graph = structure.check(model)
    except BadBundleError as error:
        raise _unfit(f"{path.name}: {error.cause}") from error
    image = graph.inputs[0] if len(graph.inputs) == 1 else None
    output = next((tensor for tensor in graph.outputs if tensor.name in _OUTPUTS), None)
    if image is None or image.type != _UINT8 or len(image.shape) != 4 or image.shape[3] not in (1, 3):
        raise _unfit(f"{path.name} should have one input, uint8, N x height x width x 1 or 3")
    if image.shape[1] != image.shape[2]:
        raise _unfit(f"{path.name} does not take square images")
    if output is None or output.type != _FLOAT or len(output.shape) != 4:
        raise _unfit(f"{path.name} should have an output 'probabilities' or 'logits', N x classes x height x width")
    if output.shape[1] not in (None, len(classes) + 1):
        raise _unfit(
            f"{path.name} gives {output.shape[1]} maps; the background and {len(classes)} classes are asked for"
        )
    return MaskSource(model, path.name, image, output)


def _unfit(cause: str) -> UsageError:
    return UsageError(cause, remedy="export a net as docs/knowledge.md says of masks:FILE")
