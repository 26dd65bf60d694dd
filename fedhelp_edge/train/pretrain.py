"""First weights trained on the knowledge pack alone (Eq. 1), so that knowledge costs a clinic nothing.

One surrogate trains on the pack. Every site begins with its extractor; the head for the plan's classes stays random.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from fedhelp_edge.data.pack import Pack
from fedhelp_edge.methods.base import Batch, Compute, LearnerContext, Phase, SiteFacts
from fedhelp_edge.methods.fedhelp import Surrogate
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.methods.settings import FedHelpSettings
from fedhelp_edge.nets.net import arrays_of
from fedhelp_edge.plan import Plan
from fedhelp_edge.train import loop
from fedhelp_edge.update import Array

PACK_SITE_ID = "the pack"  # the site id in the names of this training's random streams


class Student(Surrogate):
    """A small site without images of its own."""

    def phases(self, round_: int, last: bool) -> list[Phase]:
        return [Phase("pack", ("public",), self.plan.training.epochs, unaugmented=self.unaugmented())]

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        assert self.public is not None  # noqa: S101 - `initial_weights` gives it a pack
        return self.descend((batches["public"], self.public_losses(self.public, batches["public"])))

    def isolate_bn_stats(self) -> AbstractContextManager[None]:
        return nullcontext()  # there are no private statistics yet: these are the first


def initial_weights(
    plan: Plan, pack: Pack, compute: Compute, *, epochs: int = 10, progress: loop.Progress | None = None
) -> dict[str, Array]:
    """First weights whose extractor was trained on the public images.

    They include norm layers even where these stay at the site later: the extractor was trained with them.
    """
    settings = replace(plan.tables.get("fedhelp", FedHelpSettings()), lambda_j=1.0)
    training = replace(plan.training, epochs=epochs, schedule="constant")
    pack_plan = replace(plan, rounds=1, training=training, tables={**plan.tables, "fedhelp": settings})
    initial = METHODS["fedhelp"].start(plan)
    site = SiteFacts(PACK_SITE_ID, "small", (1,) * len(plan.classes))
    student = Student(LearnerContext(pack_plan, site, pack, compute))
    student.receive(initial, 1)
    loop.train(student, {"public": pack}, 1, progress=progress)
    head = {name for name, module in student.net.named_modules() if module is student.net.head}
    return {name: initial[name] if name.rpartition(".")[0] in head else a for name, a in arrays_of(student.net).items()}
