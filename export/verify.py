"""Checks that the graph's outputs are the nets'. Part of every export, never optional."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from export import graph
from fedhelp_edge import plan
from fedhelp_edge.errors import DisagreesError
from fedhelp_edge.infer.bundle import TOLERANCE, max_difference
from fedhelp_edge.infer.engine import Engine, Outputs
from fedhelp_edge.nets.net import Net


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
    parts = logits, (logits / temperature).softmax(1), torch.stack(cams).mean(0), embedding
    return Outputs(*(part.numpy() for part in parts))


def parity(model: bytes, nets: Sequence[Net], image: plan.ImageSettings, prior: Sequence[float] | None) -> float:
    """The largest difference between graph and nets, over several batches and sizes.

    Raises DisagreesError above the tolerance.
    """
    engine, worst = Engine(model), 0.0
    shapes = ((1, image.size, image.size), (2, 2 * image.size + 5, 3 * image.size), (5, image.size // 2 + 1, 41))
    for shape in shapes:
        images = noise_images(*shape, image.channels)
        expected, actual = vars(reference(nets, image, prior, 1.0, images)), vars(engine(images))
        for name in expected:
            worst = max(worst, max_difference(actual[name], expected[name]))
            if not worst <= TOLERANCE["fp32"]:
                raise DisagreesError(
                    f"ONNX and PyTorch differ by {worst:.1e} in the {name} of {' x '.join(map(str, shape))} images"
                )
    return worst


def noise_images(*shape: int) -> NDArray[np.uint8]:
    """Images that show nobody: noise, always the same."""
    return np.random.Generator(np.random.Philox(key=0)).integers(0, 256, shape, np.uint8)
