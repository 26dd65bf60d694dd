"""Per-FedAvg (Fallah et al., NeurIPS 2020, algorithm 1): a common net that one step adapts well to each site.

Each step takes two batches: w' = w - a g_A(w), then w <- w - b g_B(w'), where the plan's optimiser makes the second
step (equation 9). This is the first-order variant, "fo". The Hessian-free one, "hf", multiplies g_B(w') by I - a H_A;
the product H_A g_B is the difference of two gradients. The common net is averaged. A site diagnoses with its copy after
one more step on its own training images.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from fedhelp_edge.methods.base import Batch, Learner, LearnerContext, Modules, Phase, derive_seed
from fedhelp_edge.methods.settings import PerFedAvgSettings
from fedhelp_edge.nets.net import Net, frozen_bn_stats

_SECOND = "private:second"
_PROBE = 1e-2  # the length of the step that the Hessian's product is measured over


class PerFedAvg(Learner):
    """The common net, and the copy that was adapted to this site."""

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        self.settings: PerFedAvgSettings = self.plan.tables["perfedavg"]
        self.adapted = self.new_net(self.plan.nets.small, "net").requires_grad_(False)

    @property
    def model(self) -> Net:
        return self.adapted

    def kept(self) -> Modules:
        return {**self.trained(), "adapted": self.adapted}

    def phases(self, round_: int, last: bool) -> list[Phase]:
        """Meta-training, then one step on one batch of training images. The batch is another one in each round."""
        count = sum(self.site.examples)
        seed = derive_seed(self.plan.seed, self.site.id, round_, "adapt")
        chosen = np.random.Generator(np.random.Philox(seed)).permutation(count)[: self.plan.training.batch]
        meta = Phase("meta", ("private", _SECOND), self.plan.training.epochs)
        return [meta, Phase("adapt", only=chosen, batch=len(chosen))]

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        first = batches["private"]
        if phase.name == "adapt":
            return self._adapt(first)
        weights, inner = _weights(self.net), self.settings.inner
        before = self._push(first)
        with frozen_bn_stats(self.net):  # the statistics are those of the common net alone
            _move(self.net, _gradients(self.net), -inner)
            parts = self._push(batches[_SECOND])
            gradients = _gradients(self.net)
            _set(self.net, weights)
            if self.settings.order == "hf":
                product = self._hessian_product(first, gradients)
                gradients = [g - inner * h for g, h in zip(gradients, product, strict=True)]
        for parameter, gradient in zip(self.net.parameters(), gradients, strict=True):
            parameter.grad = gradient
        self.go()
        return {"before": before["loss"], **parts}

    def _adapt(self, batch: Batch) -> dict[str, float]:
        """Sets the site's copy to the common net after one step. The common net stays as it is."""
        with frozen_bn_stats(self.net):
            parts = self._push(batch)
        self.adapted.load_state_dict(self.net.state_dict())
        _move(self.adapted, _gradients(self.net), -self.settings.inner)
        return parts

    def _push(self, batch: Batch) -> dict[str, float]:
        """Makes the gradient of a batch's loss."""
        with self.compute.autocast():
            logits = self.net(batch.images)
        return self.push((batch, {"loss": self.loss(logits.float(), batch)}))

    def _hessian_product(self, batch: Batch, direction: list[Tensor]) -> list[Tensor]:
        """The Hessian of a batch's loss times a direction: the difference of two gradients along it."""
        weights, length = _weights(self.net), float(torch.stack([d.norm() for d in direction]).norm())
        if not length:
            return direction
        probe = _PROBE / length
        ends = []
        for sign in (1, -1):
            _move(self.net, direction, sign * probe)
            self._push(batch)
            ends.append(_gradients(self.net))
            _set(self.net, weights)
        return [(plus - minus) / (2 * probe) for plus, minus in zip(*ends, strict=True)]


def _weights(net: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in net.parameters()]


def _gradients(net: nn.Module) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for p in net.parameters()]


@torch.no_grad()
def _set(net: nn.Module, weights: list[Tensor]) -> None:
    for parameter, value in zip(net.parameters(), weights, strict=True):
        parameter.copy_(value)


@torch.no_grad()
def _move(net: nn.Module, direction: list[Tensor], size: float) -> None:
    for parameter, step in zip(net.parameters(), direction, strict=True):
        parameter.add_(step, alpha=size)
