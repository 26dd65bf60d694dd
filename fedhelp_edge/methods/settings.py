"""The settings of each method: its table in the plan. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fedhelp_edge.plan import IMAGE_NETS, key


@dataclass(frozen=True)
class LocalSettings:
    """each site alone: nothing is exchanged"""


@dataclass(frozen=True)
class FedAvgSettings:
    """the mean of everybody's weights"""


@dataclass(frozen=True)
class FedAdamSettings:
    """the coordinator takes Adam's step along the mean change"""

    lr: float = key(0.01, "the coordinator's learning rate (eta)", low=1e-7, high=10)
    beta1: float = key(0.9, "how much of the mean is kept", low=0, high=0.999)
    beta2: float = key(0.99, "how much of the mean square is kept", low=0, high=0.9999)
    tau: float = key(0.001, "changes below this count less", low=1e-9, high=1)


@dataclass(frozen=True)
class ScaffoldSettings:
    """each step is corrected by how a site's gradients differ from everybody's"""


@dataclass(frozen=True)
class FedSMSettings:
    """a common net, a personal net of each site, and a selector that says whose an image is"""

    strength: float = key(
        0.7, "how much of a personal net stays when it is pulled towards the others (lambda)", low=0, high=1
    )
    gamma: float = key(0.9, "above this probability of the selector the personal net answers", low=0, high=1)
    sites: int = key(16, "that the selector tells apart, by their number", low=1, high=1000)
    selector: str = key("resnet20", "its net", choices=IMAGE_NETS)
    selector_lr: float = key(0.001, "its learning rate", low=1e-7, high=10)


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

    def mistakes(self) -> Iterator[tuple[str, str]]:
        if self.lr * self.weight_decay >= 2 * (1 + self.momentum):
            yield "lr", "with 2 (1 + momentum) / weight_decay or more the layer would swing ever further"


@dataclass(frozen=True)
class RidgeSettings:
    """closed-form heads from sums over each site's images: one round, and one more for heads of each site's own"""

    dimensions: int = key(
        128, "random mixtures of features stand for an image; no site has fewer images; 0: all", low=0, high=2048
    )
    strength: float = key(
        0.0, "of the penalty (lambda), in mean variances of a feature; 0: cross-validation chooses", low=0, high=1e6
    )
    logits: str = key(
        "discriminant",
        "from the scores: by discriminant analysis, or these themselves, as in AFL and Fed3R",
        choices=("discriminant", "scores"),
    )
    balance: float = key(0.0, "0: a class is as likely as it is frequent; 1: all classes alike", low=0, high=1)
    least_images: int = key(
        5, "a class of fewer images at a site is not sent: its sum is nearly a patient", low=1, high=10**6
    )

    def mistakes(self) -> Iterator[tuple[str, str]]:
        if self.balance and self.logits == "scores":
            yield "balance", 'scores have no such thing: say 0 here, or logits = "discriminant"'


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
    alpha_lr: float = key(0.0, "learning rate of alpha; 0: the net's", low=0, high=100)
    public_augment: bool = key(True, "public images are augmented; false: shown as the foundation models saw them")
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
        if self.alpha_lr and self.alpha != "learned":
            yield "alpha_lr", 'nothing learns by it unless alpha = "learned"'


@dataclass(frozen=True)
class PFedBayesSettings:
    """each weight is Gaussian; each site's own ones stay near the common ones"""

    zeta: float = key(0.1, "weight of the distance from the common distribution", low=0, high=1000)
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
    rate: float = key(0.05, "learning rate of the common net", low=0, high=10)

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


@dataclass(frozen=True)
class FedMedClipSettings:
    """a shared adapter of a frozen encoder's features, and a classifier of each site's own"""

    class_vectors: str = key(
        "auto",
        "what images are compared with: the encoder's text, else own prototypes; own; shared ones, which travel",
        choices=("auto", "own", "shared"),
    )
    least_images: int = key(5, "shared prototypes: a class of fewer images at a site is not sent", low=1, high=10**6)
    similar: float = key(0.04, "weight of what adapter and classifier learn from each other", low=0, high=1000)
    omega: str = key(
        "adaptive",
        "which of the two teaches more: the more certain one, or both alike, as in the program",
        choices=("adaptive", "half"),
    )
    mask_grad: str = key(
        "inside",
        "where gradients reach masks: within 1 of the threshold, or beyond, as in the program: never",
        choices=("inside", "released"),
    )
    mask_step: str = key(
        "paper", "a row is on at its threshold, or 0.01 above it, as in the program", choices=("paper", "code")
    )
    mask_bias: bool = key(True, "a mask also covers the row's bias; false: as in the program")
    lr: float = key(5e-5, "the adapter's learning rate", low=1e-7, high=10)
    classifier_lr: float = key(1e-3, "the classifier's", low=1e-7, high=10)
    decay: float = key(0.97, "both, times this in each further round", low=0.1, high=1)
    weight_decay: float = key(0.02, "of both", low=0, high=1)


_IMAGES = "public images that a round asks for, drawn anew each time"


@dataclass(frozen=True)
class FedMDSettings:
    """consensus on logits for public images"""

    head: str = key(
        "public",
        "whose logits: a head for the public classes, which is trained beside, or the head for diagnoses",
        choices=("public", "private"),
    )
    public_epochs: int = key(
        5, "passes over all public images and their labels before a site's first round", low=0, high=1000
    )
    images: int = key(5000, _IMAGES, low=2, high=1_000_000)
    public_batch: int = key(256, "public images per step", low=2, high=4096)


@dataclass(frozen=True)
class MdhFlSettings:
    """nets of different kinds align on public images, against wrong labels"""

    loss: str = key("symmetric", "on a site's own images: the method's, or the plan's", choices=("symmetric", "plan"))
    pretrain: int = key(0, "passes over a site's own images before its first round", low=0, high=1000)
    images: int = key(5000, _IMAGES, low=2, high=1_000_000)
    public_batch: int = key(16, "public images per step", low=2, high=4096)
    ccr: bool = key(False, "sites whose loss falls faster weigh more; each then also sends its loss")
    beta: float = key(0.5, "how much more", low=0, high=10)
    fresh_adam: bool = key(False, "a new optimiser for each public step, as in the program of RHFL")


@dataclass(frozen=True)
class FcclSettings:
    """correlated logits for public images, and memory of earlier nets"""

    off_diagonal: float = key(0.0051, "weight of the correlations between two classes", low=0, high=1000)
    inter: float = key(1.0, "weight of the divergence from the own net of the last round", low=0, high=1000)
    intra: float = key(1.0, "weight of the divergence from the own net after its first round", low=0, high=1000)
    pretrain: int = key(50, "passes over a site's own images in its first round; 0: as in any other", low=0, high=1000)
    images: int = key(5000, _IMAGES, low=2, high=1_000_000)
    public_batch: int = key(512, "public images per step", low=2, high=4096)
