"""FedHelp (KDD 2025). Small sites train a surrogate that foundation models' answers on public images also guide. Large
sites keep a large net, and a proxy of the small kind travels in its place. Only small nets are exchanged.

Equation numbers are the paper's. The plan's table [fedhelp] settles what the paper leaves open
(docs/decisions/fedhelp.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedhelp_edge.data.pack import MAP_SCALE, Pack
from fedhelp_edge.errors import UsageError
from fedhelp_edge.methods.base import Batch, Learner, LearnerContext, Modules, Phase, derive_seed
from fedhelp_edge.methods.losses import kl_divergence, mix_sources, pixel_loss, ranking_loss
from fedhelp_edge.methods.optimisers import Optimiser
from fedhelp_edge.methods.registry import check_tier
from fedhelp_edge.methods.settings import FedHelpSettings
from fedhelp_edge.nets.net import Net, classify, frozen_bn_stats

_MIN_PROBABILITY = 1e-7  # half precision cannot tell a smaller probability from zero


def learner(context: LearnerContext) -> Learner:
    """A site's learner, by its tier: a surrogate at small sites, a proxy at large ones."""
    site = context.site
    if site.tier == "small" and site.id in context.plan.nets.own:
        remedy = f"take {site.id} out of [nets] own, or register it as a large site"
        raise UsageError(f"{site.id} is small: it has no net but the one that travels", remedy=remedy)
    check_tier(context.plan, site.tier, site.id)  # a proxy learns from the large net, which sees images without noise
    return (Surrogate if site.tier == "small" else Proxy)(context)


class PublicHead(nn.Module):
    """A small site's modules for public images: a second head, and the weight of each source for each image."""

    def __init__(self, width: int, classes: int, images: int, sources: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, classes)
        self.trust = nn.Parameter(torch.zeros(images, sources)) if sources > 1 else None

    def alpha(self, index: Tensor) -> Tensor:
        """The sources' weights for each image (B x sources): non-negative, summing to 1; with one source exactly 1."""
        return torch.ones(len(index), 1, device=index.device) if self.trust is None else self.trust[index].softmax(1)


class Surrogate(Learner):
    """A small site: J = L + lambda_J R (Eq. 3), L on private images (Eq. 2), R on public ones (Eq. 1)."""

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        self.settings: FedHelpSettings = self.plan.tables["fedhelp"]
        self.public: PublicHead | None = None
        pack = context.pack
        if pack is None or not self.settings.lambda_j:
            return
        sources = self._read_maps(pack) if self.plan.has_masks else self._read_answers(pack)
        learned = sources if self.settings.alpha == "learned" else 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.plan.seed, self.site.id, "public"))
            self.public = PublicHead(self.net.width, pack.outputs, len(pack), learned).to(self.compute.device)

    def _read_answers(self, pack: Pack) -> int:
        """Loads the sources' answers for all public images; returns the number of sources."""
        answers = torch.from_numpy(pack.probabilities.astype(np.float32)).transpose(0, 1)  # images first
        answers = answers[:, self._chosen(answers.shape[1])]
        self.source_answers = answers.to(self.compute.device)
        labels = torch.from_numpy(np.array(pack.labels))
        likelihoods = answers.gather(2, labels.view(-1, 1, 1).expand(-1, answers.shape[1], 1))
        log_alpha = (
            likelihoods.squeeze(2).clamp_min(_MIN_PROBABILITY).log()
            if self.settings.alpha == "label_fit"
            else torch.zeros(answers.shape[:2])
        )
        self.fixed_alpha = log_alpha.softmax(1).to(self.compute.device)
        return answers.shape[1]

    def _read_maps(self, pack: Pack) -> int:
        """The same of masks, whose maps of probabilities are read batch by batch."""
        if pack.masks is None:
            raise UsageError(
                "this knowledge pack has no masks", remedy="leave it out, or give public images with masks"
            )
        if self.plan.image.is_volume:
            raise UsageError("the plan is for volumes, and public images are pictures", remedy="leave the pack out")
        if self.settings.alpha == "label_fit":
            raise UsageError("label_fit is for classes of images", remedy='say alpha = "learned" or "uniform"')
        self.maps = pack.probabilities[self._chosen(len(pack.sources))]  # sources x images x classes x sides
        self.fixed_alpha = torch.full((len(pack), len(self.maps)), 1 / max(1, len(self.maps))).to(self.compute.device)
        return len(self.maps)

    def _chosen(self, sources: int) -> slice:
        """The sources that the plan asks."""
        return slice({"all": sources, "first": 1, "none": 0}[self.settings.sources])

    def answers(self, index: Tensor) -> Tensor:
        """The sources' answers for a batch of public images: B x sources x classes (x the sides of an image)."""
        if not self.plan.has_masks:
            return self.source_answers[index]
        maps = self.maps[:, index.cpu().numpy()].astype(np.float32) / MAP_SCALE
        return torch.from_numpy(maps).transpose(0, 1).to(self.compute.device)

    def trained(self) -> Modules:
        return {"net": self.net, **({"public": self.public} if self.public else {})}

    def parameter_groups(self, module: nn.Module) -> list[dict[str, Any]]:
        """The sources' weights do not decay: they are no weights of a net."""
        if not isinstance(module, PublicHead) or module.trust is None:
            return super().parameter_groups(module)
        return [{"params": list(module.head.parameters())}, {"params": [module.trust], "weight_decay": 0.0}]

    def new_optimiser(self, module: nn.Module, round_: int) -> Optimiser:
        optimiser = super().new_optimiser(module, round_)
        if self.settings.alpha_lr and isinstance(module, PublicHead) and module.trust is not None:
            optimiser.param_groups[-1]["lr"] = self.scheduled(self.settings.alpha_lr, round_)
        return optimiser

    def phases(self, round_: int, last: bool) -> list[Phase]:
        draw = ("private", "public") if self.public else ("private",)
        return [
            Phase(
                "surrogate", draw, self.plan.training.epochs, every=self.settings.public_every,
                unaugmented=self.unaugmented(),
            )
        ]  # fmt: skip

    def unaugmented(self) -> tuple[str, ...]:
        """The sets whose images are shown as they are: the foundation models' answers are of these."""
        return () if self.settings.public_augment else ("public",)

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        means = []
        if self.public and "public" in batches:
            means.append((batches["public"], self.public_losses(self.public, batches["public"])))
        parts = self.push_private(batches["private"], *means)
        self.go()
        return parts

    def public_losses(self, public: PublicHead, batch: Batch) -> dict[str, Tensor]:
        """The two parts of lambda_J R (Eq. 1; of pixels Eq. 8 and 9)."""
        with self.compute.autocast(), self.isolate_bn_stats():
            logits = classify(public.head, self.net.features(batch.images))
        logits = logits.float()
        parts = {"public": self.settings.lambda_j * pixel_loss(F.cross_entropy, logits, batch.labels, batch.weight)}
        answers = self.answers(batch.index)
        if answers.shape[1] and self.settings.lambda_r:
            alpha = public.alpha(batch.index) if self.settings.alpha == "learned" else self.fixed_alpha[batch.index]
            weight = self.settings.lambda_j * self.settings.lambda_r
            parts["sources"] = weight * mix_kl_divergence(mix_sources(answers, alpha), logits)
        return parts

    def isolate_bn_stats(self) -> AbstractContextManager[None]:
        """Keeps public images out of the private running statistics."""
        return frozen_bn_stats(self.net)


def mix_kl_divergence(mix: Tensor, logits: Tensor) -> Tensor:
    """KL(mix || softmax(logits)). Its gradient also reaches the mix, by which alpha learns (Eq. 1)."""
    # half-precision answers can be exactly 0, and 0 log 0 has no gradient
    log_mix = mix.clamp_min(_MIN_PROBABILITY).log()
    return (mix * (log_mix - logits.log_softmax(1))).sum(1).mean()


class Proxy(Learner):
    """A large site: G = L + lambda_F KDf + lambda_B KDb (Eq. 7), for teacher and proxy at once or in turn."""

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        self.settings: FedHelpSettings = self.plan.tables["fedhelp"]
        self.teacher = self.new_net(self.plan.nets.own_net(self.site.id, "large"), "teacher")
        self.top = min(self.settings.top, self.plan.outputs - 1)

    @property
    def model(self) -> Net:
        return self.teacher

    def trained(self) -> Modules:
        return {"net": self.net, "teacher": self.teacher}

    def phases(self, round_: int, last: bool) -> list[Phase]:
        epochs = self.plan.training.epochs
        if self.settings.schedule == "joint":
            return [Phase("joint", epochs=epochs)]
        return [Phase(name) for _ in range(epochs) for name in ("teacher", "proxy")]

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        private = batches["private"]
        teacher_learns, proxy_learns = phase.name != "proxy", phase.name != "teacher"
        teacher = self.logits_of(self.teacher, private.images, teacher_learns)
        proxy = self.logits_of(self.net, private.images, proxy_learns)
        parts: dict[str, Tensor] = {}
        if teacher_learns:
            parts["loss"] = self.loss(teacher, private)
            if self.settings.lambda_b and self.settings.backward == "rank":
                parts["backward"] = self.settings.lambda_b * ranking_loss(teacher, proxy, self.top)  # Eq. 5
            elif self.settings.lambda_b and self.settings.backward == "kl":
                parts["backward"] = self.settings.lambda_b * kl_divergence(proxy.softmax(1), teacher)
        if proxy_learns:
            if self.settings.lambda_f:
                parts["forward"] = self.settings.lambda_f * kl_divergence(teacher.softmax(1), proxy)  # Eq. 4
            if self.settings.proxy_ce:
                parts["proxy"] = self.loss(proxy, private)
        return self.descend((private, parts))

    def logits_of(self, net: Net, images: Tensor, learns: bool) -> Tensor:
        """A net's logits. A net that does not learn runs in eval mode and without gradients."""
        net.train(learns)
        with torch.set_grad_enabled(learns), self.compute.autocast():
            logits: Tensor = net(images)
        return logits.float()
