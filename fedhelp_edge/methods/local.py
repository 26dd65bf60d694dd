"""Each site trains alone; nothing is exchanged. As the local baseline it shows what taking part is worth."""

from __future__ import annotations

from fedhelp_edge.methods.base import Learner, LearnerContext, Modules


class Local(Learner):
    """The net that a site would train without a federation: at large sites the large one."""

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        if self.site.tier == "large":
            self.net = self.new_net(self.plan.nets.large, "large")

    def gives(self) -> Modules:
        return {}

    def takes(self, round_: int) -> Modules:
        """Small sites begin from the common first weights. All later rounds go on from the site's own net."""
        return {"": self.net} if round_ == 1 and self.site.tier == "small" else {}
