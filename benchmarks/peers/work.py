"""A clinic's part in a round, for whichever framework runs it: our learner on its images. Runs in any environment.

A folder holds the work: `plan.toml`, `start.npy` (the first weights as one row), and `SITE.npz` for each site. Every
process appends its events and their times to `events.jsonl` there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

sys.path.extend(path for path in os.environ["FEDHELP_BORROWED"].split(os.pathsep) if path not in sys.path)

import numpy as np
import torch
import torch._dynamo  # which the first optimiser of a peer would import

from fedhelp_edge import plan as plans
from fedhelp_edge.data.images import Images
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.plan import Plan
from fedhelp_edge.train import learners, loop

ROUNDS, SITES = 3, 6


def note(folder: Path, what: str, **values: Any) -> None:
    """Appends an event."""
    line = json.dumps({"what": what, "time": time.time(), "cpu": time.process_time(), **values}) + "\n"
    with (folder / "events.jsonl").open("a") as file:  # short enough to be written at once
        file.write(line)


def timed_judging(folder: Path, judge: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which also notes the CPU time that it takes."""

    @wraps(judge)
    def timed(*arguments: Any) -> Any:
        begin = time.process_time()
        result = judge(*arguments)
        note(folder, "judged", spent=time.process_time() - begin)
        return result

    return timed


def plan_of(folder: Path) -> Plan:
    return plans.read((folder / "plan.toml").read_text(), METHODS)


def images_of(folder: Path, site: str) -> Images:
    with np.load(folder / f"{site}.npz") as archive:
        pixels, labels, splits = archive["pixels"], archive["labels"], tuple(map(str, archive["splits"]))
    blank = ("",) * len(labels)
    return Images(pixels, labels, splits, tuple(f"{index}.png" for index in range(len(labels))), blank, blank)


class Clinic:
    def __init__(self, folder: Path, site: str) -> None:
        torch.set_num_threads(1)
        self.folder, self.site, plan = folder, site, plan_of(folder)
        self.images = images_of(folder, site).split("train")
        self.learner = learners.create(plan, site, "small", self.images, None, Compute())
        self.schema = METHODS[plan.method].up(plan)

    def train(self, row: np.ndarray, round_: int) -> tuple[np.ndarray, int]:  # type: ignore[type-arg]
        """The row of weights after a round of training, and on how many images."""
        arrays, offset = {}, 0
        for tensor in self.schema.tensors:
            count = tensor.size // 4
            arrays[tensor.name] = row[offset : offset + count].reshape(tensor.shape)
            offset += count
        self.learner.receive(arrays, round_)
        note(self.folder, "begin", round=round_, site=self.site)
        loop.train(self.learner, learners.image_sets(self.images, None), round_)
        note(self.folder, "end", round=round_, site=self.site)
        return np.concatenate([array.ravel() for array in self.learner.give().values()]), len(self.images)


clinic = lru_cache(Clinic)  # a process that is asked again has it already
