"""What a method is at a site: a learner that receives, trains in phases, and gives. Each method has a file beside this.

The loop (`train.loop`) draws batches and calls `step`; a learner knows nothing of files, progress or checkpoints. It
trains `net`, which travels; what else it keeps (a teacher, a second head, weights for each image) is its own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedhelp_edge.methods.losses import Loss, class_prior, loss_function
from fedhelp_edge.nets import resnet
from fedhelp_edge.plan import Plan
from fedhelp_edge.update import Array, Schema, Update


@dataclass(frozen=True)
class Phase:
    """One part of a local round."""

    name: str
    draw: tuple[str, ...] = ("private",)  # sets drawn together; the first sets the length, the others cycle
    epochs: int = 1
    train: bool = True  # False: one ordered pass, no augmentation
    every: int = 1  # the sets after the first are drawn at every so many steps


@dataclass(frozen=True)
class Batch:
    images: Tensor  # B x channels x side x side, normalised
    labels: Tensor  # B
    index: Tensor  # B, place in its set: for whatever is kept of each image
    part: float = 1.0  # of the step's images, where several processes share them


@dataclass(frozen=True)
class SiteFacts:
    """What a method may know of the site that it runs at."""

    id: str
    tier: str  # "small" | "large"
    examples: tuple[int, ...]  # training images of each class


@dataclass(frozen=True)
class Knowledge:
    """What foundation models said of the public images, asked once; the images themselves come in batches."""

    probabilities: NDArray[np.float16]  # sources x images x public classes
    labels: NDArray[np.int64]
    classes: int


@dataclass(frozen=True)
class Compute:
    """Where the work is done: on what, in which numbers, and as which of how many processes."""

    device: str = "cpu"
    bf16: bool = False  # bf16 autocast
    rank: int = 0
    ranks: int = 1

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device, torch.bfloat16) if self.bf16 else nullcontext()


class Learner:
    """FedAvg's small client, from which the others differ: cross-entropy on one net, which travels."""

    def __init__(
        self, plan: Plan, site: SiteFacts, schema: Schema, knowledge: Knowledge | None, compute: Compute
    ) -> None:
        self.plan, self.site, self.schema, self.knowledge, self.compute = plan, site, schema, knowledge, compute
        self.loss: Loss = loss_function(plan.training.loss, site.examples)
        adjusted = plan.training.loss == "logit-adjusted"
        self.prior: list[float] | None = (
            class_prior(site.examples).tolist() if adjusted else None
        )  # to be added to answers
        self.net = self.make(plan.nets.small, "net")
        self.optimisers: dict[str, torch.optim.Optimizer] = {}

    # --- the face ------------------------------------------------------------------------------------------------
    @property
    def model(self) -> nn.Module:
        """What this site diagnoses with."""
        return self.net

    def receive(self, merged: Mapping[str, Array], round_: int) -> None:
        """Begin a round from the merged model. Optimisers are new in each round."""
        arrays = resnet.arrays(self.net)
        resnet.load(self.net, {**arrays, **merged})
        self.begin(round_)

    def begin(self, round_: int) -> None:
        self.optimisers = {name: self.optimiser(module, round_) for name, module in self.trained().items()}

    def trained(self) -> dict[str, nn.Module]:
        """The modules that learn, each with an optimiser of its own."""
        return {"net": self.net}

    def phases(self, round_: int, last: bool) -> list[Phase]:
        return [Phase("train", epochs=self.plan.training.epochs)]

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        """One step; the parts of the loss, by name."""
        private = batches["private"]
        with self.compute.autocast():
            logits = self.net(private.images)
        return self.descend((private, {"loss": self.loss(logits.float(), private.labels)}))

    def give(self) -> Update:
        arrays = resnet.arrays(self.net)
        return Update({t.name: arrays[t.name] for t in self.schema.tensors}, {"examples": sum(self.site.examples)})

    def kept(self) -> dict[str, nn.Module]:
        """The modules that make up the state of this learner."""
        return self.trained()

    def state(self) -> dict[str, Array]:
        """Everything, as named arrays: for checkpoints, and between rounds."""
        arrays: dict[str, Array] = {}
        for name, module in self.kept().items():
            arrays |= {f"{name}/{key}": _to_array(tensor) for key, tensor in module.state_dict().items()}
        for name, optimiser in self.optimisers.items():
            for index, slots in optimiser.state_dict()["state"].items():
                arrays |= {f"{name}!{index}/{slot}": _to_array(tensor) for slot, tensor in slots.items()}
        return arrays

    def load(self, state: Mapping[str, Array], round_: int) -> None:
        """Take up a state; the optimisers as they were within this round."""
        for name, module in self.kept().items():
            module.load_state_dict(_tensors_under(state, f"{name}/"))
        self.begin(round_)
        for name, optimiser in self.optimisers.items():
            slots: dict[int, dict[str, Tensor]] = {}
            for key, tensor in _tensors_under(state, f"{name}!").items():
                index, slot = key.split("/")
                slots.setdefault(int(index), {})[slot] = tensor
            optimiser.load_state_dict({**optimiser.state_dict(), "state": slots})

    # --- what methods build with ---------------------------------------------------------------------------------
    def make(self, net: str, purpose: str) -> resnet.ResNet:
        """A net of the plan's kind; the first weights of what does not travel follow from seed, site and purpose."""
        image = self.plan.image
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.plan.seed, self.site.id, purpose))
            module = resnet.ResNet(net, len(self.plan.classes), image.channels, self.plan.nets.norm)
        module.to(self.compute.device)
        return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def optimiser(self, module: nn.Module, round_: int) -> torch.optim.Optimizer:
        training, groups = self.plan.training, self.groups(module)
        rate = training.lr
        if training.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * (round_ - 1) / self.plan.rounds))
        if training.optimiser == "adam":
            return torch.optim.Adam(groups, rate, weight_decay=training.weight_decay)
        return torch.optim.SGD(groups, rate, momentum=0.9, weight_decay=training.weight_decay)

    def groups(self, module: nn.Module) -> list[dict[str, Any]]:
        """The parameters that learn alike."""
        return [{"params": list(module.parameters())}]

    def descend(self, *means: tuple[Batch, Mapping[str, Tensor]]) -> dict[str, float]:
        """One step down the sum of all parts, by every optimiser whose module had a part in it.

        Each part is a mean over the batch beside which it stands: where several processes share that batch, the step,
        and what is returned, is that of the whole.
        """
        for optimiser in self.optimisers.values():
            optimiser.zero_grad(set_to_none=True)
        parts = {name: batch.part * part for batch, terms in means for name, part in terms.items()}
        losses = torch.stack(list(parts.values()))
        losses.sum().backward()
        losses = losses.detach()
        if self.compute.ranks > 1:
            self._all_reduce(losses)
        for optimiser in self.optimisers.values():
            optimiser.step()
        return dict(zip(parts, losses.tolist(), strict=True))

    def _all_reduce(self, losses: Tensor) -> None:
        """Gradients and losses become their sums over all processes, batch norm's running statistics their means."""
        modules = self.trained().values()
        gradients = [p.grad for module in modules for p in module.parameters() if p.grad is not None]
        statistics = [b for module in modules for b in module.buffers() if b.is_floating_point()]
        for statistic in statistics:
            statistic.div_(self.compute.ranks)
        tensors = [*gradients, *statistics, losses]
        summed = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(summed)  # the same bits at every process
        for tensor, values in zip(tensors, summed.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(values.view(tensor.shape))


def derive_seed(*parts: object) -> int:
    """A seed for torch from the plan's seed, the site and what it is for."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7], "big")


def _to_array(tensor: Tensor) -> Array:
    return np.array(tensor.detach().cpu().numpy())


def _tensors_under(state: Mapping[str, Array], prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): torch.from_numpy(np.array(value))
        for key, value in state.items()
        if key.startswith(prefix)
    }
