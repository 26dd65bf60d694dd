"""FedKEMF (Yu et al. 2023): each site keeps a net of its own, and a small knowledge net travels in its place.

A site trains both nets by deep mutual learning (Zhang et al. 2018): each learns from the labels, and from the other's
probabilities. The coordinator takes the mean probabilities of all knowledge nets on public images as a teacher, and
distils it into their average. It reads no label, neither private nor public.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from fedhelp_edge.errors import UpdateError
from fedhelp_edge.merge import rules
from fedhelp_edge.merge.closing import Closing
from fedhelp_edge.methods.base import Batch, Learner, LearnerContext, Modules, Phase, derive_seed
from fedhelp_edge.methods.losses import kl_divergence
from fedhelp_edge.methods.optimisers import SGD
from fedhelp_edge.nets import net as nets
from fedhelp_edge.nets.net import Net, arrays_of, input_tensor, load_arrays
from fedhelp_edge.nets.spec import Form
from fedhelp_edge.plan import Plan
from fedhelp_edge.update import Array, check_values

_BATCH = 256  # images that a teacher sees at once


class FedKEMF(Learner):
    """`net` is the knowledge net; the site diagnoses with its own one, which never leaves it."""

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        self.own = self.new_net(self.plan.nets.own_net(self.site.id, self.site.tier), "own")

    @property
    def model(self) -> Net:
        return self.own

    def trained(self) -> Modules:
        return {"net": self.net, "own": self.own}

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        private = batches["private"]
        return self.descend((private, self.losses(private)))

    def losses(self, private: Batch) -> dict[str, Tensor]:
        """The parts of the loss: each net's own, and each net's distance from the other's probabilities."""
        mutual = self.plan.method_settings.mutual
        with self.compute.autocast():
            own, knowledge = self.own(private.images), self.net(private.images)
        own, knowledge = own.float(), knowledge.float()
        parts = {"loss": self.loss(own, private), "knowledge": self.loss(knowledge, private)}
        if mutual:
            parts["own_from_knowledge"] = mutual * kl_divergence(knowledge.softmax(1), own)
            parts["knowledge_from_own"] = mutual * kl_divergence(own.softmax(1), knowledge)
        return parts


# --- the coordinator -------------------------------------------------------------------------------------------------
def ensemble(closing: Closing) -> dict[str, Array]:
    """The average of the knowledge nets, which then learns what they predict together.

    One thread computes, and each draw follows from the plan's seed and the round: the same bits every time.
    """
    plan = closing.plan
    settings = plan.method_settings
    assert closing.pack  # noqa: S101 - `check_public` saw it
    pack = closing.pack().subset(settings.images, plan.seed).for_plan(plan)
    average = rules.average(closing)
    student = _knowledge_net(plan, average)
    with _one_thread():
        images = input_tensor(np.array(pack.pixels), plan.image)
        teacher = mean_probabilities(closing, images)
        if teacher is not None:
            distil(student, images, teacher, plan, closing.round)
    distilled = arrays_of(student)
    try:
        check_values(distilled)
    except UpdateError:  # the plan's settings diverge: the sites' own work is not lost
        return average
    return distilled


def mean_probabilities(closing: Closing, images: Tensor) -> Tensor | None:
    """The mean over all sites of what their knowledge nets predict, N x classes; each site has one vote.

    A net whose predictions are NaN has none. None: no net has any.
    """
    plan, temperature = closing.plan, closing.plan.method_settings.temperature
    votes, total = 0, torch.zeros(len(images), len(plan.classes))
    for site in sorted(closing.updates):
        net = _knowledge_net(plan, closing.updates[site])
        with torch.no_grad():
            logits = torch.cat([net(part) for part in images.split(_BATCH)])
        if (probabilities := (logits / temperature).softmax(1)).isfinite().all():
            votes, total = votes + 1, total + probabilities
    return total / votes if votes else None


def distil(student: Net, images: Tensor, teacher: Tensor, plan: Plan, round_: int) -> None:
    """Trains a net on the teacher's probabilities: KL(teacher || student) at the same temperature, times its square."""
    settings = plan.method_settings
    optimiser = SGD([{"params": list(student.parameters())}], settings.lr, 0.0)
    for epoch in range(settings.epochs):
        seed = derive_seed(plan.seed, "coordinator", round_, epoch)
        order = np.random.Generator(np.random.Philox(seed)).permutation(len(images))
        for batch in torch.from_numpy(order).split(plan.training.batch):
            optimiser.zero_grad()
            logits = student(images[batch]) / settings.temperature
            (settings.temperature**2 * kl_divergence(teacher[batch], logits)).backward()
            optimiser.step()


def _knowledge_net(plan: Plan, weights: Mapping[str, Array]) -> Net:
    """A knowledge net in eval mode: its norm layers keep the statistics of the sites' images, also while it learns."""
    with torch.random.fork_rng(devices=[]):  # a new module draws weights: nobody's random numbers change
        net = nets.create(plan.nets.small, Form.of(plan)).eval()
    load_arrays(net, weights)
    return net


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
