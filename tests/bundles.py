"""A small site's trained nets and the bundle made of them: once for all tests, in a second or two."""

from __future__ import annotations

import functools
from collections.abc import Sequence
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
from fedhelp_edge.methods.registry import METHODS, TABLES
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
[training]
epochs = 3
batch = 16
precision = "fp32"
""".replace("'", '"')
LAST = exporting.Origin("fh-" + "3c" * 16, 3, "small", 4, None)


@dataclass(frozen=True)
class Site:
    """A site after its training: its plan, its images, its two nets, its keys."""

    plan: Plan
    images: Images
    nets: dict[str, ResNet]
    keys: keys.Keys

    def make(self, **how: Any) -> exporting.ExportResult:
        origin = how.pop("origin", LAST)
        nets = how.pop("nets", self.nets)
        return exporting.create(nets, how.pop("images", self.images), self.plan, origin, self.keys.sign, **how)


@functools.cache
def site() -> Site:
    torch.set_num_threads(1)
    plan = plans.read(PLAN, TABLES)
    pixels, labels = phantoms.draw(220, len(CLASSES), size=SIDE, seed=5, difficulty=0.0)
    splits = ("train",) * 120 + ("val",) * 60 + ("test",) * 40
    names = tuple(f"{place}.png" for place in range(len(labels)))
    images = Images(pixels, labels, splits, names, ("",) * len(labels), ("",) * len(labels))
    place = local_training.TrainingContext(plan, "site-001", "small", images, None, Compute())
    nets: dict[str, ResNet] = {}
    for name, method in (("own", ""), ("alone", "local")):
        learner = place.learner(method)
        learner.receive(METHODS["fedavg"].start(plan) if name == "own" else {}, 1)
        loop.train(learner, place.sets(), 1)
        nets[name] = learner.net
    return Site(plan, images, nets, keys.generate())


@functools.cache
def made() -> exporting.ExportResult:
    return site().make()


def kept(folder: Path) -> Path:
    """The model's file in a folder, with its signature and its card."""
    path = folder / "model.onnx"
    made().write(path)
    return path


def opened(folder: Path) -> bundle.Bundle:
    return bundle.load(kept(folder), lambda key: "", threads=1)


def pictures(folder: Path, count: int = 6) -> Path:
    """Files of the test part, as sharp as what the net learned from."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, pixels in enumerate(site().images.part("test").pixels[:count]):
        Image.fromarray(pixels).save(folder / f"{place:03}.png")
    return folder


def typed(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """A command line of a site in this process: exit code, stdout, stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        shell.run(
            shell.command_group("fedhelp_edge.cli", COMMANDS, "fedhelp-edge", "", "0"), [str(word) for word in words]
        )
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    code = ended.value.code
    return (code if isinstance(code, int) else 1), said.out, said.err


def noise(*shape: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=1)).integers(0, 256, shape, np.uint8)


__all__: Sequence[str] = ("CLASSES", "SIDE", "Site", "kept", "made", "noise", "opened", "pictures", "site", "typed")
