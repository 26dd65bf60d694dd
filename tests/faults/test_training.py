"""A disk that fills up while a checkpoint is written: the last checkpoint stays, and the round continues from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedhelp_edge import errors, plan
from fedhelp_edge.data.images import ImageSet
from fedhelp_edge.methods import registry
from fedhelp_edge.methods.base import Learner, LearnerContext, SiteFacts
from fedhelp_edge.methods.fedavg import FedAvg
from fedhelp_edge.train import checkpoint, loop
from tests.threads import one_thread as one_thread

PLAN = """
method = "fedavg"
classes = ["benign", "malignant"]
[image]
size = 8
[training]
batch = 4
"""


@dataclass(frozen=True)
class Images(ImageSet):
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


@pytest.fixture
def sets() -> dict[str, Images]:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    return {"private": Images(pixels, np.arange(12) % 2)}


def new_learner() -> Learner:
    """A learner that has just received the first round's model."""
    plan_, method = plan.read(PLAN, registry.METHODS), registry.METHODS["fedavg"]
    learner = FedAvg(LearnerContext(plan_, SiteFacts("site-001", "small", (6, 6))))
    learner.receive(method.start(plan_), 1)
    return learner


def test_after_a_full_disk_the_round_continues_from_the_last_checkpoint_and_ends_as_if_undisturbed(
    tiny_disk: Callable[[int], Path], sets: dict[str, Images]
) -> None:
    disk = tiny_disk(10_000)  # three times the checkpoint of a small net

    def fill_disk(done: int, total: int, rate: float) -> None:
        if done == 3:
            (disk / "pictures").write_bytes(bytes(5_000_000))

    with pytest.raises(OSError) as caught:
        loop.train(new_learner(), sets, 1, checkpoints=disk / "checkpoints", every=0, progress=fill_disk)
    assert type(errors.from_os(caught.value)) is errors.NoSpaceError
    assert [path.name for path in (disk / "checkpoints").iterdir()] == ["000000002.state"]
    (disk / "pictures").unlink()
    resumed, undisturbed = new_learner(), new_learner()
    loop.train(resumed, sets, 1, checkpoints=disk / "checkpoints", every=0)
    loop.train(undisturbed, sets, 1)
    resumed_state, undisturbed_state = resumed.state(), undisturbed.state()
    assert all(resumed_state[name].tobytes() == undisturbed_state[name].tobytes() for name in undisturbed_state)


def test_a_disk_too_small_for_a_checkpoint_keeps_nothing_half_written(
    tiny_disk: Callable[[int], Path], sets: dict[str, Images]
) -> None:
    disk = tiny_disk(1_000)
    with pytest.raises(OSError) as caught:
        loop.train(new_learner(), sets, 1, checkpoints=disk / "checkpoints", every=0)
    assert type(errors.from_os(caught.value)) is errors.NoSpaceError
    assert list((disk / "checkpoints").iterdir()) == []
    assert checkpoint.newest(disk / "checkpoints") is None
