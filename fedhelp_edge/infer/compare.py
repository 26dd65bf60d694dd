"""Compare two models on the same labelled images before adopting the newer one: which classes gain, which lose, how
certain that is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data import labels, loading, split
from fedhelp_edge.data.loading import UnsplitImages
from fedhelp_edge.errors import NoImagesError, OtherClassesError
from fedhelp_edge.infer import decide
from fedhelp_edge.infer.bundle import Bundle
from fedhelp_edge.plan import Plan
from fedhelp_edge.report import metrics
from fedhelp_edge.report.metrics import Figure
from fedhelp_edge.safe_text import counted

_BATCH = 64


@dataclass(frozen=True)
class ModelFigures:
    """The figures of one model on all the images."""

    round: int
    sha256: str
    accuracy: Figure
    balanced_accuracy: Figure
    auc: Figure
    unknown: int  # images without an answer


@dataclass(frozen=True)
class ClassComparison:
    """How many images of a class each model recognises, and the difference (new minus old)."""

    name: str
    images: int
    old: int
    new: int
    difference: Figure


@dataclass(frozen=True)
class ModelComparison:
    """Two models on the same images."""

    images: int
    left_out: int  # images that this site used for training or validation
    old: ModelFigures
    new: ModelFigures
    difference: metrics.Difference  # new minus old
    classes: tuple[ClassComparison, ...]
    better: int  # images that only the new model gets right
    worse: int

    @property
    def verdict(self) -> str:
        """One sentence: which model is right more often, and which classes the new one recognises less."""
        accuracy = self.difference.accuracy
        worse_classes = [
            comparison.name
            for comparison in self.classes
            if comparison.difference.high is not None and comparison.difference.high < 0
        ]
        if accuracy.low is None or accuracy.high is None:
            sentence = f"{counted(self.images, 'image is', 'images are')} too few to tell them apart"
        elif accuracy.low > 0:
            sentence = "the new model is right more often"
        elif accuracy.high < 0:
            sentence = "the new model is right less often"
        else:
            sentence = f"{counted(self.images, 'image does', 'images do')} not tell them apart"
        return f"{sentence}; it recognises fewer of {', '.join(worse_classes)}" if worse_classes else sentence


def compare(
    old: Bundle, new: Bundle, source: Path, *, cache_dir: Path, state_dir: Path | None = None
) -> ModelComparison:
    """Compare two models on a source.

    `cache_dir` is for decoded images. `state_dir` is the site's folder. Images that its split.json has in train or val
    are left out, with others of their groups: both models look too good on them.
    """
    if old.facts.classes != new.facts.classes:
        raise OtherClassesError(f"{', '.join(old.facts.classes)} in one, {', '.join(new.facts.classes)} in the other")
    old_images, new_images = (_load_images(model, source, cache_dir, state_dir) for model in (old, new))
    if not len(old_images.images):
        raise loading.no_images_error(source, old_images.images.problems)
    old_index = {name: index for index, name in enumerate(old_images.images.names)}
    new_index = {name: index for index, name in enumerate(new_images.images.names)}
    used_before = _used_before(old, old_images, state_dir) | _used_before(new, new_images, state_dir)
    names = [name for name in old_index if name in new_index and name not in used_before]
    if not names:
        raise NoImagesError("this site used all of these images for training or validation")
    old_rows, new_rows = [old_index[name] for name in names], [new_index[name] for name in names]
    labels = old_images.images.labels[old_rows]
    (old_probabilities, old_unknown), (new_probabilities, new_unknown) = (
        _predict(old, old_images, old_rows),
        _predict(new, new_images, new_rows),
    )
    old_right, new_right = old_probabilities.argmax(1) == labels, new_probabilities.argmax(1) == labels
    return ModelComparison(
        images=len(names),
        left_out=sum(name in used_before for name in old_index),
        old=_model_figures(old, old_probabilities, labels, old_unknown),
        new=_model_figures(new, new_probabilities, labels, new_unknown),
        difference=metrics.paired_difference(new_probabilities, old_probabilities, labels),
        classes=tuple(_compare_classes(old.facts.classes, old_probabilities, new_probabilities, labels)),
        better=int((new_right & ~old_right).sum()),
        worse=int((old_right & ~new_right).sum()),
    )


def _load_images(model: Bundle, source: Path, cache_dir: Path, state_dir: Path | None) -> UnsplitImages:
    plan = Plan(classes=model.facts.classes, image=model.facts.image)
    aliases = labels.load_aliases(state_dir, source, plan.classes) if state_dir else {}
    columns = labels.load_columns(state_dir, source) if state_dir else {}
    return loading.load_unsplit(source, plan, cache_dir=cache_dir, mapping=aliases, columns=columns)


def _used_before(model: Bundle, unsplit: UnsplitImages, state_dir: Path | None) -> set[str]:
    """Names of images that the site trained or validated on, and of others of their groups."""
    image = model.facts.image
    saved = (
        split.load(state_dir / loading.SPLIT_FILE, f"{image.size}x{image.size}x{image.channels}") if state_dir else None
    )
    was_used = [(saved or {}).get(sha256, "test") != "test" for sha256 in unsplit.images.hashes]
    groups = {group for group, used in zip(unsplit.images.groups, was_used, strict=True) if used and group}
    images = zip(unsplit.images.names, unsplit.images.groups, was_used, strict=True)
    return {name for name, group, used in images if used or group in groups}


def _predict(model: Bundle, unsplit: UnsplitImages, rows: list[int]) -> tuple[NDArray[np.float64], int]:
    """Probabilities, and the number of images without an answer."""
    pixels = unsplit.images.only(np.asarray(rows, np.int64)).pixels
    answers = [
        answer
        for start in range(0, len(rows), _BATCH)
        for answer in decide.answer_images(model, np.asarray(pixels[start : start + _BATCH]))
    ]
    return np.array([list(answer.probabilities.values()) for answer in answers]), sum(
        each.answer is None for each in answers
    )


def _model_figures(
    model: Bundle, probabilities: NDArray[np.float64], labels: NDArray[np.int64], unknown: int
) -> ModelFigures:
    scores = metrics.scores(probabilities, labels)
    return ModelFigures(model.facts.round, model.sha256, scores.accuracy, scores.balanced_accuracy, scores.auc, unknown)


def _compare_classes(
    names: tuple[str, ...], old_probabilities: Any, new_probabilities: Any, labels: NDArray[np.int64]
) -> list[ClassComparison]:
    comparisons = []
    for label, name in enumerate(names):
        of_class = labels == label
        old_right, new_right = (
            int((probabilities[of_class].argmax(1) == label).sum())
            for probabilities in (old_probabilities, new_probabilities)
        )
        difference = (
            metrics.paired_difference(
                new_probabilities[of_class], old_probabilities[of_class], labels[of_class]
            ).accuracy
            if of_class.any()
            else Figure(None)
        )
        comparisons.append(ClassComparison(name, int(of_class.sum()), old_right, new_right, difference))
    return comparisons
