"""Which net a site diagnoses with: the best on its validation images, of those that it has and of their average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export import calibrate
from fedhelp_edge import plan
from fedhelp_edge.nets import resnet
from fedhelp_edge.nets.resnet import ResNet
from fedhelp_edge.report import metrics
from fedhelp_edge.train import loop

Figures = Mapping[str, float | None]
AVERAGE = "average"
_BATCH = 256


def choose(
    nets: Mapping[str, ResNet], pixels: Any, labels: NDArray[np.int64], image: plan.Image, prior: Sequence[float] | None
) -> tuple[str, dict[str, Figures]]:
    """The name of the best ("average": of all), and the figures of each: accuracy decides, then the calibrated loss."""
    said = {name: logits(net, pixels, image, prior) for name, net in nets.items()}
    if len(said) > 1:
        said[AVERAGE] = np.mean(list(said.values()), 0)
    figures: dict[str, Figures] = {name: _figures(answers, labels) for name, answers in said.items()}
    return max(figures, key=lambda name: (figures[name]["accuracy"] or 0, -(figures[name]["loss"] or 0))), figures


def distinct(nets: Mapping[str, ResNet]) -> dict[str, ResNet]:
    """Each net once: alone in its federation, a site's own net is the merged one too."""
    found: dict[str, ResNet] = {}
    for name, net in nets.items():
        if not any(_same(net, other) for other in found.values()):
            found[name] = net
    return found


@torch.no_grad()
def logits(net: ResNet, pixels: Any, image: plan.Image, prior: Sequence[float] | None) -> NDArray[np.float32]:
    """What a net says of images of its size, the prior joined to it: N x classes."""
    net.eval()
    shift = torch.tensor(prior if prior else 1.0).log()
    parts = [
        (net(loop.tensor(np.array(pixels[at : at + _BATCH]), image)) + shift).numpy()
        for at in range(0, len(pixels), _BATCH)
    ]
    return np.concatenate(parts)


def _figures(answers: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float | None]:
    calm = calibrate.softmax(answers / calibrate.temperature(answers, labels))
    scores = metrics.scores(calm, labels)
    found = {name: getattr(scores, name).value for name in ("accuracy", "balanced_accuracy", "auc")}
    found["loss"] = calibrate.log_loss(calm, labels)
    return {name: None if value is None else round(value, 4) for name, value in found.items()}


def _same(net: ResNet, other: ResNet) -> bool:
    mine, theirs = resnet.arrays(net), resnet.arrays(other)
    return mine.keys() == theirs.keys() and all(np.array_equal(mine[name], theirs[name]) for name in mine)
