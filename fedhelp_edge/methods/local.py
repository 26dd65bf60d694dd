"""Each site alone: nothing is exchanged. The yardstick by which a site sees what taking part is worth."""

from __future__ import annotations

from collections.abc import Mapping

from fedhelp_edge.methods.base import Compute, Knowledge, Learner, SiteFacts
from fedhelp_edge.plan import Plan
from fedhelp_edge.update import Array, Schema


class Local(Learner):
    """The net that the site would have by itself: the large one where the plan has it train one."""

    def __init__(
        self, plan: Plan, site: SiteFacts, schema: Schema, knowledge: Knowledge | None, compute: Compute
    ) -> None:
        super().__init__(plan, site, schema, knowledge, compute)
        if site.tier == "large":
            self.net = self.make(plan.nets.large, "large")

    def receive(self, merged: Mapping[str, Array], round_: int) -> None:
        """The first weights are everybody's where they fit; later rounds go on from one's own."""
        if round_ == 1 and self.site.tier == "small":
            super().receive(merged, round_)
        else:
            self.begin(round_)
