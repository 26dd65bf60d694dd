"""A round of ridge at a clinic of 200 images whose features are cached: seconds, and the most memory.

It is the second round, in which the site also makes its own head from the others' sums. 192 random dimensions, or all
1,280 features of an EfficientNet-Lite0. No site may send sums of so many features from 200 images: there it has 1,280.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np

from benchmarks import peak_mb, report
from fedhelp_edge import plan as plans
from fedhelp_edge.data.images import Images
from fedhelp_edge.merge import ridge
from fedhelp_edge.merge.closing import LastMerge
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.train import learners, machine
from fedhelp_edge.train.visit import visit

WIDTH, CLASSES, IMAGES = 1280, 8, 200


def plan_of(dimensions: int) -> plans.Plan:
    names = ", ".join(f'"{number}"' for number in range(CLASSES))
    nets = 'small = "linear"\nlarge = "linear"\nencoder = "encoder.onnx"\n'
    nets += f'encoder_sha256 = "{"0" * 64}"\nencoder_width = {WIDTH}'
    text = f'classes = [{names}]\nmethod = "ridge"\n[nets]\n{nets}\n[ridge]\n'
    return plans.read(f"{text}dimensions = {dimensions}\nleast_images = 1", METHODS)


def images(count: int, seed: int) -> Images:
    stream = np.random.Generator(np.random.Philox(seed))
    features, blank = np.abs(stream.standard_normal((count, 1, WIDTH))).astype(np.float16), ("",) * count
    return Images(features, np.arange(count) % CLASSES, ("train",) * count, blank, blank, blank)


def once(dimensions: int) -> float:
    """The seconds of a round."""
    plan, train = plan_of(dimensions), images(max(IMAGES, dimensions), 1)
    far = images(2 * dimensions, 2)
    reduced = ridge.Reduction.of(plan)(far.pixels[:, 0].astype(np.float64))
    learner = learners.create(plan, "site-001", "small", train, None, Compute())
    merged = ridge.sums_of(reduced, far.labels, CLASSES)
    begin = time.perf_counter()
    visit(learner, learners.image_sets(train, None), train.only(np.arange(20)), merged, 2, LastMerge(1, False))
    return time.perf_counter() - begin


def main() -> None:
    machine.configure()
    if sys.argv[1:2] == ["--once"]:
        print(once(int(sys.argv[2])))
        return
    for dimensions in (192,) if "--short" in sys.argv else (192, WIDTH):
        seconds = statistics.median(once(dimensions) for _ in range(1 if "--short" in sys.argv else 5))
        memory = peak_mb("benchmarks.ridge", "--once", str(dimensions))
        report(
            "a round of ridge, features cached", ("numpy", "torch"), images=max(IMAGES, dimensions),
            dimensions=dimensions, seconds=round(seconds, 2), aim_seconds=2, peak_mb=round(memory), aim_mb=300,
        )  # fmt: skip


if __name__ == "__main__":
    main()
