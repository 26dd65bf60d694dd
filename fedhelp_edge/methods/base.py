"""The base of every method: a learner that receives the merged model, trains in phases, and gives an update.

The loop (`train.loop`) draws batches and calls `step`; a learner knows nothing of files, progress or checkpoints. All
that it learns or keeps is in modules: a method says which of them it gives, takes, trains and keeps. What it does not
give (a teacher, a second head, weights for each image) stays at the site.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedhelp_edge.data.features import EncoderFacts
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.merge.closing import NO_MERGE, LastMerge
from fedhelp_edge.methods.losses import Loss, class_prior, loss_function, pixel_loss
from fedhelp_edge.methods.optimisers import SGD, Adam, Optimiser
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets import net as nets
from fedhelp_edge.nets import spec
from fedhelp_edge.nets.net import Net, arrays_of, load_arrays
from fedhelp_edge.nets.spec import Form
from fedhelp_edge.plan import Plan
from fedhelp_edge.update import Array

if TYPE_CHECKING:
    from fedhelp_edge.methods.private_gradients import PrivateGradients

Modules = Mapping[str, nn.Module]
T = TypeVar("T")


@dataclass(frozen=True)
class Phase:
    """One part of a local round."""

    name: str
    # Sets drawn together; the first sets the length, the others cycle. "private:second" is another batch of "private".
    draw: tuple[str, ...] = ("private",)
    epochs: int = 1
    train: bool = True  # False: one ordered pass, no augmentation
    every: int = 1  # the sets after the first are drawn at every so many steps
    only: NDArray[np.int64] | None = None  # of the first set, these images; None: all
    batch: int = 0  # images of the first set per step; 0: as many as the plan says
    augment: bool = True  # training images are augmented
    unaugmented: tuple[str, ...] = ()  # but those of these sets are not


@dataclass(frozen=True)
class Batch:
    """Images of one set, as a step gets them."""

    images: Tensor  # B x channels x side x side, normalised; or an encoder's features, B x width
    labels: Tensor  # B; or masks, B x the sides of an image
    index: Tensor  # B, each image's index in its set
    fraction: float = 1.0  # of the step's images: this process's
    weight: Tensor | None = None  # of each pixel of a mask (beta of FedHelp's Eq. 8 and 11); None: 1


@dataclass(frozen=True)
class SiteFacts:
    """What a method may know about its site."""

    id: str
    tier: str  # "small" | "large"
    examples: tuple[int, ...]  # training images of each class; of masks, which show several, their number alone
    groups: tuple[str, ...] = ()  # of each training image: its patient or lesion, "" if it is single; empty: not known


@dataclass(frozen=True)
class Compute:
    """Where training runs: the device, the precision, and this process's rank among all."""

    device: str = "cpu"
    bf16: bool = False  # bf16 autocast
    rank: int = 0
    ranks: int = 1

    def autocast(self) -> AbstractContextManager[object]:
        """The context of each forward pass: bf16 autocast, or nothing."""
        return torch.autocast(self.device, torch.bfloat16) if self.bf16 else nullcontext()


@dataclass(frozen=True)
class LearnerContext:
    """All that a learner is made from."""

    plan: Plan
    site: SiteFacts
    pack: Pack | None = None  # of its images a learner sees batches only
    compute: Compute = Compute()
    first_weights: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)  # of own nets, by the net's name
    encoder: EncoderFacts | None = None  # where the nets work on features


class Learner:
    """FedAvg: cross-entropy on one net, which travels. Other methods override what differs."""

    def __init__(self, context: LearnerContext) -> None:
        self.plan, self.site, self.compute = context.plan, context.site, context.compute
        self.first_weights, self.encoder = context.first_weights, context.encoder
        method = METHODS[self.plan.method]
        self.up_schema, self.down_schema = method.up(self.plan, context.pack), method.down(self.plan, context.pack)
        self.criterion: Loss = loss_function(self.plan.training.loss, self.site.examples)
        adjusted = self.plan.training.loss == "logit-adjusted"
        # of the classes, where training keeps it out of the logits: it is added to those of predictions
        self.prior: list[float] | None = class_prior(self.site.examples).tolist() if adjusted else None
        self.net = self.new_net(self.plan.nets.small, "net")
        self.optimisers: dict[str, Optimiser] = {}
        self.noise: PrivateGradients | None = None  # of the step that comes, where the plan protects images by noise

    # --- what a method says -----------------------------------------------------------------------------------------
    @property
    def model(self) -> Net:
        """The net that this site diagnoses with."""
        return self.net

    @property
    def exported(self) -> Net:
        """The net that `export` weighs with others: of a model of several nets the site's own."""
        return self.model

    def others(self) -> Mapping[str, Net]:
        """Further nets of this site that validation and test images judge, by name: for reports alone."""
        return {}

    def trained(self) -> Modules:
        """The modules that learn, each with an optimiser of its own. All others stay in eval mode."""
        return {"net": self.net}

    def kept(self) -> Modules:
        """The modules that make up the state of this learner."""
        return self.trained()

    def gives(self) -> Modules:
        """The modules that travel, by the prefix of their tensors' names in an update."""
        return {"": self.net}

    def takes(self, round_: int) -> Modules:
        """The modules that a merged model is loaded into as a round begins, by the prefix of their tensors' names."""
        return {"": self.net}

    def began(self, round_: int, merge: LastMerge) -> None:
        """Called as a round begins, when the merged model is loaded."""

    def phases(self, round_: int, last: bool) -> list[Phase]:
        """The phases of a local round, in order; `last`: it is the plan's last round."""
        return [Phase("train", epochs=self.plan.training.epochs)]

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        """Takes one step; returns the parts of the loss by name."""
        parts = self.push_private(batches["private"])
        self.go()
        return parts

    def private_parts(self, private: Batch) -> dict[str, Tensor]:
        """The parts of the loss by which the net that travels learns from private images: means over these.

        Where noise protects images, no other image may matter to an image's part.
        """
        with self.compute.autocast():
            logits = self.net(private.images)
        return {"loss": self.loss(logits.float(), private)}

    # --- what a round calls -----------------------------------------------------------------------------------------
    @final
    def receive(self, merged: Mapping[str, Array], round_: int, merge: LastMerge = NO_MERGE) -> None:
        """Begins a round from the merged model. Tensors that it lacks stay as they are at the site."""
        modules = self.takes(round_)
        for prefix, module in modules.items():
            load_arrays(module, {**arrays_of(module), **_under(prefix, modules, merged)})
        self.began(round_, merge)
        self.begin(round_)

    @final
    def begin(self, round_: int) -> None:
        """Makes the optimisers, which are new in each round."""
        self.optimisers = {name: self.new_optimiser(module, round_) for name, module in self.trained().items()}

    @final
    def end(self) -> None:
        """Ends the training of a round: its optimisers are no longer needed."""
        self.optimisers = {}

    @final
    def give(self) -> dict[str, Array]:
        """The update's tensors: those of the method's schema."""
        arrays = {prefix + name: a for prefix, module in self.gives().items() for name, a in arrays_of(module).items()}
        return {tensor.name: arrays[tensor.name] for tensor in self.up_schema.tensors}

    @final
    def state(self) -> dict[str, Array]:
        """The whole state as named arrays: `module/tensor`, and `module!parameter/slot` for optimisers."""
        arrays: dict[str, Array] = {}
        for name, module in self.kept().items():
            arrays |= {f"{name}/{key}": _to_array(tensor) for key, tensor in module.state_dict().items()}
        for name, optimiser in self.optimisers.items():
            for index, slots in optimiser.slots().items():
                arrays |= {f"{name}!{index}/{slot}": _to_array(tensor) for slot, tensor in slots.items()}
        return arrays

    @final
    def load(self, state: Mapping[str, Array], round_: int) -> None:
        """Restores a state, with the optimisers as they were within this round."""
        for name, module in self.kept().items():
            module.load_state_dict(_tensors_under(state, f"{name}/"))
        self.begin(round_)
        for name, optimiser in self.optimisers.items():
            slots: dict[int, dict[str, Tensor]] = {}
            for key, tensor in _tensors_under(state, f"{name}!").items():
                index, slot = key.split("/")
                slots.setdefault(int(index), {})[slot] = tensor
            optimiser.load(slots)

    @final
    def overwritten(self, round_: int) -> list[str]:
        """The names, as in `state`, of all that the merged model of this round overwrites as the round begins."""
        arriving = dict.fromkeys(tensor.name for tensor in self.down_schema.tensors)
        modules = self.takes(round_)
        taken: set[int] = set()  # tensors; a module may be part of another
        for prefix, module in modules.items():
            tensors = module.state_dict(keep_vars=True)
            taken |= {id(tensors[name]) for name in _under(prefix, modules, arriving)}
        return [
            f"{name}/{key}"
            for name, module in self.kept().items()
            for key, tensor in module.state_dict(keep_vars=True).items()
            if id(tensor) in taken
        ]

    def own_nets(self) -> set[str]:
        """The nets that start at the site, by name: they learn, and no model that arrives overwrites them at first."""
        return {net.name for net in self._staying()}

    def _staying(self) -> list[Net]:
        """The same nets."""
        taken = {id(tensor) for module in self.takes(1).values() for tensor in module.parameters()}
        learning = [module for module in self.trained().values() if isinstance(module, Net)]
        return [net for net in learning if id(next(net.parameters())) not in taken]

    # --- for subclasses --------------------------------------------------------------------------------------------
    def new_net(self, name: str, purpose: str) -> Net:
        """A new net of this name, with the given first weights, or with some drawn by the law of round 0's model.

        The drawn ones follow from the plan's seed, the site and the purpose.
        """
        form = Form.of(self.plan)
        weights = spec.initial_weights(spec.schema(name, form), derive_seed(self.plan.seed, self.site.id, purpose))
        if given := self.first_weights.get(name):
            weights, _ = spec.warm_start(weights, given)
        with torch.random.fork_rng(devices=[]):  # a module draws weights of its own: nobody's random numbers change
            net = nets.create(name, form)
        load_arrays(net, weights)
        net.to(self.compute.device)
        order = torch.channels_last_3d if form.dimensions == 3 else torch.channels_last
        return net.to(memory_format=order)  # type: ignore[call-overload, no-any-return]

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The plan's loss of a batch: a mean over its images, or over the pixels of all its masks (Eq. 2, 11)."""
        return pixel_loss(self.criterion, logits, batch.labels, batch.weight)

    def new_optimiser(self, module: nn.Module, round_: int) -> Optimiser:
        """A new optimiser for a module, at this round's learning rate."""
        training, groups = self.plan.training, self.parameter_groups(module)
        stays = training.own_lr and any(module is net for net in self._staying())
        rate = self.scheduled(training.own_lr if stays else training.lr, round_)
        if training.optimiser == "adam":
            return Adam(groups, rate, training.weight_decay)
        return SGD(groups, rate, training.weight_decay)

    def scheduled(self, rate: float, round_: int) -> float:
        """A learning rate in this round, by the plan's schedule."""
        if self.plan.training.schedule == "constant":
            return rate
        return rate * 0.5 * (1 + math.cos(math.pi * (round_ - 1) / self.plan.rounds))

    def parameter_groups(self, module: nn.Module) -> list[dict[str, Any]]:
        """The module's parameters, in groups that share optimiser settings."""
        return [{"params": list(module.parameters())}]

    def descend(self, *means: tuple[Batch, Mapping[str, Tensor]]) -> dict[str, float]:
        """Takes one step of every optimiser down the sum of all parts of the loss; returns the parts."""
        parts = self.push(*means)
        self.go()
        return parts

    def push_private(self, private: Batch, *others: tuple[Batch, Mapping[str, Tensor]]) -> dict[str, float]:
        """Makes the gradients of the private parts of the loss, protected by noise if the plan says so, and of others.

        The others must not depend on private images where noise protects these.
        """
        if self.noise is None:
            return self.push((private, self.private_parts(private)), *others)
        parts = self.push(*others)
        return self.noise.add(self, private) | parts

    def push(self, *means: tuple[Batch, Mapping[str, Tensor]]) -> dict[str, float]:
        """Makes the gradients of the sum of all parts of the loss, in place of the last ones; returns the parts.

        Each part is a mean over its batch. Where several processes share that batch, gradients and parts are those of
        the whole batch.
        """
        for optimiser in self.optimisers.values():
            optimiser.zero_grad()
        parts = {name: batch.fraction * part for batch, terms in means for name, part in terms.items()}
        if not parts:
            return {}
        losses = torch.stack(list(parts.values()))
        losses.sum().backward()
        losses = losses.detach()
        if self.compute.ranks > 1:
            self._all_reduce(losses)
        return dict(zip(parts, losses.tolist(), strict=True))

    def go(self) -> None:
        """Takes one step of every optimiser along the gradients."""
        for optimiser in self.optimisers.values():
            optimiser.step()

    def mean_of_all(self, batch: Batch, mean: Tensor) -> Tensor:
        """A constant: the mean over the whole batch of all processes, from the mean over this process's part."""
        whole = batch.fraction * mean.detach()
        if self.compute.ranks > 1:
            torch.distributed.all_reduce(whole)
        return whole

    def _all_reduce(self, losses: Tensor) -> None:
        """Sums gradients and losses over all processes, and averages batch norm's running statistics."""
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


def _under(prefix: str, modules: Modules, arrays: Mapping[str, T]) -> dict[str, T]:
    """The arrays of one module, by its own names. A name belongs to the longest prefix that it begins with."""
    longer = tuple(other for other in modules if other.startswith(prefix) and other != prefix)
    names = (name for name in arrays if name.startswith(prefix) and not (longer and name.startswith(longer)))
    return {name.removeprefix(prefix): arrays[name] for name in names}


def steps_per_epoch(images: int, batch: int) -> int:
    """The number of batches. They are nearly equal in size: none is too small for batch norm, no image is left out."""
    return max(1, min(math.ceil(images / batch), images // 2))  # no batch of one image


def derive_seed(*parts: object) -> int:
    """A seed for torch from its parts: the plan's seed, the site and the purpose."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7], "big")


def _to_array(tensor: Tensor) -> Array:
    return np.array(tensor.detach().cpu().numpy())


def _tensors_under(state: Mapping[str, Array], prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): torch.from_numpy(np.array(value))
        for key, value in state.items()
        if key.startswith(prefix)
    }
