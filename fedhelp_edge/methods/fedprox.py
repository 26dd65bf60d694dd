"""FedProx (Li et al. 2020): FedAvg with a pull, mu/2 times the squared distance, towards the model of the round."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fedhelp_edge.methods.base import Batch, Compute, Knowledge, Learner, Phase, SiteFacts
from fedhelp_edge.plan import Plan
from fedhelp_edge.update import Array, Schema


class FedProx(Learner):
    """FedAvg with the pull added to the loss of each step."""

    def __init__(
        self, plan: Plan, site: SiteFacts, schema: Schema, knowledge: Knowledge | None, compute: Compute
    ) -> None:
        super().__init__(plan, site, schema, knowledge, compute)
        self.common = self.new_net(plan.nets.small, "net").requires_grad_(False)  # the round's merged model

    def receive(self, merged: Mapping[str, Array], round_: int) -> None:
        super().receive(merged, round_)
        self.common.load_state_dict(self.net.state_dict())

    def kept(self) -> dict[str, nn.Module]:
        return {**self.trained(), "common": self.common}

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        private, mu = batches["private"], self.plan.tables["fedprox"].mu
        with self.compute.autocast():
            logits = self.net(private.images)
        parts = {"loss": self.loss(logits.float(), private.labels)}
        if mu:
            pairs = zip(self.net.parameters(), self.common.parameters(), strict=True)
            parts["pull"] = mu / 2 * torch.stack([((w - g) ** 2).sum() for w, g in pairs]).sum()
        return self.descend((private, parts))
