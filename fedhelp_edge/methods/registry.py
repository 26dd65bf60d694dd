"""The methods that a plan may name, and the settings of each. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fedhelp_edge.nets import spec
from fedhelp_edge.plan import Plan, key
from fedhelp_edge.update import Array, Schema


@dataclass(frozen=True)
class LocalSettings:
    """each site alone: nothing is exchanged"""


@dataclass(frozen=True)
class FedAvgSettings:
    """the mean of everybody's weights"""


@dataclass(frozen=True)
class FedProxSettings:
    """FedAvg with a pull towards the common model"""

    mu: float = key(0.01, "strength of the pull", low=0, high=1000)


@dataclass(frozen=True)
class FedHelpSettings:
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
    alpha: str = key(
        "learned", "how several foundation models are mixed (1)", choices=("learned", "uniform", "label_fit")
    )
    sources: str = key("all", "which foundation models of the pack are asked", choices=("all", "first", "none"))
    backward: str = key(
        "rank",
        "what guides the large net: the proxy's ranking, its probabilities, nothing",
        choices=("rank", "kl", "none"),
    )
    schedule: str = key("joint", "both nets in each step, or an epoch each in turn", choices=("joint", "alternate"))

    def mistakes(self) -> Iterator[tuple[str, str]]:
        if self.lambda_f == 0 and not self.proxy_ce:
            yield "lambda_f", "with 0 here and proxy_ce = false the proxy would learn nothing"


@dataclass(frozen=True)
class Method:
    """What a plan's method name stands for. Its learner is named, not imported: a learner needs torch."""

    table: type
    learner: str  # module:name
    exchanges: bool = True
    two_tiers: bool = False  # large sites keep a large net of their own

    def schema(self, plan: Plan) -> Schema:
        """Exactly the tensors that travel, in order."""
        whole = spec.schema(plan.nets.small, len(plan.classes), plan.image.channels, plan.nets.norm)
        travelling = tuple(t for t in whole.tensors if plan.wire.norm == "shared" or ".bn" not in f".{t.name}")
        return Schema(travelling if self.exchanges else ())

    def start(self, plan: Plan) -> dict[str, Array]:
        """Round 0's model: the same first weights for every site."""
        whole = spec.schema(plan.nets.small, len(plan.classes), plan.image.channels, plan.nets.norm)
        return spec.initial_weights(whole, plan.seed)


_PACKAGE = "fedhelp_edge.methods"
METHODS: Mapping[str, Method] = {
    "fedhelp": Method(FedHelpSettings, f"{_PACKAGE}.fedhelp:learner", two_tiers=True),
    "fedavg": Method(FedAvgSettings, f"{_PACKAGE}.fedavg:FedAvg"),
    "fedprox": Method(FedProxSettings, f"{_PACKAGE}.fedprox:FedProx"),
    "local": Method(LocalSettings, f"{_PACKAGE}.local:Local", exchanges=False),
}
TABLES: Mapping[str, type] = {name: method.table for name, method in METHODS.items()}
