"""MDH-FL (Madni, Umer and Foresti, 2023): nets of different kinds align on public images, against wrong labels.

The paper gives no equations. This is RHFL (Fang and Ye, CVPR 2022), from which it visibly derives, with equal weights.
Each site moves its probabilities for public images towards those of the others: KL(others || own), with the others'
probabilities fixed. The mean of the others' tables has the gradient of the sum over them. Then the site trains on its
own images with symmetric cross-entropy, which bears wrong labels. No public label is read.

With `ccr` a site whose loss falls faster weighs more (RHFL's client confidence). A site sends its loss before and after
the round. It learns the sums of all, and so its own weight.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedhelp_edge.merge import tables
from fedhelp_edge.merge.closing import LastMerge
from fedhelp_edge.methods.base import Batch, LearnerContext, Modules, Phase
from fedhelp_edge.methods.losses import kl_divergence, loss_function
from fedhelp_edge.methods.settings import MdhFlSettings
from fedhelp_edge.methods.tables import TableLearner

_TINY = 1e-12  # rounding can leave less than nothing of a probability


class Losses(nn.Module):
    """A site's mean loss on its training images: after the round before, and after this one."""

    losses: Tensor
    seen: Tensor  # images, so far

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("losses", torch.zeros(2))
        self.register_buffer("seen", torch.zeros(1, dtype=torch.int64))

    def begin(self) -> None:
        """Makes the last loss the one before."""
        self.losses.copy_(torch.stack([self.losses[1], torch.zeros_like(self.losses[1])]))
        self.seen.zero_()

    def add(self, mean: Tensor, images: int) -> None:
        """Adds a batch's mean loss."""
        self.seen += images
        self.losses[1] += (mean - self.losses[1]) * images / self.seen.item()


class Totals(nn.Module):
    """What is merged of all sites' losses: the sum of their absolute gains, and of their weights."""

    totals: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("totals", torch.zeros(2))


class MdhFl(TableLearner):
    """Aligns with the mean of the others, and trains against wrong labels."""

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        self.settings: MdhFlSettings = self.plan.method_settings
        if self.settings.loss == "symmetric":
            self.criterion, self.prior = loss_function("symmetric", self.site.examples), None
        self.mine = self.new_table()  # what is ours within `agreed`
        self.peers = self.new_table()
        self.losses, self.my_losses = Losses().to(self.compute.device), Losses().to(self.compute.device)
        self.totals = Totals().to(self.compute.device)

    def kept(self) -> Modules:
        confidence = {"losses": self.losses, "my losses": self.my_losses, "totals": self.totals}
        return {**super().kept(), "mine": self.mine, "peers": self.peers, **(confidence if self.settings.ccr else {})}

    def gives(self) -> Modules:
        return {**super().gives(), **({"confidence.": self.losses} if self.settings.ccr else {})}

    def takes(self, round_: int) -> Modules:
        return {**super().takes(round_), **({"confidence.": self.totals} if self.settings.ccr else {})}

    def began(self, round_: int, merge: LastMerge) -> None:
        if merge.own and self.ours.round == self.agreed.round:  # else a round that was never merged came between
            self.mine.load_state_dict(self.ours.state_dict())
            self.my_losses.load_state_dict(self.losses.state_dict())
        self.peers.rows.copy_(self.agreed.rows)
        self.peers.predicted_in.copy_(self.agreed.predicted_in)
        if merge.own and merge.updates == 1:
            self.peers.predicted_in.zero_()
        elif merge.own and self.mine.round == self.agreed.round:
            total, weight = self._weights(merge)
            self.peers.rows.mul_(total).sub_(weight * self.mine.rows).clamp_min_(_TINY)
            self.peers.rows.div_(self.peers.rows.sum(1, keepdim=True))
        self.losses.begin()
        super().began(round_, merge)

    def _weights(self, merge: LastMerge) -> tuple[float, float]:
        """The sum of the weights of all tables in the merged one, and the weight of ours."""
        if not self.settings.ccr:
            return float(merge.updates), 1.0
        gain = tables.relative_gain(*self._as_sent(self.my_losses.losses).tolist())
        total_gain, total = self.totals.totals.tolist()
        return total, tables.weight(gain, total_gain, self.settings.beta)

    def phases(self, round_: int, last: bool) -> list[Phase]:
        first: list[Phase] = []
        if self.is_first_round and self.settings.pretrain:
            first += [Phase("pretrain", epochs=self.settings.pretrain)]
        if self.peers.round:
            first += [self.public_phase("align", self.peers)]
        measure = [Phase("measure", train=False)] if self.settings.ccr else []
        predict = self.public_phase("predict", self.ours, train=False)
        return [*first, *super().phases(round_, last), *measure, predict]

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        if phase.name == "align":
            return self.align(batches["public"])
        if phase.name == "predict":
            return self.record(batches["public"])
        if phase.name == "measure":
            return self.measure(batches["private"])
        return super().step(phase, batches)

    def align(self, batch: Batch) -> dict[str, float]:
        """A step towards the others' probabilities."""
        others = self.peers.rows[self.indices(self.peers, batch)]
        parts = self.descend((batch, {"align": kl_divergence(others, self.public_logits(batch.images))}))
        if self.settings.fresh_adam:  # what the released RHFL does: each step is an optimiser's first
            for optimiser in self.optimisers.values():
                optimiser.load({})
        return parts

    def measure(self, batch: Batch) -> dict[str, float]:
        """Adds a batch to this round's loss."""
        with torch.no_grad(), self.compute.autocast():
            logits = self.net(batch.images)
        loss = self.loss(logits.float(), batch)
        self.losses.add(loss, len(batch.labels))
        return {"measure": float(loss)}

    def predictions(self, images: Tensor) -> Tensor:
        return self._as_sent(self.public_logits(images).softmax(1))

    def _as_sent(self, numbers: Tensor) -> Tensor:
        """Numbers as the coordinator receives them, so that a site can take its own out of the merged ones."""
        return numbers.half().float() if self.plan.wire.up == "f16" else numbers
