"""A federation on masks in the laboratory: the same rounds, parcels, tables and files as one on classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge import plan as plans
from fedhelp_edge.data import loading
from fedhelp_edge.errors import UsageError
from fedhelp_edge.lab import compare, label_noise, partition, results, run, tables
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.lab.transport import SealedTransport
from fedhelp_edge.methods.base import Compute
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.plan import Plan
from fedhelp_edge.report import outlines
from tests.unit.data.test_masks import npz, squares

Sites = list[SiteImages]


def agreed(method: str = "fedavg", seed: int = 3, **settings: str) -> Plan:
    text = [
        'task = "segmentation"', 'classes = ["a", "b"]', f'method = "{method}"', "rounds = 2", f"seed = {seed}",
        "[image]", "size = 16", "channels = 1", "[nets]", 'large = "unet8"',
        "[training]", "epochs = 1", "batch = 8", 'precision = "fp32"', "[round]", "patience = 0",
    ]  # fmt: skip
    return plans.read("\n".join(text), METHODS, {name.replace("_", ".", 1): value for name, value in settings.items()})


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Sites:
    folder = tmp_path_factory.mktemp("images")
    images = loading.load(
        npz(folder / "a.npz", *squares(60)),
        agreed(),
        state_dir=folder,
    )
    return partition.distribute(images, "dirichlet:5", 0, sites=2, large=1)


@pytest.fixture
def go(sites: Sites) -> Callable[..., dict[str, Any]]:
    return lambda plan, out, **options: run.run(plan, sites, out, compute=Compute(), **options)


@pytest.mark.parametrize("method", ["fedhelp", "fedprox", "local"])
def test_a_run_reports_dice_iou_accuracy_and_distance(
    method: str, go: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    record = go(agreed(method), tmp_path)
    names = {"dice", "iou", "accuracy", "hd95"}
    assert all({"name", "tier", "n_train", "n_test", *names} <= site.keys() for site in record["sites"])
    assert record["mean"].keys() == {*names, "balanced_accuracy", "auc"}  # which are None
    assert record["mean"]["auc"] is None
    assert (record["merged"] is None) is (method == "local")
    assert [point["round"] for point in record["curve"]] == [1, 2]
    assert record["curve"][0]["own"].keys() >= names


@pytest.mark.parametrize(("codec", "norm"), [("f16", "local"), ("int8-delta", "shared"), ("lowrank", "local")])
def test_sealed_parcels_give_the_same_bits_as_memory(
    codec: str, norm: str, go: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    plan = agreed("fedhelp", wire_up=codec, wire_norm=norm)
    hashes = [
        go(plan, tmp_path / name, transport=transport)["merged_sha256"]
        for name, transport in (("plain", None), ("sealed", SealedTransport()))
    ]
    assert hashes[0] == hashes[1]


def test_no_pixel_is_kept_and_the_figures_follow_from_what_is(
    go: Callable[..., dict[str, Any]], sites: Sites, tmp_path: Path
) -> None:
    record = go(agreed(), tmp_path)
    with np.load(tmp_path / "answers.npz") as archive:
        arrays = dict(archive)
    for site, row in zip(sites, record["sites"], strict=True):
        rows = arrays[f"{site.id}/test_own"]
        assert rows.shape == (row["n_test"], outlines.width(3))
        assert float(outlines.figures(rows, np.ones((1, len(rows))))["dice"][0]) == row["dice"]
        assert arrays[f"{site.id}/test_labels"].astype(int).tolist() == site.split("test").labels.tolist()
    assert sum(array.nbytes for array in arrays.values()) < 40_000


def test_a_comparison_is_by_dice_with_intervals_over_cases_and_can_be_computed_again(
    go: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    compare.compare(["local", "fedavg"], [3, 4], tmp_path, lambda name, seed, folder: go(agreed(name, seed), folder))
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| method | seeds | Dice | IoU | pixel accuracy | HD95 | merged net: Dice | MB sent | MB received |" in text
    assert "Dice (IoU) of each site:" in text
    assert "kept:" not in text
    assert "Dice on validation images" in (tmp_path / "report.html").read_text(encoding="utf-8")
    known = results.load(tmp_path)
    assert tables.markdown(known) == text
    gain = known.compare("fedavg", "merged")["dice"]
    assert gain.low is not None
    assert gain.low <= gain.value <= gain.high  # type: ignore[operator]
    assert json.loads((tmp_path / "results.json").read_text())["runs"][0]["mean"]["hd95"] is not None
    compare.rebuild(tmp_path)
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == text


def test_other_masks_are_another_run(go: Callable[..., dict[str, Any]], sites: Sites, tmp_path: Path) -> None:
    from dataclasses import replace

    from fedhelp_edge.lab import provenance

    changed = [replace(site, images=replace(site.images, masks=np.asarray(site.images.masks) * 0)) for site in sites]
    assert provenance.data_hash(sites) != provenance.data_hash(changed)


def test_what_is_about_single_labels_is_refused(sites: Sites) -> None:
    with pytest.raises(UsageError, match="labels:K deals out classes"):
        partition.distribute(sites[0].images, "labels:1", 0, sites=2)
    with pytest.raises(UsageError, match="wrong labels are for classification"):
        label_noise.add(sites, ["symmetric:0.2"], ("a", "b"), 0)
