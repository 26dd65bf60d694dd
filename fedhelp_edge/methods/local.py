"""Each site trains alone; nothing is exchanged. As the local baseline it shows what taking part is worth."""

from __future__ import annotations

from collections.abc import Mapping

from fedhelp_edge.methods.base import Compute, Knowledge, Learner, SiteFacts
from fedhelp_edge.plan import Plan
from fedhelp_edge.update import Array, Schema


class Local(Learner):
    """The net that a site would train without a federation: at large sites the large one."""

    def __init__(
        self, plan: Plan, site: SiteFacts, schema: Schema, knowledge: Knowledge | None, compute: Compute
    ) -> None:
        super().__init__(plan, site, schema, knowledge, compute)
        if site.tier == "large":
            self.net = self.new_net(plan.nets.large, "large")

    def receive(self, merged: Mapping[str, Array], round_: int) -> None:
        """Small sites begin from the common first weights. All later rounds go on from the site's own net."""
        if round_ == 1 and self.site.tier == "small":
            super().receive(merged, round_)
        else:
            self.begin(round_)
