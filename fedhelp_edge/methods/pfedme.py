"""pFedMe (Dinh et al., NeurIPS 2020, algorithm 1): a site's own net on a leash of strength lambda from the common one.

For each batch the own net theta takes K plain gradient steps down f(theta) + lambda/2 |theta - w|^2 (equation 7). Then
w <- w - rate lambda (w - theta). The common net w is averaged; a site diagnoses with theta. The plan's `merge.step` is
the paper's beta.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fedhelp_edge.merge.closing import LastMerge
from fedhelp_edge.methods.base import Batch, Learner, LearnerContext, Modules, Phase
from fedhelp_edge.methods.optimisers import SGD, Optimiser
from fedhelp_edge.methods.settings import PFedMeSettings
from fedhelp_edge.nets.net import Net


class PFedMe(Learner):
    """The common net w, which `net` is, and the site's own."""

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        self.settings: PFedMeSettings = self.plan.tables["pfedme"]
        self.net.requires_grad_(False)
        self.own = self.new_net(self.plan.nets.small, "net")

    @property
    def model(self) -> Net:
        return self.own

    def trained(self) -> Modules:
        return {"own": self.own}

    def kept(self) -> Modules:
        return {"net": self.net, "own": self.own}

    def began(self, round_: int, merge: LastMerge) -> None:
        """The own net starts each round from the common one, as in the authors' code."""
        self.own.load_state_dict(self.net.state_dict())

    def own_nets(self) -> set[str]:
        return set()

    def new_optimiser(self, module: nn.Module, round_: int) -> Optimiser:
        """Plain gradient steps: Adam's have the same length however the leash pulls, and never come to rest."""
        rate = self.scheduled(self.settings.inner, round_)
        return SGD(self.parameter_groups(module), rate, self.plan.training.weight_decay, momentum=0.0)

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        private, strength = batches["private"], self.settings.strength
        parts = []
        for _ in range(self.settings.steps):
            with self.compute.autocast():
                logits = self.own(private.images)
            pairs = zip(self.own.parameters(), self.net.parameters(), strict=True)
            leash = strength / 2 * torch.stack([((theta - w) ** 2).sum() for theta, w in pairs]).sum()
            parts.append(self.descend((private, {"loss": self.loss(logits.float(), private), "leash": leash})))
        with torch.no_grad():
            for w, theta in zip(self.net.parameters(), self.own.parameters(), strict=True):
                w.sub_(self.settings.rate * strength * (w - theta))
            for statistic, own in zip(self.net.buffers(), self.own.buffers(), strict=True):
                statistic.copy_(own)  # the common net has seen no images itself
        return parts[0]  # of the net as it met the batch
