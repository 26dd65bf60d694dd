"""Two models on the same labelled images, before the newer one is adopted: who gets better, who worse, how certain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data import labels, loading, split
from fedhelp_edge.data.loading import Gathered
from fedhelp_edge.errors import NoImagesError, OtherClassesError
from fedhelp_edge.infer import decide
from fedhelp_edge.infer.bundle import Bundle
from fedhelp_edge.plan import Plan
from fedhelp_edge.report import metrics
from fedhelp_edge.report.metrics import Figure

_BATCH = 64


@dataclass(frozen=True)
class Side:
    """One model on all the images."""

    round: int
    sha256: str
    accuracy: Figure
    balanced_accuracy: Figure
    auc: Figure
    unknown: int  # images that it does not answer


@dataclass(frozen=True)
class OfClass:
    """How many images of a class each model recognises, and by how much the newer one does so more often."""

    name: str
    images: int
    old: int
    new: int
    difference: Figure


@dataclass(frozen=True)
class Comparison:
    images: int
    left_out: int  # images that this site learned from or chose by
    old: Side
    new: Side
    difference: metrics.Difference  # of the new one above the old one
    classes: tuple[OfClass, ...]
    better: int  # images that only the new one gets right
    worse: int

    @property
    def verdict(self) -> str:
        found = self.difference.accuracy
        worse = [one.name for one in self.classes if one.difference.high is not None and one.difference.high < 0]
        if found.low is None or found.high is None:
            said = f"{self.images} images are too few to tell them apart"
        elif found.low > 0:
            said = "the new model is right more often"
        elif found.high < 0:
            said = "the new model is right less often"
        else:
            said = f"these {self.images} images do not tell them apart"
        return f"{said}; it recognises fewer of {', '.join(worse)}" if worse else said


def compare(old: Bundle, new: Bundle, source: Path, *, kept: Path, site: Path | None = None) -> Comparison:
    """`kept` is a folder for what is decoded; `site` is the one where the site keeps its own. By the word of the
    split.json there, what was learned from or chosen by is left out, for both models would look too good on it."""
    if old.facts.classes != new.facts.classes:
        raise OtherClassesError(f"{', '.join(old.facts.classes)} in one, {', '.join(new.facts.classes)} in the other")
    mine, theirs = (_gathered(one, source, kept, site) for one in (old, new))
    if not len(mine.images):
        raise NoImagesError(loading.nothing(source, mine.images.problems))
    used = {name: place for place, name in enumerate(mine.images.names)}
    places = {name: place for place, name in enumerate(theirs.images.names)}
    known = _known(old, mine, site) | _known(new, theirs, site)
    names = [name for name in used if name in places and name not in known]
    if not names:
        raise NoImagesError("this site learned from, or chose by, every image there is")
    first, second = [used[name] for name in names], [places[name] for name in names]
    labels = mine.images.labels[first]
    (before, unsure), (after, unsure_now) = _said(old, mine, first), _said(new, theirs, second)
    was, now = before.argmax(1) == labels, after.argmax(1) == labels
    return Comparison(
        len(names), sum(name in known for name in used), _side(old, before, labels, unsure),
        _side(new, after, labels, unsure_now), metrics.paired(after, before, labels),
        tuple(_classes(old.facts.classes, before, after, labels)), int((now & ~was).sum()), int((was & ~now).sum()),
    )  # fmt: skip


def _gathered(one: Bundle, source: Path, kept: Path, site: Path | None) -> Gathered:
    plan = Plan(classes=one.facts.classes, image=one.facts.image)
    names = labels.kept_names(site, source, plan.classes) if site else {}
    columns = labels.kept_columns(site, source) if site else {}
    return loading.gather(source, plan, kept=kept, mapping=names, columns=columns)


def _known(one: Bundle, found: Gathered, site: Path | None) -> set[str]:
    """The images that the site learned from or chose by, and those that show the same patient or nearly the same."""
    image = one.facts.image
    kept = split.load(site / loading.SPLIT_FILE, f"{image.size}x{image.size}x{image.channels}") if site else None
    seen = [(kept or {}).get(sha256, "test") != "test" for sha256 in found.hashes]
    groups = {group for group, own in zip(found.images.groups, seen, strict=True) if own and group}
    images = zip(found.images.names, found.images.groups, seen, strict=True)
    return {name for name, group, own in images if own or group in groups}


def _said(one: Bundle, found: Gathered, places: list[int]) -> tuple[NDArray[np.float64], int]:
    """Probabilities, and for how many images there is no answer."""
    pixels = found.images.only(np.asarray(places, np.int64)).pixels
    answers = [
        answer
        for at in range(0, len(places), _BATCH)
        for answer in decide.answers(one, np.asarray(pixels[at : at + _BATCH]))
    ]
    return np.array([list(answer.probabilities.values()) for answer in answers]), sum(a.answer is None for a in answers)


def _side(one: Bundle, said: NDArray[np.float64], labels: NDArray[np.int64], unknown: int) -> Side:
    scores = metrics.scores(said, labels)
    return Side(one.facts.round, one.sha256, scores.accuracy, scores.balanced_accuracy, scores.auc, unknown)


def _classes(names: tuple[str, ...], before: Any, after: Any, labels: NDArray[np.int64]) -> list[OfClass]:
    found = []
    for one, name in enumerate(names):
        its = labels == one
        old, new = (int((said[its].argmax(1) == one).sum()) for said in (before, after))
        gap = metrics.paired(after[its], before[its], labels[its]).accuracy if its.any() else Figure(None)
        found.append(OfClass(name, int(its.sum()), old, new, gap))
    return found
