"""A program whose processes train every case together, as if torchrun had started them, and each saves its state.

They are forks of one process, so torch is imported once. tests/unit/cli/test_torchrun.py has torchrun start commands.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fedhelp_edge.errors import DivergedError
from fedhelp_edge.methods.base import Compute, Learner
from fedhelp_edge.train import checkpoint, loop, parallel
from tests.unit.methods import small, tiny

CASES = [
    (method, tier, numbers, norm)
    for norm in ("batch", "group")
    for method, tier, numbers in small.EVERYBODY
    if method not in small.ON_FEATURES  # all cases here share the same images
    if tier == "small" or method == "fedhelp"  # other methods are equal at both tiers
]


def learner(method: str, tier: str, numbers: dict[str, Any], norm: str, compute: Compute, **training: Any) -> Learner:
    """Steps of 7 and 6 private images and 7 public ones, which two or three processes cannot share evenly."""
    settings = {"batch": 8, "optimiser": "sgd", "lr": 0.01, **training}
    plan = small.plan(method, **{method: numbers}, nets={"norm": norm}, training=settings)
    return small.learner(plan, tier, small.pack(7), compute=compute)


def sets(tier: str) -> dict[str, small.Images]:
    private = {"private": small.images(13, seed=1)}
    return private if tier == "large" else {**private, "public": small.images(7, 5, seed=2)}


def train(out: Path) -> None:
    torch.set_num_threads(1)
    compute = parallel.join(Compute())
    hot = learner("fedavg", "small", {}, "group", compute, lr=10, epochs=50)  # large enough to diverge
    tiny.shrink(pytest.MonkeyPatch())
    learners = [learner(*case, compute) for case in CASES]
    if compute.rank:
        waiting = iter([*learners, hot])
        loop.follow(lambda *_: next(waiting), sets("small"))
    else:
        for case, each in zip(CASES, learners, strict=True):
            report = loop.train(each, sets(case[1]), 1)
            checkpoint.save(out / "reports" / name(case), 0, report.means(), {})
        try:
            loop.train(hot, sets("small"), 1)
        except DivergedError as error:
            (out / "diverged").write_text(str(error))
    for case, each in zip(CASES, learners, strict=True):
        checkpoint.save(out / str(compute.rank) / name(case), 0, {}, each.state())
    parallel.leave(compute)


def name(case: tuple[str, str, dict[str, Any], str]) -> str:
    return "-".join(map(str, (*case[:2], *case[2].values(), case[3])))


def start(out: Path, ranks: int) -> list[int]:
    """Starts so many processes with what torchrun puts into their environment; returns their ids."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = []
    for rank in range(ranks):
        if child := os.fork():
            started.append(child)
        else:
            os.environ.update({name: str(value) for name, value in (settings | {"RANK": rank}).items()})
            train(out)
            os._exit(0)
    return started


if __name__ == "__main__":
    base, *counts = sys.argv[1:]
    failed = [os.waitpid(child, 0)[1] for count in counts for child in start(Path(base) / count, int(count))]
    sys.exit(any(failed))
