"""Each site trains alone; nothing is exchanged. As the local baseline it shows what taking part is worth."""

from __future__ import annotations

from fedhelp_edge.methods.base import Learner, LearnerContext, Modules


class Local(Learner):
    """The net that a site would train without a federation: at large sites the large one, or the one the plan names."""

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        self.is_common = self.site.tier == "small" and self.site.id not in self.plan.nets.own
        if not self.is_common:
            self.net = self.new_net(self.plan.nets.own_net(self.site.id, self.site.tier), "large")

    def gives(self) -> Modules:
        return {}

    def takes(self, round_: int) -> Modules:
        """Small sites begin from the common first weights. All later rounds go on from the site's own net."""
        return {"": self.net} if round_ == 1 and self.is_common else {}
