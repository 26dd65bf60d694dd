"""Compare two models on the same labelled images before adopting the newer one: which classes gain, which lose, how
certain that is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.data import labels, loading, split
from fedhelp_edge.data.images import Images
from fedhelp_edge.errors import NoImagesError, OtherClassesError
from fedhelp_edge.infer import decide
from fedhelp_edge.infer.bundle import AnyBundle, Bundle, MaskBundle
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

    @property
    def rates(self) -> tuple[float | None, float | None]:
        """The parts of them that the old and the new model recognise."""
        old, new = (count / self.images if self.images else None for count in (self.old, self.new))
        return old, new


@dataclass(frozen=True)
class ModelComparison:
    """Two models on the same images."""

    figures: ClassVar = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "auc": "AUC"}

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

    @property
    def changes(self) -> str:
        """How many images only one model gets right."""
        return f"only the new one is right on {counted(self.better, 'image')}, only the old one on {self.worse}"


def compare(
    old: Bundle, new: Bundle, source: Path, *, cache_dir: Path, state_dir: Path | None = None
) -> ModelComparison:
    """Compare two models on a source, as `same_images` reads it."""
    images = same_images(old, new, source, cache_dir=cache_dir, state_dir=state_dir)
    labels = images.old.labels
    (old_probabilities, old_unknown), (new_probabilities, new_unknown) = (
        _predict(old, images.old),
        _predict(new, images.new),
    )
    old_right, new_right = old_probabilities.argmax(1) == labels, new_probabilities.argmax(1) == labels
    return ModelComparison(
        images=len(labels),
        left_out=images.left_out,
        old=_model_figures(old, old_probabilities, labels, old_unknown),
        new=_model_figures(new, new_probabilities, labels, new_unknown),
        difference=metrics.paired_difference(new_probabilities, old_probabilities, labels),
        classes=tuple(_compare_classes(old.facts.classes, old_probabilities, new_probabilities, labels)),
        better=int((new_right & ~old_right).sum()),
        worse=int((old_right & ~new_right).sum()),
    )


@dataclass(frozen=True)
class SameImages:
    """The images of a source as each of two models sees them, in the same order."""

    old: Images
    new: Images
    left_out: int  # images, or volumes, that this site used for training or validation


def same_images(
    old: AnyBundle, new: AnyBundle, source: Path, *, cache_dir: Path, state_dir: Path | None, masks: Path | None = None
) -> SameImages:
    """Load a source for two models.

    `cache_dir` is for decoded images. `state_dir` is the site's folder. Images that its split.json has in train or val
    are left out, with others of their groups: both models look too good on them. `masks` is the folder of masks.
    """
    if old.facts.classes != new.facts.classes:
        raise OtherClassesError(f"{', '.join(old.facts.classes)} in one, {', '.join(new.facts.classes)} in the other")
    old_images, new_images = (_load_images(model, source, cache_dir, state_dir, masks) for model in (old, new))
    if not len(old_images):
        raise loading.no_images_error(source, old_images.problems)
    old_cases, new_cases = _cases(old_images), _cases(new_images)
    used_before = _used_before(old_images, state_dir) | _used_before(new_images, state_dir)
    names = [name for name in old_cases if name in new_cases and name not in used_before]
    if not names:
        raise NoImagesError("this site used all of these images for training or validation")
    old_same, new_same = (
        images.only(np.concatenate([cases[name] for name in names]))
        for images, cases in ((old_images, old_cases), (new_images, new_cases))
    )
    return SameImages(old_same, new_same, sum(name in used_before for name in old_cases))


def _load_images(model: AnyBundle, source: Path, cache_dir: Path, state_dir: Path | None, masks: Path | None) -> Images:
    task = "segmentation" if isinstance(model, MaskBundle) else "classification"
    plan = Plan(classes=model.facts.classes, image=model.facts.image, task=task)
    aliases = labels.load_aliases(state_dir, source, plan.classes) if state_dir else {}
    columns = labels.load_columns(state_dir, source) if state_dir else {}
    masks = loading.find_masks(masks, source, plan, state_dir or cache_dir)
    return loading.load_unsplit(source, plan, cache_dir=cache_dir, masks=masks, mapping=aliases, columns=columns).images


def _cases(images: Images) -> dict[str, NDArray[np.int64]]:
    """The indices of each image, or of the blocks of each volume, by its name."""
    return {images.blocks[case[0]].volume if images.blocks else images.names[case[0]]: case for case in images.cases}


def _used_before(images: Images, state_dir: Path | None) -> set[str]:
    """Names of cases that the site trained or validated on, and of others of their groups."""
    kind = "x".join(map(str, images.pixels.shape[1:]))
    saved = split.load(state_dir / loading.SPLIT_FILE, kind) if state_dir else None
    was_used = np.array([(saved or {}).get(sha256, "test") != "test" for sha256 in images.hashes], np.bool_)
    groups = {group for group, used in zip(images.groups, was_used, strict=True) if used and group}
    return {
        name
        for name, case in _cases(images).items()
        if was_used[case].any() or any(images.groups[index] in groups for index in case)
    }


def _predict(model: Bundle, images: Images) -> tuple[NDArray[np.float64], int]:
    """Probabilities, and the number of images without an answer."""
    answers = [
        answer
        for start in range(0, len(images), _BATCH)
        for answer in decide.answer_images(model, np.asarray(images.pixels[start : start + _BATCH]))
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
