"""One site's part of a round: what it begins from, what it gives, and what is judged when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fedhelp_edge.data.images import Images
from fedhelp_edge.methods.base import Learner, LearnerContext, Modules, SiteFacts
from fedhelp_edge.methods.fedavg import FedAvg
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets.net import arrays_of
from fedhelp_edge.train import loop
from fedhelp_edge.train.visit import Visit, visit
from fedhelp_edge.update import schema_of
from tests.unit.methods import small
from tests.unit.methods.tiny import tiny_nets as tiny_nets

pytestmark = pytest.mark.usefixtures("tiny_nets")
everybody = pytest.mark.parametrize(("method", "tier", "numbers"), small.EVERYBODY)
exchanging = pytest.mark.parametrize(
    ("method", "tier", "numbers"), [who for who in small.EVERYBODY if who[0] != "local"]
)


def validation(labels: np.ndarray[Any, Any], width: int = 0) -> Images:
    pixels, blank = small.images(len(labels), seed=7, width=width).pixels, ("",) * len(labels)
    return Images(pixels, labels, ("val",) * len(labels), blank, blank, blank)


def visited(method: str, tier: str, numbers: dict[str, Any]) -> tuple[Learner, Visit]:
    plan = small.plan(method, **{method: numbers})
    learner = small.learner(plan, tier, small.pack())
    images = validation(np.arange(8) % 4, plan.nets.encoder_width)
    return learner, visit(learner, small.sets(plan, tier), images, METHODS[method].start(plan), 1)


@exchanging
def test_an_update_says_how_many_examples_are_behind_it(method: str, tier: str, numbers: dict[str, Any]) -> None:
    learner, result = visited(method, tier, numbers)
    assert result.facts["examples"] == sum(learner.site.examples)


@everybody
def test_an_update_has_the_tensors_of_the_methods_schema(method: str, tier: str, numbers: dict[str, Any]) -> None:
    learner, result = visited(method, tier, numbers)
    assert schema_of(result.update).header_bytes == small.schema(learner).header_bytes


@everybody
def test_the_merged_net_is_judged_as_it_came_and_the_sites_own_after_training(
    method: str, tier: str, numbers: dict[str, Any]
) -> None:
    learner, result = visited(method, tier, numbers)
    images = validation(np.arange(8) % 4, learner.plan.nets.encoder_width)
    own = loop.probabilities(learner, learner.model, images.pixels)
    assert result.tallies["own"][0].tobytes() == own.tobytes()
    assert ("merged" in result.tallies) is (method != "local")
    if method != "local":
        fresh = small.learner(learner.plan, tier, small.pack())
        came = loop.probabilities(fresh, fresh.net, images.pixels)
        assert result.tallies["merged"][0].tobytes() == came.tobytes()
        assert result.facts["correct"] == int((came.argmax(1) == images.labels).sum())
        assert result.facts["val"] == 8


def test_judging_a_net_leaves_it_in_the_mode_that_it_was_in() -> None:
    learner = small.learner(small.plan())
    for mode in (True, False):
        learner.net.train(mode)
        loop.probabilities(learner, learner.net, small.images(3).pixels)
        assert {module.training for module in learner.net.modules()} == {mode}


class Frozen(FedAvg):
    """Keeps a second net beside its own, and looks at the images with it."""

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        self.frozen = self.new_net("resnet20", "frozen")

    def kept(self) -> Modules:
        return {**self.trained(), "frozen": self.frozen}

    def step(self, phase: Any, batches: Any) -> dict[str, float]:
        with torch.no_grad():
            self.frozen(batches["private"].images)
        return super().step(phase, batches)


def test_a_net_that_a_method_keeps_and_does_not_train_does_not_move_its_batch_norm_either() -> None:
    plan = small.plan()
    learner = Frozen(LearnerContext(plan, SiteFacts("site-001", "small", (1, 1, 1, 1))))
    before = arrays_of(learner.frozen)
    visit(learner, small.sets(plan), validation(np.arange(4)), METHODS["fedavg"].start(plan), 1)
    assert small.same(arrays_of(learner.frozen), before)
    assert learner.net.training


class Prefixed(FedAvg):
    """Gives and takes two nets, one under a prefix that is longer than the other's."""

    def __init__(self, context: LearnerContext) -> None:
        super().__init__(context)
        self.person = self.new_net("resnet20", "person")

    def gives(self) -> Modules:
        return {"": self.net, "person.": self.person}

    def takes(self, round_: int) -> Modules:
        return self.gives()


def test_a_tensor_goes_to_the_module_with_the_longest_prefix() -> None:
    learner = Prefixed(LearnerContext(small.plan(), SiteFacts("site-001", "small", (1, 1, 1, 1))))
    merged = {name: array + 1 for name, array in arrays_of(learner.net).items()}
    merged |= {f"person.{name}": array + 2 for name, array in arrays_of(learner.person).items()}
    learner.receive(merged, 1)
    received = {**arrays_of(learner.net), **{f"person.{name}": a for name, a in arrays_of(learner.person).items()}}
    assert small.same(received, merged)


def test_a_tensor_that_no_module_takes_is_refused() -> None:
    learner = small.learner(small.plan())
    with pytest.raises(ValueError, match="another net"):
        learner.receive({"person.conv1.weight": np.zeros(1, np.float32)}, 2)


def test_gradients_may_be_made_several_times_before_a_step_is_taken() -> None:
    """`descend` is `push` and `go`; a second `push` replaces the gradients of the first."""
    together, apart = (small.learner(small.plan()) for _ in range(2))
    batch, other = small.batch(), small.batch(seed=1)

    def means(learner: Learner, of: Any) -> Any:
        return of, {"loss": learner.loss(learner.net(of.images), of)}

    with_statistics = means(together, other)  # moves the running statistics as the replaced push does
    assert with_statistics
    parts = together.descend(means(together, batch))
    apart.push(means(apart, other))
    before = apart.net.conv1.weight.detach().clone()
    assert apart.push(means(apart, batch)) == parts
    assert torch.equal(apart.net.conv1.weight, before)
    apart.go()
    assert small.same(apart.state(), together.state())
