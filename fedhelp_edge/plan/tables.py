"""The tables of a plan. Each is a dataclass whose fields carry default, note and bounds.

Reading, checking and the commented template all follow from them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

IMAGE_NETS = (  # those of nets.spec, on pixels
    "resnet8", "resnet20", "resnet32", "resnet56", "resnet110", "resnet10", "resnet12", "mobilenetv2",
    "efficientnet_lite0", "shufflenetv2",
)  # fmt: skip
FEATURE_NETS = ("linear",)  # those on an encoder's features
MASK_NETS = ("unet8", "unet16", "unet24", "unet32")  # and those that name the class of each pixel
NETS = (*IMAGE_NETS, *MASK_NETS, *FEATURE_NETS)
HALVINGS = 3  # of a U-Net's maps: a side is a multiple of 2**3
MAX_MASK_CLASSES = 60
MAX_VIEWS = 10  # of an image: those of `data.views`
TASKS = ("classification", "segmentation")
ENCODER_NAME = re.compile(r"[\w.-]{1,100}\.onnx")
CODE = re.compile(r"(\S{1,16}) (\S{1,16}) (\S.{0,63})")  # of a class: scheme, value and meaning
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SITE = re.compile(r"site-\d{3,6}")
_AGE_KEY = re.compile(r"age1[a-z0-9]{58}|age1pq1[a-z0-9]{1952}")
_SIGN_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/]{68}")


def key(
    default: Any, note: str, *, low: float = -math.inf, high: float = math.inf, choices: tuple[str, ...] = ()
) -> Any:
    """A key of the plan: its default (whose type is its type), a note for people, and its bounds or choices."""
    return field(default=default, metadata={"note": note, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class ImageSettings:
    """size and normalisation of the images, the same for all sites"""

    size: int = key(64, "pixels on a side", low=8, high=1024)
    channels: int = key(3, "3 colour, 1 grey", low=1, high=3)
    mean: tuple[float, ...] = key((0.485, 0.456, 0.406), "mean of each channel, on a scale from 0 to 1", low=0, high=1)
    std: tuple[float, ...] = key((0.229, 0.224, 0.225), "standard deviation of each channel", low=0.001, high=10)
    depth: int = key(1, "slices of a block; 1: pictures", low=1, high=512)
    spacing: tuple[float, ...] = key(
        (1.0, 1.0, 1.0), "volumes: mm from one slice, row and column to the next", low=0.01, high=100
    )

    @property
    def is_volume(self) -> bool:
        """Whether images are blocks of volumes, not pictures."""
        return self.depth > 1

    @property
    def block(self) -> tuple[int, ...]:
        """The sides of what a net sees: rows and columns, for volumes the slices first."""
        return (self.depth, self.size, self.size) if self.is_volume else (self.size, self.size)

    def mistakes(self) -> Iterator[tuple[str, str]]:
        if self.channels == 2:
            yield "channels", "1 or 3"
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                yield name, f"needs {self.channels} numbers, one for each channel"
        if len(self.spacing) != 3:
            yield "spacing", "needs 3 numbers: from slice to slice, row to row and column to column"


@dataclass(frozen=True)
class MaskSettings:
    """for segmentation: which pixels count most in cross-entropy, and more on masks; equations in brackets"""

    weights: str = key(
        "cells",
        "more between two near outlines (10), or at every outline, or all pixels alike",
        choices=("cells", "outlines", "none"),
    )
    beta_0: float = key(10.0, "how much more (10)", low=0, high=1000)
    sigma: float = key(5.0, "how near, in pixels (10)", low=0.1, high=1000)
    mirror: bool = key(True, "training images are mirrored too; false where classes name a side")
    elastic: float = key(0.0, "training images are bent by up to this part of their side", low=0, high=0.25)
    intensity: float = key(0.0, "their contrast and brightness vary by up to this part", low=0, high=0.9)
    balance: float = key(1.0, "1: all classes alike (beta_c); 0: each as it is frequent", low=0, high=1)


@dataclass(frozen=True)
class PublicSettings:
    """the public images of the knowledge pack"""

    size: int = key(32, "pixels on a side", low=8, high=1024)


@dataclass(frozen=True)
class DataSettings:
    """how each site splits its images, once"""

    val: float = key(0.1, "fraction of the images for validation", low=0, high=0.5)
    test: float = key(0.2, "fraction of the images for testing", low=0, high=0.5)


@dataclass(frozen=True)
class NetSettings:
    """which nets are trained"""

    small: str = key(
        "resnet20",
        "travels: net of small sites, proxy of large; masks: unet8",
        choices=NETS,
    )
    large: str = key(
        "resnet110",
        "stays at a large site; masks: unet32, volumes: unet16",
        choices=NETS,
    )
    norm: str = key("batch", "normalisation layers", choices=("batch", "group"))
    encoder: str = key("", "a frozen net whose features of each image the nets work on: NAME.onnx; none")
    encoder_sha256: str = key("", "its SHA-256, as 'fedhelp-edge encoder show FILE' prints it")
    encoder_width: int = key(0, "how many features it gives for an image", low=0, high=1 << 16)
    encoder_views: int = key(
        1, "views of a training image: 1 as it is, 2 mirrored too, 10 cropped too", low=1, high=MAX_VIEWS
    )
    own: Mapping[str, str] = field(
        default_factory=dict,
        metadata={
            "note": "a site's own net, {site-003 = 'resnet56'}; else small or large",
            "choices": NETS,
        },
    )

    def own_net(self, site: str, tier: str) -> str:
        """The net that a site keeps for itself."""
        return self.own.get(site, self.small if tier == "small" else self.large)

    def mistakes(self) -> Iterator[tuple[str, str]]:
        if wrong := [site for site in self.own if not _SITE.fullmatch(site)]:
            yield "own", f"sites are named like site-003, not {wrong[0]!r}"
        if self.encoder:
            yield from self._encoder_mistakes()
        else:
            for name, neutral in (("encoder_sha256", ""), ("encoder_width", 0), ("encoder_views", 1)):
                if getattr(self, name) != neutral:
                    yield name, "there is no encoder: name its file in 'encoder', or leave this out"

    def _encoder_mistakes(self) -> Iterator[tuple[str, str]]:
        if not ENCODER_NAME.fullmatch(self.encoder):
            yield "encoder", "the name of a file NAME.onnx, without its folder"
        if not _SHA256.fullmatch(self.encoder_sha256):
            yield "encoder_sha256", "64 digits, which 'fedhelp-edge encoder show FILE' prints"
        if not self.encoder_width:
            yield "encoder_width", "the number of its features, which 'fedhelp-edge encoder show FILE' prints"


@dataclass(frozen=True)
class TrainingSettings:
    """how each site trains in a round"""

    epochs: int = key(2, "passes over a site's images per round", low=1, high=1000)
    batch: int = key(32, "images per step; for segmentation 8", low=2, high=4096)
    optimiser: str = key("adam", "", choices=("adam", "sgd"))
    lr: float = key(1e-3, "learning rate", low=1e-7, high=10)
    own_lr: float = key(
        0.0, "learning rate of nets that stay at their sites, lower for pretrained ones; 0: lr", high=10, low=0
    )
    weight_decay: float = key(1e-4, "", low=0, high=1)
    schedule: str = key("cosine", "learning rate over all rounds", choices=("cosine", "constant"))
    loss: str = key(
        "ce",
        "cross-entropy, corrected for rare classes, or robust to wrong labels; for masks ce, or Dice too",
        choices=("ce", "logit-adjusted", "symmetric", "dice-ce"),
    )
    precision: str = key("auto", "bf16 where the processor has it", choices=("auto", "fp32", "bf16"))
    yardstick: bool = key(True, "also train a local baseline, to see what taking part gains")


@dataclass(frozen=True)
class StartSettings:
    """where the first weights come from"""

    # `from` is a word of Python's own
    source: str = field(
        default="seed",
        metadata={
            "note": "drawn from the seed, or trained once on the knowledge pack",
            "choices": ("seed", "pack"),
            "name": "from",
        },
    )


@dataclass(frozen=True)
class RoundSettings:
    """when a round opens, closes and counts"""

    quorum: int = key(2, "fewest updates that are aggregated", low=1, high=1000)
    days: int = key(7, "until the deadline", low=1, high=365)
    stale: int = key(1, "how many rounds late an update may arrive", low=0, high=10)
    patience: int = key(10, "rounds without improvement before the federation stops; 0: never", low=0, high=10000)
    enrolment: str = key(
        "invite", "an invite is enough, or the coordinator approves each site", choices=("invite", "manual")
    )
    roster_days: int = key(90, "days until a roster expires", low=1, high=365)
    grace_days: int = key(30, "days for which a site may train under an expired roster", low=0, high=365)


@dataclass(frozen=True)
class MergeSettings:
    """how updates are aggregated"""

    rule: str = key("mean", "", choices=("mean", "median", "trimmed"))
    weight: str = key(
        "examples",
        "by number of images, all alike, or as the method says",
        choices=("examples", "uniform", "method"),
    )
    cap: float = key(0.5, "largest weight of one site in the model", low=0.01, high=1)
    max_examples: int = key(1_000_000, "most images that one site may claim; more count as so many", low=1, high=10**9)
    clip: str = key("auto", "limit the norm of each update", choices=("auto", "none"))
    step: float = key(1.0, "how far the model moves to the aggregate; pFedMe's beta", low=0.001, high=1)
    trim: float = key(0.2, "fraction of the sites that the trimmed mean drops at each end", low=0, high=0.49)


@dataclass(frozen=True)
class WireSettings:
    """how updates and models travel"""

    up: str = key(
        "f32",
        "f16 halves the bytes, int8-delta quarters them, lowrank sends what the table below says",
        choices=("f32", "f16", "int8-delta", "lowrank"),
    )
    down: str = key("f32", "f16 halves the bytes, int8 quarters them", choices=("f32", "f16", "int8"))
    norm: str = key("shared", "normalisation layers travel, or stay at each site (FedBN)", choices=("shared", "local"))
    post_quantum: bool = key(False, "updates are also safe from a later quantum computer; experimental")


@dataclass(frozen=True)
class LowRankSettings:
    """how much of each matrix travels by the codec lowrank"""

    rule: str = key("energy", "how many singular triplets", choices=("energy", "aic", "fixed"))
    start: float = key(0.95, "energy kept at first", low=0.01, high=1)
    end: float = key(0.98, "energy kept in the last round", low=0.01, high=1)
    rank: int = key(4, "triplets by the rule fixed", low=1, high=10000)
    of: str = key("update", "what is approximated: the change, or the weights", choices=("update", "weights"))
    feedback: bool = key(True, "what an update loses joins the next one")


@dataclass(frozen=True)
class DicomSettings:
    """how classes are coded in reports for an archive"""

    codes: Mapping[str, str] = field(
        default_factory=dict,
        metadata={"note": 'as {pneumonia = "SCT 233604007 Pneumonia"}; others get local codes', "choices": ()},
    )

    def mistakes(self) -> Iterator[tuple[str, str]]:
        if wrong := [name for name, code in self.codes.items() if not CODE.fullmatch(code)]:
            yield "codes", f"the code of {wrong[0]!r} is not 'SCHEME VALUE MEANING', as 'SCT 233604007 Pneumonia'"


@dataclass(frozen=True)
class PrivacySettings:
    """further protection of a site"""

    mode: str = key(
        "plain",
        "who sees a site's update: the coordinator; nobody, a helper tells a round's sum; "
        "the coordinator, with noise that hides images",
        choices=("plain", "secure-sum", "dp"),
    )
    helper_key: str = key("", "secure-sum, or dp with a helper too: its age key, as 'fedhelp-helper init' prints it")
    helper_sign: str = key("", "and its signing key, printed beside it")
    clip: float = key(0.0, "secure-sum: largest norm of a site's change of its weights; 0: no limit", low=0, high=1e6)
    site_noise: float = key(0.0, "secure-sum: noise of a sum, in multiples of clip, to hide a site", low=0, high=1000)
    epsilon: float = key(
        8.0, "budget of each image over all rounds; with site_noise, of each site", low=0.01, high=1000
    )
    delta: float = key(1e-5, "chance that epsilon does not hold; well below 1 / images", low=1e-15, high=0.01)
    noise_multiplier: float = key(1.0, "dp: noise of a step, in multiples of gradient_norm", low=0.3, high=1000)
    gradient_norm: float = key(1.0, "dp: largest norm of one image's gradient", low=1e-6, high=1e6)
    sampling_rate: float = key(0.05, "dp: chance of an image to be in a step; an epoch has 1 / it", low=1e-4, high=1)

    @property
    def is_secure_sum(self) -> bool:
        """Whether a helper hides single updates; with dp it may do so too."""
        return self.mode == "secure-sum" or (self.is_dp and bool(self.helper_key))

    @property
    def is_dp(self) -> bool:
        return self.mode == "dp"

    @property
    def hides_sites(self) -> bool:
        """Whether the sum of a round has noise that hides each site."""
        return self.is_secure_sum and self.site_noise > 0

    @property
    def has_budget(self) -> bool:
        """Whether epsilon limits what an update reveals of an image, or a sum of a site. No counts travel then."""
        return self.is_dp or self.hides_sites

    def idle_keys(self) -> Iterator[str]:
        """Sentences on keys that do nothing in this mode: somebody may believe that they protect."""
        uses = [
            ("secure-sum", self.is_secure_sum, ("clip", "site_noise")),
            ("dp", self.is_dp, ("noise_multiplier", "gradient_norm", "sampling_rate")),
            ("dp, or secure-sum with site_noise", self.has_budget, ("epsilon", "delta")),
        ]
        defaults = {plan_field.name: default_of(plan_field) for plan_field in fields(self)}
        for use, is_used, names in uses:
            for name in names if not is_used else ():
                if getattr(self, name) != defaults[name]:
                    yield f'[privacy] {name} does nothing with mode = "{self.mode}": it is for {use}'

    def mistakes(self) -> Iterator[tuple[str, str]]:
        keys = (("helper_key", _AGE_KEY, "age1... or age1pq1..."), ("helper_sign", _SIGN_KEY, "ssh-ed25519 ..."))
        has_helper = self.mode == "secure-sum" or (self.is_dp and bool(self.helper_key or self.helper_sign))
        for name, pattern, form in keys:
            value = getattr(self, name)
            if has_helper and not pattern.fullmatch(value):
                yield name, f"the helper's key ({form}), as 'fedhelp-helper init' prints it"
            elif value and not has_helper:
                yield name, 'plain has no helper: leave this out, or set mode = "secure-sum" or "dp"'
        if self.is_dp and self.site_noise:
            yield "site_noise", "dp hides each image already: 0"
        elif self.hides_sites and not self.clip:
            yield "clip", "site_noise is in multiples of it: more than 0"


@dataclass(frozen=True)
class Plan:
    """A valid plan. `text` is the file, byte for byte; `tables` has those of the methods that it names."""

    name: str = key("skin-lesions", "name of the federation, for people")
    task: str = key("classification", "the model names the class of an image, or of each pixel", choices=TASKS)
    classes: tuple[str, ...] = key(
        ("benign", "malignant"),
        "classes of the model; sites name their folders after them. Of masks 1, 2, ...; 0 is the background, not named",
    )
    method: str = key("fedhelp", "")
    rounds: int = key(100, "at most", low=1, high=100000)
    seed: int = key(0, "every random draw follows from it", low=0, high=2**53 - 1)
    image: ImageSettings = field(default_factory=ImageSettings)
    public: PublicSettings = field(default_factory=PublicSettings)
    data: DataSettings = field(default_factory=DataSettings)
    masks: MaskSettings = field(default_factory=MaskSettings)
    nets: NetSettings = field(default_factory=NetSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    start: StartSettings = field(default_factory=StartSettings)
    round: RoundSettings = field(default_factory=RoundSettings)
    merge: MergeSettings = field(default_factory=MergeSettings)
    wire: WireSettings = field(default_factory=WireSettings)
    lowrank: LowRankSettings = field(default_factory=LowRankSettings)
    dicom: DicomSettings = field(default_factory=DicomSettings)
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    tables: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""

    @property
    def method_settings(self) -> Any:
        """The settings of the plan's method."""
        return self.tables[self.method]

    @property
    def has_masks(self) -> bool:
        """Whether the model names the class of each pixel."""
        return self.task == "segmentation"

    @property
    def has_archive(self) -> bool:
        """Whether the archive's key, which is not post-quantum, opens each update after its round."""
        return not (self.privacy.is_secure_sum or self.wire.post_quantum)

    @property
    def outputs(self) -> int:
        """The numbers that a net gives for an image, or for each pixel: its classes, and the background first."""
        return len(self.classes) + self.has_masks

    @property
    def weighs_pixels(self) -> bool:
        """Whether the loss weighs pixels: by their class, and by how near they are to outlines."""
        return self.has_masks and self.training.loss == "ce" and self.masks.weights != "none"

    def mistakes(self) -> Iterator[tuple[str, str]]:
        if len(self.classes) < 2 - self.has_masks:
            yield "classes", "name at least one" if self.has_masks else "name at least two"
        if self.has_masks and len(self.classes) > MAX_MASK_CLASSES:
            yield "classes", f"at most {MAX_MASK_CLASSES} for segmentation"
        if self.has_masks and "background" in {name.strip().casefold() for name in self.classes}:
            yield "classes", "leave the background out: it is always there, as 0"
        if len({name.strip().casefold() for name in self.classes}) < len(self.classes):
            yield "classes", "a name is repeated"
        if not all(name.strip() == name != "" and name.isprintable() for name in self.classes):
            yield "classes", "a name is empty, has spaces around it or an invisible character"
        if not self.name.strip() or not self.name.isprintable() or len(self.name) > 100:
            yield "name", "1 to 100 letters on one line"

    def conflicts(self) -> Iterator[tuple[str, str, str]]:
        """What does not fit together: table, key, and what to change."""
        nets, image = self.nets, self.image
        for name in self.dicom.codes.keys() - {*self.classes}:
            yield "dicom", "codes", f"{name!r} is no class of the plan"
        fitting: tuple[str, ...]
        if self.has_masks:
            fitting, does, where = MASK_NETS, "give masks", "for segmentation"
        elif nets.encoder:
            fitting, does, where = FEATURE_NETS, "work on features", "with an encoder"
        else:
            fitting, does, where = IMAGE_NETS, "work on pixels", "without an encoder"
        for name, named in (("small", [nets.small]), ("large", [nets.large]), ("own", [*nets.own.values()])):
            if unfit := next((net for net in named if net in NETS and net not in fitting), ""):
                cannot = "classify images" if unfit in MASK_NETS else does
                yield "nets", name, f"{unfit} does not {cannot}: {where} name one of {', '.join(fitting)}"
        if nets.encoder and self.has_masks:
            yield "nets", "encoder", "an encoder gives no features of pixels: leave it out for segmentation"
        elif nets.encoder and image.channels != 3:
            yield "image", "channels", "an encoder looks at colour images: 3, also where they are grey"
        fitting_losses = ("ce", "dice-ce") if self.has_masks else ("ce", "logit-adjusted", "symmetric")
        if self.training.loss not in fitting_losses:
            yield "training", "loss", f"{self.training.loss} does not fit {self.task}: {' or '.join(fitting_losses)}"
        if image.is_volume and not self.has_masks:
            yield "image", "depth", "volumes are for segmentation: 1 for pictures"
        multiple = 2**HALVINGS
        for name, side in (("size", image.size), ("depth", image.depth if image.is_volume else multiple)):
            if self.has_masks and side % multiple:
                yield "image", name, f"a U-Net halves it {HALVINGS} times: a multiple of {multiple}"
        if self.has_masks and self.start.source == "pack":
            yield "start", "from", "first weights of nets for masks are drawn: seed"


TABLES = {f.name: f.default_factory for f in fields(Plan) if f.default_factory not in (MISSING, dict)}


def default_of(plan_field: Any) -> Any:
    return plan_field.default_factory() if plan_field.default is MISSING else plan_field.default


def name_of(plan_field: Any) -> str:
    return str(plan_field.metadata.get("name", plan_field.name))
