"""What torchrun starts for a test: processes that train every case together, and each keep what they end with."""

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
    if tier == "small" or method == "fedhelp"  # others are alike at both
]


def learner(method: str, tier: str, numbers: dict[str, Any], norm: str, bench: Compute, **training: Any) -> Learner:
    """Steps of 7 and 6 private images and 7 public ones, which two or three processes cannot share evenly."""
    told = {"batch": 8, "optimiser": "sgd", "lr": 0.01, **training}
    plan = small.plan(method, **{method: numbers}, nets={"norm": norm}, training=told)
    return small.learner(plan, tier, small.knowledge(7), bench=bench)


def sets(tier: str) -> dict[str, small.Images]:
    private = {"private": small.images(13, seed=1)}
    return private if tier == "large" else {**private, "public": small.images(7, 5, seed=2)}


def train(out: Path) -> None:
    torch.set_num_threads(1)
    bench = parallel.join(Compute())
    made = [learner(*case, bench) for case in CASES]
    hot = learner("fedavg", "small", {}, "group", bench, lr=10, epochs=50)
    if bench.rank:
        waiting = iter([*made, hot])
        loop.follow(lambda *_: next(waiting), sets("small"))
    else:
        for case, one in zip(CASES, made, strict=True):
            report = loop.train(one, sets(case[1]), 1)
            checkpoint.save(out / "reports" / name(case), 0, report.means(), {})
        try:
            loop.train(hot, sets("small"), 1)
        except DivergedError as fault:
            (out / "diverged").write_text(str(fault))
    for case, one in zip(CASES, made, strict=True):
        checkpoint.save(out / str(bench.rank) / name(case), 0, {}, one.state())
    parallel.leave(bench)


def name(case: tuple[str, str, dict[str, Any], str]) -> str:
    return "-".join([*case[:2], *case[2].values(), case[3]])


if __name__ == "__main__":
    train(Path(sys.argv[1]))
