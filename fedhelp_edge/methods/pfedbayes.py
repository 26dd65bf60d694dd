"""pFedBayes (Zhang et al., ICML 2022, algorithm 1): weights are Gaussian, each site has a distribution.

A weight has a mean and a rho; its standard deviation is log(1 + exp(rho)). The site's distribution q goes down the
loss of nets drawn from it, and stays near the common one: KL(q || common). The site's copy of the common one moves
towards q. Copies are averaged, means and rhos alike. A site diagnoses with the net of q's means.

Norm layers have no distribution. They learn with q and are averaged, as with FedAvg.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fedhelp_edge.merge.closing import LastMerge
from fedhelp_edge.methods.base import Batch, Learner, LearnerContext, Modules, Phase, derive_seed
from fedhelp_edge.methods.schemas import RHO
from fedhelp_edge.nets import spec
from fedhelp_edge.nets.net import Net, frozen_bn_stats


class Gaussian(nn.Module):
    """A net of independent Gaussian weights. `rho` is a net of the same form, whose norm layers mean nothing."""

    draws: Tensor  # how many nets were drawn from it so far

    def __init__(self, mean: Net, rho: Net) -> None:
        super().__init__()
        self.mean, self.rho = mean, rho
        tensors = spec.schema(mean.name, mean.form).tensors
        self.names = [tensor.name for tensor in tensors if tensor.role == "weight"]
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))

    def weights(self) -> list[tuple[Tensor, Tensor]]:
        """Mean and standard deviation of each tensor of weights."""
        means, rhos = dict(self.mean.named_parameters()), dict(self.rho.named_parameters())
        return [(means[name], F.softplus(rhos[name])) for name in self.names]

    def draw(self, *purpose: object) -> dict[str, Tensor]:
        """Weights drawn from it, by their names in the net."""
        self.draws += 1
        weights = self.weights()
        generator = np.random.Generator(np.random.Philox(derive_seed(*purpose, int(self.draws))))
        noise = torch.from_numpy(generator.standard_normal(sum(mean.numel() for mean, _ in weights), np.float32))
        parts = noise.to(weights[0][0]).split([mean.numel() for mean, _ in weights])
        return {
            name: mean + deviation * part.view(mean.shape)
            for name, (mean, deviation), part in zip(self.names, weights, parts, strict=True)
        }

    @torch.no_grad()
    def copy_norm_layers(self, other: Gaussian) -> None:
        """Takes all that has no distribution from another one: scales, shifts and running statistics."""
        mine = self.mean.state_dict()
        for name, tensor in other.mean.state_dict().items():
            if name not in self.names:
                mine[name].copy_(tensor)


class PFedBayes(Learner):
    """The common distribution, of whose means `net` is made, and the site's own one, q."""

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        small = self.plan.nets.small
        self.common = Gaussian(self.net, self.new_net(small, "net")).to(self.compute.device)
        self.own = Gaussian(self.new_net(small, "net"), self.new_net(small, "net")).to(self.compute.device)
        # Of the bound of an image's log-likelihood: zeta KL / n. A batch's loss is a mean over images, as everywhere.
        self.zeta = self.plan.method_settings.zeta / sum(self.site.examples)

    @property
    def model(self) -> Net:
        return self.own.mean

    def trained(self) -> Modules:
        return {"common": self.common, "own": self.own}

    def gives(self) -> Modules:
        return {"": self.common.mean, RHO: self.common.rho}

    def takes(self, round_: int) -> Modules:
        return self.gives()

    def began(self, round_: int, merge: LastMerge) -> None:
        """In its first round a site begins with the common distribution, and later with its own. Norm layers are the
        common ones."""
        if not self.own.draws:
            self.own.load_state_dict(self.common.state_dict())
        self.own.copy_norm_layers(self.common)

    def parameter_groups(self, module: nn.Module) -> list[dict[str, Any]]:
        """No weight decays: the distance from the common distribution takes the place of that."""
        return [{"params": list(module.parameters()), "weight_decay": 0.0}]

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        """One step of q, then one of the common distribution towards it."""
        private = batches["private"]
        with torch.no_grad(), self.compute.autocast():
            self.own.mean(private.images)  # the running statistics are those of the net that diagnoses
        drawn = self.own.draw(self.plan.seed, self.site.id, "weights")
        with self.compute.autocast(), frozen_bn_stats(self.own.mean):
            logits: Tensor = functional_call(self.own.mean, drawn, (private.images,))
        loss = self.loss(logits.float(), private)
        distance = kl_divergence(self.own.weights(), fixed(self.common.weights()))
        parts = self.descend((private, {"loss": loss, "distance": self.zeta * distance}))
        distance = kl_divergence(fixed(self.own.weights()), self.common.weights())
        parts |= self.descend((private, {"common": self.zeta * distance}))
        self.common.copy_norm_layers(self.own)
        return parts


def kl_divergence(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> Tensor:
    """KL(first || second) of independent Gaussians, by their means and standard deviations."""
    parts = [
        (t.log() - s.log() + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5).sum()
        for (m, s), (n, t) in zip(first, second, strict=True)
    ]
    return torch.stack(parts).sum()


def fixed(weights: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The same numbers, through which no gradient goes."""
    return [(mean.detach(), deviation.detach()) for mean, deviation in weights]
