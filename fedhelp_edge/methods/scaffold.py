"""SCAFFOLD (Karimireddy et al., ICML 2020, algorithm 1): steps are corrected by how a site differs from the others.

A site keeps its control variate c_i, the mean gradient of its last round. The common one, c, is the mean of all. Each
gradient gets c - c_i on top, so that all sites move as if each saw everybody's images. Nets and control variates are
averaged, with the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedhelp_edge.merge.closing import LastMerge
from fedhelp_edge.methods.base import Batch, Learner, LearnerContext, Modules, Phase
from fedhelp_edge.methods.schemas import CONTROL
from fedhelp_edge.nets.net import Net


class MeanGradient(nn.Module):
    """The mean of some steps' gradients, in a net of the same form; zero where nothing travels."""

    steps: Tensor

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net.requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.clear()

    @torch.no_grad()
    def clear(self) -> None:
        """Forgets all steps."""
        self.steps.zero_()
        for parameter in self.net.parameters():
            parameter.zero_()

    @torch.no_grad()
    def add(self, gradients: Mapping[str, Tensor]) -> None:
        """Counts the gradients of one step in, by the names of their parameters."""
        self.steps += 1
        mean = dict(self.net.named_parameters())
        for name, gradient in gradients.items():
            mean[name].add_((gradient - mean[name]) / self.steps)


class Scaffold(Learner):
    """The common net; the common control variate; the site's own one; and its next one, which grows with each step."""

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        self.common, self.own, self.next = (
            MeanGradient(self.new_net(self.plan.nets.small, "net")).to(self.compute.device) for _ in range(3)
        )
        controls = (tensor.name for tensor in self.up_schema.tensors if tensor.name.startswith(CONTROL))
        self.corrected = [name.removeprefix(CONTROL) for name in controls]

    def kept(self) -> Modules:
        return {**self.trained(), "common": self.common, "own": self.own, "next": self.next}

    def gives(self) -> Modules:
        return {"": self.net, CONTROL: self.next.net}

    def takes(self, round_: int) -> Modules:
        return {"": self.net, CONTROL: self.common.net}

    def began(self, round_: int, merge: LastMerge) -> None:
        if self.next.steps:
            self.own.load_state_dict(self.next.state_dict())
        self.next.clear()

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        parts = self.push_private(batches["private"])
        weights, common, own = (dict(net.named_parameters()) for net in (self.net, self.common.net, self.own.net))
        gradients = {name: gradient for name in self.corrected if (gradient := weights[name].grad) is not None}
        self.next.add(gradients)
        if self.own.steps:  # else the site does not know yet how it differs from the others
            for name, gradient in gradients.items():
                gradient += common[name] - own[name]
        self.go()
        return parts
