"""Losses. Logits are float32, batch first; every loss is a mean over the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]

CE_WEIGHT, REVERSE_WEIGHT = 0.1, 1.0  # the parts' weights in the symmetric loss, as in RHFL
_MIN_LABEL, _MIN_PROBABILITY = 1e-4, 1e-7


def loss_function(name: str, examples: Sequence[int]) -> Loss:
    """The plan's loss, for a site with these numbers of examples of each class.

    "logit-adjusted" (Menon et al. 2021) adds the log of the site's prior to the logits in training. So the logits
    themselves do not depend on how frequent a class is.
    """
    if name == "logit-adjusted":
        shift = class_prior(examples).log()
        return lambda logits, labels: F.cross_entropy(logits + shift.to(logits.device), labels)
    return symmetric if name == "symmetric" else F.cross_entropy


def class_prior(examples: Sequence[int]) -> Tensor:
    """A site's class frequencies, with one added example of each class so that none is zero."""
    counts = torch.tensor(examples, dtype=torch.float32) + 1
    return counts / counts.sum()


def symmetric(logits: Tensor, labels: Tensor) -> Tensor:
    """Symmetric cross-entropy (Wang et al. 2019): robust to wrong labels by a bounded reverse part."""
    target = F.one_hot(labels, logits.shape[1]).to(logits.dtype).clamp_min(_MIN_LABEL)
    probabilities = logits.softmax(1).clamp_min(_MIN_PROBABILITY)
    reverse = -(probabilities * target.log()).sum(1).mean()
    return CE_WEIGHT * F.cross_entropy(logits, labels) + REVERSE_WEIGHT * reverse


def kl_divergence(teacher: Tensor, logits: Tensor) -> Tensor:
    """KL(teacher || softmax(logits)). `teacher` holds probabilities; no gradient reaches it."""
    return F.kl_div(logits.log_softmax(1), teacher.detach(), reduction="batchmean")


def ranking_loss(logits: Tensor, guide: Tensor, top: int) -> Tensor:
    """Minus the sum of the log probabilities of the guide's `top` highest classes (FedHelp, Eq. 5-6).

    Only which classes are highest matters, so no gradient reaches the guide.
    """
    top_classes = guide.detach().topk(top, 1).indices.sort(1).values  # B x top, sorted: their order changes no bit
    return -logits.log_softmax(1).gather(1, top_classes).sum(1).mean()


def mix_sources(probabilities: Tensor, weights: Tensor) -> Tensor:
    """Each image's mean over sources: B x sources x classes, weighted by B x sources."""
    return torch.einsum("bsc,bs->bc", probabilities, weights)
