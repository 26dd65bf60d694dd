"""A disk that is full when a state is to be kept: what was kept before stays, and the round goes on from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedhelp_edge import errors, plan
from fedhelp_edge.methods import registry
from fedhelp_edge.methods.base import Compute, Learner, SiteFacts
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
class Images:
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


@pytest.fixture
def sets() -> dict[str, Images]:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    return {"private": Images(pixels, np.arange(12) % 2)}


def begun() -> Learner:
    """A site that has just received the first round's model."""
    told, method = plan.read(PLAN, registry.TABLES), registry.METHODS["fedavg"]
    made = FedAvg(told, SiteFacts("site-001", "small", (6, 6)), method.schema(told), None, Compute())
    made.receive(method.start(told), 1)
    return made


def test_a_disk_that_fills_up_keeps_the_last_state_and_after_making_room_the_round_ends_as_if_it_had_not(
    tiny_disk: Callable[[int], Path], sets: dict[str, Images]
) -> None:
    disk = tiny_disk(10_000)  # three times what is kept of a small net

    def others_fill_it(done: int, total: int, rate: float) -> None:
        if done == 3:
            (disk / "pictures").write_bytes(bytes(5_000_000))

    with pytest.raises(OSError) as caught:
        loop.train(begun(), sets, 1, checkpoints=disk / "kept", every=0, progress=others_fill_it)
    assert type(errors.from_os(caught.value)) is errors.NoSpaceError
    assert [path.name for path in (disk / "kept").iterdir()] == ["000000002.state"]
    (disk / "pictures").unlink()
    resumed, whole = begun(), begun()
    loop.train(resumed, sets, 1, checkpoints=disk / "kept", every=0)
    loop.train(whole, sets, 1)
    one, other = resumed.state(), whole.state()
    assert all(one[name].tobytes() == other[name].tobytes() for name in other)


def test_a_disk_that_holds_no_state_at_all_keeps_nothing_half_written(
    tiny_disk: Callable[[int], Path], sets: dict[str, Images]
) -> None:
    disk = tiny_disk(1_000)
    with pytest.raises(OSError) as caught:
        loop.train(begun(), sets, 1, checkpoints=disk / "kept", every=0)
    assert type(errors.from_os(caught.value)) is errors.NoSpaceError
    assert list((disk / "kept").iterdir()) == []
    assert checkpoint.newest(disk / "kept") is None
