"""What a site diagnoses with: its nets together, each as much as its validation images say (`export.keep`)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export import calibrate, graph, keep
from export.keep import Kept
from fedhelp_edge import plan
from fedhelp_edge.data import groups
from fedhelp_edge.data.images import Images
from fedhelp_edge.nets.net import Net, arrays_of, images_at_once, input_tensor
from fedhelp_edge.report import metrics
from fedhelp_edge.report import nets as table
from fedhelp_edge.report.metrics import Scores

Figures = Mapping[str, float | None]
AVERAGE, KEPT = "average", "kept"


@dataclass(frozen=True)
class Choice:
    """What is kept, and what was measured of all nets, of their plain average and of what is kept."""

    kept: Kept
    held_out: NDArray[np.float64]  # to add to the kept logits of validation images: as if each had not weighed the nets
    figures: Mapping[str, Figures]  # on validation and test images
    test: Mapping[str, Scores]  # on test images
    probabilities: Mapping[str, NDArray[np.float64]]  # of the same images: images x classes
    roc: Mapping[str, Sequence[Sequence[float] | None]]  # the same images: for each class, see `metrics.roc`

    @property
    def name(self) -> str:
        """The row of the figures that is chosen: the only net that counts, or all that do."""
        return KEPT if KEPT in self.figures else next(iter(self.kept.weights))


def choose(
    nets: Mapping[str, Net],
    validation: Images,
    test: Images,
    image: plan.ImageSettings,
    prior: Sequence[float] | None,
) -> Choice:
    """Weighs the nets, each once, by the validation images. Test images are only measured on.

    Without validation images there is nothing to weigh by: all nets count alike.
    """
    given, nets = nets, distinct(nets)
    validation_logits = {name: logits(net, validation.pixels, image, prior) for name, net in nets.items()}
    test_logits = {name: logits(net, test.pixels, image, prior) for name, net in nets.items()}
    of_given = {name: validation_logits[name_of(nets, net)] for name, net in given.items()}
    patients = groups.numbers(validation.groups)
    kept = keep.keep(of_given, validation.labels, patients)
    held_out = calibrate.held_out(of_given, validation.labels, patients) - keep.pool(of_given, kept.scales)
    if len(nets) > 1:
        for by_net in (validation_logits, test_logits):
            together = {AVERAGE: np.mean(list(by_net.values()), 0)}
            if len(kept.scales) > 1:
                together[KEPT] = keep.pool(by_net, kept.scales).astype(np.float32)
            by_net |= together
    figures: dict[str, Figures] = {}
    scores: dict[str, Scores] = {}
    test_probabilities: dict[str, NDArray[np.float64]] = {}
    curves: dict[str, Sequence[Sequence[float] | None]] = {}
    for name, net_logits in validation_logits.items():
        honest = net_logits + held_out if name == KEPT else net_logits
        temperature = calibrate.fit_temperature(honest, validation.labels) if len(validation) else 1.0
        test_probabilities[name] = probabilities = calibrate.softmax(test_logits[name] / temperature)
        scores[name] = metrics.scores(probabilities, test.labels)
        curves[name] = metrics.roc(probabilities, test.labels)
        figures[name] = {
            **_figures(honest / temperature, validation.labels),
            **table.figures(scores[name], "test_"),
        }
    return Choice(kept, held_out, figures, scores, test_probabilities, curves)


def scaled(nets: Mapping[str, Net], scales: Mapping[str, float]) -> list[Net]:
    """The nets that count, their logits multiplied so that their plain mean is the sum of the scaled ones."""
    factors = {name: scale * len(scales) for name, scale in scales.items()}
    return [nets[name] if factor == 1 else _scale(nets[name], factor) for name, factor in factors.items()]


def _scale(net: Net, factor: float) -> Net:
    if not graph.is_one_layer([net]):
        return _Scaled(net, factor)
    net = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in net.head.parameters():
            parameter.mul_(factor)
    return net


class _Scaled(Net):
    """A net that does not end in one linear layer, its logits multiplied."""

    def __init__(self, net: Net, factor: float) -> None:
        super().__init__(net.name, net.form)
        self.net, self.factor = net, factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.factor * self.net(x)
        return logits


def together(nets: Sequence[Net]) -> Net:
    """Several nets as one: the mean of their logits."""
    return nets[0] if len(nets) == 1 else _Together(nets)


class _Together(Net):
    def __init__(self, nets: Sequence[Net]) -> None:
        super().__init__(nets[0].name, nets[0].form)
        self.nets = torch.nn.ModuleList(nets)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([net(x) for net in self.nets]).mean(0)


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


def _figures(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> dict[str, float | None]:
    probabilities = calibrate.softmax(logits)
    loss = calibrate.log_loss(probabilities, labels) if len(labels) else math.nan
    return {
        **table.figures(metrics.scores(probabilities, labels)),
        "loss": round(loss, 4) if math.isfinite(loss) else None,
    }


def _is_equal(net: Net, other: Net) -> bool:
    mine, theirs = arrays_of(net), arrays_of(other)
    return mine.keys() == theirs.keys() and all(np.array_equal(mine[name], theirs[name]) for name in mine)
