"""What calibration promises, on real chest X-rays: a net is trained, exported, and asked about images it never saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from export import bundle as exporting
from export import calibrate
from fedhelp_edge import plan as plans
from fedhelp_edge.data.images import Images
from fedhelp_edge.infer import decide, facts
from fedhelp_edge.infer.bundle import Bundle
from fedhelp_edge.infer.decide import Answer
from fedhelp_edge.methods.base import Bench
from fedhelp_edge.methods.registry import METHODS, TABLES
from fedhelp_edge.parcel import keys
from fedhelp_edge.report import metrics
from fedhelp_edge.site import learn
from fedhelp_edge.train import loop
from tests.unit.data.made import GIVEN

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
"""


@dataclass(frozen=True)
class Asked:
    bundle: Bundle
    test: Images
    answers: list[Answer]


@pytest.fixture(scope="module")
def asked(request: pytest.FixtureRequest) -> Asked:
    """A net of a clinic, asked about all images that it neither learned from nor was chosen by."""
    if not FILE.exists():
        pytest.skip("classification/pneumoniamnist.npz of FEDHELP_DATA is not here")
    full = request.config.getoption("--proofs")
    learned, kept, epochs = (2000, 400, 12) if full else (160, 240, 12)
    with np.load(FILE) as found:
        pixels = np.concatenate([found[f"{part}_images"] for part in ("train", "val", "test")])[..., None]
        labels = np.concatenate([found[f"{part}_labels"] for part in ("train", "val", "test")]).ravel().astype(np.int64)
    order = np.random.Generator(np.random.Philox(key=1)).permutation(len(labels))[: None if full else 1200]
    splits = ("train",) * learned + ("val",) * kept + ("test",) * (len(order) - learned - kept)
    blank = ("",) * len(order)
    images = Images(pixels[order], labels[order], splits, tuple(map(str, order)), blank, blank)
    plan = plans.read(PLAN + f"epochs = {epochs}\n", TABLES)
    torch.set_num_threads(1)  # faster than more, for so small a net on a machine that does other things
    learner = learn.Place(plan, "site-001", "small", images, None, Bench()).learner()
    learner.receive(METHODS["fedavg"].start(plan), 1)
    loop.train(learner, {"private": images.part("train")}, 1)
    made = exporting.make(
        {"own": learner.net}, images, plan, exporting.Origin("", 1, "small", 1, None), keys.new().sign
    )
    notes = facts.notes(made.model)
    bundle, test = Bundle(made.model, "", "", "", notes, made.facts), images.part("test")
    answers = [
        one for at in range(0, len(test), 64) for one in decide.answers(bundle, np.asarray(test.pixels[at : at + 64]))
    ]
    return Asked(bundle, test, answers)


def test_the_true_class_is_in_the_set_as_often_as_promised(asked: Asked) -> None:
    """Within three standard errors of both samples, the validation images' and these."""
    calibration, classes = asked.bundle.facts.calibration, asked.bundle.facts.classes
    for one, name in enumerate(classes):
        its = [answer for answer, label in zip(asked.answers, asked.test.labels, strict=True) if label == one]
        covered = np.mean([name in answer.set for answer in its])
        level, few = calibration.level[one], 1 / calibration.images[one] + 1 / len(its)
        print(f"{name}: {covered:.3f} of {len(its)}, promised {1 - level:.3f} from {calibration.images[one]} images")
        assert covered >= 1 - level - 3 * np.sqrt(level * (1 - level) * few)


def test_probabilities_are_nearer_to_the_truth_than_those_of_the_bare_net(asked: Asked) -> None:
    logits = np.concatenate(
        [
            asked.bundle.engine(np.asarray(asked.test.pixels[at : at + 64])).logits
            for at in range(0, len(asked.test), 64)
        ]
    )
    heat = asked.bundle.facts.calibration.temperature
    bare, calm = (metrics.scores(calibrate.softmax(part), asked.test.labels) for part in (logits, logits / heat))
    print(f"temperature {heat:.2f}: calibration error {bare.ece.value} before, {calm.ece.value} after")
    assert bare.ece.value
    assert calm.ece.value
    assert calm.ece.value < bare.ece.value


def test_of_the_images_of_the_same_kind_few_are_called_unlike_and_of_others_many_more(asked: Asked) -> None:
    likeness = asked.bundle.facts.likeness
    unlike = np.mean([one.distance > 1 for one in asked.answers])
    print(f"unlike: {unlike:.3f} of chest X-rays, promised {likeness.level:.3f}")
    assert unlike <= likeness.level + 3 * np.sqrt(likeness.level * (1 / 240 + 1 / len(asked.answers)))
    others = {"noise": np.random.default_rng(0).integers(0, 256, (100, 28, 28, 1), np.uint8)}
    if OTHERS.exists():
        with np.load(OTHERS) as found:
            cells = found["test_images"][:100, 2:30, 2:30].mean(3, keepdims=True)
        others["blood cells"] = cells.astype(np.uint8)
    for name, images in others.items():
        found = np.mean([one.distance > 1 for one in decide.answers(asked.bundle, images)])
        print(f"unlike: {found:.3f} of {name}")
        assert found > 3 * unlike


def test_answers_are_right_more_often_than_guesses_on_what_it_does_not_answer(asked: Asked) -> None:
    names = asked.bundle.facts.classes
    likeliest = [max(one.probabilities, key=one.probabilities.__getitem__) for one in asked.answers]
    right = np.array([name == names[label] for name, label in zip(likeliest, asked.test.labels, strict=True)])
    known = np.array([one.answer is not None for one in asked.answers])
    print(f"answered {known.mean():.3f}, right {right[known].mean():.3f}; the others {right[~known].mean():.3f}")
    assert right[known].mean() > right.mean() > right[~known].mean()
