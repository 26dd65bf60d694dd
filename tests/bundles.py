"""A small site's trained nets and the bundle made of them, created once for all tests in a second or two."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from export import bundle as exporting
from fedhelp_edge import plan as plans
from fedhelp_edge import shell
from fedhelp_edge.cli import COMMANDS
from fedhelp_edge.data.images import Images
from fedhelp_edge.demo import phantoms
from fedhelp_edge.infer import bundle
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets.resnet import ResNet
from fedhelp_edge.parcel import keys
from fedhelp_edge.plan import Plan
from fedhelp_edge.site import local_training
from fedhelp_edge.train import loop

CLASSES = phantoms.CLASSES[:3]
SIDE = 16
PLAN = f"""name = "cells"
classes = {list(CLASSES)}
method = "fedavg"
rounds = 3
[image]
size = {SIDE}
[nets]
small = "resnet8"
[training]
epochs = 6
batch = 16
precision = "fp32"
""".replace("'", '"')
ORIGIN = exporting.Origin("fh-" + "3c" * 16, 3, "small", 4, None)


@dataclass(frozen=True)
class TrainedSite:
    """A site after training: its plan, images, two nets and keys."""

    plan: Plan
    images: Images
    nets: dict[str, ResNet]
    keys: keys.Keys

    def make(self, **options: Any) -> exporting.ExportResult:
        origin = options.pop("origin", ORIGIN)
        nets = options.pop("nets", self.nets)
        return exporting.create(nets, options.pop("images", self.images), self.plan, origin, self.keys.sign, **options)


@functools.cache
def site() -> TrainedSite:
    torch.set_num_threads(1)
    plan = plans.read(PLAN, METHODS)
    pixels, labels = phantoms.draw(220, len(CLASSES), size=SIDE, seed=5, difficulty=0.0)
    splits = ("train",) * 120 + ("val",) * 60 + ("test",) * 40
    names = tuple(f"{context}.png" for context in range(len(labels)))
    images = Images(pixels, labels, splits, names, ("",) * len(labels), ("",) * len(labels))
    context = local_training.TrainingContext(plan, "site-001", "small", images, None, Compute())
    nets: dict[str, ResNet] = {}
    for name, method in (("own", ""), ("alone", "local")):
        learner = context.learner(method)
        learner.receive(METHODS["fedavg"].start(plan) if name == "own" else {}, 1)
        loop.train(learner, context.sets(), 1)
        nets[name] = learner.net
    return TrainedSite(plan, images, nets, keys.generate())


@functools.cache
def export_result() -> exporting.ExportResult:
    return site().make()


def saved_model(folder: Path) -> Path:
    """Writes the model file with its signature and its card into a folder."""
    path = folder / "model.onnx"
    export_result().write(path)
    return path


def loaded_bundle(folder: Path) -> bundle.Bundle:
    return bundle.load(saved_model(folder), lambda key: "", threads=1)


def write_test_images(folder: Path, count: int = 6) -> Path:
    """Writes images of the test set as PNG files; they are as sharp as the training images."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, pixels in enumerate(site().images.split("test").pixels[:count]):
        Image.fromarray(pixels).save(folder / f"{index:03}.png")
    return folder


def run_command(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """Runs a site's command line in this process; returns exit code, stdout and stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        shell.run(
            shell.command_group("fedhelp_edge.cli", COMMANDS, "fedhelp-edge", "", "0"), [str(word) for word in words]
        )
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    code = exit_info.value.code
    return (code if isinstance(code, int) else 1), printed.out, printed.err


def noise(*shape: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=1)).integers(0, 256, shape, np.uint8)
