"""FedProx (Li et al. 2020): FedAvg with a pull, mu/2 times the squared distance, towards the model of the round."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fedhelp_edge.merge.closing import LastMerge
from fedhelp_edge.methods.base import Batch, Learner, LearnerContext, Modules, Phase


class FedProx(Learner):
    """FedAvg with the pull added to the loss of each step."""

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        self.common = self.new_net(self.plan.nets.small, "net").requires_grad_(False)  # the round's merged model

    def kept(self) -> Modules:
        return {**self.trained(), "common": self.common}

    def began(self, round_: int, merge: LastMerge) -> None:
        self.common.load_state_dict(self.net.state_dict())

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        private, mu = batches["private"], self.plan.tables["fedprox"].mu
        pull = {}
        if mu:
            pairs = zip(self.net.parameters(), self.common.parameters(), strict=True)
            pull = {"pull": mu / 2 * torch.stack([((w - g) ** 2).sum() for w, g in pairs]).sum()}
        parts = self.push_private(private, (private, pull))
        self.go()
        return parts
