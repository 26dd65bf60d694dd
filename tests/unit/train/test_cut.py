"""A round of any method that is cut after any step ends with the bits of an undisturbed one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge.data.images import Images
from fedhelp_edge.merge.closing import LastMerge
from fedhelp_edge.methods import registry
from fedhelp_edge.methods.base import Compute, Learner
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.train import learners, loop
from tests.threads import one_thread as one_thread
from tests.unit.methods import small, tiny
from tests.unit.methods.tiny import tiny_nets as tiny_nets

TRAINING = {"batch": 4, "precision": "fp32", "epochs": 1}


class Cut(Exception):
    """A simulated power cut."""


@pytest.mark.parametrize("tier", ["small", "large"])
@pytest.mark.parametrize("method", list(METHODS))
def test_a_round_cut_after_any_step_ends_with_the_same_bits(
    method: str, tier: str, tmp_path: Path, tiny_nets: None
) -> None:
    plan = small.plan(method, classes=3, rounds=2, training=TRAINING, **{method: tiny.SETTINGS.get(method, {})})
    train, pack = site_images(plan.nets.encoder_width), small.pack()

    def play(round_: int, merged: Any, before: Any, cut_after: int = 0) -> Learner:
        def count(done: int, total: int, rate: float) -> None:
            steps.append(done)
            if done == cut_after:
                raise Cut

        learner = learners.create(plan, "site-001", tier, train, pack, Compute(), encoder=small.encoder(plan))
        if before:
            learner.load(before, round_)
        learner.receive(merged, round_, LastMerge(1, True) if round_ > 1 else LastMerge())
        sets, folder = learners.image_sets(train, pack), tmp_path / str(round_)
        loop.train(learner, sets, round_, checkpoints=folder, every=0, progress=count)
        return learner

    steps: list[int] = []
    base = METHODS[method].start(plan)
    first = play(1, base, None)
    merged: Any = base
    if METHODS[method].exchanges:
        all_of_it = registry.merge(plan, 1, base, {"site-001": first.give()}, {"site-001": 8}, public=pack)
        merged = {tensor.name: all_of_it[tensor.name] for tensor in METHODS[method].down(plan, pack).tensors}
    before = first.state()
    steps.clear()
    undisturbed = play(2, merged, before)
    for cut_after in sorted(set(steps)):
        shutil.rmtree(tmp_path / "2")
        with pytest.raises(Cut):
            play(2, merged, before, cut_after)
        resumed = play(2, merged, before)
        assert small.same(resumed.give(), undisturbed.give())
        assert small.same(resumed.state(), undisturbed.state())


def site_images(width: int) -> Images:
    drawn, blank = small.images(8, 3, width=width), ("",) * 8
    return Images(drawn.pixels, drawn.labels, ("train",) * 8, blank, blank, blank)
