"""A clinic's part in a round, whoever asks for it: our learner on its images. For scripts in any environment.

A folder holds the work: `plan.toml`, `start.npy` (the first weights as one row), and `SITE.npz` for each site. What
happened and when is added to `events.jsonl` there, from whichever process it happens in.
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
import torch._dynamo  # which the first optimiser would import

from fedhelp_edge import plan as plans
from fedhelp_edge.data.images import Images
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.methods.registry import METHODS, TABLES
from fedhelp_edge.plan import Plan
from fedhelp_edge.train import learners, loop

ROUNDS, SITES = 3, 6


def told(folder: Path, what: str, **values: Any) -> None:
    line = json.dumps({"what": what, "time": time.time(), "cpu": time.process_time(), **values}) + "\n"
    with (folder / "events.jsonl").open("a") as file:  # short enough to be written at once
        file.write(line)


def judging(folder: Path, judge: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which tells what CPU time it took to say how good something is."""

    @wraps(judge)
    def timed(*arguments: Any) -> Any:
        begin = time.process_time()
        found = judge(*arguments)
        told(folder, "judged", spent=time.process_time() - begin)
        return found

    return timed


def plan_of(folder: Path) -> Plan:
    return plans.read((folder / "plan.toml").read_text(), TABLES)


def images_of(folder: Path, site: str) -> Images:
    with np.load(folder / f"{site}.npz") as held:
        pixels, labels, splits = held["pixels"], held["labels"], tuple(map(str, held["splits"]))
    nothing = ("",) * len(labels)
    return Images(pixels, labels, splits, tuple(f"{place}.png" for place in range(len(labels))), nothing, nothing)


class Clinic:
    def __init__(self, folder: Path, site: str) -> None:
        torch.set_num_threads(1)
        self.folder, self.site, plan = folder, site, plan_of(folder)
        self.images = images_of(folder, site).part("train")
        self.learner = learners.create(plan, site, "small", self.images, None, Compute())
        self.schema = METHODS[plan.method].schema(plan)

    def train(self, row: np.ndarray, round_: int) -> tuple[np.ndarray, int]:  # type: ignore[type-arg]
        """The row of weights after a round of training, and on how many images."""
        arrays, at = {}, 0
        for tensor in self.schema.tensors:
            count = tensor.size // 4
            arrays[tensor.name] = row[at : at + count].reshape(tensor.shape)
            at += count
        self.learner.receive(arrays, round_)
        told(self.folder, "begin", round=round_, site=self.site)
        loop.train(self.learner, learners.image_sets(self.images, None), round_)
        told(self.folder, "end", round=round_, site=self.site)
        return np.concatenate([array.ravel() for array in self.learner.give().arrays.values()]), len(self.images)


clinic = lru_cache(Clinic)  # a process that is asked again has it already
