"""FedSM (Xu et al., CVPR 2022): a common net, a personal net of each site, and a selector that says whose an image is.

A site trains all three. The personal nets are pulled towards each other (SoftPull). The selector learns from every
site's images, whose label is the site's number. Each epoch is one step of Adam, whose moments are averaged too. The
"super model" answers by the personal net where the selector is sure of its site, and else by the common one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedhelp_edge.errors import UsageError
from fedhelp_edge.merge.closing import LastMerge
from fedhelp_edge.methods.base import Batch, Learner, LearnerContext, Modules, Phase, steps_per_epoch
from fedhelp_edge.methods.optimisers import Adam, Optimiser
from fedhelp_edge.methods.schemas import MOMENTS, PERSON, SELECTOR, selector_form
from fedhelp_edge.methods.settings import FedSMSettings
from fedhelp_edge.nets import net as nets
from fedhelp_edge.nets.net import Net

_SLOTS = ("exp_avg", "exp_avg_sq")  # Adam's moments, in the order of `MOMENTS`


class FedSM(Learner):
    """`net` is the common net. The site diagnoses with the super model of it, its personal net and the selector."""

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        self.settings: FedSMSettings = self.plan.tables["fedsm"]
        self.number = _number(self.site.id, self.settings.sites)
        self.person, self.mean_person = (self.new_net(self.plan.nets.small, "net") for _ in range(2))
        self.selector = self._new_selector()
        # in its form: the moments of its Adam, and the gradient of the images that it has seen of an epoch
        self.first, self.second, self.gradient = (self._new_selector().requires_grad_(False) for _ in range(3))
        for module in (self.first, self.second, self.gradient):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)
        self.selector_steps = 0
        self.progress = Progress().to(self.compute.device)
        self.super_model = SuperModel(self.net, self.person, self.selector, self.number, self.settings.gamma)

    @property
    def model(self) -> Net:
        return self.super_model

    @property
    def exported(self) -> Net:
        return self.person

    def others(self) -> Mapping[str, Net]:
        return {"person": self.person}

    def trained(self) -> Modules:
        return {"net": self.net, "person": self.person, "selector": self.selector}

    def kept(self) -> Modules:
        moments = {"first": self.first, "second": self.second, "gradient": self.gradient}
        return {**self.trained(), "mean_person": self.mean_person, **moments, "progress": self.progress}

    def gives(self) -> Modules:
        return self._travelling(self.person)

    def takes(self, round_: int) -> Modules:
        return self._travelling(self.mean_person)

    def _travelling(self, person: Net) -> Modules:
        moments = zip(MOMENTS, (self.first, self.second), strict=True)
        return {"": self.net, PERSON: person, SELECTOR: self.selector, **dict(moments)}

    def own_nets(self) -> set[str]:
        return set()

    def began(self, round_: int, merge: LastMerge) -> None:
        """Pulls the personal net. A site that has not trained yet takes the mean of the others', or the first net."""
        if self.progress.rounds:
            soft_pull(self.person, self.mean_person, self.settings.strength, merge)
        else:
            self.person.load_state_dict((self.mean_person if merge.updates else self.net).state_dict())
        self.progress.rounds += 1
        self.progress.batches.zero_()

    def new_optimiser(self, module: nn.Module, round_: int) -> Optimiser:
        if module is not self.selector:
            return super().new_optimiser(module, round_)
        self.selector_steps = (round_ - 1) * self.plan.training.epochs  # before this round, at every site
        return Adam(self.parameter_groups(module), self.settings.selector_lr, 0.0)

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        private = batches["private"]
        with self.compute.autocast():
            common, own = self.net(private.images), self.person(private.images)
            site = select(self.selector, private.images)
        numbers = torch.full((len(site),), self.number, device=site.device)
        parts = self.push(
            (private, {
                "loss": self.loss(common.float(), private), "person": self.loss(own.float(), private),
                "selector": F.cross_entropy(site.float(), numbers),
            })
        )  # fmt: skip
        is_last = self._add_gradient()
        self.go()
        if is_last:
            self._keep_moments()
        return parts

    @torch.no_grad()
    def _add_gradient(self) -> bool:
        """Adds a batch's gradient of the selector to that of all images, which takes its place after the last batch.

        Returns whether this was the last one. Before it the selector has no gradient, and stays.
        """
        count = sum(self.site.examples)
        batches = steps_per_epoch(count, self.plan.training.batch)
        number = int(self.progress.batches)
        images = count // batches + (number < count % batches)
        is_last = number + 1 == batches
        for total, parameter in zip(self.gradient.parameters(), self.selector.parameters(), strict=True):
            if parameter.grad is not None:
                total.add_(parameter.grad, alpha=images / count)
            parameter.grad = total.clone() if is_last else None
            if is_last:
                total.zero_()
        self.progress.batches.fill_(0 if is_last else number + 1)
        if is_last and not self.optimisers["selector"].slots():
            self._load_moments()
        return is_last

    def _load_moments(self) -> None:
        """Lets the selector's Adam go on from everybody's moments. A second moment below 0, which has no root, is 0."""
        steps = torch.tensor(float(self.selector_steps))
        slots = [
            {"step": steps.clone(), _SLOTS[0]: first.detach().clone(), _SLOTS[1]: second.detach().clamp(min=0)}
            for first, second in zip(*self._moments(), strict=True)
        ]
        self.optimisers["selector"].load(dict(enumerate(slots)))

    @torch.no_grad()
    def _keep_moments(self) -> None:
        slots = self.optimisers["selector"].slots()
        for name, moments in zip(_SLOTS, self._moments(), strict=True):
            for index, moment in enumerate(moments):
                moment.copy_(slots[index][name])

    def _moments(self) -> list[list[nn.Parameter]]:
        return [list(module.parameters()) for module in (self.first, self.second)]

    def _new_selector(self) -> Net:
        with torch.random.fork_rng(devices=[]):  # its weights arrive with the first model
            selector = nets.create(self.settings.selector, selector_form(self.plan))
        return selector.to(self.compute.device)


def _number(site: str, sites: int) -> int:
    """The number of a site among those that the selector tells apart: from 0."""
    number = int(site.rpartition("-")[2]) - 1
    if not 0 <= number < sites:
        raise UsageError(
            f"the plan's selector tells {sites} sites apart, and this is {site}",
            remedy="ask the coordinator for a plan with more: [fedsm] sites",
        )
    return number


class Progress(nn.Module):
    """How many rounds a site has begun, and how many batches the selector has seen of an epoch."""

    rounds: Tensor
    batches: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rounds", torch.zeros((), dtype=torch.int64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))


class SuperModel(Net):
    """Answers by a site's personal net where the selector is surer than gamma that an image is the site's."""

    def __init__(self, common: Net, person: Net, selector: Net, number: int, gamma: float) -> None:
        super().__init__(common.name, common.form)
        self.common, self.person, self.selector = common, person, selector
        self.number, self.gamma, self.width = number, gamma, common.width

    def forward(self, x: Tensor) -> Tensor:
        is_own = select(self.selector, x).softmax(1)[:, self.number] > self.gamma
        common = self.common(x)
        chosen: Tensor = torch.where(is_own.view(-1, *(1,) * (common.ndim - 1)), self.person(x), common)
        return chosen


def select(selector: Net, images: Tensor) -> Tensor:
    """Whose images these are, as logits. Of a block of a volume the mean over its slices."""
    if images.ndim == 4:
        logits: Tensor = selector(images)
        return logits
    slices = images.movedim(2, 1)
    every: Tensor = selector(slices.flatten(0, 1)).unflatten(0, slices.shape[:2])
    return every.mean(1)


@torch.no_grad()
def soft_pull(person: nn.Module, mean: nn.Module, strength: float, merge: LastMerge) -> None:
    """person <- lambda person + (1 - lambda) x the mean of the others' personal nets.

    `mean` is that of all of `merge`. Where the site's own is among them, it is taken out again; alone, nothing is left.
    An earlier own one, before a round that was cancelled, is not known any more, and stays in.
    """
    others = merge.updates - merge.own
    if not others:
        return
    for own, common in zip(person.state_dict().values(), mean.state_dict().values(), strict=True):
        if own.is_floating_point():
            of_others = (merge.updates * common - own) / others if merge.own and merge.latest else common
            own.copy_(strength * own + (1 - strength) * of_others)
