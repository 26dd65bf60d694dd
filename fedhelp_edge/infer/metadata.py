"""The metadata of a bundle, read without opening the model; `export` writes it. See docs/spec/bundle.md."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge import plan
from fedhelp_edge.errors import BadBundleError
from fedhelp_edge.infer import appearance, protobuf

SCHEMA_VERSION, MASK_SCHEMA_VERSION = 1, 2  # of a model for classes, and for masks
FACTS_NOTE, CARD_NOTE, PARITY_NOTE = "fedhelp.bundle", "fedhelp.card", "fedhelp.parity"
_NOTE_LIMIT = 8 << 20  # bytes of one note
_METADATA_PROPS = 14  # the field of ModelProto


@dataclass(frozen=True)
class Rate:
    """A proportion of images with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Threshold:
    """The probability from which a class is flagged, to miss few of its images.

    `reason` says why there is none, or why it cannot reach the target sensitivity.
    """

    at: float | None
    images: int
    sensitivity: Rate | None = None  # both are to be expected of other images
    specificity: Rate | None = None
    reason: str = ""


@dataclass(frozen=True)
class Calibration:
    """The calibration on the site's validation images; tuples have one entry for each class."""

    images: tuple[int, ...]
    temperature: float
    ece: tuple[float, float] | None  # expected calibration error before and after
    least: tuple[float, ...]  # the probability from which a class is in the set
    level: tuple[float, ...]  # how often the set may miss this class when it is the true one
    own: tuple[bool, ...]  # from images of the class itself; else, if they are too few, from all
    wanted: float  # the target sensitivity of the thresholds
    thresholds: tuple[Threshold, ...]
    overconfidence: tuple[float, float, float] | None = None  # mean certainty less accuracy, and its interval


@dataclass(frozen=True)
class FeatureDistribution:
    """The distribution of some features of the training images, with a limit on the Mahalanobis distance."""

    mean: NDArray[np.float32]
    root: NDArray[np.float32]  # features x at most as many directions: the length of difference x root is the distance
    limit: float

    def distance(self, numbers: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """The distance in units of the limit: above 1 is too far."""
        whitened = (np.asarray(numbers, np.float64) - self.mean) @ np.asarray(self.root, np.float64)
        return np.asarray(np.sqrt((whitened**2).sum(-1)) / self.limit)


@dataclass(frozen=True)
class Likeness(FeatureDistribution):
    """The distribution of the net's embeddings, and those of the pixels' appearance (`appearance.KINDS`)."""

    level: float  # how often an image like the training images exceeds any limit
    images: int  # number of images behind the means
    looks: Mapping[str, FeatureDistribution] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class TrainedKinds:
    """What the DICOM files among the site's images state; an empty tuple where they state nothing."""

    modalities: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    photometric_interpretations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """The facts of a bundle: its note `fedhelp.bundle`."""

    name: str  # of the plan
    federation: str  # "" for a model tried out without a federation
    round: int
    tier: str
    sites: int  # that took part in the round
    examples: int  # images that this site trained on
    classes: tuple[str, ...]
    image: plan.ImageSettings
    net: str  # the only net that counts, or "kept"
    members: tuple[str, ...]  # its component nets
    precision: str  # "fp32" | "int8"
    bias: tuple[float, ...]  # logit = mean(heat-map) + bias
    figures: Mapping[str, Mapping[str, float | None]]  # of each candidate net
    calibration: Calibration
    likeness: Likeness
    test: Mapping[str, float | None]  # figures on this site's test images; empty without test images
    signer: str  # fingerprint of the signing key
    findings: tuple[Mapping[str, Any], ...] = ()  # why the figures may mislead
    # as `test`, on validation images; each judged by nets, sets and limits from others
    validation: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    weighing: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # how much each net counts; {}: not known
    kinds: TrainedKinds = TrainedKinds()  # of images; empty in older models
    codes: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of classes, as the plan has them
    privacy: Mapping[str, float] = dataclasses.field(default_factory=dict)  # epsilon, delta, budget; {}: no noise
    subgroups: tuple[
        Mapping[str, Any], ...
    ] = ()  # of test or validation images: part, by, name, images, answered, right
    history: tuple[Mapping[str, Any], ...] = ()  # earlier rounds at this site: round, examples, images, figure, value

    def text(self) -> str:
        """Serialise to the text of the note."""
        document = {**asdict(self), "schema_version": SCHEMA_VERSION}
        for name in ("depth", "spacing"):  # of volumes, which have masks
            del document["image"][name]
        return _text(document)


@dataclass(frozen=True)
class MaskCalibration:
    """The calibration of a model for masks on the site's validation cases: images, or whole volumes."""

    cases: int
    pixels: int  # that the temperature was fitted to
    temperature: float
    ece: tuple[float, float] | None  # expected calibration error of pixels, before and after
    most_uncertain: float  # the share of uncertain pixels above which an outline is uncertain
    level: float  # how often an outline of the site's own images is called uncertain


@dataclass(frozen=True)
class MaskFacts:
    """The facts of a model for masks. Names that `Facts` has too mean the same."""

    name: str
    federation: str
    round: int
    tier: str
    sites: int
    examples: int  # images, or whole volumes, that this site trained on
    classes: tuple[str, ...]  # without the background, which is 0 in a mask; the first one is 1
    image: plan.ImageSettings  # with `depth` and `spacing` of volumes
    net: str
    members: tuple[str, ...]
    precision: str
    figures: Mapping[str, Mapping[str, float | None]]
    calibration: MaskCalibration
    likeness: Likeness
    test: Mapping[str, float | None]
    signer: str
    findings: tuple[Mapping[str, Any], ...] = ()
    validation: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    weighing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    kinds: TrainedKinds = TrainedKinds()
    codes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    privacy: Mapping[str, float] = dataclasses.field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()

    def text(self) -> str:
        """Serialise to the text of the note."""
        return _text({**asdict(self), "schema_version": MASK_SCHEMA_VERSION, "task": "segmentation"})


def _text(document: dict[str, Any]) -> str:
    if not document["privacy"]:
        del document["privacy"]
    for distribution in (document["likeness"], *document["likeness"]["looks"].values()):
        distribution |= {name: encode_array(distribution[name]) for name in ("mean", "root")}
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def read(text: str) -> Facts | MaskFacts:
    """Read facts from their note; unknown keys are ignored, missing keys are refused."""
    try:
        document = json.loads(text)
        version = document["schema_version"]
        if version not in (SCHEMA_VERSION, MASK_SCHEMA_VERSION):
            raise BadBundleError("another version of this kit made it")
        common = {
            **document,
            "image": _from_json(plan.ImageSettings, document["image"]),
            "likeness": _read_likeness(document["likeness"]),
            "kinds": _from_json(TrainedKinds, document.get("kinds", {})),
        }
        if version == MASK_SCHEMA_VERSION:
            calibration = _from_json(MaskCalibration, document["calibration"])
            mask_facts: MaskFacts = _from_json(MaskFacts, common | {"calibration": calibration})
            _check(_is_consistent(mask_facts) and _are_masks_consistent(mask_facts))
            return mask_facts
        thresholds = tuple(_read_threshold(threshold) for threshold in document["calibration"]["thresholds"])
        calibration = _from_json(Calibration, {**document["calibration"], "thresholds": thresholds})
        facts: Facts = _from_json(Facts, common | {"calibration": calibration})
        _check(_is_consistent(facts) and _are_classes_consistent(facts))
        return facts
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadBundleError("its metadata cannot be read") from error


def _read_likeness(document: Mapping[str, Any]) -> Any:
    distributions = document.get("looks", {}).items()  # unknown ones, of newer versions, are ignored
    known_looks = {
        name: _from_json(FeatureDistribution, _decode_distribution(distribution))
        for name, distribution in distributions
        if name in appearance.KINDS
    }
    return _from_json(Likeness, {**_decode_distribution(document), "looks": known_looks})


def encode_array(array: NDArray[Any]) -> dict[str, Any]:
    """Encode an array for JSON: shape, type and bytes (little-endian, row-major, base64)."""
    kind = "u1" if array.dtype == np.uint8 else "<f4"
    data = np.ascontiguousarray(array, kind).tobytes()
    return {"shape": list(array.shape), "kind": kind, "data": base64.b64encode(data).decode("ascii")}


def decode_array(encoded: Mapping[str, Any]) -> NDArray[Any]:
    """Decode an array from `encode_array`."""
    if encoded["kind"] not in ("u1", "<f4"):
        raise BadBundleError("numbers of an unknown kind")
    data = np.frombuffer(base64.b64decode(encoded["data"], validate=True), encoded["kind"])
    return data.reshape([int(side) for side in encoded["shape"]])


def _decode_distribution(encoded: Mapping[str, Any]) -> dict[str, Any]:
    return {**encoded, **{name: decode_array(encoded[name]) for name in ("mean", "root")}}


def read_notes(model: bytes) -> dict[str, str]:
    """Read the notes (metadata_props) of an ONNX file by walking its top-level fields; nothing else is parsed."""
    texts: dict[str, str] = {}
    for field, value in protobuf.read_fields(memoryview(model)):
        if field == _METADATA_PROPS and not isinstance(value, int):
            entry = {
                number: bytes(payload)
                for number, payload in protobuf.read_fields(value)
                if not isinstance(payload, int)
            }
            if len(entry.get(2, b"")) > _NOTE_LIMIT:
                raise BadBundleError("its metadata is too long")
            try:
                name, text = (entry.get(number, b"").decode("utf-8") for number in (1, 2))
            except UnicodeDecodeError as error:
                raise BadBundleError("its metadata cannot be read") from error
            if name in texts:
                raise BadBundleError("its metadata has a key twice")
            texts[name] = text
    if FACTS_NOTE not in texts:
        raise BadBundleError("this kit did not export this model")
    return texts


def _from_json(kind: Any, document: Mapping[str, Any]) -> Any:
    """Build a dataclass from JSON: lists become tuples, unknown keys are dropped."""
    names = {field.name for field in fields(kind)}
    return kind(**{name: _tuples(value) for name, value in document.items() if name in names})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _read_threshold(document: Mapping[str, Any]) -> Threshold:
    rates = {
        name: _from_json(Rate, document[name]) if document[name] else None for name in ("sensitivity", "specificity")
    }
    return Threshold(document["at"], document["images"], rates["sensitivity"], rates["specificity"], document["reason"])


def _is_weighing(weighing: Mapping[str, Any]) -> bool:
    figures = [weighing["gain"][name] for name in ("accuracy", "log_loss")]
    parts = [figure[part] for figure in figures for part in ("value", "low", "high")]
    numbers = [*weighing["weights"].values(), *(part for part in parts if part is not None)]
    return (
        type(weighing["images"]) is int and all(type(name) is str for name in weighing["weights"])
        and all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
        and all(figure["reason"] is None or type(figure["reason"]) is str for figure in figures)
    )  # fmt: skip


def _check(fits: bool) -> None:
    """Raise `ValueError` if facts are inconsistent: a trusted signer may still make mistakes."""
    if not fits:
        raise ValueError("its metadata is inconsistent")


def _is_consistent(facts: Facts | MaskFacts) -> bool:
    """Whether the facts that all models have fit together."""
    likeness, image = facts.likeness, facts.image
    distributions = (likeness, *likeness.looks.values())
    numbers = (facts.calibration.temperature, likeness.level, *(item.limit for item in distributions))
    return (
        all(isinstance(name, str) for name in (facts.name, *facts.classes))
        and all(plan.CODE.fullmatch(code) for code in facts.codes.values())
        and all(type(value) is str for values in vars(facts.kinds).values() for value in values)
        and all(type(finding["sentence"]) is str for finding in facts.findings)
        and all(map(_is_finite, numbers)) and facts.calibration.temperature > 0
        and all(item.limit > 0 and item.mean.ndim == 1 for item in distributions)
        and all(item.root.ndim == 2 and len(item.root) == len(item.mean) for item in distributions)
        and all(1 <= item.root.shape[1] <= len(item.mean) for item in distributions)
        and all(type(item) is int for item in (facts.round, facts.sites, facts.examples))
        and type(image.size) is int and 1 <= image.size <= 1024
        and image.channels in (1, 3)
        and all(len(item.mean) == appearance.SIZES[name][image.channels] for name, item in likeness.looks.items())
        and len(image.mean) == len(image.std) == image.channels
        and (not facts.weighing or _is_weighing(facts.weighing))
        and all(
            all(type(entry[name]) is int for name in ("round", "examples", "images")) and type(entry["figure"]) is str
            and (entry["value"] is None or _is_finite(entry["value"]))
            for entry in facts.history
        )
    )  # fmt: skip


def _are_classes_consistent(facts: Facts) -> bool:
    calibration, count = facts.calibration, len(facts.classes)
    parts = (
        facts.bias, calibration.images, calibration.least, calibration.level, calibration.own, calibration.thresholds,
    )  # fmt: skip
    cutoffs = [item.at for item in calibration.thresholds if item.at is not None]
    surer = calibration.overconfidence
    numbers = (*facts.bias, *calibration.least, *calibration.level, *cutoffs, calibration.wanted, *(surer or ()))
    return (
        {len(part) for part in parts} == {count} and count > 1 and (surer is None or len(surer) == 3)
        and all(map(_is_finite, numbers)) and all(type(item) is int for item in calibration.images)
        and all(
            all(type(group[name]) is str for name in ("part", "by", "name"))
            and all(type(group[name]) is int for name in ("images", "answered", "right"))
            and 0 <= group["right"] <= group["images"]
            for group in facts.subgroups
        )
    )  # fmt: skip


def _are_masks_consistent(facts: MaskFacts) -> bool:
    calibration, image = facts.calibration, facts.image
    return (
        1 <= len(facts.classes) <= plan.MAX_MASK_CLASSES
        and type(image.depth) is int and 1 <= image.depth <= 512
        and len(image.spacing) == 3 and all(_is_finite(step) and step > 0 for step in image.spacing)
        and all(side % 2**plan.HALVINGS == 0 for side in image.block)
        and all(map(_is_finite, (calibration.most_uncertain, calibration.level)))
        and type(calibration.cases) is type(calibration.pixels) is int
        and (not facts.likeness.looks or image.size >= appearance.MIN_SIDE)
    )  # fmt: skip


def _is_finite(number: object) -> bool:
    return type(number) is float and math.isfinite(number)
