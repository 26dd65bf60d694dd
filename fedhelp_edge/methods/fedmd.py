"""FedMD (Li and Wang, 2019): sites with nets of different kinds agree on logits for public images.

Before a site's first round its net learns the public images and their labels. In each round every site first fits its
logits to the mean of all by their absolute difference (L1). That mean stays as it is throughout the round, and the
site's own logits are in it. Then the site trains on its own images and predicts its new logits.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedhelp_edge.methods.base import Batch, LearnerContext, Modules, Phase, derive_seed
from fedhelp_edge.methods.settings import FedMDSettings
from fedhelp_edge.methods.tables import TableLearner
from fedhelp_edge.nets.net import frozen_bn_stats


class FedMD(TableLearner):
    """Consensus on the logits of a public head, beside the head for diagnoses, or on those of that head itself."""

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        self.settings: FedMDSettings = self.plan.method_settings
        self.public_head: nn.Linear | None = None
        if self.settings.head == "public":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive_seed(self.plan.seed, self.site.id, "public"))
                self.public_head = nn.Linear(self.net.width, self.shape[1]).to(self.compute.device)

    def trained(self) -> Modules:
        return {"net": self.net, **({"public": self.public_head} if self.public_head else {})}

    def phases(self, round_: int, last: bool) -> list[Phase]:
        first: list[Phase] = []
        if self.is_first_round and self.public_head and self.settings.public_epochs:
            first += [Phase("public", ("public",), self.settings.public_epochs, batch=self.settings.public_batch)]
        if self.agreed.round:
            first += [self.public_phase("digest", self.agreed)]
        return [*first, *super().phases(round_, last), self.public_phase("predict", self.ours, train=False)]

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        if phase.name == "train":
            return super().step(phase, batches)
        batch = batches["public"]
        if phase.name == "predict":
            return self.record(batch)
        logits = self.predictions(batch.images)
        if phase.name == "public":
            return self.descend((batch, {"public": F.cross_entropy(logits, batch.labels)}))
        target = self.agreed.rows[self.indices(self.agreed, batch)]
        return self.descend((batch, {"digest": F.l1_loss(logits, target)}))

    def predictions(self, images: Tensor) -> Tensor:
        if self.public_head is None:
            return self.public_logits(images)
        with self.compute.autocast(), frozen_bn_stats(self.net):
            logits: Tensor = self.public_head(self.net.features(images))
        return logits.float()
