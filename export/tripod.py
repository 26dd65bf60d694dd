"""The TRIPOD+AI checklist (Collins and others, 2024), filled with what a model's file says about itself.

Item numbers are the checklist's; the wording is ours. What only people know is left for them to write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from export.card import table
from fedhelp_edge.infer.metadata import Facts, MaskFacts
from fedhelp_edge.report import nets
from fedhelp_edge.safe_text import counted, visible

_AUTHORS = "*to be written*"


def text(facts: Facts | MaskFacts) -> str:
    """The whole checklist, as Markdown."""
    return "\n".join(map(visible, _lines(facts)))


def _lines(facts: Facts | MaskFacts) -> Iterator[str]:
    rows = [(number, asked, known or _AUTHORS) for number, asked, known in _items(facts)]
    filled = sum(known != _AUTHORS for _, _, known in rows)
    yield from (f"# TRIPOD+AI for {facts.name}, round {facts.round}", "")
    yield f"The model's file answers {filled} of {len(rows)} items, some of them in part. People write the others."
    yield "Take nothing from here without reading it: it describes one site's model, not the whole federation."
    yield ""
    yield from table(("item", "asked", "known"), rows)
    yield ""


def _items(facts: Facts | MaskFacts) -> Iterator[tuple[str, str, str]]:
    is_mask = isinstance(facts, MaskFacts)
    describe = nets.outlining_text if is_mask else nets.answering_text
    noun = "volume" if facts.image.is_volume else "image"
    classes = ", ".join(facts.classes)
    validation, test = facts.validation, facts.test
    sites = f"{facts.sites} sites" if facts.sites > 1 else "one site"
    trained = counted(facts.examples, f"training {noun}")
    numbers = f"{trained}, {_count(validation)} for validation, {_count(test)} for test"
    findings = "; ".join(finding["sentence"] for finding in facts.findings) or "no weakness of the images was found"
    stated = {what.replace("_", " "): values for what, values in vars(facts.kinds).items() if values}
    kinds = "; ".join(f"{what}: {', '.join(values)}" for what, values in stated.items())
    yield "1", "title names the kind of study, the people and the outcome", ""
    yield "2", "abstract", ""
    yield "3a", "why: the disease, and models that there are", ""
    yield "3b", "who is to use it, where in care", "trained staff of the site that exported it; a person decides"
    yield "3c", "known inequalities between groups of people", ""
    yield "4", "objective: development, evaluation or both", "development, with an internal evaluation"
    yield "5a", "sources of data", f"images of this site, and updates of {sites}; no image left its site"
    yield "5b", "dates of data", ""
    yield "6a", "setting: kind and number of places", f"{sites}; this one is {facts.tier}"
    yield "6b", "who is included", ""
    yield "6c", "treatments", ""
    size = "blocks of a volume" if facts.image.is_volume else f"{facts.image.size} x {facts.image.size} pixels"
    yield "7", "preparation of data", f"{size}, the same for all images; near-duplicates stay in one split"
    yield "8a", "outcome: what, and how it was found", f"classes: {classes}; how they were found: {_AUTHORS}"
    yield "8b", "who judged the outcome", ""
    yield "8c", "whether they knew the predictors", ""
    yield "9a", "choice of predictors", "the pixels alone"
    yield "9b", "definition of predictors", kinds or "pictures; the files state no kind"
    yield "9c", "who read predictors by hand", "nobody: pixels need no reading"
    yield "10", "sample size, and why", f"{numbers}; why: {_AUTHORS}"
    yield "11", "missing data", "an image that cannot be read is left out, and `check` names it"
    yield "12a", "how data were split", "by patient where the site names patients, else by near-duplicates"
    yield "12b", "handling of predictors", "pixels are scaled by the plan's mean and deviation"
    members = ", ".join(facts.members)
    yield "12c", "kind of model, how it was built", f"{members}; federated rounds; validation images weigh the nets"
    yield "12d", "differences between places", "each site exports its own weighing and limits"
    measures = "Dice, IoU, HD95" if is_mask else "accuracy, balanced accuracy, AUC, calibration error; 95 % intervals"
    yield "12e", "measures of performance", measures
    yield "12f", "model updating", "each round trains all nets on; each export calibrates anew"
    yield "12g", "how predictions are made", "one signed ONNX file; docs/spec/bundle.md has each step"
    yield "13", "class imbalance", _balance(facts)
    yield (
        "14",
        "fairness",
        "groups by class, centre, kind of file, sex and age on the card, where known; others: " + _AUTHORS,
    )
    yield "15", "what the model gives out", _output(facts)
    yield "16", "differences between training and evaluation", "same site, other patients where they are known"
    yield "17", "ethical approval", ""
    yield "18a", "funding", ""
    yield "18b", "conflicts of interest", ""
    yield (
        "18c",
        "protocol",
        f"the plan of the federation {facts.federation}, signed" if facts.federation else "the plan",
    )
    yield "18d", "registration", ""
    yield "18e", "availability of data", "images stay at their sites"
    yield "18f", "availability of code", "fedhelp-edge, Apache-2.0"
    yield "19", "patients and public", ""
    yield "20a", "flow of participants", f"{numbers}; of people: {_AUTHORS}"
    yield "20b", "characteristics of participants", ""
    yield "20c", "differences between development and evaluation", findings
    yield "21", "numbers of participants and outcomes in each analysis", _per_class(facts)
    yield "22", "the full model", "the file holds all weights, calibration and limits"
    performance = describe(test, "test") if test else describe(validation, "validation")
    yield "23a", "performance with intervals", f"it {performance}; the card has more"
    yield "23b", "differences between places", "the groups by centre on the card, if the site has several"
    yield "24", "results of updating", f"{counted(len(facts.history), 'earlier round')} of this site on the card"
    yield "25", "interpretation", ""
    yield "26", "limitations", f"{findings}; what few images cannot promise, on the card"
    yield "27a", "poor or missing input", "refused, or called unlike the training images and not answered"
    yield "27b", "who must act, and what they need to know", "a trained person reads the image too; see What it is for"
    yield "27c", "next steps", ""


def _count(figures: Mapping[str, float | None]) -> int:
    return int(figures.get("images") or 0)


def _output(facts: Facts | MaskFacts) -> str:
    if isinstance(facts, MaskFacts):
        return "a mask, with uncertain pixels marked; that an image is unlike those of training"
    return (
        "a class; the set of possible ones, with probabilities; that it does not know; "
        f"flags for a sensitivity of {100 * facts.calibration.wanted:.3g} %"
    )


def _balance(facts: Facts | MaskFacts) -> str:
    if isinstance(facts, MaskFacts):
        return "pixels are weighed by class, if the plan says so"
    return f"{_per_class(facts)}; thresholds are chosen for each class"


def _per_class(facts: Facts | MaskFacts) -> str:
    if isinstance(facts, MaskFacts):
        return f"{counted(facts.calibration.cases, 'validation case')}; by class: {_AUTHORS}"
    pairs = zip(facts.classes, facts.calibration.images, strict=True)
    return f"validation images by class: {', '.join(f'{name} {images}' for name, images in pairs)}"
