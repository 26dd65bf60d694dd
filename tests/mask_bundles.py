"""Small sites whose images have masks, their trained nets and their bundles, created once for all tests."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from export import bundle as exporting
from export import mask_bundle
from fedhelp_edge import plan as plans
from fedhelp_edge.data import loading
from fedhelp_edge.data.images import Images
from fedhelp_edge.infer import bundle
from fedhelp_edge.infer.bundle import MaskBundle
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets.net import Net
from fedhelp_edge.parcel import keys
from fedhelp_edge.plan import Plan
from fedhelp_edge.site import local_training
from fedhelp_edge.train import loop
from tests.bundles import ORIGIN
from tests.unit.data.test_masks import npz, squares

CLASSES = ("a", "b")
SIDE = 16
VOLUME = (12, 20, 16)  # sides of the volumes


@dataclass(frozen=True)
class MaskSite:
    """A site after training."""

    plan: Plan
    images: Images
    nets: dict[str, Net]
    keys: keys.Keys

    def make(self, nets: dict[str, Net] | None = None) -> exporting.ExportResult:
        return mask_bundle.create(nets or self.nets, self.images, self.plan, ORIGIN, self.keys.sign)


def plan_of(depth: int = 1, *settings: str) -> Plan:
    text = [
        'task = "segmentation"', 'name = "boxes"', 'classes = ["a", "b"]', 'method = "fedavg"', "rounds = 3",
        "[image]", f"size = {SIDE}", "channels = 1", f"depth = {depth}", "spacing = [2.0, 1.0, 1.0]",
        "[data]", "val = 0.25", "[training]", "epochs = 6", "batch = 4", "lr = 0.01", 'precision = "fp32"',
        'loss = "dice-ce"',
        "[masks]", "mirror = false",
    ]  # fmt: skip
    return plans.read("\n".join(text), METHODS, dict(setting.split("=") for setting in settings))


def site(depth: int = 1) -> MaskSite:
    """The site of pictures, or of volumes in blocks of this depth."""
    return _site(depth)


@functools.cache
def _site(depth: int) -> MaskSite:
    torch.set_num_threads(1)
    plan = plan_of(depth)
    shape = VOLUME if depth > 1 else (SIDE, SIDE)
    with tempfile.TemporaryDirectory() as folder:
        images = loading.load(
            npz(Path(folder) / "a.npz", *squares(50 if depth == 1 else 18, *shape)), plan, state_dir=Path(folder)
        )
        nets: dict[str, Net] = {}
        context = local_training.TrainingContext(plan, "site-001", "small", images, None, Compute())
        for name, method in (("own", ""), ("alone", "local"))[: 2 if depth == 1 else 1]:
            learner = context.learner(method)
            learner.receive(METHODS["fedavg"].start(plan) if name == "own" else {}, 1)
            loop.train(learner, context.sets(), 1)
            nets[name] = learner.net
    return MaskSite(plan, images, nets, keys.generate())


def export_result(depth: int = 1) -> exporting.ExportResult:
    """The bundle of that site."""
    return _export_result(depth)


@functools.cache
def _export_result(depth: int) -> exporting.ExportResult:
    return _site(depth).make()


def saved_model(folder: Path, depth: int = 1) -> Path:
    """Writes the model file with its signature and its card into a folder."""
    path = folder / "model.onnx"
    export_result(depth).write(path)
    return path


def loaded_bundle(folder: Path, depth: int = 1) -> MaskBundle:
    opened = bundle.load_any(saved_model(folder, depth), lambda key: "", threads=1)
    assert isinstance(opened, MaskBundle)
    return opened
