"""A small federation: phantoms of three sites, a pack of public ones, and a plan with small nets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge import plan as plans
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.demo import phantoms
from fedhelp_edge.lab import partition, run
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.plan import Plan
from tests.threads import one_thread as one_thread

Runs = Callable[..., dict[str, Any]]
SIDE = 8
COUNTS = {"2": 14, "10": 20, "9": 12}  # images of each centre


def _images(counts: dict[str, int], classes: int = 3) -> Images:
    """Images of some centres: of ten, six are train, one is val, three are test."""
    pixels, labels, splits, centres = [], [], [], []
    for index, (centre, count) in enumerate(counts.items()):
        drawn, kinds = phantoms.draw(count, classes, size=SIDE, site=index + 1)
        pixels.append(drawn)
        labels.append(kinds)
        splits += [("train", "test", "train", "train", "val", "train", "test", "train", "train", "test")[n % 10]
                   for n in range(count)]  # fmt: skip
        centres += [centre] * count
    total = len(splits)
    names = tuple(f"{number}.png" for number in range(total))
    return Images(np.concatenate(pixels), np.concatenate(labels), tuple(splits), names, ("",) * total, tuple(centres))


@pytest.fixture(scope="session")
def images_of() -> Callable[..., Images]:
    return _images


@pytest.fixture(scope="session")
def images() -> Images:
    return _images(COUNTS)


@pytest.fixture(scope="session")
def parts(images: Images) -> list[SiteImages]:
    """Three sites; the one with most images is large."""
    return partition.distribute(images, "natural:centers", 0, large=1)


@pytest.fixture(scope="session")
def pack() -> Pack:
    pixels, labels = phantoms.draw(12, 4, size=SIDE, family="tissue")
    answers = np.random.Generator(np.random.Philox(1)).dirichlet(np.ones(4), (2, 12)).astype(np.float16)
    return Pack(pixels, labels, phantoms.TISSUES[:4], ("files:a", "files:b"), answers)


@pytest.fixture(scope="session")
def plan_of() -> Callable[..., Plan]:
    """Gives a plan of one method with other settings."""

    def make(method: str = "fedavg", settings: dict[str, str] | None = None, **keys: Any) -> Plan:
        top = {"method": method, "classes": list(phantoms.CLASSES[:3]), "rounds": 2, "seed": 3, **keys}
        lines = [f"{key} = {json.dumps(value)}" for key, value in top.items()]
        lines += ["[image]", f"size = {SIDE}", "[nets]", 'small = "resnet8"', 'large = "resnet8"']
        lines += ["[training]", "epochs = 1", "batch = 8"]
        lines += ['precision = "fp32"', "[public]", f"size = {SIDE}", "[fedhelp]", "public_every = 1"]
        return plans.read("\n".join(lines), METHODS, settings or {})

    return make


def _needs_pack(plan: Plan) -> bool:
    return plan.method == "fedhelp" or METHODS[plan.method].public


@pytest.fixture
def go(parts: list[SiteImages], pack: Pack) -> Callable[..., dict[str, Any]]:
    """Runs a plan over the three sites."""

    def start(plan: Plan, out: Path, **options: Any) -> dict[str, Any]:
        method_pack = pack if _needs_pack(plan) else None
        return run.run(plan, parts, out, **{"compute": Compute(), "pack": method_pack, **options})

    return start


@pytest.fixture(scope="session")
def run_once(parts: list[SiteImages], pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Gives what an undisturbed run of a plan leaves in a folder: each plan is run once, then its folder is copied."""
    folders: dict[str, Path] = {}

    def start(plan: Plan, out: Path) -> dict[str, Any]:
        options: dict[str, Any] = {"compute": Compute(), "pack": pack if _needs_pack(plan) else None}
        if (key := repr(plan)) not in folders:
            folder = tmp_path_factory.mktemp("run")
            run.run(plan, parts, folder, **options)
            folders[key] = folder
        if not (out / "run.json").exists():
            shutil.copytree(folders[key], out, dirs_exist_ok=True)
        return run.run(plan, parts, out, **options)  # which finds it finished

    return start
