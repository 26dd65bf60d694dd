"""What a bundle says of itself, read without opening the model; `export` writes it. docs/spec/bundle.md"""

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

SCHEMA_VERSION = 1
FACTS_NOTE, CARD_NOTE, PARITY_NOTE = "fedhelp.bundle", "fedhelp.card", "fedhelp.parity"
_NOTE_LIMIT = 8 << 20  # bytes of one note
_METADATA_PROPS = 14  # the field of ModelProto


@dataclass(frozen=True)
class Rate:
    """A part of so many images, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Threshold:
    """From which probability on a class is flagged, to miss few of its images; `reason` says why there is none."""

    at: float | None
    images: int
    sensitivity: Rate | None = None
    specificity: Rate | None = None
    reason: str = ""


@dataclass(frozen=True)
class Calibration:
    """What the site's validation images say of the probabilities; a number a class where there are several."""

    images: tuple[int, ...]
    temperature: float
    ece: tuple[float, float] | None  # calibration error before and after
    least: tuple[float, ...]  # the probability with which a class stays in the set
    level: tuple[float, ...]  # how often the set may lack this class where it is the true one
    own: tuple[bool, ...]  # from images of the class itself, or, where they are too few, from all
    wanted: float  # the sensitivity that thresholds were chosen for
    thresholds: tuple[Threshold, ...]


@dataclass(frozen=True)
class FeatureDistribution:
    """Where some numbers of the training images lie, and how far from there (Mahalanobis) is too far."""

    mean: NDArray[np.float32]
    root: NDArray[np.float32]  # times a difference: its length is the distance
    limit: float

    def distance(self, numbers: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """In limits: above 1 is too far."""
        whitened = (np.asarray(numbers, np.float64) - self.mean) @ np.asarray(self.root, np.float64)
        return np.asarray(np.sqrt((whitened**2).sum(-1)) / self.limit)


@dataclass(frozen=True)
class Likeness(FeatureDistribution):
    """Of the net's embeddings; and of what the pixels look like, by the names of `infer.looks`."""

    level: float  # how often an image of this site's kind lies beyond any of the limits
    images: int  # that the means come from
    looks: Mapping[str, FeatureDistribution] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    name: str  # of the plan
    federation: str  # "" where it was tried out alone
    round: int
    tier: str
    sites: int  # that took part in the round
    examples: int  # images that this site trained on
    classes: tuple[str, ...]
    image: plan.ImageSettings
    net: str  # which was chosen
    members: tuple[str, ...]  # what it is made of
    precision: str  # "fp32" | "int8"
    bias: tuple[float, ...]  # of the logits: mean(heat-map) + bias = logit
    figures: Mapping[str, Mapping[str, float | None]]  # of each net that could have been chosen
    calibration: Calibration
    likeness: Likeness
    test: Mapping[str, float | None]  # how it did on this site's test images; empty where it has none
    signer: str  # fingerprint of the key that signed it
    findings: tuple[Mapping[str, Any], ...] = ()  # what the images that it was measured on cannot tell
    validation: Mapping[str, float | None] = dataclasses.field(
        default_factory=dict
    )  # what `test` says, of validation images

    def text(self) -> str:
        """The note that holds all this."""
        document = {**asdict(self), "schema_version": SCHEMA_VERSION}
        for distribution in (document["likeness"], *document["likeness"]["looks"].values()):
            distribution |= {name: encode_array(distribution[name]) for name in ("mean", "root")}
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def read(text: str) -> Facts:
    """Facts from their note; a key of a newer version is passed over, a missing one is refused."""
    try:
        document = json.loads(text)
        if document["schema_version"] != SCHEMA_VERSION:
            raise BadBundleError("it was made by another version of this kit")
        calibration = {
            **document["calibration"],
            "thresholds": tuple(_read_threshold(threshold) for threshold in document["calibration"]["thresholds"]),
        }
        distributions = (
            document["likeness"].get("looks", {}).items()
        )  # of a newer version there may be others: passed over
        known_looks = {
            name: _from_json(FeatureDistribution, _decode_distribution(distribution))
            for name, distribution in distributions
            if name in appearance.KINDS
        }
        likeness = {**_decode_distribution(document["likeness"]), "looks": known_looks}
        facts: Facts = _from_json(
            Facts,
            {
                **document,
                "image": _from_json(plan.ImageSettings, document["image"]),
                "calibration": _from_json(Calibration, calibration),
                "likeness": _from_json(Likeness, likeness),
            },
        )
        _check_consistency(facts)
        return facts
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadBundleError("what it says of itself cannot be read") from None


def encode_array(array: NDArray[Any]) -> dict[str, Any]:
    """Numbers as text: shape, kind and bytes (little-endian, row after row, base64)."""
    kind = "u1" if array.dtype == np.uint8 else "<f4"
    data = np.ascontiguousarray(array, kind).tobytes()
    return {"shape": list(array.shape), "kind": kind, "data": base64.b64encode(data).decode("ascii")}


def decode_array(encoded: Mapping[str, Any]) -> NDArray[Any]:
    if encoded["kind"] not in ("u1", "<f4"):
        raise BadBundleError("numbers of an unknown kind")
    data = np.frombuffer(base64.b64decode(encoded["data"], validate=True), encoded["kind"])
    return data.reshape([int(side) for side in encoded["shape"]])


def _decode_distribution(encoded: Mapping[str, Any]) -> dict[str, Any]:
    return {**encoded, **{name: decode_array(encoded[name]) for name in ("mean", "root")}}


def read_notes(model: bytes) -> dict[str, str]:
    """The notes (metadata_props) of an ONNX file, found by walking over its top-level fields; nothing else is read."""
    texts: dict[str, str] = {}
    for field, value in protobuf.read_fields(memoryview(model)):
        if field == _METADATA_PROPS and not isinstance(value, int):
            entry = {
                number: bytes(payload)
                for number, payload in protobuf.read_fields(value)
                if not isinstance(payload, int)
            }
            if len(entry.get(2, b"")) > _NOTE_LIMIT:
                raise BadBundleError("what it says of itself is too long")
            try:
                name, text = (entry.get(number, b"").decode("utf-8") for number in (1, 2))
            except UnicodeDecodeError:
                raise BadBundleError("what it says of itself cannot be read") from None
            if name in texts:
                raise BadBundleError("it says one thing twice")
            texts[name] = text
    if FACTS_NOTE not in texts:
        raise BadBundleError("it is no model that this kit exported")
    return texts


def _from_json(kind: Any, document: Mapping[str, Any]) -> Any:
    """A dataclass of what JSON holds: lists become tuples."""
    names = {field.name for field in fields(kind)}
    return kind(**{name: _tuples(value) for name, value in document.items() if name in names})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _read_threshold(document: Mapping[str, Any]) -> Threshold:
    rates = {
        name: _from_json(Rate, document[name]) if document[name] else None for name in ("sensitivity", "specificity")
    }
    return Threshold(document["at"], document["images"], rates["sensitivity"], rates["specificity"], document["reason"])


def _check_consistency(facts: Facts) -> None:
    """Raise `ValueError` where what is said does not fit: a signer is trusted to mean well, not to be without fault."""
    calibration, likeness, count = facts.calibration, facts.likeness, len(facts.classes)
    lengths = {
        len(part)
        for part in (
            facts.bias,
            calibration.images,
            calibration.least,
            calibration.level,
            calibration.own,
            calibration.thresholds,
        )
    }
    cutoffs = [item.at for item in calibration.thresholds if item.at is not None]
    distributions = (likeness, *likeness.looks.values())
    limits = [item.limit for item in distributions]
    numbers = (
        *facts.bias,
        *calibration.least,
        *calibration.level,
        *cutoffs,
        *limits,
        calibration.temperature,
        calibration.wanted,
        likeness.level,
    )
    fits = (
        lengths == {count} and count > 1 and all(isinstance(name, str) for name in (facts.name, *facts.classes))
        and all(type(finding["sentence"]) is str for finding in facts.findings)
        and all(type(item) is float and math.isfinite(item) for item in numbers) and calibration.temperature > 0
        and all(item.limit > 0 and item.mean.ndim == 1 and item.root.shape == item.mean.shape * 2 for item in distributions)
        and all(type(item) is int for item in (facts.round, facts.sites, facts.examples, *calibration.images, facts.image.size))
        and facts.image.channels in (1, 3)
        and all(len(item.mean) == appearance.SIZES[name][facts.image.channels] for name, item in likeness.looks.items())
        and 1 <= facts.image.size <= 1024
        and len(facts.image.mean) == len(facts.image.std) == facts.image.channels
    )  # fmt: skip
    if not fits:
        raise ValueError("what it says of itself does not fit")
