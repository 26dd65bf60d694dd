"""From a site's nets for masks to its bundle: weighed, calibrated and measured on validation cases.

A case is an image or a whole volume. Nets are weighed, and the temperature is fitted, by some pixels of each validation
case. Everything else is measured on what `predict` would draw.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from export import bundle, calibrate, card, choose, choose_masks, graph, verify
from export.bundle import ExportResult, Origin
from fedhelp_edge.data.findings import findings
from fedhelp_edge.data.images import Images
from fedhelp_edge.errors import TooFewError
from fedhelp_edge.infer import appearance, drawing, trained_kinds
from fedhelp_edge.infer.bundle import NAMESPACE, cost_of
from fedhelp_edge.infer.drawing import Drawn
from fedhelp_edge.infer.engine import MaskEngine
from fedhelp_edge.infer.metadata import Likeness, MaskCalibration, MaskFacts
from fedhelp_edge.nets.net import Net
from fedhelp_edge.parcel import sshsig
from fedhelp_edge.plan import Plan
from fedhelp_edge.report import metrics, outlines
from fedhelp_edge.report.mask_evaluation import MaskScores

_DOUBTFUL = 0.05  # how often an outline of the site's own kind may be called uncertain
_HARDLY, _MOSTLY = 0.1, 0.5  # shares of uncertain pixels: no outline below, and every outline above, is uncertain


@dataclass
class Run:
    """What a model draws on cases, one at a time. All but the masks themselves is kept."""

    model: bytes
    plan: Plan
    images: Images
    drawn: list[Drawn] = field(default_factory=list)

    def masks(self) -> Iterator[NDArray[np.uint8]]:
        """Yields the mask of each case."""
        engine, nothing = MaskEngine(self.model), np.empty(0, np.uint8)
        for pixels in self.images.case_pictures():
            drawn = drawing.draw(engine, pixels, self.plan.image.block, self.plan.outputs)
            self.drawn.append(replace(drawn, mask=nothing, uncertain=nothing > 0))
            yield drawn.mask

    def draw(self) -> None:
        """Draws all cases."""
        for _ in self.masks():
            pass

    def scores(self) -> MaskScores:
        """Draws all cases and scores their masks."""
        spacing = self.plan.image.spacing if self.plan.image.is_volume else ()
        tally = outlines.tally(self.masks(), self.images.case_masks(), self.plan.outputs, spacing)
        return MaskScores.of(tally, self.images.case_groups, self.plan.classes)


def create(
    nets: Mapping[str, Net], images: Images, plan: Plan, origin: Origin, signer: Ed25519PrivateKey
) -> ExportResult:
    """Makes a signed bundle of nets for masks, weighed by the validation cases."""
    training, validation, test = (images.split(name) for name in ("train", "val", "test"))
    if (cases := len(validation.cases)) < calibrate.MIN_IMAGES:
        raise TooFewError(f"there are {cases} validation images or volumes; at least {calibrate.MIN_IMAGES} are needed")
    sample = choose_masks.sample(nets, validation, plan)
    weighing, labels = sample.weigh(), sample.labels
    held_out = calibrate.held_out(sample.logits, labels, sample.patients)
    temperature = calibrate.fit_temperature(held_out, labels)

    chosen, candidates = choose_masks.candidates(choose.distinct(nets), weighing.scales)
    models = {name: graph.build_masks(parts, plan.image) for name, parts in candidates.items()}
    model = models[chosen]
    cost_of(model.SerializeToString(), plan.image)
    parity = verify.mask_parity(model.SerializeToString(), candidates[chosen], plan.image)
    graph.set_temperature(model, temperature)

    runs = {
        name: [Run(each.SerializeToString(), plan, part) for part in (validation, test)]
        for name, each in models.items()
    }
    scores = {name: [run.scores() for run in pair] for name, pair in runs.items()}
    figures = {name: {**_figures(val), **_figures(held_back, "test_")} for name, (val, held_back) in scores.items()}
    trained, checked = Run(model.SerializeToString(), plan, training), runs[chosen][0]
    trained.draw()
    most_uncertain, level = _usual_uncertainty(checked.drawn)
    facts = MaskFacts(
        plan.name, origin.federation, origin.round, origin.tier, origin.sites, len(training.cases), plan.classes,
        plan.image, chosen, tuple(f"{name}: {nets[name].name}" for name in weighing.scales), "fp32", figures,
        MaskCalibration(
            cases, len(labels), temperature, _calibration_errors(held_out, labels, temperature), most_uncertain, level
        ),
        _likeness(trained.drawn, checked.drawn), {}, sshsig.fingerprint(sshsig.public_line(signer.public_key())),
        tuple(finding.to_json() for finding in findings(images, plan.classes)), weighing=weighing.to_json(),
        codes=plan.dicom.codes, kinds=trained_kinds.collect((*training.kinds, *validation.kinds)),
        privacy=origin.privacy or {}, history=tuple(origin.history),
    )  # fmt: skip
    measured = [
        _verdicts(facts, run) | _class_figures(each) for run, each in zip(runs[chosen], scores[chosen], strict=True)
    ]
    facts = replace(facts, validation=measured[0], test=measured[1] if len(test) else {})
    example = verify.noise_images(1, *plan.image.block, plan.image.channels)
    expected = verify.mask_reference(candidates[chosen], plan.image, temperature, example)
    text = card.text(facts)
    bundle.write_metadata(model, facts, text, {"image": example, **expected.thinned()})
    data = model.SerializeToString(deterministic=True)
    return ExportResult(data, sshsig.sign(data, signer, NAMESPACE), text, facts, parity, None)


def _usual_uncertainty(drawn: Sequence[Drawn]) -> tuple[float, float]:
    """The share of uncertain pixels above which an outline is uncertain, and how often one is (split conformal)."""
    shares = np.sort([each.uncertainty for each in drawn])
    level = max(_DOUBTFUL, 1 / (len(shares) + 1))
    usual = float(shares[math.ceil((1 - level) * (len(shares) + 1) - 1e-9) - 1])
    return min(max(usual, _HARDLY), _MOSTLY), level


def _likeness(training: Sequence[Drawn], validation: Sequence[Drawn]) -> Likeness:
    """How far the embedding and the looks of cases lie from those of the training cases."""
    kinds = appearance.KINDS if len(training) >= bundle.MIN_LOOK_IMAGES and training[0].looks else {}
    looks = {name: (_stack(training, name), _stack(validation, name)) for name in kinds}
    return calibrate.likeness(_stack(training), _stack(validation), looks)


def _stack(drawn: Sequence[Drawn], look: str = "") -> NDArray[np.float64]:
    """A row for each case: its embedding, or what it looks like."""
    return np.array([each.looks[look] if look else each.embedding for each in drawn])


def _calibration_errors(
    logits: NDArray[np.float64], labels: NDArray[np.int64], temperature: float
) -> tuple[float, float] | None:
    """The calibration error of pixels, before and after; None of logits that are not finite."""
    if not np.isfinite(logits).all():
        return None
    before, after = (
        metrics.weighted_figures(calibrate.softmax(logits / each), labels, np.ones((1, len(labels))))["ece"][0]
        for each in (1.0, temperature)
    )
    return float(before), float(after)


def _figures(scores: MaskScores, prefix: str = "") -> dict[str, float | None]:
    """A net's figures on one split, for tables and programs; without cases each is None."""
    values: dict[str, float | None] = {"images": scores.cases}
    for name, figure in scores.figures.items():
        values |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
    return {f"{prefix}{name}": None if value is None else round(value, 4) for name, value in values.items()}


def _verdicts(facts: MaskFacts, run: Run) -> dict[str, float | None]:
    """How many cases of a split are answered, uncertain and unlike."""
    verdicts = [drawing.judge(facts, drawn).verdict for drawn in run.drawn]
    return {name: float(verdicts.count(name)) for name in ("answered", "uncertain", "unlike")}


def _class_figures(scores: MaskScores) -> dict[str, float | None]:
    """The figures of one split, and the Dice of each class."""
    of_classes = {f"dice of {name}": figures["dice"].value for name, figures in scores.classes.items()}
    return _figures(scores) | {name: None if value is None else round(value, 4) for name, value in of_classes.items()}
