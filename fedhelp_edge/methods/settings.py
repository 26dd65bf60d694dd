"""The settings of each method: its table in the plan. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fedhelp_edge.plan import key


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
class FedGHSettings:
    """one last layer for all sites, which the coordinator trains on class means"""

    least_images: int = key(
        5, "a class of fewer images at a site is not sent: its mean is nearly a patient", low=1, high=10**6
    )
    steps: int = key(100, "of the coordinator on a round's class means", low=1, high=10000)
    lr: float = key(0.01, "the coordinator's learning rate", low=1e-7, high=10)
    momentum: float = key(0.9, "the coordinator's", low=0, high=0.999)
    weight_decay: float = key(1e-3, "the coordinator's", low=0, high=1)


@dataclass(frozen=True)
class FedKEMFSettings:
    """each site's own net and a knowledge net teach each other; the knowledge nets teach the merged one"""

    mutual: float = key(1.0, "weight of what the two nets of a site learn from each other", low=0, high=1000)
    images: int = key(5000, "public images that the coordinator uses at most", low=1, high=10**7)
    epochs: int = key(1, "the coordinator's passes over them", low=0, high=1000)
    lr: float = key(0.01, "the coordinator's learning rate", low=1e-7, high=10)
    temperature: float = key(1.0, "of the knowledge nets' probabilities at the coordinator", low=0.1, high=100)


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
class PFedBayesSettings:
    """each weight is Gaussian; each site's own ones stay near the common ones"""

    zeta: float = key(1.0, "weight of the distance from the common distribution", low=0, high=1000)
    rho: float = key(-4.0, "of the first standard deviations, which are log(1 + exp(rho))", low=-20, high=5)


@dataclass(frozen=True)
class PerFedAvgSettings:
    """a common net from which one step leads to each site's own"""

    inner: float = key(0.005, "learning rate of the step that adapts the net (alpha)", low=0, high=10)
    order: str = key("fo", "first order, or Hessian-free: exact, with twice the gradients", choices=("fo", "hf"))


@dataclass(frozen=True)
class PFedMeSettings:
    """each site's own net on a leash from the common one"""

    strength: float = key(15.0, "of the leash (lambda)", low=0, high=1000)
    steps: int = key(5, "of the own net on each batch (K)", low=1, high=100)
    inner: float = key(0.01, "learning rate of these steps", low=0, high=10)
    rate: float = key(0.005, "learning rate of the common net", low=0, high=10)

    def mistakes(self) -> Iterator[tuple[str, str]]:
        for name in ("inner", "rate"):
            if self.strength * getattr(self, name) > 2:
                yield name, "with more than 2 / strength the nets would swing ever further apart"


@dataclass(frozen=True)
class FedMICSettings:
    """a teacher, which stays, and a student, which travels, teach each other"""

    lambda_d: float = key(1.0, "how strongly both nets' probabilities draw each other", low=0, high=1000)
    lambda_h: float = key(1.0, "how strongly both nets' features draw each other", low=0, high=1000)
    aux_at: str = key(
        "representation", "which of them the auxiliary matrices carry over", choices=("representation", "decision")
    )
