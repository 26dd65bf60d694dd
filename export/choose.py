"""Which net a site diagnoses with: the best on its validation images, of those that it has and of their average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export import calibrate
from fedhelp_edge import plan
from fedhelp_edge.data.images import Images
from fedhelp_edge.nets.net import Net, arrays_of, images_at_once, input_tensor
from fedhelp_edge.report import metrics
from fedhelp_edge.report import nets as table
from fedhelp_edge.report.metrics import Scores

Figures = Mapping[str, float | None]
AVERAGE = "average"


@dataclass(frozen=True)
class Choice:
    """The best net, and what was measured of all."""

    name: str  # of the best net; "average": of all
    figures: Mapping[str, Figures]  # of each net, on validation and test images
    test: Mapping[str, Scores]  # of each net, on test images


def choose(
    nets: Mapping[str, Net],
    validation: Images,
    test: Images,
    image: plan.ImageSettings,
    prior: Sequence[float] | None,
) -> Choice:
    """The net that is right most often on the validation images; of several, the one with the smaller calibrated loss.

    Test images are only measured on. Without validation images there is nothing to choose by: it is the first net.
    """
    validation_logits = {name: logits(net, validation.pixels, image, prior) for name, net in nets.items()}
    test_logits = {name: logits(net, test.pixels, image, prior) for name, net in nets.items()}
    if len(nets) > 1:
        for by_net in (validation_logits, test_logits):
            by_net[AVERAGE] = np.mean(list(by_net.values()), 0)
    figures: dict[str, Figures] = {}
    scores: dict[str, Scores] = {}
    for name, net_logits in validation_logits.items():
        temperature = calibrate.fit_temperature(net_logits, validation.labels) if len(validation) else 1.0
        scores[name] = metrics.scores(calibrate.softmax(test_logits[name] / temperature), test.labels)
        figures[name] = {
            **_figures(net_logits / temperature, validation.labels),
            **table.figures(scores[name], "test_"),
        }
    best = max(figures, key=lambda name: (figures[name]["accuracy"] or 0, -(figures[name]["loss"] or 0)))
    return Choice(best, figures, scores)


def name_of(nets: Mapping[str, Net], net: Net) -> str:
    """The name of the net among these that is equal."""
    return next(name for name, other in nets.items() if _is_equal(net, other))


def distinct(nets: Mapping[str, Net]) -> dict[str, Net]:
    """Each net once: where a site is alone in its federation, its own net is the merged net too."""
    unique: dict[str, Net] = {}
    for name, net in nets.items():
        if not any(_is_equal(net, other) for other in unique.values()):
            unique[name] = net
    return unique


@torch.no_grad()
def logits(net: Net, pixels: Any, image: plan.ImageSettings, prior: Sequence[float] | None) -> NDArray[np.float32]:
    """A net's logits for images of its size, with the log of the prior added: N x classes."""
    net.eval()
    batch = images_at_once(net)
    shift = torch.tensor(prior if prior else 1.0).log()
    parts = [
        (net(input_tensor(np.array(pixels[start : start + batch]), image)) + shift).numpy()
        for start in range(0, len(pixels), batch)
    ]
    return np.concatenate(parts) if parts else np.empty((0, net.form.classes), np.float32)


def _figures(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float | None]:
    probabilities = calibrate.softmax(logits)
    loss = round(calibrate.log_loss(probabilities, labels), 4) if len(labels) else None
    return {**table.figures(metrics.scores(probabilities, labels)), "loss": loss}


def _is_equal(net: Net, other: Net) -> bool:
    mine, theirs = arrays_of(net), arrays_of(other)
    return mine.keys() == theirs.keys() and all(np.array_equal(mine[name], theirs[name]) for name in mine)
