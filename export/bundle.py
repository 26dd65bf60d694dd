"""From a site's nets to its bundle: one graph, checked, calibrated, told about in words, and signed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from onnx import ModelProto

from export import calibrate, card, choose, graph, quantize, verify
from fedhelp_edge import files
from fedhelp_edge.data.findings import findings
from fedhelp_edge.data.images import Images
from fedhelp_edge.errors import TooFewError
from fedhelp_edge.infer import bundle, decide, looks, metadata
from fedhelp_edge.infer.bundle import Bundle
from fedhelp_edge.infer.engine import Engine
from fedhelp_edge.infer.metadata import Facts
from fedhelp_edge.nets import resnet
from fedhelp_edge.nets.resnet import ResNet
from fedhelp_edge.parcel import sshsig
from fedhelp_edge.plan import Plan
from fedhelp_edge.report import metrics

WANTED = 0.9  # sensitivity
FEWEST_LOOKED = 20  # training images whose looks a model may carry: moments of fewer would say too much of each
_MOST = 2000  # training images that are looked at for what they have in common
_BATCH = 64
_SEEN = (2, 41, 53)  # test images that travel inside


@dataclass(frozen=True)
class Origin:
    """Where the nets come from."""

    federation: str
    round: int
    tier: str
    sites: int
    prior: Sequence[float] | None  # that training kept apart


@dataclass(frozen=True)
class Made:
    model: bytes
    signature: str
    card: str
    facts: Facts
    parity: float  # the largest difference from the nets
    int8: quantize.Gain | None  # what 8 bits bring, where they were asked for

    def keep(self, out: Path) -> str:
        """Leave the model, its card and last its signature; what is there already is never replaced. Its hash."""
        out.parent.mkdir(parents=True, exist_ok=True)
        _put(out, self.model)
        _put(out.with_name(f"{out.stem}_CARD.md"), self.card.encode())
        _put(bundle.beside(out), self.signature.encode("ascii"))
        made = bundle.load(out, lambda key: "")
        made.parity()
        return made.sha256


def make(
    nets: Mapping[str, ResNet], images: Images, plan: Plan, origin: Origin, signer: Ed25519PrivateKey,
    *, int8: bool = False, wanted: float = WANTED,
) -> Made:  # fmt: skip
    """Choose among the nets, and make of it what a site diagnoses with."""
    kept, learned = images.part("val"), images.part("train")
    if len(kept) < calibrate.FEWEST:
        raise TooFewError(f"{len(kept)} images were kept to choose by; {calibrate.FEWEST} are the least")
    nets = choose.distinct(nets)
    choice = choose.choose(nets, kept, images.part("test"), plan.image, origin.prior)
    chosen, figures = choice.name, choice.figures
    members = dict(nets) if chosen == choose.AVERAGE else {chosen: nets[chosen]}
    arrays = [resnet.arrays(net) for net in members.values()]
    model = graph.build(arrays, plan.image, origin.prior)
    parity = verify.parity(model.SerializeToString(), list(members.values()), plan.image, origin.prior)
    some = np.unique(np.linspace(0, len(learned) - 1, min(len(learned), _MOST)).astype(np.int64))
    common = learned.only(some).pixels
    gain = None
    if int8:
        model, gain = _smaller(model, kept, np.asarray(common))
    said = metadata.Facts(
        plan.name, origin.federation, origin.round, origin.tier, origin.sites, len(learned), plan.classes, plan.image,
        chosen, tuple(f"{name}: {_kind(net)}" for name, net in members.items()),
        "int8" if gain and not gain.why else "fp32",
        tuple(float(np.float32(one)) for one in graph.linear(arrays, origin.prior)[1]), figures,
        *_calibrated(model, kept, common, wanted), {}, sshsig.fingerprint(sshsig.public_line(signer.public_key())),
        tuple(finding.to_json() for finding in findings(images, plan.classes)),
    )  # fmt: skip
    graph.with_temperature(model, said.calibration.temperature)
    said = replace(said, test=_measured(model, said, images.part("test")), validation=_measured(model, said, kept))
    asked = verify.drawn(*_SEEN, plan.image.channels)
    if said.precision == "fp32":
        wants = verify.reference(list(members.values()), plan.image, origin.prior, said.calibration.temperature, asked)
    else:
        wants = Engine(model.SerializeToString())(asked)
    text = card.text(said)
    _note(model, said, text, {"image": asked, **vars(wants)})
    data = model.SerializeToString(deterministic=True)
    return Made(data, sshsig.sign(data, signer, bundle.NAMESPACE), text, said, parity, gain)


def _note(model: ModelProto, said: Facts, text: str, parity: Mapping[str, NDArray[Any]]) -> None:
    """Write into the model what it says of itself."""
    packed = {name: metadata.packed(array) for name, array in parity.items()}
    notes = {
        metadata.FACTS: said.text(), metadata.CARD: text,
        metadata.PARITY: json.dumps(packed, sort_keys=True, separators=(",", ":")),
        "Image.BitmapPixelFormat": "Rgb8" if said.image.channels == 3 else "Gray8",
        "Image.ColorSpaceGamma": "SRGB", "Image.NominalPixelRange": "NominalRange_0_255",
    }  # fmt: skip
    for name in sorted(notes):
        model.metadata_props.add(key=name, value=notes[name])


def _smaller(model: ModelProto, kept: Images, common: NDArray[np.uint8]) -> tuple[ModelProto, quantize.Gain]:
    """The 8-bit graph if it is worth it, else the one that is there."""
    made = quantize.quantized(model, common)
    whole, small = (Engine(one.SerializeToString()) for one in (model, made))
    both = np.concatenate([np.asarray(kept.pixels), common])
    gain = quantize.gain(whole, small, both, len(kept), kept.labels)
    return (model if gain.why else made), gain


def _calibrated(model: ModelProto, kept: Images, common: Any, wanted: float) -> tuple[Any, Any]:
    """What the graph's own answers to validation and training images say."""
    engine = Engine(model.SerializeToString())
    logits, embedding = _asked(engine, kept.pixels)
    shown = [np.asarray(pixels) for pixels in (common, kept.pixels)]
    few = len(common) < FEWEST_LOOKED or kept.pixels.shape[1] < looks.LEAST
    seen = {} if few else {name: (look(shown[0]), look(shown[1])) for name, look in looks.KINDS.items()}
    near = calibrate.likeness(_asked(engine, common)[1], embedding, seen)
    return calibrate.calibrate(logits, kept.labels, wanted), near


def _asked(engine: Engine, pixels: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    said = [engine(np.asarray(pixels[at : at + _BATCH])) for at in range(0, len(pixels), _BATCH)]
    return np.concatenate([one.logits for one in said]), np.concatenate([one.embedding for one in said])


def _measured(model: ModelProto, said: Facts, part: Images) -> dict[str, float | None]:
    """How the answers do on a part of this site's images; of the test images nothing above knows."""
    if not len(part):
        return {}
    made = Bundle(model.SerializeToString(), "", "", "", {}, said)
    given = [
        answer
        for at in range(0, len(part), _BATCH)
        for answer in decide.answers(made, np.asarray(part.pixels[at : at + _BATCH]))
    ]
    true = [said.classes[label] for label in part.labels]
    known = [one.answer == name for one, name in zip(given, true, strict=True) if one.answer is not None]
    scores = metrics.scores([list(one.probabilities.values()) for one in given], part.labels)
    found = {name: getattr(scores, name).value for name in ("accuracy", "balanced_accuracy", "auc", "ece")}
    found |= {
        "images": len(part), "answered": len(known), "right": sum(known),
        "unlike": sum(one.verdict == "unlike" for one in given),
        "in_set": sum(name in one.set for one, name in zip(given, true, strict=True)),
    }  # fmt: skip
    return {name: None if value is None else round(value, 4) for name, value in found.items()}


def _kind(net: ResNet) -> str:
    return f"resnet{6 * len(net.layer1) + 2}"


def _put(path: Path, data: bytes) -> None:
    """Write a file once; the same bytes again are no mistake."""
    if path.is_file():
        with files.reading(path) as file:
            if file.read(len(data) + 1) == data:
                return
    with files.writing(path, private=False) as file:
        file.write(data)
