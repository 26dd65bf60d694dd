"""The training loop: its random draws, and interrupted rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedhelp_edge import update
from fedhelp_edge.data.pack import without_predictions
from fedhelp_edge.errors import DivergedError
from fedhelp_edge.methods import registry
from fedhelp_edge.methods.base import Batch, Learner, LearnerContext, Phase, SiteFacts
from fedhelp_edge.methods.fedavg import FedAvg
from fedhelp_edge.nets.net import input_tensor
from fedhelp_edge.report import metrics
from fedhelp_edge.train import checkpoint, loop
from fedhelp_edge.update import Array
from tests.unit.methods import small
from tests.unit.methods.tiny import tiny_nets as tiny_nets

Drawn = list[dict[str, list[int]]]
Undisturbed = Callable[[str, str, dict[str, Any]], tuple[Mapping[str, Array], loop.EpochReport]]

pytestmark = pytest.mark.usefixtures("tiny_nets")
everybody = pytest.mark.parametrize(("method", "tier", "numbers"), small.EVERYBODY)


class PowerCut(Exception):
    """An exception that the kit does not know."""


class Watched(FedAvg):
    """Learns nothing and records its batches."""

    phase = Phase("train", ("private", "public"), epochs=2)
    shown: list[Mapping[str, Batch]]

    def phases(self, round_: int, last: bool) -> list[Phase]:
        return [self.phase]

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        self.shown.append(dict(batches))
        return {"loss": float(len(self.shown))}


def watched(batch: int = 4, site: str = "site-001", seed: int = 3, **phase: Any) -> Watched:
    plan = replace(small.plan(training={"batch": batch}), seed=seed)
    learner = Watched(LearnerContext(plan, SiteFacts(site, "small", (1, 1, 1, 1))))
    learner.shown, learner.phase = [], replace(Watched.phase, **phase)
    return learner


def drawn(learner: Watched, private: int = 10, public: int = 6, round_: int = 1) -> Drawn:
    """The indices of the images in each step of a round."""
    loop.train(learner, {"private": small.images(private), "public": small.images(public, seed=1)}, round_)
    return [{name: batch.index.tolist() for name, batch in batches.items()} for batches in learner.shown]


def of(steps: Drawn, name: str) -> list[int]:
    return [index for step in steps for index in step.get(name, [])]


# --- draws --------------------------------------------------------------------------------------------------------


def test_a_phase_may_draw_some_images_only_and_in_batches_of_its_own_size() -> None:
    only = np.array([9, 2, 5, 7, 1, 3])
    learner = watched(4, only=only, epochs=1)
    learner.phase = replace(learner.phase, batch=2)
    steps = drawn(learner)
    assert sorted(of(steps, "private")) == sorted(only.tolist())
    assert [len(step["private"]) for step in steps] == [2, 2, 2]
    assert [len(step["public"]) for step in steps] == [4, 4, 4]  # the plan's


def test_a_phase_that_does_not_train_sees_its_images_in_their_order() -> None:
    learner = watched(4, only=np.array([9, 2, 5, 7]), train=False, draw=("private",), epochs=1)
    assert of(drawn(learner), "private") == [9, 2, 5, 7]


def test_a_phase_may_train_on_images_as_they_are() -> None:
    plain, moved = (watched(4, augment=augment, epochs=1) for augment in (False, True))
    assert drawn(plain) == drawn(moved)
    images = small.images(10)
    for batch, augmented in zip(plain.shown, moved.shown, strict=True):
        index = batch["private"].index.numpy()
        expected = input_tensor(images.pixels[index], plain.plan.image)
        assert torch.equal(batch["private"].images, expected)
        assert not torch.equal(augmented["private"].images, expected)


def test_a_phase_may_show_the_images_of_one_set_as_they_are_and_draws_the_same() -> None:
    plain, moved = (watched(4, unaugmented=sets, epochs=1) for sets in (("public",), ()))
    assert drawn(plain) == drawn(moved)
    images = small.images(6, seed=1)
    for batch, augmented in zip(plain.shown, moved.shown, strict=True):
        expected = input_tensor(images.pixels[batch["public"].index.numpy()], plain.plan.image)
        assert torch.equal(batch["public"].images, expected)
        assert not torch.equal(augmented["public"].images, expected)
        assert torch.equal(batch["private"].images, augmented["private"].images)


@pytest.mark.parametrize("batch", [2, 3, 4, 32])
@pytest.mark.parametrize("count", [*range(1, 14), 31, 32, 33])
def test_every_image_is_drawn_exactly_once_in_an_epoch(count: int, batch: int) -> None:
    steps = drawn(watched(batch, epochs=2), count)
    half = len(steps) // 2
    assert sorted(of(steps[:half], "private")) == list(range(count))
    assert sorted(of(steps[half:], "private")) == list(range(count))


@pytest.mark.parametrize("batch", [2, 3, 4, 32])
@pytest.mark.parametrize("count", [*range(2, 14), 31, 32, 33])
def test_no_image_is_alone_in_a_batch_and_batches_are_of_nearly_one_size(count: int, batch: int) -> None:
    sizes = [len(step["private"]) for step in drawn(watched(batch), count)]
    assert min(sizes) >= 2
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= max(batch, 3)


def test_a_set_of_one_image_is_a_batch_of_one() -> None:
    assert of(drawn(watched(epochs=1), 1), "private") == [0]


def test_epochs_come_in_different_orders() -> None:
    steps = drawn(watched(epochs=2), 30)
    indices = of(steps, "private")
    assert indices[:30] != indices[30:]
    assert indices[:30] != sorted(indices[:30])


@pytest.mark.parametrize(("every", "with_public"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4]), (4, [0, 4]), (100, [0])])
def test_the_public_set_is_drawn_at_every_so_many_steps(every: int, with_public: list[int]) -> None:
    steps = drawn(watched(4, every=every), 12)
    assert len(steps) == 6
    assert [number for number, step in enumerate(steps) if "public" in step] == with_public


@pytest.mark.parametrize("every", [1, 2])
def test_the_public_set_is_drawn_cyclically(every: int) -> None:
    steps = drawn(watched(4, every=every, epochs=4), 24, public=12)
    indices = of(steps, "public")
    rounds = [sorted(indices[start : start + 12]) for start in range(0, len(indices), 12)]
    assert len(rounds) == 8 // every
    assert all(round_ == list(range(12)) for round_ in rounds)
    assert indices[:12] != indices[12:24]


def test_all_images_of_a_public_set_are_drawn_in_time_though_batches_do_not_divide_it() -> None:
    indices = of(drawn(watched(4, epochs=8), 24, public=7), "public")
    assert set(indices) == set(range(7))
    assert len(indices) == 48 * 4


def test_a_public_set_smaller_than_a_batch_is_drawn_whole() -> None:
    assert all(sorted(step["public"]) == [0, 1, 2] for step in drawn(watched(8), 24, public=3))


def test_a_step_gets_the_images_and_labels_of_its_indices() -> None:
    learner, images = watched(draw=("private",), train=False), small.images(10)
    loop.train(learner, {"private": images}, 1)
    batch = learner.shown[1]["private"]
    expected = input_tensor(images.pixels[batch.index.numpy()], learner.plan.image)
    assert torch.equal(batch.images, expected)
    assert batch.labels.tolist() == images.labels[batch.index.numpy()].tolist()


def test_a_phase_without_training_is_one_pass_in_order_without_augmentation() -> None:
    learner = watched(4, train=False, draw=("private",), epochs=1)
    assert of(drawn(learner), "private") == list(range(10))


class Looking(FedAvg):
    """Trains in one phase and only evaluates its images in another, as a method may do."""

    modes: dict[str, set[bool]]

    def phases(self, round_: int, last: bool) -> list[Phase]:
        return [Phase("before"), Phase("look", train=False), Phase("after")]

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        self.modes.setdefault(phase.name, set()).update(module.training for module in self.net.modules())
        if phase.train:
            return super().step(phase, batches)
        with torch.no_grad():
            return {"loss": float(self.loss(self.net(batches["private"].images), batches["private"]))}


def looking() -> Looking:
    plan, method = small.plan(), registry.METHODS["fedavg"]
    learner = Looking(LearnerContext(plan, SiteFacts("site-001", "small", (1, 1, 1, 1))))
    learner.receive(method.start(plan), 1)
    learner.modes = {}
    return learner


def test_modules_are_in_the_mode_of_each_phase() -> None:
    learner = looking()
    loop.train(learner, {"private": small.images(10)}, 1)
    assert learner.modes == {"before": {True}, "look": {False}, "after": {True}}


def test_a_phase_without_training_does_not_change_running_statistics() -> None:
    learner, statistics = looking(), []

    def keep(done: int, total: int, rate: float) -> None:
        if done in (3, 6):  # the last step before the evaluation, and the last one of it
            statistics.append(learner.net.bn1.running_mean.numpy().tobytes())

    loop.train(learner, {"private": small.images(10)}, 1, progress=keep)
    assert statistics[0] == statistics[1]


@pytest.mark.parametrize("at", [4, 5])
def test_a_phase_without_training_is_resumed_in_its_mode(at: int, tmp_path: Path) -> None:
    undisturbed = looking()
    loop.train(undisturbed, small.sets(undisturbed.plan), 1)
    learner = looking()
    with pytest.raises(PowerCut):
        loop.train(learner, small.sets(learner.plan), 1, checkpoints=tmp_path, every=0, progress=cut(at))
    learner = looking()
    loop.train(learner, small.sets(learner.plan), 1, checkpoints=tmp_path, every=0)
    assert learner.modes == {"look": {False}, "after": {True}}
    assert small.same(learner.state(), undisturbed.state())


def test_a_training_phase_gets_augmented_images() -> None:
    learner, images = watched(), small.images(10)
    loop.train(learner, {"private": images, "public": images}, 1)
    batch = learner.shown[0]["private"]
    assert not torch.equal(batch.images, input_tensor(images.pixels[batch.index.numpy()], learner.plan.image))


def test_pixels_are_normalised_by_the_plan() -> None:
    pixels = np.full((1, 8, 8, 3), 255, np.uint8)
    image = small.plan().image
    scaled = input_tensor(pixels, image)
    expected = [(1 - mean) / std for mean, std in zip(image.mean, image.std, strict=True)]
    assert scaled.shape == (1, 3, 8, 8)
    assert scaled[0, :, 4, 4].tolist() == pytest.approx(expected, rel=1e-5)


# --- chance --------------------------------------------------------------------------------------------------------


def pixels(learner: Watched) -> list[bytes]:
    return [batch.images.numpy().tobytes() for batches in learner.shown for batch in batches.values()]


def test_the_same_round_is_drawn_alike_whatever_was_drawn_before() -> None:
    learner, again = watched(), watched()
    first = drawn(learner)
    drawn(watched(site="site-009"), 31)
    np.random.default_rng().random()
    torch.manual_seed(77)
    assert drawn(again) == first
    assert pixels(learner) == pixels(again)


@pytest.mark.parametrize(
    ("learner", "round_"),
    [(watched(seed=4), 1), (watched(site="site-002"), 1), (watched(), 2)],
    ids=["seed", "site", "round"],
)
def test_another_seed_site_or_round_is_drawn_differently(learner: Watched, round_: int) -> None:
    reference = watched()
    assert of(drawn(reference, 30), "private") != of(drawn(learner, 30, round_=round_), "private")
    assert pixels(reference) != pixels(learner)


def test_streams_of_different_purposes_differ() -> None:
    draw = loop.RandomStreams(3, "site-001", 1)
    streams = [draw.stream(*purpose).random(4).tobytes() for purpose in [(0, 0, "private"), (0, 0, "public"), (0, 1)]]
    assert len(set(streams)) == 3


def test_a_stream_is_the_same_on_every_machine() -> None:
    assert loop.RandomStreams(3, "site-001", 1).permutation(8, 0, 0, "private").tolist() == [6, 0, 4, 3, 1, 7, 5, 2]


# --- the report ----------------------------------------------------------------------------------------------------


def test_a_report_has_the_mean_of_each_part_of_the_loss() -> None:
    report = loop.train(watched(4, draw=("private",)), {"private": small.images(10)}, 1)
    assert report.means() == {"train": {"loss": pytest.approx(3.5)}}  # of 1 to 6
    assert report.images == 20


def test_a_loss_term_of_some_steps_is_a_mean_over_these() -> None:
    learner = small.learner(small.plan("fedhelp", fedhelp={"public_every": 3}), "small", small.pack())
    report = loop.train(learner, small.sets(learner.plan), 1)
    counts = {name: count for name, (_, count) in report.losses["surrogate"].items()}
    assert counts == {"loss": 6, "public": 2, "sources": 2}


def test_time_before_an_interruption_counts(tmp_path: Path) -> None:
    learner = fresh("fedavg", "small", {})
    with pytest.raises(PowerCut):
        loop.train(learner, small.sets(learner.plan), 1, checkpoints=tmp_path, every=0, progress=cut(4))
    saved = checkpoint.newest(tmp_path)
    assert saved is not None
    before = saved[0]["report"]
    assert before["seconds"] > 0
    facts = {**saved[0], "report": {**before, "seconds": 1000.0, "cpu_seconds": 2000.0}}
    checkpoint.save(tmp_path, 3, facts, saved[1])
    learner = fresh("fedavg", "small", {})
    report = loop.train(learner, small.sets(learner.plan), 1, checkpoints=tmp_path, every=0)
    assert report.seconds > 1000
    assert report.cpu_seconds > 2000


def test_progress_counts_steps_to_their_end() -> None:
    steps: list[tuple[int, int]] = []
    loop.train(watched(), small.sets(small.plan()), 1, progress=lambda done, total, _: steps.append((done, total)))
    assert steps == [(step, 6) for step in range(1, 7)]


# --- interrupted rounds --------------------------------------------------------------------------------------------


def fresh(method: str, tier: str, numbers: dict[str, Any], **training: Any) -> Learner:
    plan = small.plan(method, **{method: numbers}, training=training)
    return small.learner(plan, tier, small.pack())


def cut(step: int) -> Callable[[int, int, float], None]:
    """A power cut after so many steps, before the last of them is saved."""

    def progress(done: int, total: int, rate: float) -> None:
        if done == step:
            raise PowerCut

    return progress


def finished(
    make: Callable[[], Learner], checkpoints: Path, cuts: Sequence[int], tier: str, round_: int = 1
) -> tuple[Learner, loop.EpochReport]:
    """A round that is interrupted repeatedly, resumed by a new process each time, and completed in the end."""
    for step in cuts:
        learner = make()
        with pytest.raises(PowerCut):
            loop.train(
                learner, small.sets(learner.plan, tier), round_, checkpoints=checkpoints, every=0, progress=cut(step)
            )
    learner = make()
    return learner, loop.train(learner, small.sets(learner.plan, tier), round_, checkpoints=checkpoints, every=0)


@pytest.fixture(scope="module")
def undisturbed() -> Undisturbed:
    """Gives what a round leaves that is not cut off; each learner trains it once."""
    ended: dict[str, tuple[Mapping[str, Array], loop.EpochReport]] = {}

    def train(method: str, tier: str, numbers: dict[str, Any]) -> tuple[Mapping[str, Array], loop.EpochReport]:
        if (key := f"{method} {tier} {numbers}") not in ended:
            learner = fresh(method, tier, numbers)
            report = loop.train(learner, small.sets(learner.plan, tier), 1)
            ended[key] = learner.state(), report
        return ended[key]

    return train


@everybody
@pytest.mark.proof
def test_a_round_interrupted_at_any_step_ends_with_the_same_bits(
    method: str,
    tier: str,
    numbers: dict[str, Any],
    effort: Callable[[int, int], int],
    undisturbed: Undisturbed,
    tmp_path: Path,
) -> None:
    state, report = undisturbed(method, tier, numbers)
    every_step, once = [1, 2, 3, 4, 5, 6], [[step] for step in range(1, 7)]
    for number, cuts in enumerate([every_step, *once][: effort(1, 7)]):
        learner, resumed = finished(lambda: fresh(method, tier, numbers), tmp_path / str(number), cuts, tier)
        assert small.same(learner.state(), state)
        assert resumed.means() == report.means()
        assert resumed.images == report.images


@pytest.mark.parametrize("tier", ["small", "large"])
def test_an_interruption_changes_nothing_with_momentum(tier: str, tmp_path: Path) -> None:
    def make() -> Learner:
        return fresh("fedhelp", tier, {}, optimiser="sgd")

    undisturbed = make()
    loop.train(undisturbed, small.sets(undisturbed.plan, tier), 1)
    learner, _ = finished(make, tmp_path, [3], tier)
    assert small.same(learner.state(), undisturbed.state())


@everybody
def test_a_later_round_is_resumed_in_the_same_way(
    method: str, tier: str, numbers: dict[str, Any], tmp_path: Path
) -> None:
    undisturbed = fresh(method, tier, numbers)
    loop.train(undisturbed, small.sets(undisturbed.plan, tier), 1)
    between, merged = undisturbed.state(), small.merged(undisturbed)
    undisturbed.receive(merged, 2)
    loop.train(undisturbed, small.sets(undisturbed.plan, tier), 2)

    def make() -> Learner:
        other = fresh(method, tier, numbers)
        other.load(between, 1)
        other.receive(merged, 2)
        return other

    learner, _ = finished(make, tmp_path, [2], tier, round_=2)
    assert small.same(learner.state(), undisturbed.state())


@everybody
def test_saving_states_changes_nothing(
    method: str, tier: str, numbers: dict[str, Any], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    learner = fresh(method, tier, numbers)
    loop.train(learner, small.sets(learner.plan, tier), 1, checkpoints=tmp_path, every=0)
    assert small.same(learner.state(), undisturbed(method, tier, numbers)[0])


def test_a_finished_round_is_not_trained_again(tmp_path: Path) -> None:
    first = fresh("fedavg", "small", {})
    report = loop.train(first, small.sets(first.plan), 1, checkpoints=tmp_path, every=1e9)
    learner, steps = fresh("fedavg", "small", {}), []
    again = loop.train(
        learner, small.sets(learner.plan), 1, checkpoints=tmp_path, progress=lambda *step: steps.append(step)
    )
    assert small.same(learner.state(), first.state())
    assert again.means() == report.means()
    assert not steps


def test_a_state_is_saved_as_each_phase_ends_however_soon_that_is(tmp_path: Path) -> None:
    learner = fresh("fedhelp", "large", {"schedule": "alternate"})
    names: list[list[str]] = []
    loop.train(
        learner,
        small.sets(learner.plan, "large"),
        1,
        checkpoints=tmp_path,
        every=1e9,
        progress=lambda *_: names.append([path.name for path in tmp_path.iterdir()]),
    )
    ends = [[], ["000000003.state"], ["000000006.state"], ["000000009.state"]]
    assert names == [end for end in ends for _ in range(3)]


@pytest.mark.parametrize("epochs", [1, 3], ids=["longer than this", "shorter than this"])
def test_the_state_of_another_round_is_ignored_and_removed(epochs: int, tmp_path: Path) -> None:
    old = fresh("fedavg", "small", {}, epochs=epochs)
    loop.train(old, small.sets(old.plan), 1, checkpoints=tmp_path, every=0)
    (before,) = tmp_path.iterdir()

    def make() -> Learner:
        learner = fresh("fedavg", "small", {})
        learner.receive(registry.METHODS["fedavg"].start(learner.plan), 2)
        return learner

    undisturbed = make()
    loop.train(undisturbed, small.sets(undisturbed.plan), 2)
    learner, _ = finished(make, tmp_path, [1, 4], "small", round_=2)
    assert small.same(learner.state(), undisturbed.state())
    assert [path.name for path in tmp_path.iterdir()] == ["000000006.state"]
    saved = checkpoint.newest(tmp_path)
    assert before.exists() is (before.name == "000000006.state")
    assert saved is not None
    assert saved[0]["round"] == 2


# --- NaN or infinite values ----------------------------------------------------------------------------------------


class Poisoned(FedAvg):
    """After `at` steps a weight is NaN, before or after that step's loss is computed."""

    at, before = 3, True
    steps = 0

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        self.steps += 1
        if self.steps == self.at and self.before:
            self.poison()
        parts = super().step(phase, batches)
        if self.steps == self.at:
            self.poison()
        return parts

    def poison(self) -> None:
        with torch.no_grad():
            self.net.conv1.weight[0, 0, 0, 0] = float("nan")


def poisoned(before: bool, at: int = 3, kind: type[Poisoned] = Poisoned) -> Poisoned:
    plan, method = small.plan(), registry.METHODS["fedavg"]
    learner = kind(LearnerContext(plan, SiteFacts("site-001", "small", (1, 1, 1, 1))))
    learner.receive(method.start(plan), 1)
    learner.before, learner.at = before, at
    return learner


@pytest.mark.parametrize("before", [True, False], ids=["loss", "weights"])
def test_a_nan_stops_the_round_and_names_the_images_of_the_batch(before: bool, tmp_path: Path) -> None:
    learner, healthy = poisoned(before), watched(4, draw=("private",))
    with pytest.raises(DivergedError) as caught:
        loop.train(learner, small.sets(learner.plan), 1, checkpoints=tmp_path, every=0)
    batch = drawn(healthy)[2]["private"]
    assert caught.value.code == "E_DIVERGED"
    assert all(f"{index}.png" in str(caught.value) for index in batch)
    assert str(caught.value).count(".png") == len(batch)


class Guided(Poisoned):
    """A small site with public images whose second loss term is infinite at the third step."""

    def phases(self, round_: int, last: bool) -> list[Phase]:
        return [Phase("train", ("private", "public"))]

    def step(self, phase: Phase, batches: Mapping[str, Batch]) -> dict[str, float]:
        self.steps += 1
        return {"loss": 1.0, "public": float("inf") if self.steps == self.at else 1.0}


def test_an_infinite_loss_term_and_its_public_images_are_named() -> None:
    learner, healthy = poisoned(True, kind=Guided), watched(4)
    public = small.images(6, seed=1)
    pack = without_predictions(public.pixels, public.labels, ("a", "b", "c", "d"))
    with pytest.raises(DivergedError) as caught:
        loop.train(learner, {"private": small.images(10), "public": pack}, 1)
    indices = drawn(healthy)[2]
    assert "part 'public' of the loss is NaN or infinite" in str(caught.value)
    named = str(caught.value).partition("the images were ")[2].split(", ")
    assert named == [f"{index}.png" for index in indices["private"]] + [f"public image {n}" for n in indices["public"]]


@pytest.mark.parametrize("before", [True, False], ids=["loss", "weights"])
def test_the_state_before_a_nan_is_saved(before: bool, tmp_path: Path) -> None:
    learner = poisoned(before)
    with pytest.raises(DivergedError):
        loop.train(learner, small.sets(learner.plan), 1, checkpoints=tmp_path, every=0)
    saved = checkpoint.newest(tmp_path)
    assert saved is not None
    assert saved[0]["done"] == 2
    assert all(np.isfinite(array).all() for array in saved[1].values())


def test_a_nan_weight_of_the_last_step_is_detected_though_no_loss_follows() -> None:
    learner = poisoned(before=False, at=6)
    with pytest.raises(DivergedError):
        loop.train(learner, small.sets(learner.plan), 1)


def test_a_learning_rate_far_too_high_stops_the_round(tmp_path: Path) -> None:
    plan = small.plan(training={"lr": 10, "optimiser": "sgd", "epochs": 50}, nets={"norm": "group"})
    learner = small.learner(plan)
    with pytest.raises(DivergedError):
        loop.train(learner, small.sets(plan), 1, checkpoints=tmp_path, every=0)


# --- answers -------------------------------------------------------------------------------------------------------


def test_probabilities_sum_to_one_for_each_image() -> None:
    learner = small.learner(small.plan())
    probabilities = loop.probabilities(learner, learner.model, small.images(7).pixels)
    assert probabilities.shape == (7, 4)
    assert probabilities.min() >= 0
    assert np.allclose(probabilities.sum(1), 1, atol=1e-6)


def test_a_net_trained_without_the_prior_answers_with_it() -> None:
    learner = small.learner(small.plan(training={"loss": "logit-adjusted"}))
    images = small.images(7)
    probabilities = loop.probabilities(learner, learner.model, images.pixels)
    learner.prior = None
    bare = loop.probabilities(learner, learner.model, images.pixels)
    examples = np.array(learner.site.examples)
    assert np.allclose(probabilities, metrics.adjust_prior(bare, np.ones(4), examples + 1), atol=1e-6)
    assert np.abs(probabilities - bare).max() > 0.01


@pytest.mark.parametrize("loss", ["ce", "symmetric"])
def test_a_net_trained_with_the_prior_answers_unchanged(loss: str) -> None:
    learner = small.learner(small.plan(training={"loss": loss}))
    pixels = small.images(7).pixels.copy()
    learner.model.eval()
    with torch.no_grad():
        logits = learner.model(input_tensor(pixels, learner.plan.image))
    assert loop.probabilities(learner, learner.model, pixels).tobytes() == logits.softmax(1).double().numpy().tobytes()


@pytest.mark.parametrize("batch", [1, 2, 7, 100])
def test_an_answer_does_not_depend_on_the_images_beside_it(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = small.learner(small.plan())
    loop.train(learner, small.sets(learner.plan), 1)
    pixels = small.images(7).pixels
    answers = []
    for size in (3, batch):
        monkeypatch.setattr(loop, "images_at_once", lambda net, size=size: size)
        answers.append(loop.probabilities(learner, learner.model, pixels))
    assert np.abs(answers[0] - answers[1]).max() < 1e-5


@everybody
def test_prediction_changes_nothing(method: str, tier: str, numbers: dict[str, Any]) -> None:
    learner = fresh(method, tier, numbers)
    loop.train(learner, small.sets(learner.plan, tier), 1)
    before, modes = learner.state(), [module.training for module in learner.model.modules()]
    loop.probabilities(learner, learner.model, small.sets(learner.plan)["private"].pixels)
    assert small.same(learner.state(), before)
    assert [module.training for module in learner.model.modules()] == modes


def test_no_images_give_no_answers() -> None:
    learner = small.learner(small.plan())
    assert loop.probabilities(learner, learner.model, small.images(0).pixels).shape == (0, 4)


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_state_on_disk_is_a_line_of_facts_and_then_safetensors(tmp_path: Path) -> None:
    learner = fresh("fedhelp", "large", {})
    loop.train(learner, small.sets(learner.plan, "large"), 1, checkpoints=tmp_path)
    (path,) = tmp_path.iterdir()
    raw = path.read_bytes()
    line, _, body = raw.partition(b"\n")
    (tmp_path / "body").write_bytes(body)
    assert raw[:1] == b"{"
    assert line[-1:] == b"}"
    with (tmp_path / "body").open("rb") as file:
        header = update.read_header(file, limit=4 << 20)
        assert header.canonical
        assert small.same(dict(update.FileArrays(file, header)), learner.state())
