"""Writes the image side of a CLIP model as an encoder's file, with text features of classes in its metadata.

A big machine does this once. Sites run the file with onnxruntime, and need neither open_clip nor its weights.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from fedhelp_edge import files
from fedhelp_edge.encoder import Encoder, onnx_file
from fedhelp_edge.errors import DisagreesError
from fedhelp_edge.infer.bundle import TOLERANCE, max_difference
from fedhelp_edge.infer.engine import Session
from fedhelp_edge.knowledge.prompts import Prompts
from fedhelp_edge.knowledge.sources.clip import ClipModel

_OPSET = 18  # as a bundle's


class ImageSide(nn.Module):
    """From pixels to a CLIP model's features: what its own transform does to an image of its size, and its tower."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net
        side = net.visual.image_size
        self.side = side if isinstance(side, int) else int(side[0])
        for name in ("mean", "std"):
            numbers = torch.tensor(getattr(net.visual, f"image_{name}")).view(-1, 1, 1)
            self.register_buffer(name, 255 * numbers)

    def forward(self, pixels: Tensor) -> Tensor:
        normalised = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std  # type: ignore[operator]
        features: Tensor = self.net.encode_image(normalised)
        return features


def write(model: ClipModel, classes: Sequence[str], chosen: Prompts, out: Path) -> Encoder:
    """Writes the encoder of a CLIP model and checks it against the model; returns it."""
    image_side = ImageSide(model.net).eval()
    proto = _export(image_side)
    text = {
        "classes": list(classes),
        "features": model.class_vectors(classes, chosen).tolist(),
        "logit_scale": model.scale,
    }
    proto.metadata_props.add(key=onnx_file.TEXT, value=json.dumps(text))
    data = proto.SerializeToString(deterministic=True)
    encoder = onnx_file.parse(data, out.name)
    _check(encoder, image_side)
    with files.writing(out, private=False) as file:
        file.write(data)
    return encoder


def _export(image_side: ImageSide) -> onnx.ModelProto:
    """As ONNX, for any number of images."""
    sink = io.BytesIO()
    example = torch.zeros(2, image_side.side, image_side.side, 3, dtype=torch.uint8)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # ONNX has no operator for it
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter that needs no further package is the older one
            torch.onnx.export(
                image_side, (example,), sink, dynamo=False,  # type: ignore[arg-type]
                opset_version=_OPSET, input_names=["image"], output_names=["features"],
                dynamic_axes={"image": {0: "batch"}, "features": {0: "batch"}},
            )  # fmt: skip
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return onnx.load_model_from_string(sink.getvalue())


@torch.no_grad()
def _check(encoder: Encoder, image_side: ImageSide) -> None:
    """Compares the file with the model on noise, for several numbers of images."""
    session = Session(encoder.model, threads=1)
    for count in (1, 2, 5):
        shape = count, image_side.side, image_side.side, 3
        images = np.random.Generator(np.random.Philox(key=count)).integers(0, 256, shape, np.uint8)
        (actual,) = session.run(encoder.input, images, [encoder.output])
        difference = max_difference(actual, image_side(torch.from_numpy(images)).numpy())
        if not difference <= TOLERANCE["fp32"]:
            raise DisagreesError(f"ONNX and PyTorch differ by {difference:.1e} in the features of {count} images")
