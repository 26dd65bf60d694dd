"""FedGH (Yi et al. 2023): each site keeps a net of its own kind; all share one last layer, the header.

A site trains its whole net, and sends the mean representation of each of its classes. The coordinator trains the header
on the means of all sites (`merge.header`). Each site's net gets this header as the next round begins.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedhelp_edge.merge.closing import LastMerge
from fedhelp_edge.methods.base import Batch, LearnerContext, Modules, Phase
from fedhelp_edge.methods.local import Local


class FedGH(Local):
    """As the round begins, the net has the common header; after local training it has the site's own."""

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        least = self.plan.method_settings.least_images
        self.means = ClassMeans(len(self.plan.classes), self.net.width, least).to(self.compute.device)

    def kept(self) -> Modules:
        return {**self.trained(), "means": self.means}

    def gives(self) -> Modules:
        return {"means.": self.means}

    def takes(self, round_: int) -> Modules:
        return {**super().takes(round_), "head.": self.net.head}

    def began(self, round_: int, merge: LastMerge) -> None:
        self.means.clear()

    def phases(self, round_: int, last: bool) -> list[Phase]:
        return [*super().phases(round_, last), Phase("means", train=False)]

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        if phase.train:
            return super().step(phase, batches)
        private = batches["private"]
        with torch.no_grad(), self.compute.autocast():
            features = self.net.features(private.images)
        self.means.add(features, private.labels)
        return {}


class ClassMeans(nn.Module):
    """The mean representation of each class over the training images, each image with the same weight.

    The mean of few images is nearly one of them: a class of fewer than `least` images is not sent.
    """

    sums: Tensor
    images: Tensor
    rows: Tensor  # as they are sent
    counts: Tensor

    def __init__(self, classes: int, width: int, least: int) -> None:
        super().__init__()
        self.least = least
        self.register_buffer("sums", torch.zeros(classes, width, dtype=torch.float64))
        self.register_buffer("images", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("rows", torch.zeros(classes, width))
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.int32))

    def clear(self) -> None:
        """Forgets all images."""
        for buffer in self.buffers():
            buffer.zero_()

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Counts these images in."""
        members = F.one_hot(labels, len(self.images))
        self.sums += members.T.double() @ features.double()
        self.images += members.sum(0)
        enough = self.images >= self.least
        means = self.sums / self.images.clamp_min(1)[:, None]
        self.rows.copy_(means * enough[:, None])
        self.counts.copy_(self.images * enough)
