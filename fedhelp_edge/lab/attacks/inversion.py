"""Whose images made this gradient? Images are sought whose gradient has the same direction (Geiping et al. 2020).

The case is the worst for the site: ten images, and one plain step down their mean loss without augmentation. The
attacker knows the labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedhelp_edge.data.images import Images
from fedhelp_edge.lab.attacks import DP, PLAIN, SECURE_SUM, AttackResult
from fedhelp_edge.lab.attacks.membership import batch_of
from fedhelp_edge.methods.base import Learner, derive_seed
from fedhelp_edge.methods.private_gradients import PrivateGradients
from fedhelp_edge.nets.net import input_tensor
from fedhelp_edge.privacy import noise

IMAGES = 10
_SMOOTHNESS = 1e-3  # weight of the differences of neighbouring pixels


def attack(learner: Learner, dp_learner: Learner, sites: Sequence[Images], steps: int) -> list[AttackResult]:
    """Seeks ten images of the first site. Those of the others are in the sum too."""
    pool = np.concatenate([np.asarray(images.pixels) for images in sites])
    batches = [batch_of(learner, images.only(np.arange(min(IMAGES, len(images))))) for images in sites]
    gradients = [_gradient(learner, batch.images, batch.labels) for batch in batches]
    mean = [torch.stack(each).mean(0) for each in zip(*gradients, strict=True)]
    key = noise.lab_key(dp_learner.plan.seed, dp_learner.site.id, 1)
    dp_learner.net.load_state_dict(learner.net.state_dict())
    dp_learner.net.zero_grad()
    PrivateGradients(key, 0).add(dp_learner, batches[0])
    noisy = [parameter.grad for parameter in dp_learner.net.parameters() if parameter.grad is not None]
    cases = (
        (PLAIN, "the gradient of ten images", gradients[0]),
        (SECURE_SUM, f"the sum of {len(sites)} such gradients", mean),
        (DP, "the gradient of ten images", noisy),
    )
    truth = batches[0]
    candidates = input_tensor(pool, learner.plan.image).flatten(1)
    chance = IMAGES / len(pool)
    results = []
    for protection, sees, target in cases:
        images = invert(learner, target, truth.labels, truth.images.shape, steps)
        rate = recognised(images.flatten(1), candidates, range(len(truth.images)))
        results.append(
            AttackResult("inversion", protection, sees, f"of ten images, found among {len(pool)}", rate, chance)
        )
    return results


def invert(learner: Learner, target: Sequence[Tensor], labels: Tensor, shape: Sequence[int], steps: int) -> Tensor:
    """The images whose gradient is nearest in direction."""
    generator = torch.Generator().manual_seed(derive_seed(learner.plan.seed, "inversion"))
    images = torch.randn(*shape, generator=generator).requires_grad_()
    norm = _norm(target)
    first, second = torch.zeros_like(images), torch.zeros_like(images)
    for step in range(1, steps + 1):
        gradient = _gradient(learner, images, labels, create_graph=True)
        cosine = sum(((a * b).sum() for a, b in zip(gradient, target, strict=True)), torch.zeros(()))
        smooth = sum((images.diff(dim=dim).abs().mean() for dim in (2, 3)), torch.zeros(()))
        loss = 1 - cosine / (_norm(gradient) * norm).clamp_min(1e-12) + _SMOOTHNESS * smooth
        (direction,) = torch.autograd.grad(loss, images)
        with torch.no_grad():  # Adam on the sign, as in the paper
            direction = direction.sign()
            first, second = 0.9 * first + 0.1 * direction, 0.999 * second + 0.001 * direction**2
            corrected = first / (1 - 0.9**step), (second / (1 - 0.999**step)).sqrt() + 1e-8
            images -= 0.1 * (1 - step / (steps + 1)) * corrected[0] / corrected[1]
    return images.detach()


def recognised(images: Tensor, candidates: Tensor, truth: Sequence[int]) -> float:
    """The part of the true candidates that some image resembles more than any other candidate."""
    unit = [(each - each.mean(1, keepdim=True)) / (each.std(1, keepdim=True) + 1e-8) for each in (images, candidates)]
    nearest: NDArray[np.int64] = (unit[0] @ unit[1].T).argmax(1).numpy()
    return len(set(nearest.tolist()) & set(truth)) / len(truth)


def _gradient(learner: Learner, images: Tensor, labels: Tensor, *, create_graph: bool = False) -> list[Tensor]:
    loss = learner.criterion(learner.net(images), labels)
    return list(torch.autograd.grad(loss, list(learner.net.parameters()), create_graph=create_graph))


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([(tensor**2).sum() for tensor in tensors]).sum().sqrt()
