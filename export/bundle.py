"""From a site's nets to its bundle: one graph, checked, calibrated, described on a card, and signed."""

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

from export import calibrate, card, choose, graph, keep, quantize, subgroups, verify
from fedhelp_edge import files
from fedhelp_edge.data import groups
from fedhelp_edge.data.findings import findings
from fedhelp_edge.data.images import Images
from fedhelp_edge.encoder import Encoder
from fedhelp_edge.errors import TooFewError
from fedhelp_edge.infer import appearance, bundle, decide, metadata, trained_kinds
from fedhelp_edge.infer.bundle import Bundle
from fedhelp_edge.infer.engine import Engine
from fedhelp_edge.infer.metadata import Facts, MaskFacts
from fedhelp_edge.nets.net import Net
from fedhelp_edge.parcel import sshsig
from fedhelp_edge.plan import ImageSettings, Plan
from fedhelp_edge.report import metrics

TARGET_SENSITIVITY = 0.9
MIN_LOOK_IMAGES = 20  # training images for a bundle to hold their looks: moments of fewer would reveal too much of each
_MAX_IMAGES = 2000  # training images that the likeness is fitted to
_BATCH = 64
_PARITY_SHAPE = (2, 41, 53)  # of the noise images that travel inside, with their outputs


@dataclass(frozen=True)
class Origin:
    """Where the nets come from."""

    federation: str
    round: int
    tier: str
    sites: int
    prior: Sequence[float] | None  # the class prior that training kept out of the logits
    privacy: Mapping[str, float] | None = None  # what noise has cost the site's images
    history: Sequence[Mapping[str, Any]] = ()  # earlier rounds of this site, as `Facts` has them


@dataclass(frozen=True)
class ExportResult:
    """A bundle that is not written yet."""

    model: bytes
    signature: str
    card: str
    facts: Facts | MaskFacts
    parity: float  # the largest difference from the nets
    int8: quantize.QuantizationGain | None  # what 8 bits bring, where they were asked for

    def write(self, out: Path) -> str:
        """Writes the model, its card and last its signature, and replaces no file; returns the model's hash."""
        out.parent.mkdir(parents=True, exist_ok=True)
        _write_once(out, self.model)
        _write_once(out.with_name(f"{out.stem}_CARD.md"), self.card.encode())
        _write_once(bundle.signature_path(out), self.signature.encode("ascii"))
        loaded = bundle.load_any(out, lambda key: "")
        loaded.parity()
        return loaded.sha256


def create(
    nets: Mapping[str, Net], images: Images, plan: Plan, origin: Origin, signer: Ed25519PrivateKey,
    *, encoder: Encoder | None = None, int8: bool = False, target_sensitivity: float = TARGET_SENSITIVITY,
) -> ExportResult:  # fmt: skip
    """Makes a signed bundle of the nets, weighed by the validation images; of nets on features, with their encoder."""
    validation, training = images.split("val"), images.split("train")
    if len(validation) < calibrate.MIN_IMAGES:
        raise TooFewError(f"there are {len(validation)} validation images; at least {calibrate.MIN_IMAGES} are needed")
    choice = choose.choose(nets, validation, images.split("test"), plan.image, origin.prior)
    members = {name: nets[name] for name in choice.kept.scales}
    parts = choose.scaled(nets, choice.kept.scales)
    model = graph.build(parts, plan.image, origin.prior, encoder)
    parity = verify.parity(model.SerializeToString(), parts, plan.image, origin.prior, encoder)
    sampled = np.unique(np.linspace(0, len(training) - 1, min(len(training), _MAX_IMAGES)).astype(np.int64))
    sample = training.only(sampled).pictures
    gain = None
    if int8:
        model, gain = _quantize_if_worthwhile(model, validation, np.asarray(sample))
    seen = _Seen.by(model, plan.image, validation, choice.held_out, sample)
    facts = metadata.Facts(
        plan.name, origin.federation, origin.round, origin.tier, origin.sites, len(training), plan.classes, plan.image,
        choice.name, tuple(f"{name}: {net.name}" for name, net in members.items()),
        "int8" if gain and not gain.why else "fp32",
        tuple(graph.bias(parts, origin.prior)), choice.figures, seen.calibrate(target_sensitivity), seen.likeness(), {},
        sshsig.fingerprint(sshsig.public_line(signer.public_key())),
        tuple(finding.to_json() for finding in findings(images, plan.classes)), weighing=choice.kept.to_json(),
        codes=plan.dicom.codes, kinds=trained_kinds.collect((*training.kinds, *validation.kinds)),
        privacy=origin.privacy or {}, history=tuple(origin.history),
    )  # fmt: skip
    graph.set_temperature(model, facts.calibration.temperature)
    test = images.split("test")
    test_answers, held_out_answers = _answer(model, facts, test), seen.held_out_answers(facts)
    judged = (test, test_answers, plan.classes, "test")
    facts = replace(
        facts,
        test=_measure(facts, test_answers, test.labels),
        validation=_measure(facts, held_out_answers, seen.labels),
        subgroups=tuple(
            subgroups.count(*(judged if len(test) else (validation, held_out_answers, plan.classes, "validation")))
        ),
    )
    parity_images = verify.noise_images(*_PARITY_SHAPE, plan.image.channels)
    if facts.precision == "fp32" and encoder is None:
        expected = verify.reference(parts, plan.image, origin.prior, facts.calibration.temperature, parity_images)
    else:
        expected = Engine(model.SerializeToString())(parity_images)
    text = card.text(facts)
    write_metadata(model, facts, text, {"image": parity_images, **expected.named()})
    data = model.SerializeToString(deterministic=True)
    return ExportResult(data, sshsig.sign(data, signer, bundle.NAMESPACE), text, facts, parity, gain)


def write_metadata(model: ModelProto, facts: Facts | MaskFacts, text: str, parity: Mapping[str, NDArray[Any]]) -> None:
    """Writes facts, card and parity images into the model's metadata."""
    packed = {name: metadata.encode_array(array) for name, array in parity.items()}
    notes = {
        metadata.FACTS_NOTE: facts.text(), metadata.CARD_NOTE: text,
        metadata.PARITY_NOTE: json.dumps(packed, sort_keys=True, separators=(",", ":")),
        "Image.BitmapPixelFormat": "Rgb8" if facts.image.channels == 3 else "Gray8",
        "Image.ColorSpaceGamma": "SRGB", "Image.NominalPixelRange": "NominalRange_0_255",
    }  # fmt: skip
    for name in sorted(notes):
        model.metadata_props.add(key=name, value=notes[name])


def _quantize_if_worthwhile(
    model: ModelProto, validation: Images, sample: NDArray[np.uint8]
) -> tuple[ModelProto, quantize.QuantizationGain]:
    """The 8-bit graph if it is worth it, else the given one; and what was measured."""
    int8_model = quantize.quantize(model, sample)
    fp32, int8 = (Engine(candidate.SerializeToString()) for candidate in (model, int8_model))
    images = np.concatenate([np.asarray(validation.pictures), sample])
    gain = quantize.measure_gain(fp32, int8, images, len(validation), validation.labels)
    return (model if gain.why else int8_model), gain


@dataclass(frozen=True)
class _Seen:
    """What the graph sees of training and validation images: all that calibrates it."""

    logits: NDArray[np.float64]  # of validation images, each as if it had not weighed the nets
    labels: NDArray[np.int64]
    folds: NDArray[np.int64]
    embeddings: calibrate.TrainAndValidation
    looks: Mapping[str, calibrate.TrainAndValidation]

    @classmethod
    def by(
        cls, model: ModelProto, image: ImageSettings, validation: Images, held_out: NDArray[np.float64], sample: Any
    ) -> _Seen:
        """`held_out` is added to the logits of validation images."""
        data = model.SerializeToString()
        engine = bundle.open_engine(data, bundle.cost_of(data, image))
        logits, embedding = _run(engine, validation.pictures)
        look_images = [np.asarray(pixels) for pixels in (sample, validation.pictures)]
        no_looks = len(sample) < MIN_LOOK_IMAGES or validation.pictures.shape[1] < appearance.MIN_SIDE
        look_features = (
            {}
            if no_looks
            else {name: (look(look_images[0]), look(look_images[1])) for name, look in appearance.KINDS.items()}
        )
        folds = keep.folds(validation.labels, groups.numbers(validation.groups))
        embeddings = _run(engine, sample)[1], embedding
        return cls(logits + held_out, validation.labels, folds, embeddings, look_features)

    def calibrate(self, target_sensitivity: float) -> metadata.Calibration:
        return calibrate.calibrate(self.logits, self.labels, target_sensitivity)

    def likeness(self) -> metadata.Likeness:
        return calibrate.likeness(*self.embeddings, self.looks)

    def held_out_answers(self, facts: Facts) -> list[decide.Answer]:
        """The answer for each validation image, as temperature, sets and limits from the others make it."""
        looks = {name: validation for name, (_, validation) in self.looks.items()}
        distances = calibrate.held_out_distances(facts.likeness, self.embeddings[1], looks, self.folds)
        answers: dict[int, decide.Answer] = {}
        wanted = facts.calibration.wanted
        for inside, calibration in calibrate.held_out_calibrations(self.logits, self.labels, wanted, self.folds):
            fold_facts = replace(facts, calibration=calibration)
            probabilities = calibrate.softmax(self.logits[inside] / calibration.temperature).astype(np.float32)
            for index, row in zip(np.flatnonzero(inside), probabilities, strict=True):
                answers[int(index)] = decide.decide(fold_facts, row, float(distances[index]), None)
        return [answers[index] for index in sorted(answers)]


def _run(engine: Engine, pixels: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    outputs = [engine(np.asarray(pixels[start : start + _BATCH])) for start in range(0, len(pixels), _BATCH)]
    return np.concatenate([output.logits for output in outputs]), np.concatenate(
        [output.embedding for output in outputs]
    )


def _answer(model: ModelProto, facts: Facts, images: Images) -> list[decide.Answer]:
    """The model's answers. Nothing is chosen or fitted by these images."""
    loaded = Bundle(model.SerializeToString(), "", "", "", {}, facts)
    return [
        answer
        for start in range(0, len(images), _BATCH)
        for answer in decide.answer_images(loaded, np.asarray(images.pictures[start : start + _BATCH]))
    ]


def _measure(facts: Facts, answers: Sequence[decide.Answer], truth: NDArray[np.int64]) -> dict[str, float | None]:
    """The figures of answers for images of one split."""
    if not answers:
        return {}
    labels = [facts.classes[label] for label in truth]
    correct = [
        prediction.answer == name
        for prediction, name in zip(answers, labels, strict=True)
        if prediction.answer is not None
    ]
    scores = metrics.scores([list(prediction.probabilities.values()) for prediction in answers], truth)
    figures = {name: getattr(scores, name).value for name in ("accuracy", "balanced_accuracy", "auc", "ece")}
    surer = scores.overconfidence
    figures |= {"overconfidence": surer.value, "overconfidence_low": surer.low, "overconfidence_high": surer.high}
    figures |= {
        "images": len(answers), "answered": len(correct), "right": sum(correct),
        "unlike": sum(prediction.verdict == "unlike" for prediction in answers),
        "in_set": sum(name in prediction.set for prediction, name in zip(answers, labels, strict=True)),
    }  # fmt: skip
    return {name: None if value is None else round(value, 4) for name, value in figures.items()}


def _write_once(path: Path, data: bytes) -> None:
    """Writes a file once; to write the same bytes again is no error."""
    if path.is_file():
        with files.reading(path) as file:
            if file.read(len(data) + 1) == data:
                return
    with files.writing(path, private=False) as file:
        file.write(data)
