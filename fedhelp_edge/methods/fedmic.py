"""FedMIC (Ren, Luo et al. 2024, arXiv 2407.02261). Two nets at each site teach each other: a teacher, which stays, and
a student, which travels.

The paper's own equations were not at hand. The losses are those of FedKD (Wu et al. 2022), on which it builds, with the
two auxiliary matrices that FedMIC describes (docs/methods/fedmic.md):

    student  CE_s + lambda_d KL(p_t || p_s) / D + lambda_h |A_s h_s - h_t|^2 / D
    teacher  CE_t + lambda_d KL(p_s || p_t) / D + lambda_h |A_t h_t - h_s|^2 / D      D = CE_s + CE_t

with features h and probabilities p. Targets and D are constants. So what a net learns never changes the other one, and
no gradient makes a cross-entropy larger to make D larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedhelp_edge.methods.base import Batch, Learner, LearnerContext, Modules, Phase
from fedhelp_edge.methods.losses import kl_divergence
from fedhelp_edge.methods.settings import FedMICSettings
from fedhelp_edge.nets.net import Net, classify

_MIN_DENOMINATOR = 0.01  # where both nets fit a batch, 1/D would let the mutual losses grow without bound


class Output(NamedTuple):
    """What a net makes of a batch."""

    features: Tensor
    logits: Tensor


class Auxiliary(nn.Module):
    """The matrices A_s and A_t: from the student's numbers to the teacher's, and back. They begin as identities."""

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.of_student = nn.Parameter(torch.eye(teacher, student))
        self.of_teacher = nn.Parameter(torch.eye(student, teacher))


class FedMIC(Learner):
    """A teacher of the site's tier, and a small student, which travels and with which the site diagnoses."""

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        self.settings: FedMICSettings = self.plan.tables["fedmic"]
        nets = self.plan.nets
        self.teacher = self.new_net(nets.large if self.site.tier == "large" else nets.small, "teacher")
        outputs = self.plan.outputs
        at_features = self.settings.aux_at == "representation"
        sizes = (self.net.width, self.teacher.width) if at_features else (outputs, outputs)
        self.auxiliary = Auxiliary(*sizes).to(self.compute.device)

    def trained(self) -> Modules:
        return {"net": self.net, "teacher": self.teacher, "auxiliary": self.auxiliary}

    def others(self) -> Mapping[str, Net]:
        return {"teacher": self.teacher}

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        private = batches["private"]
        student, teacher = (self.output(net, private.images) for net in (self.net, self.teacher))
        ce_student, ce_teacher = (self.loss(net.logits, private) for net in (student, teacher))
        denominator = self.mean_of_all(private, ce_student + ce_teacher).clamp_min(_MIN_DENOMINATOR)
        mutual = {name: part / denominator for name, part in self.mutual(student, teacher).items()}
        return self.descend((private, {"loss": ce_student, "teacher": ce_teacher, **mutual}))

    def output(self, net: Net, images: Tensor) -> Output:
        """A net's features and logits of these images, in full precision."""
        with self.compute.autocast():
            features = net.features(images)
            logits = classify(net.head, features)
        return Output(*(numbers.float() if self.compute.bf16 else numbers for numbers in (features, logits)))

    def mutual(self, student: Output, teacher: Output) -> dict[str, Tensor]:
        """What each net loses by differing from the other one, in probabilities and in features."""
        parts: dict[str, Tensor] = {}
        if weight := self.settings.lambda_d:
            from_student, from_teacher = self.carried("decision", student.logits, teacher.logits)
            parts["decision"] = weight * kl_divergence(teacher.logits.softmax(1), from_student)
            parts["teacher decision"] = weight * kl_divergence(student.logits.softmax(1), from_teacher)
        if weight := self.settings.lambda_h:
            from_student, from_teacher = self.carried("representation", student.features, teacher.features)
            parts["representation"] = weight * F.mse_loss(from_student, teacher.features.detach())
            parts["teacher representation"] = weight * F.mse_loss(from_teacher, student.features.detach())
        return parts

    def carried(self, place: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Both nets' numbers on their way to the other net: through the auxiliary matrices, if they sit here."""
        if place != self.settings.aux_at:
            return student, teacher
        return _multiply(self.auxiliary.of_student, student), _multiply(self.auxiliary.of_teacher, teacher)


def _multiply(matrix: Tensor, numbers: Tensor) -> Tensor:
    """A matrix times the numbers of each image, or of each pixel."""
    return F.linear(numbers.movedim(1, -1), matrix).movedim(-1, 1)
