"""Losses. Logits are float32, batch first, classes second; every loss is a mean over the batch.

Where logits are of pixels, the sides of the image follow. Each pixel then counts as an image of a batch of all pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]

CE_WEIGHT, REVERSE_WEIGHT = 0.1, 1.0  # the parts' weights in the symmetric loss, as in RHFL
_MIN_LABEL, _MIN_PROBABILITY = 1e-4, 1e-7
_SMOOTH = 1.0  # pixels: the Dice of a class that neither side has is 1


def loss_function(name: str, examples: Sequence[int]) -> Loss:
    """The plan's loss, for a site with these numbers of examples of each class.

    "logit-adjusted" (Menon et al. 2021) adds the log of the site's prior to the logits in training. So the logits
    themselves do not depend on how frequent a class is.
    """
    if name == "logit-adjusted":
        shift = class_prior(examples).log()
        return lambda logits, labels: F.cross_entropy(logits + shift.to(logits.device), labels)
    return {"symmetric": symmetric, "dice-ce": dice_and_cross_entropy}.get(name, F.cross_entropy)


def pixel_loss(criterion: Loss, logits: Tensor, labels: Tensor, weight: Tensor | None) -> Tensor:
    """A loss; or cross-entropy in which each pixel has a weight (FedHelp, Eq. 8 and 11)."""
    if weight is None:
        return criterion(logits, labels)
    return (weight * F.cross_entropy(logits, labels, reduction="none")).mean()


def pixel_weights(labels: Tensor, borders: Tensor, class_pixels: Tensor, beta_0: float, balance: float) -> Tensor:
    """Beta of FedHelp's Eq. 10: the weight of each pixel's class, and beta_0 times how near it is to outlines.

    A class weighs as 1 / frequency to the power of `balance`; the mean over all pixels of the site is 1. `class_pixels`
    has the number of pixels of each class.
    """
    frequency = class_pixels.double() / class_pixels.sum()
    weights = torch.where(frequency > 0, frequency**-balance, 1.0)
    weights = (weights / (frequency * weights).sum()).float()
    return weights[labels] + beta_0 * borders


def dice_and_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, and 1 less the soft Dice of each class but the background: its mean over images and classes."""
    classes = torch.arange(logits.shape[1], device=labels.device).view(-1, *[1] * (labels.ndim - 1))
    truth = (labels[:, None] == classes).to(logits.dtype)  # one_hot has no rule for gradients of single images
    probabilities = logits.softmax(1)
    sides = tuple(range(2, logits.ndim))
    both, sum_ = (probabilities * truth).sum(sides), (probabilities + truth).sum(sides)
    dice = (2 * both + _SMOOTH) / (sum_ + _SMOOTH)  # images x classes
    return F.cross_entropy(logits, labels) + 1 - dice[:, 1:].mean()


def class_prior(examples: Sequence[int]) -> Tensor:
    """A site's class frequencies, with one added example of each class so that none is zero."""
    counts = torch.tensor(examples, dtype=torch.float32) + 1
    return counts / counts.sum()


def symmetric(logits: Tensor, labels: Tensor) -> Tensor:
    """Symmetric cross-entropy (Wang et al. 2019): robust to wrong labels by a bounded reverse part."""
    classes = torch.arange(logits.shape[1], device=labels.device)
    target = (labels[:, None] == classes).to(logits.dtype).clamp_min(_MIN_LABEL)
    probabilities = logits.softmax(1).clamp_min(_MIN_PROBABILITY)
    reverse = -(probabilities * target.log()).sum(1).mean()
    return CE_WEIGHT * F.cross_entropy(logits, labels) + REVERSE_WEIGHT * reverse


def kl_divergence(teacher: Tensor, logits: Tensor) -> Tensor:
    """KL(teacher || softmax(logits)). `teacher` holds probabilities; no gradient reaches it."""
    count = logits.numel() // logits.shape[1]  # images, or pixels of all images
    return F.kl_div(logits.log_softmax(1), teacher.detach(), reduction="sum") / count


def ranking_loss(logits: Tensor, guide: Tensor, top: int) -> Tensor:
    """Minus the sum of the log probabilities of the guide's `top` highest classes (FedHelp, Eq. 5-6).

    Only which classes are highest matters, so no gradient reaches the guide.
    """
    # B x top (x sides), sorted: their order changes no bit
    guide = guide.detach()
    one = guide.ndim > 2 and top == 1  # of pixels, where this is faster
    top_classes = guide.argmax(1, keepdim=True) if one else guide.topk(top, 1).indices.sort(1).values
    return -logits.log_softmax(1).gather(1, top_classes).sum(1).mean()


def mix_sources(probabilities: Tensor, weights: Tensor) -> Tensor:
    """Each image's mean over sources: B x sources x classes (x the sides of an image), weighted by B x sources."""
    equation = "bsc,bs->bc" if probabilities.ndim == 3 else "bsc...,bs->bc..."
    return torch.einsum(equation, probabilities, weights)
