"""DP-SGD (Abadi et al. 2016): each image's gradient is clipped, and their sum gets noise.

The sum is divided by the plan's `batch`, and not by the number of images that the step took: that number is private.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from fedhelp_edge.methods.base import Batch, Learner
from fedhelp_edge.plan import Plan
from fedhelp_edge.privacy import noise

_AT_ONCE = 32  # images whose gradients are in memory together


@dataclass(frozen=True)
class PrivateGradients:
    """The noise of one step."""

    key: bytes
    step: int

    def add(self, learner: Learner, batch: Batch) -> dict[str, float]:
        """Adds the noisy gradient of the private loss to those of the net that travels; returns the loss's parts."""
        sums, parts = clipped_sum(learner, batch, learner.plan.privacy.gradient_norm)
        noisy = self.noisy(learner.plan, sums)
        for name, parameter in _parameters(learner):
            parameter.grad = noisy[name] if parameter.grad is None else parameter.grad + noisy[name]
        return parts

    def noisy(self, plan: Plan, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums of clipped gradients with the noise of this step, over the plan's batch."""
        sizes = [gradient.numel() for gradient in sums.values()]
        uniform = torch.from_numpy(noise.uniform(self.key, self.step, sum(sizes)))
        normal = torch.special.ndtri(uniform) * plan.privacy.noise_multiplier * plan.privacy.gradient_norm
        return {
            name: (gradient + z.view(gradient.shape).to(gradient)) / plan.training.batch
            for (name, gradient), z in zip(sums.items(), normal.split(sizes), strict=True)
        }


def clipped_sum(learner: Learner, batch: Batch, limit: float) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The sum of the images' gradients, each of a norm of at most `limit`; and the mean of each part of the loss.

    An image whose gradient is NaN or infinite adds nothing. If it ended the round, a coordinator could choose a model
    that fails on a certain image, and learn whether the image is there.
    """
    parameters = {f"net.{name}": parameter.detach() for name, parameter in _parameters(learner)}
    loss = _Loss(learner)
    gradients = vmap(grad_and_value(lambda p, *image: functional_call(loss, p, image), has_aux=True), (None, 0, 0, 0))
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    totals: dict[str, float] = {}
    for start in range(0, len(batch.images), _AT_ONCE):
        images = (tensor[start : start + _AT_ONCE] for tensor in (batch.images, batch.labels, batch.index))
        of_images, (_, parts) = gradients(parameters, *images)
        norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in of_images.values()]).norm(dim=0)
        factors = torch.where(norms.isfinite(), (limit / norms).clamp(max=1), 0)
        for name, gradient in of_images.items():
            sums[name] += torch.tensordot(factors, gradient.nan_to_num(0, 0, 0), 1)
        for name, part in parts.items():
            totals[name] = totals.get(name, 0.0) + float(part.nan_to_num(0, 0, 0).sum())
    means = {name: total / len(batch.images) for name, total in totals.items()}
    return {name.removeprefix("net."): gradient for name, gradient in sums.items()}, means


def _parameters(learner: Learner) -> list[tuple[str, nn.Parameter]]:
    return list(learner.net.named_parameters())


class _Loss(nn.Module):
    """A learner's private loss of one image, as a function of the weights of the net that travels."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.net, self._parts = learner.net, learner.private_parts

    def forward(self, image: Tensor, label: Tensor, index: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        parts = self._parts(Batch(image[None], label[None], index[None]))
        return torch.stack(list(parts.values())).sum(), parts
