"""FedAvg (McMahan et al. 2017): everybody trains the common net on its own images; the weights are averaged."""

from __future__ import annotations

from fedhelp_edge.methods.base import Learner


class FedAvg(Learner):
    """The plain learner, at small and large sites alike."""
