"""FedMedCLIP's parts on the features of a frozen encoder: an adapter (FAM), a private classifier, and their mixture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedhelp_edge.nets.net import Net
from fedhelp_edge.nets.spec import Form

_PROGRAMS_STEP = 0.01  # by how much the authors' program wants a row above its threshold
_LEAST_ENTROPY = 1e-8  # added to both entropies: two certain predictions weigh alike
_LEAST_PROBABILITY = 1e-30


@dataclass(frozen=True)
class Masks:
    """How rows are masked, in the paper and in the authors' program."""

    bias: bool = True  # with the row; the program's bias stays
    step: str = "paper"  # "paper": a row is on at its threshold; "code": 0.01 above it
    grad: str = "inside"  # "inside": the gradient passes where the distance is at most 1; "released": where it is more


class MaskedLinear(nn.Module):
    """A linear layer whose rows are on or off: on if the mean magnitude reaches the threshold, which learns."""

    def __init__(self, width: int, out: int, masks: Masks) -> None:
        super().__init__()
        self.masks = masks
        self.weight = nn.Parameter(torch.zeros(out, width))
        self.bias = nn.Parameter(torch.zeros(out))
        self.threshold = nn.Parameter(torch.zeros(out))

    def mask(self) -> Tensor:
        """1 for each row that is on, 0 for the others. The gradient goes straight through to weights and threshold."""
        distance = self.weight.abs().mean(1) - self.threshold
        inside = distance.clamp(-1, 1)
        passed = inside if self.masks.grad == "inside" else distance - inside
        on = distance >= 0 if self.masks.step == "paper" else distance > _PROGRAMS_STEP
        return on.to(distance.dtype) + (passed - passed.detach())

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the plain linear layer that this one is."""
        mask = self.mask()
        return self.weight * mask[:, None], self.bias * mask if self.masks.bias else self.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.folded()).to(x.dtype)  # of autocast


class Adapter(nn.Module):
    """The feature adaptation module: how much of each feature counts. Its output sums to 1 over the features."""

    def __init__(self, width: int, masks: Masks) -> None:
        super().__init__()
        self.width = width
        self.first, self.second = (MaskedLinear(width, width, masks) for _ in range(2))

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.first(features)
        hidden = F.layer_norm(hidden, (self.width,)).relu()  # instance norm: of each image over its features
        weights: Tensor = self.second(hidden).softmax(1)
        return weights


class Classifier(nn.Module):
    """The private perceptron: three masked layers with batch norm, and a masked last one."""

    def __init__(self, width: int, classes: int, masks: Masks) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MaskedLinear(width, width, masks) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(3))
        self.last = MaskedLinear(width, classes, masks)

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(layer(x)).relu()
        logits: Tensor = self.last(x)
        return logits


class Similarity(Net):
    """The adapter and the class vectors: an image's logits are its scaled cosines with the vectors."""

    def __init__(self, form: Form, masks: Masks, vectors: nn.Module, scale: float) -> None:
        super().__init__("adapter", form)
        self.width, self.vectors, self.scale = form.features, vectors, scale
        self.adapter = Adapter(self.width, masks)

    def features(self, x: Tensor) -> Tensor:
        """The adapted features: of length 1."""
        return F.normalize(self.adapter(x) * x)

    def cosines(self, adapted: Tensor) -> Tensor:
        """Of adapted features with each class's vector, in double precision: autocast would round them to 8 bits."""
        return F.linear(adapted.double(), self.vectors().double()).to(adapted.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.cosines(self.features(x))


class Mixture(Net):
    """What a site diagnoses with: adapter and private classifier, each weighted by how certain it is of an image.

    Its logits are the logarithms of the mixed probabilities.
    """

    def __init__(self, similarity: Similarity, masks: Masks) -> None:
        super().__init__("adapter and classifier", similarity.form)
        self.width, self.similarity = similarity.width, similarity
        self.classifier = Classifier(self.width, self.form.classes, masks)

    def features(self, x: Tensor) -> Tensor:
        return self.similarity.features(x)

    def forward(self, x: Tensor) -> Tensor:
        adapted = self.features(x)
        similar = self.similarity.scale * self.similarity.cosines(adapted)
        classified = self.classifier(adapted)
        omega = certainty(similar, classified)[:, None]
        mixed: Tensor = omega * classified.softmax(1) + (1 - omega) * similar.softmax(1)
        return mixed.clamp_min(_LEAST_PROBABILITY).log()


def certainty(similar: Tensor, classified: Tensor) -> Tensor:
    """Omega of each image, the classifier's weight: H(adapter) / (H(adapter) + H(classifier)), from their logits."""
    adapter, classifier = (entropy(logits) + _LEAST_ENTROPY for logits in (similar, classified))
    return adapter / (adapter + classifier)


def entropy(logits: Tensor) -> Tensor:
    """The entropy of each row's probabilities, in nats."""
    log_probabilities = logits.log_softmax(1)
    return -(log_probabilities.exp() * log_probabilities).sum(1)
