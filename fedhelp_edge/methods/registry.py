"""The methods that a plan may name, and the numbers of each, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fedhelp_edge.plan import key


@dataclass(frozen=True)
class Local:
    """each site alone: nothing is exchanged"""


@dataclass(frozen=True)
class FedAvg:
    """the mean of everybody's weights"""


@dataclass(frozen=True)
class FedProx:
    """FedAvg with a pull towards the common model"""

    mu: float = key(0.01, "strength of the pull", low=0, high=1000)


@dataclass(frozen=True)
class FedHelp:
    """numbers are named as in the paper, equations in brackets"""

    lambda_r: float = key(0.1, "weight of the foundation models in the public loss (1)", low=0, high=1000)
    lambda_j: float = key(0.2, "weight of the public loss at small sites (3)", low=0, high=1000)
    lambda_f: float = key(1.0, "forward distillation: the large net teaches the proxy (4, 7)", low=0, high=1000)
    lambda_b: float = key(
        0.2, "backward distillation: the proxy's ranking guides the large net (5-7)", low=0, high=1000
    )
    top: int = key(3, "classes in the ranking (5)", low=1, high=1000)
    public_every: int = key(4, "private steps to each public one; 1 is the literal paper", low=1, high=1000)
    public_size: int = key(32, "pixels a side of the public images", low=8, high=1024)
    proxy_ce: bool = key(True, "the proxy also learns from the labels; false is the literal paper")
    alpha: str = key("learned", "how several foundation models are mixed (1)", of=("learned", "uniform", "label_fit"))
    sources: str = key("all", "which foundation models of the pack are asked", of=("all", "first", "none"))
    backward: str = key(
        "rank", "what guides the large net: the proxy's ranking, its probabilities, nothing", of=("rank", "kl", "none")
    )
    schedule: str = key("joint", "both nets in each step, or an epoch each in turn", of=("joint", "alternate"))

    def complaints(self) -> Iterator[tuple[str, str]]:
        if self.lambda_f == 0 and not self.proxy_ce:
            yield "lambda_f", "with 0 here and proxy_ce = false the proxy would learn nothing"


METHODS: Mapping[str, type] = {"fedhelp": FedHelp, "fedavg": FedAvg, "fedprox": FedProx, "local": Local}
