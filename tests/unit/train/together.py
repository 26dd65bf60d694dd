"""The program that torchrun starts for a test: its processes train every case together, and each saves its state."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from fedhelp_edge.errors import DivergedError
from fedhelp_edge.methods.base import Compute, Learner
from fedhelp_edge.train import checkpoint, loop, parallel
from tests.unit.methods import small

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
    learners = [learner(*case, compute) for case in CASES]
    hot = learner("fedavg", "small", {}, "group", compute, lr=10, epochs=50)
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


if __name__ == "__main__":
    train(Path(sys.argv[1]))
