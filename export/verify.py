"""Checks that the graph's outputs are the nets'. Part of every export, never optional."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from export import graph
from fedhelp_edge import plan
from fedhelp_edge.encoder import Encoder
from fedhelp_edge.errors import DisagreesError
from fedhelp_edge.infer.bundle import TOLERANCE, max_difference
from fedhelp_edge.infer.engine import Engine, MaskEngine, MaskOutputs, Outputs, Session
from fedhelp_edge.nets.net import Net


@torch.no_grad()
def on_features(
    nets: Sequence[Net], prior: Sequence[float] | None, temperature: float, encoder: Encoder, images: NDArray[np.uint8]
) -> Outputs:
    """The outputs for images of the encoder's side: by its file as it came, and torch for the nets on its features."""
    (embedding,) = Session(encoder.model).run(encoder.input, images, [encoder.output])
    features = torch.from_numpy(embedding)
    logits = torch.stack([net.eval()(features) for net in nets]).mean(0) + torch.tensor(prior if prior else 1.0).log()
    return Outputs(logits.numpy(), (logits / temperature).softmax(1).numpy(), embedding)


@torch.no_grad()
def reference(
    nets: Sequence[Net],
    image: plan.ImageSettings,
    prior: Sequence[float] | None,
    temperature: float,
    images: NDArray[np.uint8],
) -> Outputs:
    """The outputs that the graph should have for images of any one size, computed by torch."""
    raw = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    small = F.interpolate(raw, (image.size, image.size), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(part).view(-1, 1, 1) * 255 for part in (image.mean, image.std))
    normalised = (small - mean) / std
    logits = torch.stack([net.eval()(normalised) for net in nets]).mean(0) + torch.tensor(prior if prior else 1.0).log()
    maps = [net.feature_maps(normalised) for net in nets]
    side = max(each.shape[-1] for each in maps)
    cams = [
        torch.einsum("nchw,kc,yh,xw->nkyx", each, net.head.weight, grid, grid)
        for net, each in zip(nets, maps, strict=True)
        for grid in [torch.from_numpy(graph.resampling(each.shape[-1], side)).float()]
    ]
    embedding = torch.cat([each.mean((2, 3)) for each in maps], 1)
    parts = logits, (logits / temperature).softmax(1), embedding, torch.stack(cams).mean(0)
    return Outputs(*(part.numpy() for part in parts))


def parity(
    model: bytes, nets: Sequence[Net], image: plan.ImageSettings, prior: Sequence[float] | None,
    encoder: Encoder | None = None,
) -> float:  # fmt: skip
    """The largest difference between graph and nets, over several batches and sizes. An encoder's images have one size.

    Raises DisagreesError above the tolerance.
    """
    engine, worst, side = Engine(model, at_once=2 if encoder else 64), 0.0, image.size
    for shape in ((1, side, side), (2, 2 * side + 5, 3 * side), (5, side // 2 + 1, 41)):
        if encoder:
            images = noise_images(shape[0], side, side, image.channels)
            expected = on_features(nets, prior, 1.0, encoder, images).named()
        else:
            images = noise_images(*shape, image.channels)
            expected = reference(nets, image, prior, 1.0, images).named()
        actual = engine(images).named()
        for name in expected:
            worst = max(worst, max_difference(actual[name], expected[name]))
            if not worst <= TOLERANCE["fp32"]:
                size = " x ".join(map(str, images.shape[:3]))
                raise DisagreesError(f"ONNX and PyTorch differ by {worst:.1e} in the {name} of {size} images")
    return worst


@torch.no_grad()
def mask_reference(
    nets: Sequence[Net], image: plan.ImageSettings, temperature: float, images: NDArray[np.uint8]
) -> MaskOutputs:
    """The outputs that the graph of nets for masks should have, computed by torch."""
    raw = torch.from_numpy(images).movedim(-1, 1).float()
    if not image.is_volume:
        raw = F.interpolate(raw, (image.size, image.size), mode="bilinear", antialias=True)
    sides = [1] * len(image.block)
    mean, std = (torch.tensor(part).view(-1, *sides) * 255 for part in (image.mean, image.std))
    normalised = (raw - mean) / std
    logits = torch.stack([net.eval()(normalised) for net in nets]).mean(0)
    embedding = torch.cat([net.contracting_maps(normalised)[-1].flatten(2).mean(2) for net in nets], 1)
    return MaskOutputs((logits / temperature).softmax(1).numpy(), embedding.numpy())


def mask_parity(model: bytes, nets: Sequence[Net], image: plan.ImageSettings) -> float:
    """As `parity`, for nets for masks. Blocks of volumes have one size."""
    run, worst = MaskEngine(model), 0.0
    sizes = [image.block] * 2 if image.is_volume else [image.block, (2 * image.size + 5, 3 * image.size)]
    for count, size in enumerate(sizes, 1):
        images = noise_images(count, *size, image.channels)
        expected, actual = mask_reference(nets, image, 1.0, images), run(images)
        worst = max([worst, *(max_difference(*pair) for pair in zip(actual, expected, strict=True))])
        if not worst <= TOLERANCE["fp32"]:
            raise DisagreesError(f"ONNX and PyTorch differ by {worst:.1e} in {' x '.join(map(str, size))} pixels")
    return worst


def noise_images(*shape: int) -> NDArray[np.uint8]:
    """Images that show nobody: noise, always the same."""
    return np.random.Generator(np.random.Philox(key=0)).integers(0, 256, shape, np.uint8)
