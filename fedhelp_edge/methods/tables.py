"""What methods share whose sites exchange tables of predictions for public images.

Each site has a net of its own kind. It learns from the merged table of the round before, trains on its own images, and
predicts its own table for the next. All public images of a step are normalised by that batch's own statistics. The
net's running statistics come from private images only.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedhelp_edge.merge.closing import LastMerge
from fedhelp_edge.merge.tables import ROWS
from fedhelp_edge.methods.base import Batch, LearnerContext, Modules, Phase, derive_seed
from fedhelp_edge.methods.local import Local
from fedhelp_edge.nets.net import frozen_bn_stats


class PredictionTable(nn.Module):
    """A row of predictions for each image that a round asks for, and the round at whose end they were predicted."""

    rows: Tensor  # images x classes
    predicted_in: Tensor  # 0: never

    def __init__(self, images: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(images, classes))
        self.register_buffer("predicted_in", torch.zeros(1, dtype=torch.int64))

    @property
    def round(self) -> int:
        return int(self.predicted_in)


class Rounds(nn.Module):
    """How many rounds a site has begun."""

    begun: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("begun", torch.zeros(1, dtype=torch.int64))


class TableLearner(Local):
    """A site with a net of its own, which predicts `ours` and learns from `agreed`."""

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        assert context.pack is not None  # noqa: S101 - no learner of these methods is made without one
        self.public_images = len(context.pack)
        self.shape = next(tensor.shape for tensor in self.up_schema.tensors if tensor.name == ROWS)
        self.ours, self.agreed, self.rounds = self.new_table(), self.new_table(), Rounds().to(self.compute.device)

    @property
    def is_first_round(self) -> bool:
        """Whether this is the first round of this site, which may join late."""
        return int(self.rounds.begun) == 1

    def new_table(self) -> PredictionTable:
        return PredictionTable(*self.shape).to(self.compute.device)

    def kept(self) -> Modules:
        return {**self.trained(), "ours": self.ours, "agreed": self.agreed, "rounds": self.rounds}

    def gives(self) -> Modules:
        return {"table.": self.ours}

    def takes(self, round_: int) -> Modules:
        return {**super().takes(round_), "table.": self.agreed}

    def began(self, round_: int, merge: LastMerge) -> None:
        self.ours.predicted_in.fill_(round_)  # its rows follow in this round
        self.rounds.begun += 1

    def public_phase(self, name: str, table: PredictionTable, *, train: bool = True) -> Phase:
        """A pass over the public images that a table has rows for."""
        batch = self.plan.method_settings.public_batch
        return Phase(name, ("public",), train=train, only=self.images_of(table), batch=batch, augment=False)

    def images_of(self, table: PredictionTable) -> NDArray[np.int64]:
        """The images that a table has rows for: those of the round after `predicted_in`."""
        return chosen_images(self.plan.seed, table.round + 1, self.shape[0], self.public_images)

    def indices(self, table: PredictionTable, batch: Batch) -> Tensor:
        """The rows of a batch's images in a table."""
        images = torch.from_numpy(self.images_of(table)).to(batch.index.device)
        return torch.searchsorted(images, batch.index)

    def public_logits(self, images: Tensor) -> Tensor:
        """The net's logits of public images, normalised by their own batch."""
        with self.compute.autocast(), frozen_bn_stats(self.net):
            logits: Tensor = self.net(images)
        return logits.float()

    def predictions(self, images: Tensor) -> Tensor:
        """What a table says of these images."""
        return self.public_logits(images)

    def record(self, batch: Batch) -> dict[str, float]:
        """Writes a batch's rows of our table."""
        self.net.train()  # as where the net learns from public images
        with torch.no_grad():
            self.ours.rows[self.indices(self.ours, batch)] = self.predictions(batch.images)
        self.net.eval()
        return {}


@lru_cache(8)
def chosen_images(seed: int, round_: int, count: int, images: int) -> NDArray[np.int64]:
    """The public images that a round learns from: the same at every site, in the order of the pack."""
    key = derive_seed(seed, "everybody", round_, "public images")
    return np.sort(np.random.Generator(np.random.Philox(key=key)).permutation(images)[:count])
