"""FedHelp (KDD 2025): small sites train a surrogate guided by what foundation models said of public images, once; large
sites keep a large net and let a proxy of the small kind travel in its place. Only nets of the small kind are exchanged.

Equations are the paper's. What it leaves open is a key of the plan's table [fedhelp]: docs/decisions/fedhelp.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedhelp_edge.methods.base import Batch, Compute, Knowledge, Learner, Phase, SiteFacts, derive_seed
from fedhelp_edge.methods.losses import kl_divergence, mix_sources, ranking_loss
from fedhelp_edge.methods.registry import FedHelpSettings as Numbers
from fedhelp_edge.nets.resnet import ResNet, frozen_bn_stats
from fedhelp_edge.nets.spec import FEATURES
from fedhelp_edge.plan import Plan
from fedhelp_edge.update import Schema

_MIN_PROBABILITY = 1e-7  # a probability that half precision cannot tell from nothing


def learner(plan: Plan, site: SiteFacts, schema: Schema, knowledge: Knowledge | None, compute: Compute) -> Learner:
    """The half of the method that belongs to a tier."""
    return (Surrogate if site.tier == "small" else Proxy)(plan, site, schema, knowledge, compute)


class PublicHead(nn.Module):
    """What a small site keeps for public images: a second head, and its trust in each source for each image."""

    def __init__(self, classes: int, images: int, sources: int) -> None:
        super().__init__()
        self.head = nn.Linear(FEATURES, classes)
        self.trust = nn.Parameter(torch.zeros(images, sources)) if sources > 1 else None

    def alpha(self, index: Tensor) -> Tensor:
        """Non-negative, summing to 1 for each image; with one source exactly 1."""
        return torch.ones(len(index), 1, device=index.device) if self.trust is None else self.trust[index].softmax(1)


class Surrogate(Learner):
    """A small site: J = L + lambda_J R (Eq. 3), L on private images (Eq. 2), R on public ones (Eq. 1)."""

    def __init__(
        self, plan: Plan, site: SiteFacts, schema: Schema, knowledge: Knowledge | None, compute: Compute
    ) -> None:
        super().__init__(plan, site, schema, knowledge, compute)
        self.numbers: Numbers = plan.tables["fedhelp"]
        self.public: PublicHead | None = None
        if knowledge is None or not self.numbers.lambda_j:
            return
        answers = torch.from_numpy(knowledge.probabilities.astype(np.float32)).transpose(0, 1)  # images first
        answers = {"all": answers, "first": answers[:, :1], "none": answers[:, :0]}[self.numbers.sources]
        self.said = answers.to(compute.device)
        sources = answers.shape[1] if self.numbers.alpha == "learned" else 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(plan.seed, site.id, "public"))
            self.public = PublicHead(knowledge.classes, len(answers), sources).to(compute.device)
        labels = torch.from_numpy(np.array(knowledge.labels))
        likelihoods = answers.gather(2, labels.view(-1, 1, 1).expand(-1, answers.shape[1], 1))
        log_alpha = (
            likelihoods.squeeze(2).clamp_min(_MIN_PROBABILITY).log()
            if self.numbers.alpha == "label_fit"
            else torch.zeros(answers.shape[:2])
        )
        self.fixed_alpha = log_alpha.softmax(1).to(compute.device)

    def trained(self) -> dict[str, nn.Module]:
        return {"net": self.net, **({"public": self.public} if self.public else {})}

    def groups(self, module: nn.Module) -> list[dict[str, Any]]:
        """Trust in sources is no weight of a net: it does not decay."""
        if not isinstance(module, PublicHead) or module.trust is None:
            return super().groups(module)
        return [{"params": list(module.head.parameters())}, {"params": [module.trust], "weight_decay": 0.0}]

    def phases(self, round_: int, last: bool) -> list[Phase]:
        draw = ("private", "public") if self.public else ("private",)
        return [Phase("surrogate", draw, self.plan.training.epochs, every=self.numbers.public_every)]

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        private = batches["private"]
        with self.compute.autocast():
            logits = self.net(private.images)
        means = [(private, {"loss": self.loss(logits.float(), private.labels)})]
        if self.public and "public" in batches:
            means.append((batches["public"], self.public_losses(self.public, batches["public"])))
        return self.descend(*means)

    def public_losses(self, public: PublicHead, batch: Batch) -> dict[str, Tensor]:
        """lambda_J R, its two parts apart (Eq. 1)."""
        with self.compute.autocast(), self.isolate_bn_stats():
            logits = public.head(self.net.features(batch.images))
        logits = logits.float()
        parts = {"public": self.numbers.lambda_j * F.cross_entropy(logits, batch.labels)}
        answers = self.said[batch.index]
        if answers.shape[1] and self.numbers.lambda_r:
            alpha = public.alpha(batch.index) if self.numbers.alpha == "learned" else self.fixed_alpha[batch.index]
            weight = self.numbers.lambda_j * self.numbers.lambda_r
            parts["sources"] = weight * mix_kl_divergence(mix_sources(answers, alpha), logits)
        return parts

    def isolate_bn_stats(self) -> AbstractContextManager[None]:
        """Public images leave no trace in the private statistics."""
        return frozen_bn_stats(self.net)


def mix_kl_divergence(mix: Tensor, logits: Tensor) -> Tensor:
    """KL(mix || softmax(logits)) whose gradient also reaches the mix: alpha is learned by it (Eq. 1)."""
    log_mix = mix.clamp_min(_MIN_PROBABILITY).log()  # sources are certain to half precision: 0 log 0 has no gradient
    return (mix * (log_mix - logits.log_softmax(1))).sum(1).mean()


class Proxy(Learner):
    """A large site: G = L + lambda_F KDf + lambda_B KDb (Eq. 7), for teacher and proxy at once or in turn."""

    def __init__(
        self, plan: Plan, site: SiteFacts, schema: Schema, knowledge: Knowledge | None, compute: Compute
    ) -> None:
        super().__init__(plan, site, schema, knowledge, compute)
        self.numbers: Numbers = plan.tables["fedhelp"]
        self.teacher: ResNet = self.make(plan.nets.large, "teacher")
        self.top = min(self.numbers.top, len(plan.classes) - 1)

    @property
    def model(self) -> nn.Module:
        return self.teacher

    def trained(self) -> dict[str, nn.Module]:
        return {"net": self.net, "teacher": self.teacher}

    def phases(self, round_: int, last: bool) -> list[Phase]:
        epochs = self.plan.training.epochs
        if self.numbers.schedule == "joint":
            return [Phase("joint", epochs=epochs)]
        return [Phase(name) for _ in range(epochs) for name in ("teacher", "proxy")]

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        private = batches["private"]
        teaching, learning = phase.name != "proxy", phase.name != "teacher"
        teacher_logits, proxy_logits = (
            self.look(self.teacher, private.images, teaching),
            self.look(self.net, private.images, learning),
        )
        parts: dict[str, Tensor] = {}
        if teaching:
            parts["loss"] = self.loss(teacher_logits, private.labels)
            if self.numbers.lambda_b and self.numbers.backward == "rank":
                parts["backward"] = self.numbers.lambda_b * ranking_loss(
                    teacher_logits, proxy_logits, self.top
                )  # Eq. 5
            elif self.numbers.lambda_b and self.numbers.backward == "kl":
                parts["backward"] = self.numbers.lambda_b * kl_divergence(proxy_logits.softmax(1), teacher_logits)
        if learning:
            if self.numbers.lambda_f:
                parts["forward"] = self.numbers.lambda_f * kl_divergence(
                    teacher_logits.softmax(1), proxy_logits
                )  # Eq. 4
            if self.numbers.proxy_ce:
                parts["proxy"] = self.loss(proxy_logits, private.labels)
        return self.descend((private, parts))

    def look(self, net: ResNet, images: Tensor, learns: bool) -> Tensor:
        """Logits: of a net that learns, or of one that stands still while the other does."""
        net.train(learns)
        with torch.set_grad_enabled(learns), self.compute.autocast():
            logits: Tensor = net(images)
        return logits.float()
