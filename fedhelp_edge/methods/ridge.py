"""Ridge regression on an encoder's features, from sums (AFL, He et al. 2025; Fed3R, Fani et al. 2024).

A site passes over its images once and sends their sums (`merge.ridge`). The coordinator adds the sums of all sites. As
the next round begins each site gets them. The head that follows is that of all images together; `net` has it.

A site's own head follows from its own images at full weight and the others' at a smaller one. 0 is a head of its own, 1
the common head (a power prior: Ibrahim and Chen 2000). The site's own images decide. Each patient's images are left
out once, in closed form, and the weight that predicts them best is taken. No other site's sums contain them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedhelp_edge.errors import RevealingSumsError
from fedhelp_edge.merge import ridge
from fedhelp_edge.merge.closing import LastMerge
from fedhelp_edge.merge.ridge import COUNTS, Doubles, Groups, Integers, Reduction, Spectrum, Sums
from fedhelp_edge.methods.base import Batch, Learner, LearnerContext, Modules, Phase
from fedhelp_edge.methods.settings import RidgeSettings
from fedhelp_edge.nets.net import Net, arrays_of
from fedhelp_edge.update import Array

OTHERS_WEIGHTS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
SCALES = tuple(2.0 ** (step / 2) for step in range(-8, 15))  # of logits
MOST_SENT = 8  # different sums of a site in a federation
FIRST_SCALES = {"discriminant": 0.5**0.5, "scores": 8.0}  # until a site's images say which one fits


class Ridge(Learner):
    """The common head, the site's own one, and the one of its images alone, to compare."""

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        self.settings: RidgeSettings = self.plan.tables["ridge"]
        self.reduction = Reduction.of(self.plan)
        counts = np.array(self.site.examples)
        self.is_sent = counts >= self.settings.least_images  # by class: the sum of few images is nearly a patient
        check_revealing(self.site.id, int(counts[self.is_sent].sum()), self.reduction.count)
        shape, device = (len(counts), self.reduction.count), self.compute.device
        self.sent, self.unsent = (SumsModule(*shape).to(device) for _ in range(2))
        before = min(self.plan.rounds, MOST_SENT)
        self.sent_before = [SumsModule(*shape).to(device) for _ in range(before)]  # the last ones first
        self.merged, self.elsewhere = (SumsModule(*shape).to(device) for _ in range(2))
        self.choice = ChosenWeights(FIRST_SCALES[self.settings.logits]).to(device)
        self.personal, self.solo = (self.new_net(self.plan.nets.small, "net").requires_grad_(False) for _ in range(2))

    @property
    def model(self) -> Net:
        return self.personal

    def others(self) -> Mapping[str, Net]:
        return {"solo": self.solo}

    def trained(self) -> Modules:
        return {}

    def kept(self) -> Modules:
        nets = {"net": self.net, "personal": self.personal, "solo": self.solo}
        own = {"sent": self.sent, "unsent": self.unsent, "sent_before": nn.ModuleList(self.sent_before)}
        return {**nets, **own, "merged": self.merged, "elsewhere": self.elsewhere, "choice": self.choice}

    def gives(self) -> Modules:
        return {"sums.": self.sent}

    def takes(self, round_: int) -> Modules:
        return {"sums.": self.merged}

    def began(self, round_: int, merge: LastMerge) -> None:
        """Makes the common head, and subtracts from the merged sums those that this site sent."""
        merged = self.merged.arrays()
        if merged[COUNTS].sum():
            spectrum = Spectrum.of(Sums.of(merged))
            strength = self.settings.strength or spectrum.best_strength()
            self._set_head(self.net, layer_of(spectrum, strength, self.settings), float(self.choice.scale))
        if merge.latest or not merge.own:  # else what was subtracted of this merge before holds
            self.elsewhere.set(merged)
            if merge.own:
                self.elsewhere.add(self.sent.arrays(), -1)
        self._remember_sent()
        self.sent.clear()
        self.unsent.clear()

    def phases(self, round_: int, last: bool) -> list[Phase]:
        return [Phase("sums", train=False), Phase("head", train=False, batch=max(1, sum(self.site.examples)))]

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        private = batches["private"]
        features, labels = self.reduction(private.images.double().cpu().numpy()), private.labels.cpu().numpy()
        if phase.name == "head":
            self._withhold_small_changes()
            return {"left out": self._make_heads(features * ridge.GRID, labels, self._groups(private.index))}
        is_sent = self.is_sent[labels]
        for sums, chosen in ((self.sent, is_sent), (self.unsent, ~is_sent)):
            sums.add(ridge.sums_of(features[chosen], labels[chosen], len(self.is_sent)))
        return {}

    def _remember_sent(self) -> None:
        """Puts the sums of the last round first among those that were sent."""
        sums, *before = self.sent.arrays(), *self._all_sent()
        if not sums[COUNTS].sum() or (before and ridge.are_equal(sums, before[0])):
            return
        for module, arrays in zip(self.sent_before, [sums, *before], strict=False):
            module.set(arrays)

    def _all_sent(self) -> list[dict[str, Array]]:
        """All different sums that this site sent, the last ones first."""
        return [arrays for module in self.sent_before if (arrays := module.arrays())[COUNTS].sum()]

    def _withhold_small_changes(self) -> None:
        """Sends the last sums again, if these differ from any earlier ones by few images: the difference shows them."""
        sums, before = self.sent.arrays(), self._all_sent()
        if len(before) == len(self.sent_before) or any(ridge.is_revealing(sums, other) for other in before):
            self.unsent.add(sums)
            self.unsent.add(before[0], -1)
            self.sent.set(before[0])

    def _make_heads(self, features: Doubles, labels: Integers, groups: Groups) -> float:
        """Makes the site's heads; returns the mean squared error of its own on images that were left out."""
        elsewhere, own = Sums.of(self.elsewhere.arrays()), Sums.of(self.sent.arrays())
        own = own.plus(Sums.of(self.unsent.arrays()), 1.0)
        heads = [
            best_head(own.plus(elsewhere, weight), weight, self.settings, features, labels, groups)
            for weight in (OTHERS_WEIGHTS if elsewhere.counts.sum() else OTHERS_WEIGHTS[:1])
        ]
        best = min(heads, key=lambda head: head.error) if len(groups) > 1 else heads[-1]  # one patient cannot say
        self.choice.set(best.others_weight, best.strength, best.scale(self.settings, labels))
        for net, head in ((self.solo, heads[0]), (self.personal, best)):
            self._set_head(net, head.layer(self.settings), head.scale(self.settings, labels))
        return best.error

    def _set_head(self, net: Net, layer: Layer, scale: float) -> None:
        """Gives a net a head on reduced features."""
        weights, biases = layer
        with torch.no_grad():
            net.head.weight.copy_(torch.from_numpy(scale * self.reduction.unfold(weights)))
            net.head.bias.copy_(torch.from_numpy(scale * biases))

    def _groups(self, index: Tensor) -> Groups:
        """The images of each patient or lesion, where the site knows them; else each image is a group."""
        names = [self.site.groups[i] or f"/{i}" for i in index.tolist()] if self.site.groups else index.tolist()
        _, group = np.unique(names, return_inverse=True)
        return np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])


def check_revealing(site: str, images: int, dimensions: int) -> None:
    """Refuses sums over fewer images than dimensions: they show the space that the images' features span."""
    if 0 < images < dimensions:
        raise RevealingSumsError(f"{site} would send sums over {images} images, for {dimensions} dimensions")


Layer = tuple[Doubles, Doubles]  # weights (classes x dimensions) and biases


def logits_of(spectrum: Spectrum, strength: float, settings: RidgeSettings) -> Layer:
    """The layer (classes x classes) that makes the plan's logits of ridge scores."""
    if settings.logits == "scores":
        return np.eye(len(spectrum.shares)), np.zeros(len(spectrum.shares))
    return spectrum.discriminant(strength, settings.balance)


def layer_of(spectrum: Spectrum, strength: float, settings: RidgeSettings) -> Layer:
    """The layer that makes the plan's logits of reduced features."""
    (weights, biases), (matrix, offsets) = spectrum.head(strength), logits_of(spectrum, strength, settings)
    return matrix @ weights, matrix @ biases + offsets


@dataclass(frozen=True)
class TriedHead:
    """A head, and how well it predicts what is left out."""

    others_weight: float
    strength: float
    spectrum: Spectrum
    scores: Doubles  # of each image, by the head that was made without its group
    error: float  # mean squared, of the scores

    def layer(self, settings: RidgeSettings) -> Layer:
        return layer_of(self.spectrum, self.strength, settings)

    def scale(self, settings: RidgeSettings, labels: Integers) -> float:
        """The scale of logits that predicts the labels best."""
        matrix, offsets = logits_of(self.spectrum, self.strength, settings)
        logits = self.scores @ matrix.T + offsets
        best: float = min(SCALES, key=lambda scale: cross_entropy(scale * logits, labels))
        return best


def best_head(
    sums: Sums, others_weight: float, settings: RidgeSettings, features: Doubles, labels: Integers, groups: Groups
) -> TriedHead:
    """The head of these sums with the strength, if the plan has none, that predicts best what is left out."""
    spectrum, one_hot = Spectrum.of(sums), np.eye(len(sums.counts))[labels]
    rotated, tried = spectrum.rotated(features), []
    for strength in [settings.strength] if settings.strength else ridge.STRENGTHS:
        scores = spectrum.left_out(strength, rotated, one_hot, groups)
        error = float(np.square(one_hot - scores).sum(1).mean())
        tried.append(TriedHead(others_weight, strength, spectrum, scores, error))
    return min(tried, key=lambda head: head.error)


def cross_entropy(logits: Doubles, labels: Integers) -> float:
    """The mean cross-entropy of logits."""
    logits = logits - logits.max(1, keepdims=True)
    return float((np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]).mean())


class SumsModule(nn.Module):
    """Sums as they travel: whole numbers."""

    counts: Tensor

    def __init__(self, classes: int, dimensions: int) -> None:
        super().__init__()
        for name, shape in ridge.shapes(classes, dimensions).items():
            self.register_buffer(_short(name), torch.zeros(shape, dtype=torch.int64))

    def arrays(self) -> dict[str, Array]:
        """The sums, by the names under which they travel."""
        return {f"sums.{name}": array for name, array in arrays_of(self).items()}

    def clear(self) -> None:
        """Forgets all images."""
        for buffer in self.buffers():
            buffer.zero_()

    def set(self, sums: Mapping[str, Array]) -> None:
        """Becomes these sums."""
        self.clear()
        self.add(sums)

    def add(self, sums: Mapping[str, Array], times: int = 1) -> None:
        """Adds sums; with -1, subtracts them."""
        for name, array in sums.items():
            buffer = self.get_buffer(_short(name))
            buffer += times * torch.from_numpy(array).to(buffer.device)


def _short(name: str) -> str:
    return name.removeprefix("sums.")


class ChosenWeights(nn.Module):
    """What the site's images chose: the weight of the others' images, the strength, and the scale of logits."""

    others_weight: Tensor
    strength: Tensor
    scale: Tensor

    def __init__(self, scale: float) -> None:
        super().__init__()
        for name, first in (("others_weight", 0.0), ("strength", 0.0), ("scale", scale)):
            self.register_buffer(name, torch.tensor(first, dtype=torch.float64))

    def set(self, others_weight: float, strength: float, scale: float) -> None:
        """Notes a choice."""
        for buffer, value in zip(self.buffers(), (others_weight, strength, scale), strict=True):
            buffer.fill_(value)
