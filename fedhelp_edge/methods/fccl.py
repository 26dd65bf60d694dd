"""FCCL (Huang, Ye and Du, CVPR 2022): sites correlate their logits for public images, and remember what they learned.

A site's first round trains on its own images alone. Each later round begins with public images: the correlation of its
logits with the mean of all is driven to 1 for the same class. Between two classes it is driven to -1, as in the
authors' program. Columns are standardised over the batch. Then the site trains on its own images, near two earlier nets
of its own. One is from the end of its last round ("inter"), the other from the end of its first ("intra"). No public
label is read.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedhelp_edge.merge.closing import LastMerge
from fedhelp_edge.methods.base import Batch, LearnerContext, Modules, Phase
from fedhelp_edge.methods.losses import kl_divergence
from fedhelp_edge.methods.settings import FcclSettings
from fedhelp_edge.methods.tables import TableLearner

_MIN_VARIANCE = 1e-8  # a class whose logits are the same for all images has no direction


def correlation_loss(logits: Tensor, target: Tensor, off_diagonal: float) -> Tensor:
    """How far the cross-correlation of two batches of logits is from 1 on the diagonal and -1 beside it."""
    correlations = standardised(logits).T @ standardised(target) / len(logits)
    diagonal = correlations.diagonal()
    beside = correlations.masked_fill(torch.eye(len(diagonal), dtype=torch.bool, device=logits.device), -1)
    return (diagonal - 1).square().sum() + off_diagonal * (beside + 1).square().sum()


def standardised(logits: Tensor) -> Tensor:
    """Each column with mean 0 and variance 1 over the batch. A constant column is 0, and its gradient finite."""
    return (logits - logits.mean(0)) / (logits.var(0) + _MIN_VARIANCE).sqrt()


class Fccl(TableLearner):
    """Correlates with the mean of all, and trains near what it knew."""

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        self.settings: FcclSettings = self.plan.method_settings
        self.inter, self.intra = (copy.deepcopy(self.net).requires_grad_(False) for _ in range(2))

    def kept(self) -> Modules:
        earlier: dict[str, nn.Module] = {"inter": self.inter} if self.settings.inter else {}
        return {**super().kept(), **earlier, **({"intra": self.intra} if self.settings.intra else {})}

    def began(self, round_: int, merge: LastMerge) -> None:
        super().began(round_, merge)
        self.inter.load_state_dict(self.net.state_dict())
        if int(self.rounds.begun) == 2:  # the first round trained on our own images alone
            self.intra.load_state_dict(self.net.state_dict())

    def phases(self, round_: int, last: bool) -> list[Phase]:
        predict = self.public_phase("predict", self.ours, train=False)
        if self.is_first_round:
            return [Phase("pretrain", epochs=self.settings.pretrain or self.plan.training.epochs), predict]
        digest = [self.public_phase("digest", self.agreed)] if self.agreed.round else []
        return [*digest, *super().phases(round_, last), predict]

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        if phase.name == "digest":
            batch = batches["public"]
            target = self.agreed.rows[self.indices(self.agreed, batch)]
            loss = correlation_loss(self.public_logits(batch.images), target, self.settings.off_diagonal)
            return self.descend((batch, {"digest": loss}))
        if phase.name == "predict":
            return self.record(batches["public"])
        return self.train_step(batches["private"], remember=phase.name == "train")

    def train_step(self, batch: Batch, *, remember: bool) -> dict[str, float]:
        """Cross-entropy, and the divergences from the two earlier nets."""
        with self.compute.autocast():
            logits = self.net(batch.images)
        logits = logits.float()
        parts = {"loss": self.loss(logits, batch)}
        for name, net, weight in (
            ("inter", self.inter, self.settings.inter),
            ("intra", self.intra, self.settings.intra),
        ):
            if remember and weight:
                with torch.no_grad(), self.compute.autocast():
                    earlier = net(batch.images)
                parts[name] = weight * kl_divergence(earlier.float().softmax(1), logits)
        return self.descend((batch, parts))
