"""The model's card: what it is, what it was measured to do, and what it cannot promise. In the bundle and beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from export.subgroups import MIN_PATIENTS, PEOPLE
from fedhelp_edge.infer.decide import MIN_ODDS
from fedhelp_edge.infer.metadata import Calibration, Facts, MaskCalibration, MaskFacts, Rate, Threshold
from fedhelp_edge.report import epsilon, metrics, nets
from fedhelp_edge.report.metrics import Figure
from fedhelp_edge.safe_text import counted, visible

_FEW_IMAGES = 100  # images of a class, below which figures of it are called few


def text(facts: Facts | MaskFacts) -> str:
    """The whole card, as Markdown with the header that model hubs read."""
    if isinstance(facts, MaskFacts):
        lines = [*_mask_header(facts), *_use(facts), *_origin(facts), *_mask_choice(facts), *_mask_doubt(facts)]
        lines += [*_mask_test(facts), *_findings(facts), *_changes(facts), *_asked(facts)]
    else:
        parts = (
            _header, _use, _origin, _choice, _uncertainty, _flags, _test, _subgroups, _findings, _changes, _asked,
        )  # fmt: skip
        lines = [line for part in parts for line in part(facts)]
    return "\n".join(map(visible, lines))


def _header(facts: Facts) -> Iterator[str]:
    yield from _front("image-classification", facts)
    yield f"Tells apart, in {_colours(facts)} images: {', '.join(facts.classes)}."


def _mask_header(facts: MaskFacts) -> Iterator[str]:
    yield from _front("image-segmentation", facts)
    kind = "volumes" if facts.image.is_volume else "images"
    yield f"Outlines, in {_colours(facts)} {kind}: {', '.join(facts.classes)}."
    numbers = ", ".join(f"{number} {name}" for number, name in enumerate(facts.classes, 1))
    yield f"In a mask 0 is the background, {numbers}."


def _front(task: str, facts: Facts | MaskFacts) -> Iterator[str]:
    yield from ("---", "library_name: onnxruntime", f"pipeline_tag: {task}")
    yield from ("tags: [medical, federated-learning, onnx]", "---", "", f"# {facts.name}, round {facts.round}", "")


def _colours(facts: Facts | MaskFacts) -> str:
    return "grey" if facts.image.channels == 1 else "colour"


def _use(facts: Facts | MaskFacts) -> Iterator[str]:
    yield from ("", "## What it is for", "")
    yield "To help trained staff of the site that exported it, on images as that site takes them. A person decides."
    yield from ("", "**It is not a medical device.** No authority has examined it. Do not use it on other kinds of")
    yield "images, or on patients unlike those that it was trained on. It must not be the only ground of a decision."
    yield "After each new round, and after a change of camera, scanner or staining, export again: the limits below"
    yield "then no longer hold."


def _origin(facts: Facts | MaskFacts) -> Iterator[str]:
    together = f"{facts.sites} sites" if facts.sites > 1 else "one site, by itself"
    yield from ("", "## Where it comes from", "")
    images = counted(facts.examples, "volume" if facts.image.is_volume else "image")
    yield f"Trained by {together}; this site is {facts.tier} and gave {images}, none of which left it."
    if facts.image.is_volume:
        steps, sides = (
            " x ".join(f"{part:.3g}" for part in parts) for parts in (facts.image.spacing, facts.image.block)
        )
        yield f"Volumes have {steps} mm from slice to slice, row to row and column to column."
        yield f"The model sees blocks of {sides}, which overlap."
    else:
        yield f"Images are brought to {facts.image.size} x {facts.image.size} pixels inside the model."
    yield f"Its numbers are {facts.precision}."
    for what, values in vars(facts.kinds).items():
        if values:
            yield f"DICOM training images, {what.replace('_', ' ')}: {', '.join(values)}. It refuses others by default."
    if facts.federation:
        yield f"Federation `{facts.federation}`."
    if facts.privacy:
        yield f"{epsilon.sentence(facts.privacy)} That is of updates and merged models."
        yield "A net trained alone, and the limits below, had no noise. So this file tells more of them."
    yield f"Signed with the key `{facts.signer}`."


def _choice(facts: Facts) -> Iterator[str]:
    yield from ("", "## Which net it is", "")
    yield f"It is made of: {', '.join(facts.members)}. The validation images decide how much each net counts."
    yield from nets.weighing_sentences(facts.weighing)
    yield "In brackets: the number of images, and the 95 % interval that so few allow."
    yield ""
    yield from table(nets.header(), nets.table(facts.figures, facts.net))


def _mask_choice(facts: MaskFacts) -> Iterator[str]:
    yield from ("", "## Which net it is", "")
    yield f"It is made of: {', '.join(facts.members)}. Pixels of the validation cases decide how much each net counts."
    yield from nets.weighing_sentences(facts.weighing)
    yield "Dice is the mean over cases, then over classes. In brackets: the number of cases, and the 95 % interval."
    yield ""
    yield from table(nets.header("dice"), nets.table(facts.figures, facts.net, "dice"))


def _mask_doubt(facts: MaskFacts) -> Iterator[str]:
    calibration = facts.calibration
    yield from ("", "## When it does not know", "")
    yield f"Probabilities of pixels are calibrated ({_calibration_text(calibration)})."
    yield f"A pixel is uncertain if its likeliest class is less than {MIN_ODDS} times as likely as the next one."
    yield f"An outline is uncertain if {calibration.most_uncertain:.1%} of its pixels are: at most about"
    yield f"{calibration.level:.0%} of this site's own are. It is drawn nevertheless, with its uncertain pixels marked."
    yield from _unlike(facts, "outlined")
    yield f"It {nets.outlining_text(facts.validation, 'validation')}."
    if calibration.cases < _FEW_IMAGES:
        yield f"There are only {counted(calibration.cases, 'validation case')}, so these shares are rough."


def _mask_test(facts: MaskFacts) -> Iterator[str]:
    yield from ("", "## How it did on images that played no part in it", "")
    figures = facts.test
    if not figures:
        yield "This site has no such images, so nothing is known."
        return
    yield f"It {nets.outlining_text(figures, 'test')}."
    unit = "mm" if facts.image.is_volume else f"pixels of an image of {facts.image.size} x {facts.image.size}"
    dice, iou, accuracy, distance = (_three_digits(figures[name]) for name in ("dice", "iou", "accuracy", "hd95"))
    yield f"Dice {dice}, IoU {iou}, accuracy of pixels {accuracy}, HD95 {distance} {unit}."
    yield from (f"- {name}: Dice {_three_digits(figures[f'dice of {name}'])}" for name in facts.classes)
    yield ""


def _calibration_text(calibration: Calibration | MaskCalibration) -> str:
    ece = calibration.ece
    errors = f", calibration error {ece[0]:.3f} before and {ece[1]:.3f} after" if ece else ""
    return f"temperature {calibration.temperature:.2f}{errors}"


def _unlike(facts: Facts | MaskFacts, verb: str) -> Iterator[str]:
    looks = " and what its pixels look like (contrast, colour, edges, layout)" if facts.likeness.looks else ""
    yield f"An image is called unlike, and not {verb}, if it is too far from the training images."
    yield f"The model compares what the net sees of it{looks}."
    yield f"About {facts.likeness.level:.1%} of this site's own images are called unlike, though nothing is wrong."


def _uncertainty(facts: Facts) -> Iterator[str]:
    calibration = facts.calibration
    yield from ("", "## When it does not know", "")
    yield f"Probabilities are calibrated ({_calibration_text(calibration)})."
    if calibration.ece:
        yield "Few images make this error look larger than it is."
    if calibration.overconfidence:
        yield f"Mean certainty less accuracy: {_signed_text(*calibration.overconfidence)}."
    yield "A class stays possible while its probability is at least the one below. With more than one possible class,"
    yield 'or with none, the answer is "don\'t know".'
    yield ""
    yield from table(
        ("class", "images", "possible from", "true class kept at least"),
        [
            (name, images, f"{least:.3f}", f"{1 - level:.1%}" + ("" if own else " (of all classes together)"))
            for name, images, least, level, own in zip(
                facts.classes, calibration.images, calibration.least, calibration.level, calibration.own, strict=True
            )
        ],
    )
    yield ""
    yield from _unlike(facts, "answered")
    if facts.validation:
        yield f"It {nets.answering_text(facts.validation, 'validation')}. Limits from other images judged each of them."
    yield from ("", "### What so few images cannot promise", "")
    yield "These promises hold on average over samples like this one, for patients who come as those did; this sample"
    yield "may have been a lucky one. Each image was judged by nets that were weighed without it."
    for name, images, level, own in zip(
        facts.classes, calibration.images, calibration.level, calibration.own, strict=True
    ):
        if not own:
            yield f"- {name}: {counted(images, 'image')}; nothing is promised of this class by itself."
        elif level > 0.0501:
            yield f"- {name}: {counted(images, 'image')}; no more than {1 - level:.0%} can be promised."
        elif images < _FEW_IMAGES:
            yield f"- {name}: {counted(images, 'image is', 'images are')} few; the true rate may lie some per cent off."


def _flags(facts: Facts) -> Iterator[str]:
    calibration = facts.calibration
    yield from ("", f"## Thresholds for a sensitivity of {100 * calibration.wanted:.3g}%", "")
    yield "At or above its threshold a class is flagged, also where the answer is another. The figures are those"
    yield "to expect on other images of this site. About 19 of 20 such samples have the true figure in the brackets."
    yield "That is an average over sites, and not the least."
    yield ""
    yield from table(
        ("class", "threshold", "sensitivity", "specificity"),
        [
            (name, _at_text(threshold), _rate_text(threshold.sensitivity), _rate_text(threshold.specificity))
            if threshold.at is not None
            else (name, f"none: {threshold.reason}", "–", "–")
            for name, threshold in zip(facts.classes, calibration.thresholds, strict=True)
        ],
    )


def _test(facts: Facts) -> Iterator[str]:
    yield from ("", "## How it did on images that played no part in it", "")
    figures = facts.test
    if not figures:
        yield "This site has no such images, so nothing is known."
        return
    yield f"It {nets.answering_text(figures, 'test')}."
    yield f"The true class was possible for {figures['in_set']:.0f} of {figures['images']:.0f}."
    accuracy, balanced, auc, error = (
        _three_digits(figures[name]) for name in ("accuracy", "balanced_accuracy", "auc", "ece")
    )
    yield f"Taking the likeliest class each time: accuracy {accuracy}, balanced accuracy {balanced}, AUC {auc},"
    surer = [figures.get(f"overconfidence{end}") for end in ("", "_low", "_high")]
    known = [value for value in surer if value is not None]
    yield f"calibration error {error}" + (
        f"; mean certainty less accuracy {_signed_text(*known)}." if len(known) == 3 else "."
    )
    yield ""


def _subgroups(facts: Facts) -> Iterator[str]:
    if not facts.subgroups:
        return
    yield from (f"## {_groups_heading(facts)}", "")
    yield "How often the likeliest class is the true one, with its 95 % interval. Of one class that is its sensitivity."
    yield "Several images of one patient count as several, so intervals may be too narrow. Wide ones tell little."
    if known := _people(facts):
        yield f"Known of patients: {known}, as a table or DICOM files state it. Their origin is not known."
        yield f"A sex or an age of fewer than {MIN_PATIENTS} patients is left out, because this card travels."
    else:
        yield "Sex, age and origin of patients are not known to the program, so nothing is known of them here."
    yield ""
    yield from table(
        ("by", "group", "images", "answered", "right"),
        [
            (
                group["by"], group["name"], group["images"], group["answered"],
                _rate_text(metrics.proportion(group["right"], group["images"])),
            )
            for group in facts.subgroups
        ],
    )  # fmt: skip
    yield ""


def _people(facts: Facts) -> str:
    """What the groups of patients go by, or "" if there are none."""
    return " and ".join(by for by in PEOPLE if any(group["by"] == by for group in facts.subgroups))


def _people_asked(facts: Facts | MaskFacts) -> str:
    known = _people(facts) if isinstance(facts, Facts) else ""
    return f"of patients by {known}" if known else "groups of patients: to be added by the site"


def _groups_heading(facts: Facts) -> str:
    return f"Groups of {facts.subgroups[0]['part']} images"


def _changes(facts: Facts | MaskFacts) -> Iterator[str]:
    yield from ("## What changes from round to round", "")
    yield "A new round changes the weights of the nets. At each export the site's validation images decide anew how"
    yield "much each net counts, the calibration and the limits. Classes, image size, nets and method stay: the plan"
    yield "holds for all rounds. Before a new model replaces this one, `fedhelp-edge compare OLD NEW IMAGES` shows"
    yield "what it answers otherwise. The old model stays as it is, and can be used again."
    yield ""
    if facts.history:
        figure = facts.history[0]["figure"]
        rows = [
            (entry["round"], entry["examples"], entry["images"], _three_digits(entry["value"]))
            for entry in facts.history
        ]
        yield from table(("round", "training images", "validation images", f"{figure} of this site's own net"), rows)
    else:
        yield "This site trained no earlier round."
    yield ""


def _asked(facts: Facts | MaskFacts) -> Iterator[str]:
    """Where a reader finds what rules for high-risk systems ask for; nobody has judged that it is enough."""
    outcome = "## How it did on images that played no part in it"
    groups = _groups_heading(facts) if isinstance(facts, Facts) and facts.subgroups else "not known"
    yield from ("## Where to find what rules ask for", "")
    yield "The EU AI Act (Article 13) and the FDA's principles of transparency ask for this. No authority judged it."
    yield ""
    yield from table(
        ("asked", "where"),
        [
            ("intended purpose, users, foreseeable misuse", "What it is for"),
            ("training data and kinds of input", "Where it comes from"),
            ("accuracy, with intervals", outcome.removeprefix("## ")),
            ("performance in groups of people", f"{groups}; {_people_asked(facts)}"),
            ("limits, and when it gives no answer", "When it does not know"),
            ("robustness and cybersecurity", "the signature is checked before each use; other images are refused"),
            ("human oversight", "What it is for: a person decides, and sees a heat-map with most answers"),
            ("planned changes, and how each is checked", "What changes from round to round"),
            ("logs of use", "`--event-log FILE` of `predict`, `serve` and `pacs`, off by default"),
            ("provider, clinical evaluation, risk management, consent", "not known to the program"),
        ],
    )
    yield ""


def _findings(facts: Facts | MaskFacts) -> Iterator[str]:
    if facts.findings:
        yield from ("## What these images cannot tell", "")
        yield from (f"- {finding['sentence']}" for finding in facts.findings)
        yield ""


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """The lines of a table in Markdown."""
    for row in (head, ["---"] * len(head), *rows):
        yield "| " + " | ".join(str(cell).replace("|", "/") for cell in row) + " |"


def _at_text(threshold: Threshold) -> str:
    return _three_digits(threshold.at) + (f" ({threshold.reason})" if threshold.reason else "")


def _three_digits(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _signed_text(value: float, low: float, high: float) -> str:
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def _rate_text(rate: Rate | Figure | None) -> str:
    return "–" if rate is None or rate.value is None else f"{rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f})"
