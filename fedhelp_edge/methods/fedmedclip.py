"""FedMedCLIP (AAAI 2026, arXiv 2511.07929): sites share an adapter of a frozen encoder's features, and nothing else.

Each site trains the adapter (FAM) by a contrastive loss between images and class vectors. The cross-entropy of a
private classifier on the adapted features trains it too. Each of the two learns how the other ranks the images of a
batch by each class. A site diagnoses with their mixture (`nets.adapter`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fedhelp_edge.errors import UsageError
from fedhelp_edge.methods.base import Batch, Learner, LearnerContext, Modules, Phase, derive_seed
from fedhelp_edge.methods.fedgh import ClassMeans
from fedhelp_edge.methods.optimisers import AdamW, Optimiser
from fedhelp_edge.methods.schemas import PROTOTYPES
from fedhelp_edge.methods.settings import FedMedClipSettings
from fedhelp_edge.nets import spec
from fedhelp_edge.nets.adapter import Masks, Mixture, Similarity, certainty
from fedhelp_edge.nets.net import Net, arrays_of, load_arrays
from fedhelp_edge.nets.spec import Form
from fedhelp_edge.update import Schema, TensorSpec

_TEMPERATURE = 2.0  # of the distillation
_SCALE = 100.0  # of cosines with prototypes, as CLIP has it


class FedMedCLIP(Learner):
    """`net` is the adapter, which travels, with the class vectors. The site diagnoses with `mixture`."""

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        assert context.encoder  # noqa: S101 - the plan's check wants one
        if sum(self.site.examples) < 2:
            cause = f"fedmedclip compares a site's images, and {self.site.id} has {sum(self.site.examples)} to train on"
            raise UsageError(cause, remedy="label more images at this site, or take part by another method")
        self.settings: FedMedClipSettings = self.plan.tables["fedmedclip"]
        form, masks = Form.of(self.plan), Masks(*(getattr(self.settings, f"mask_{f.name}") for f in fields(Masks)))
        text = context.encoder.text if self.settings.class_vectors == "auto" else None
        scale = context.encoder.logit_scale if text is not None else None
        self.vectors = ClassVectors(form.classes, form.features, self.settings.least_images, text)
        self.net: Similarity = Similarity(form, masks, self.vectors, scale or _SCALE)
        self.mixture = Mixture(self.net, masks)
        _draw(self.mixture.classifier, derive_seed(self.plan.seed, self.site.id, "classifier"))
        self.mixture.to(self.compute.device)

    @property
    def model(self) -> Net:
        return self.mixture

    def trained(self) -> Modules:
        return {"adapter": self.net.adapter, "classifier": self.mixture.classifier}

    def kept(self) -> Modules:
        return {**self.trained(), "vectors": self.vectors}

    def gives(self) -> Modules:
        return {"": self.net.adapter, PROTOTYPES: self.vectors.own}

    def takes(self, round_: int) -> Modules:
        shared = {PROTOTYPES: self.vectors.shared} if self.settings.class_vectors == "shared" else {}
        return {"": self.net.adapter, **shared}

    def phases(self, round_: int, last: bool) -> list[Phase]:
        """Prototypes are made anew in each round, from all training images."""
        prototypes = [] if self.vectors.text is not None else [Phase("prototypes", train=False)]
        return [*prototypes, *super().phases(round_, last)]

    def new_optimiser(self, module: nn.Module, round_: int) -> Optimiser:
        rate = self.settings.lr if module is self.net.adapter else self.settings.classifier_lr
        rate *= self.settings.decay ** (round_ - 1)
        return AdamW(self.parameter_groups(module), rate, self.settings.weight_decay)

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        private = batches["private"]
        if not phase.train:
            self.vectors.add(private)
            return {}
        return self.descend((private, self.losses(private)))

    def losses(self, private: Batch) -> dict[str, Tensor]:
        """The parts of the loss. That of the classifier reaches the adapter."""
        with self.compute.autocast():
            adapted = self.net.features(private.images)
            logits, cosines = self.mixture.classifier(adapted), self.net.cosines(adapted)
        omega: float | Tensor = 0.5
        if self.settings.omega == "adaptive":
            omega = self.mean_of_all(private, certainty(self.net.scale * cosines, logits).mean())
        return {
            "loss": self.loss(logits, private),
            "contrast": contrast(adapted, self.vectors()[private.labels], self.net.scale),
            "similar": self.settings.similar * ranking(cosines, logits, omega),
        }


class ClassVectors(nn.Module):
    """What images are compared with: the text features of each class where the encoder has them, else prototypes.

    The prototype of a class is the common one. Where there is none, it is the mean of this site's own training images,
    each of length 1. A class that nobody has seen has no vector, and is hardly ever predicted.
    """

    text: Tensor | None

    def __init__(self, classes: int, width: int, least: int, text: NDArray[np.float32] | None) -> None:
        super().__init__()
        self.register_buffer("text", None if text is None else F.normalize(torch.tensor(text)), persistent=False)
        self.own, self.shared = ClassMeans(classes, width, least), Rows(classes, width)

    def forward(self) -> Tensor:
        """Classes x width, of length 1."""
        if self.text is not None:
            return self.text
        rows = self.shared.rows
        return F.normalize(torch.where(rows.any(1, keepdim=True), rows, F.normalize(self.own.sums).to(rows.dtype)))

    def add(self, batch: Batch) -> None:
        """Counts a batch into the own prototypes; an ordered pass begins with the first image."""
        if batch.index[0] == 0:
            self.own.clear()
        self.own.add(F.normalize(batch.images), batch.labels)


class Rows(nn.Module):
    """Common prototypes, as they arrive; those of no class in the first round."""

    rows: Tensor

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(classes, width))


def contrast(adapted: Tensor, vectors: Tensor, scale: float) -> Tensor:
    """The contrastive loss between images and the vectors of their classes, in both directions.

    Each image belongs to its own copy of its class's vector. So images of one class are negatives of each other.
    """
    scores = scale * adapted @ vectors.T
    pairs = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, pairs) + F.cross_entropy(scores.T, pairs)) / 2


def ranking(cosines: Tensor, logits: Tensor, omega: float | Tensor) -> Tensor:
    """Class-wise distillation: how a class's scores rank the images of a batch, as probabilities over the images.

    omega KL(classifier || adapter) + (1 - omega) KL(adapter || classifier), a mean over classes. Neither is detached.
    """
    adapter, classifier = ((scores / _TEMPERATURE).log_softmax(0) for scores in (cosines, logits))
    to_adapter = F.kl_div(adapter, classifier, reduction="sum", log_target=True)
    to_classifier = F.kl_div(classifier, adapter, reduction="sum", log_target=True)
    return (omega * to_adapter + (1 - omega) * to_classifier) / cosines.shape[1]


def _draw(module: nn.Module, seed: int) -> None:
    """Draws a module's weights by the law of all first weights."""
    tensors = (TensorSpec(name, "F32", array.shape) for name, array in arrays_of(module).items())
    load_arrays(module, spec.initial_weights(Schema(tuple(tensors)), seed))
