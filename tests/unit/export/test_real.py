"""The guarantees of calibration on real chest X-rays: a net is trained, exported, and run on new images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export import bundle as exporting
from export import calibrate
from fedhelp_edge import plan as plans
from fedhelp_edge.data.images import Images
from fedhelp_edge.infer import decide, metadata
from fedhelp_edge.infer.bundle import Bundle
from fedhelp_edge.infer.decide import Answer
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import keys
from fedhelp_edge.report import metrics
from fedhelp_edge.site import local_training
from fedhelp_edge.train import loop
from tests.unit.data.samples import GIVEN

pytestmark = pytest.mark.proof
FILE = GIVEN / "classification" / "pneumoniamnist.npz"
OTHERS = GIVEN / "classification" / "bccd_cells_32.npz"
PLAN = """classes = ["normal", "pneumonia"]
method = "fedavg"
[image]
size = 28
channels = 1
mean = [0.5]
std = [0.25]
[training]
batch = 32
precision = "fp32"
epochs = 12
"""


@dataclass(frozen=True)
class Asked:
    bundle: Bundle
    test: Images
    answers: list[Answer]


@pytest.fixture(scope="module")
def asked(request: pytest.FixtureRequest) -> list[Asked]:
    """Small clinics (one; five with --proofs), each with a net and its answers for new images."""
    if not FILE.exists():
        pytest.skip("classification/pneumoniamnist.npz of FEDHELP_DATA is not here")
    torch.set_num_threads(1)  # faster than more threads for so small a net on a shared machine
    with np.load(FILE) as archive:
        pixels = np.concatenate([archive[f"{part}_images"] for part in ("train", "val", "test")])[..., None]
        labels = (
            np.concatenate([archive[f"{part}_labels"] for part in ("train", "val", "test")]).ravel().astype(np.int64)
        )
    return [clinic(pixels, labels, key) for key in range(1, 6 if request.config.getoption("--proofs") else 2)]


def clinic(pixels: NDArray[np.uint8], labels: NDArray[np.int64], key: int) -> Asked:
    indices = np.random.Generator(np.random.Philox(key=key)).permutation(len(labels))[:1200]
    splits = ("train",) * 160 + ("val",) * 240 + ("test",) * 800
    blank = ("",) * len(indices)
    images = Images(pixels[indices], labels[indices], splits, tuple(map(str, indices)), blank, blank)
    plan = plans.read(PLAN, METHODS)
    learner = local_training.TrainingContext(plan, f"site-{key:03}", "small", images, None, Compute()).learner()
    learner.receive(METHODS["fedavg"].start(plan), 1)
    loop.train(learner, {"private": images.split("train")}, 1)
    origin = exporting.Origin("", 1, "small", 1, None)
    result = exporting.create({"own": learner.net}, images, plan, origin, keys.generate().sign)
    bundle, test = (
        Bundle(result.model, "", "", "", metadata.read_notes(result.model), result.facts),
        images.split("test"),
    )
    answers = [answer for part in batches(test.pixels) for answer in decide.answer_images(bundle, part)]
    return Asked(bundle, test, answers)


def batches(pixels: Any) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(pixels), 64):
        yield np.asarray(pixels[start : start + 64])


def test_the_true_class_has_the_promised_coverage(asked: list[Asked]) -> None:
    """Within three standard errors of both samples, the validation images and these."""
    for index, name in enumerate(asked[0].bundle.facts.classes):
        covered = [
            name in answer.set
            for site in asked
            for answer, label in zip(site.answers, site.test.labels, strict=True)
            if label == index
        ]
        calibrations = [site.bundle.facts.calibration for site in asked]
        level, count = (
            float(np.mean([part.level[index] for part in calibrations])),
            sum(part.images[index] for part in calibrations),
        )
        print(f"{name}: {np.mean(covered):.3f} of {len(covered)}, promised {1 - level:.3f} from {count} images")
        assert np.mean(covered) >= 1 - level - 3 * np.sqrt(level * (1 - level) * (1 / count + 1 / len(covered)))


def test_calibrated_probabilities_are_closer_to_the_truth_than_uncalibrated_ones(asked: list[Asked]) -> None:
    errors = []
    for site in asked:
        logits = np.concatenate([site.bundle.engine(part).logits for part in batches(site.test.pixels)])
        temperature = site.bundle.facts.calibration.temperature
        errors_of_site = [
            metrics.scores(calibrate.softmax(part), site.test.labels).ece.value
            for part in (logits, logits / temperature)
        ]
        print(f"temperature {temperature:.2f}: calibration error {errors_of_site[0]} before, {errors_of_site[1]} after")
        errors.append(errors_of_site)
    bare, calibrated = np.mean(errors, 0)
    assert calibrated < bare


def test_few_images_of_the_same_kind_and_many_more_others_are_unlike(asked: list[Asked]) -> None:
    others = {"noise": np.random.default_rng(0).integers(0, 256, (100, 28, 28, 1), np.uint8)}
    if OTHERS.exists():
        with np.load(OTHERS) as archive:
            others["blood cells"] = archive["test_images"][:100, 2:30, 2:30].mean(3, keepdims=True).astype(np.uint8)
    unlike = np.mean([answer.distance > 1 for site in asked for answer in site.answers])
    level, count = asked[0].bundle.facts.likeness.level, 240 * len(asked)
    print(f"unlike: {unlike:.3f} of chest X-rays, promised {level:.3f}")
    assert unlike <= level + 3 * np.sqrt(level * (1 / count + 1 / sum(len(site.answers) for site in asked)))
    for name, images in others.items():
        rate = np.mean([answer.distance > 1 for site in asked for answer in decide.answer_images(site.bundle, images)])
        print(f"unlike: {rate:.3f} of {name}")
        assert rate > 0.8


def test_given_answers_are_right_more_often_than_withheld_ones(asked: list[Asked]) -> None:
    pairs = [pair for site in asked for pair in zip(site.answers, site.test.labels, strict=True)]
    names = asked[0].bundle.facts.classes
    right = np.array(
        [max(answer.probabilities, key=answer.probabilities.__getitem__) == names[label] for answer, label in pairs]
    )
    answered = np.array([answer.answer is not None for answer, _ in pairs])
    print(
        f"answered {answered.mean():.3f}, right {right[answered].mean():.3f}; the others {right[~answered].mean():.3f}"
    )
    assert right[answered].mean() > right.mean() > right[~answered].mean()
