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
from fedhelp_edge.infer import looks, wire

SCHEMA_VERSION = 1
FACTS, CARD, PARITY = "fedhelp.bundle", "fedhelp.card", "fedhelp.parity"
_LIMIT = 8 << 20  # bytes of one note
_METADATA = 14  # the field of ModelProto


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
class Cloud:
    """Where some numbers of the training images lie, and how far from there (Mahalanobis) is too far."""

    mean: NDArray[np.float32]
    root: NDArray[np.float32]  # times a difference: its length is the distance
    limit: float

    def distance(self, numbers: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """In limits: above 1 is too far."""
        away = (np.asarray(numbers, np.float64) - self.mean) @ np.asarray(self.root, np.float64)
        return np.asarray(np.sqrt((away**2).sum(-1)) / self.limit)


@dataclass(frozen=True)
class Likeness(Cloud):
    """Of the net's embeddings; and of what the pixels look like, by the names of `infer.looks`."""

    level: float  # how often an image of this site's kind lies beyond any of the limits
    images: int  # that the means come from
    looks: Mapping[str, Cloud] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    name: str  # of the plan
    federation: str  # "" where it was tried out alone
    round: int
    tier: str
    sites: int  # that took part in the round
    examples: int  # images that this site trained on
    classes: tuple[str, ...]
    image: plan.Image
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
        said = {**asdict(self), "schema_version": SCHEMA_VERSION}
        for cloud in (said["likeness"], *said["likeness"]["looks"].values()):
            cloud |= {name: packed(cloud[name]) for name in ("mean", "root")}
        return json.dumps(said, sort_keys=True, separators=(",", ":"), allow_nan=False)


def read(text: str) -> Facts:
    """Facts from their note; a key of a newer version is passed over, a missing one is refused."""
    try:
        said = json.loads(text)
        if said["schema_version"] != SCHEMA_VERSION:
            raise BadBundleError("it was made by another version of this kit")
        calibration = {
            **said["calibration"],
            "thresholds": tuple(_threshold(one) for one in said["calibration"]["thresholds"]),
        }
        clouds = said["likeness"].get("looks", {}).items()  # of a newer version there may be others: passed over
        known = {name: _of(Cloud, _unpacked(cloud)) for name, cloud in clouds if name in looks.KINDS}
        likeness = {**_unpacked(said["likeness"]), "looks": known}
        made: Facts = _of(
            Facts,
            {
                **said,
                "image": _of(plan.Image, said["image"]),
                "calibration": _of(Calibration, calibration),
                "likeness": _of(Likeness, likeness),
            },
        )
        _check(made)
        return made
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadBundleError("what it says of itself cannot be read") from None


def packed(array: NDArray[Any]) -> dict[str, Any]:
    """Numbers as text: shape, kind and bytes (little-endian, row after row, base64)."""
    kind = "u1" if array.dtype == np.uint8 else "<f4"
    data = np.ascontiguousarray(array, kind).tobytes()
    return {"shape": list(array.shape), "kind": kind, "data": base64.b64encode(data).decode("ascii")}


def unpacked(said: Mapping[str, Any]) -> NDArray[Any]:
    if said["kind"] not in ("u1", "<f4"):
        raise BadBundleError("numbers of an unknown kind")
    data = np.frombuffer(base64.b64decode(said["data"], validate=True), said["kind"])
    return data.reshape([int(side) for side in said["shape"]])


def _unpacked(cloud: Mapping[str, Any]) -> dict[str, Any]:
    return {**cloud, **{name: unpacked(cloud[name]) for name in ("mean", "root")}}


def notes(model: bytes) -> dict[str, str]:
    """The notes (metadata_props) of an ONNX file, found by walking over its top-level fields; nothing else is read."""
    found: dict[str, str] = {}
    for field, value in wire.fields(memoryview(model)):
        if field == _METADATA and not isinstance(value, int):
            entry = {number: bytes(part) for number, part in wire.fields(value) if not isinstance(part, int)}
            if len(entry.get(2, b"")) > _LIMIT:
                raise BadBundleError("what it says of itself is too long")
            try:
                name, text = (entry.get(number, b"").decode("utf-8") for number in (1, 2))
            except UnicodeDecodeError:
                raise BadBundleError("what it says of itself cannot be read") from None
            if name in found:
                raise BadBundleError("it says one thing twice")
            found[name] = text
    if FACTS not in found:
        raise BadBundleError("it is no model that this kit exported")
    return found


def _of(kind: Any, said: Mapping[str, Any]) -> Any:
    """A dataclass of what JSON holds: lists become tuples."""
    known = {one.name for one in fields(kind)}
    return kind(**{name: _tuples(value) for name, value in said.items() if name in known})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _threshold(said: Mapping[str, Any]) -> Threshold:
    rates = {name: _of(Rate, said[name]) if said[name] else None for name in ("sensitivity", "specificity")}
    return Threshold(said["at"], said["images"], rates["sensitivity"], rates["specificity"], said["reason"])


def _check(made: Facts) -> None:
    """Raise `ValueError` where what is said does not fit: a signer is trusted to mean well, not to be without fault."""
    cal, like, count = made.calibration, made.likeness, len(made.classes)
    lengths = {len(part) for part in (made.bias, cal.images, cal.least, cal.level, cal.own, cal.thresholds)}
    marks = [one.at for one in cal.thresholds if one.at is not None]
    clouds = (like, *like.looks.values())
    limits = [one.limit for one in clouds]
    numbers = (*made.bias, *cal.least, *cal.level, *marks, *limits, cal.temperature, cal.wanted, like.level)
    fits = (
        lengths == {count} and count > 1 and all(isinstance(name, str) for name in (made.name, *made.classes))
        and all(type(finding["sentence"]) is str for finding in made.findings)
        and all(type(one) is float and math.isfinite(one) for one in numbers) and cal.temperature > 0
        and all(one.limit > 0 and one.mean.ndim == 1 and one.root.shape == one.mean.shape * 2 for one in clouds)
        and all(type(one) is int for one in (made.round, made.sites, made.examples, *cal.images, made.image.size))
        and made.image.channels in (1, 3)
        and all(len(one.mean) == looks.SIZES[name][made.image.channels] for name, one in like.looks.items())
        and 1 <= made.image.size <= 1024
        and len(made.image.mean) == len(made.image.std) == made.image.channels
    )  # fmt: skip
    if not fits:
        raise ValueError("what it says of itself does not fit")
