"""A federation whose nets work on an encoder's features: in the lab, and at a site that tries it alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge import encoder
from fedhelp_edge.data.images import Images
from fedhelp_edge.data.pack import Pack
from fedhelp_edge.encoder import Encoder
from fedhelp_edge.lab import partition, run
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.plan import Plan
from tests import encoders
from tests.command import error_code, json_output, run_in_process
from tests.threads import one_thread as one_thread
from tests.unit.data import samples

PlanOf = Callable[..., Plan]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoders.save(tmp_path_factory.mktemp("encoder") / "tiny.onnx")


@pytest.fixture(scope="module")
def agreed(plan_of: PlanOf, file: Path) -> PlanOf:
    def make(method: str = "fedavg", settings: dict[str, str] | None = None, **keys: Any) -> Plan:
        return plan_of(method, {**encoders.keys(file, views=2), "training.lr": "0.02", **(settings or {})}, **keys)

    return make


@pytest.fixture(scope="module")
def opened(agreed: PlanOf, file: Path) -> Encoder:
    found = encoder.find(agreed(), file)
    assert found
    return found


@pytest.fixture(scope="module")
def seen(images: Images, agreed: PlanOf, opened: Encoder, tmp_path_factory: pytest.TempPathFactory) -> list[SiteImages]:
    whole = encoder.embed_images(images, agreed(), opened, tmp_path_factory.mktemp("features"))
    return partition.distribute(whole, "natural:centers", 0, large=1)


@pytest.fixture(scope="module")
def public(pack: Pack, agreed: PlanOf, opened: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return encoder.embed_pack(pack, agreed(), opened, tmp_path_factory.mktemp("public"))


@pytest.mark.parametrize("method", [name for name in METHODS if name != "fedsm"])  # its selector sees pixels
def test_every_method_trains_on_features(
    method: str, agreed: PlanOf, seen: list[SiteImages], public: Pack, opened: Encoder, tmp_path: Path
) -> None:
    few = {"ridge.dimensions": "3", "ridge.least_images": "1"} if method == "ridge" else {}
    plan = agreed(method, few, rounds=2)
    record = run.run(plan, seen, tmp_path, compute=Compute(), pack=public, encoder=opened.facts(plan))
    assert all(site["accuracy"] is not None for site in record["sites"])


def test_fedavg_learns_a_linear_head(images: Images, agreed: PlanOf, opened: Encoder, tmp_path: Path) -> None:
    plan = agreed(settings={"training.epochs": "5", "training.lr": "0.05"}, rounds=8)
    shades = (images.pixels[:] // 4 + 64 * images.labels[:, None, None, None]).astype(np.uint8)
    whole = encoder.embed_images(replace(images, pixels=shades), plan, opened, tmp_path)
    sites = partition.distribute(whole, "natural:centers", 0)
    record = run.run(plan, sites, tmp_path / "out", compute=Compute(), encoder=opened.facts(plan))
    accuracies = [site["accuracy"] for site in record["sites"]]
    assert min(accuracies) > 0.7  # of three classes
    tensors = {tensor.name: tensor.shape for tensor in METHODS["fedavg"].up(plan).tensors}
    assert tensors == {"linear.weight": (3, encoders.WIDTH), "linear.bias": (3,)}


PLAN = """classes = ["a", "b"]
method = "fedavg"
rounds = 1
[image]
size = 16
[nets]
small = "linear"
large = "linear"
encoder = "tiny.onnx"
encoder_sha256 = "SHA256"
encoder_width = 24
encoder_views = 2
[data]
val = 0.3
[training]
epochs = 2
precision = "fp32"
"""


@pytest.fixture
def home(tmp_path: Path, file: Path) -> Path:
    """A plan with its encoder beside it, and images."""
    samples.folder(tmp_path / "images", 12)
    (tmp_path / "tiny.onnx").write_bytes(file.read_bytes())
    (tmp_path / "plan.toml").write_text(PLAN.replace("SHA256", encoders.digest(file)))
    return tmp_path


RUN = ("lab", "run", "plan.toml", "--data", "images", "--split", "dirichlet:9", "--threads", "1", "--out", "out")


def test_the_lab_finds_the_encoder_beside_the_plan(home: Path) -> None:
    (record,) = json_output(run_in_process(*RUN, "--json", home=home))["runs"]
    assert record["provenance"]["settings"]["nets"]["encoder"] == "tiny.onnx"
    (home / "tiny.onnx").rename(home / "elsewhere.onnx")
    assert error_code(run_in_process(*RUN, home=home)) == "E_ENCODER"
    (again,) = json_output(run_in_process(*RUN, "--encoder", "elsewhere.onnx", "--json", home=home))["runs"]
    assert again == record


def test_a_trial_remembers_its_encoder_and_measures_with_it(home: Path) -> None:
    site = home / "site"
    (home / "tiny.onnx").rename(home / "elsewhere.onnx")
    train = ("train", "images", "--plan", "plan.toml", "--home", str(site), "--threads", "1")
    assert error_code(run_in_process(*train, home=home)) == "E_ENCODER"
    report = json_output(run_in_process(*train, "--encoder", "elsewhere.onnx", "--json", home=home))
    assert report["val"]["own"] is not None
    evaluate = ("evaluate", "--plan", "plan.toml", "--home", str(site), "--threads", "1")
    measured = json_output(run_in_process(*evaluate, "--json", home=home))
    assert measured["own"]["images"] > 0
    others = samples.folder(home / "others", 3, seed=5)
    measured = json_output(run_in_process(*evaluate, "--images", str(others), "--json", home=home))
    assert measured["own"]["images"] == 6
