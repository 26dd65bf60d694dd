"""A federation of many small sites on Ray: seconds with one worker and with two, and the main process's memory.

Each site has 32 images of 32 px, of which 26 train a ResNet20 by FedAvg for one epoch. Images are mapped from one file.
The memory is the main process's own (USS): what it shares with the workers is counted nowhere.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import report
from fedhelp_edge import plan as plans
from fedhelp_edge.data.images import Images, Pixels
from fedhelp_edge.demo import phantoms
from fedhelp_edge.lab import engine as engines
from fedhelp_edge.lab import run
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.train import machine

IMAGES, SIDE, CLASSES = 32, 32, 4
SPLITS = tuple("val" if n % 10 == 8 else "test" if n % 10 == 9 else "train" for n in range(IMAGES))


def sites_of(folder: Path, count: int) -> list[SiteImages]:
    """So many sites, whose images are in one file."""
    pixels, labels = phantoms.draw(IMAGES * min(count, 50), CLASSES, size=SIDE)
    shape = (count * IMAGES, SIDE, SIDE, 3)
    rows = np.memmap(folder / "pixels", np.uint8, "w+", shape=shape)
    for index in range(shape[0]):
        rows[index] = pixels[index % len(pixels)]
    rows.flush()
    mapped, none = np.memmap(folder / "pixels", np.uint8, "r", shape=shape), ("",) * IMAGES
    sites = []
    for number in range(count):
        own = np.arange(number * IMAGES, (number + 1) * IMAGES)
        images = Images(Pixels(mapped, own), labels[own % len(labels)].astype(np.int64), SPLITS, none, none, none)
        sites.append(SiteImages(f"site-{number + 1:05}", f"site {number + 1}", "small", images))
    return sites


def own_memory() -> float:
    """This process's own memory in MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    machine.configure(1)
    names = ", ".join(f'"{name}"' for name in phantoms.CLASSES[:CLASSES])
    text = f'classes = [{names}]\nmethod = "fedavg"\nrounds = {options.rounds}\n[image]\nsize = {SIDE}\n'
    plan = plans.read(text + '[training]\nepochs = 1\nbatch = 32\nprecision = "fp32"\n', METHODS)
    hashes = set()
    for workers in options.workers:
        with tempfile.TemporaryDirectory() as folder, engines.connected("ray", workers=workers) as engine:
            sites = sites_of(Path(folder), options.sites)
            warm = sites[: 2 * workers]  # a worker's first visit imports torch
            run.run(plan, warm, Path(folder) / "warm", compute=Compute(), engine=engine)
            ends, memory = [time.monotonic()], [own_memory()]

            def note(line: str) -> None:
                ends.append(time.monotonic())  # noqa: B023 - called before the next turn
                memory.append(own_memory())  # noqa: B023

            record = run.run(plan, sites, Path(folder) / "run", compute=Compute(), engine=engine, progress=note)
        hashes.add(record["merged_sha256"])
        seconds = {f"round {n}": round(b - a, 2) for n, (a, b) in enumerate(itertools.pairwise(ends), 1)}
        report(
            f"{options.sites} sites on Ray, {workers} workers", ("torch", "ray"), **seconds,
            memory_mb=[round(mb) for mb in memory],
        )  # fmt: skip
    assert len(hashes) == 1, "the number of workers changes bits"


if __name__ == "__main__":
    main()
