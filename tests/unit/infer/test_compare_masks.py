"""Comparing a newer model for masks with an older one, on images and on volumes."""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from export.bundle import ExportResult
from fedhelp_edge.data import loading
from fedhelp_edge.errors import MaskPairError, OtherClassesError
from fedhelp_edge.infer import bundle, compare_masks
from fedhelp_edge.infer.bundle import MaskBundle
from tests import bundles, mask_bundles
from tests.bundles import run_command
from tests.command import check_schema
from tests.unit.data.test_masks import npz, squares


@functools.cache
def blind(depth: int) -> ExportResult:
    """A model that no longer sees the first class."""
    net = mask_bundles.site(depth).nets["own"]
    before = net.head.bias.data.clone()
    net.head.bias.data[1] -= 30
    try:
        return mask_bundles.site(depth).make(nets={"own": net})
    finally:
        net.head.bias.data = before


def opened(folder: Path, depth: int, result: ExportResult) -> MaskBundle:
    folder.mkdir()
    result.write(folder / "model.onnx")
    model = bundle.load_any(folder / "model.onnx", lambda key: "", threads=1)
    assert isinstance(model, MaskBundle)
    return model


def models(folder: Path, depth: int) -> tuple[MaskBundle, MaskBundle]:
    """The one of `mask_bundles`, and the blind one."""
    return opened(folder / "old", depth, mask_bundles.export_result(depth)), opened(folder / "new", depth, blind(depth))


def source(folder: Path, depth: int = 1) -> Path:
    """Images or volumes with masks that no model has seen."""
    shape = mask_bundles.VOLUME if depth > 1 else (mask_bundles.SIDE, mask_bundles.SIDE)
    return npz(folder / "others.npz", *squares(24 if depth == 1 else 12, *shape, seed=9))


@pytest.mark.parametrize("depth", [1, 8])
def test_a_class_that_is_outlined_worse_is_named_with_an_interval(depth: int, tmp_path: Path) -> None:
    old, new = models(tmp_path, depth)
    compared = compare_masks.compare(old, new, source(tmp_path, depth), cache_dir=tmp_path)
    assert compared.images == (24 if depth == 1 else 12)
    lost, other = compared.classes
    assert lost.old is not None
    assert (lost.new, lost.old > 0.2) == (0, True)
    assert lost.difference.high is not None
    assert lost.difference.high < 0
    assert "outlines a worse" in compared.verdict or "outlines a, b worse" in compared.verdict
    assert compared.difference.dice.value == pytest.approx(
        (compared.new.dice.value or 0) - (compared.old.dice.value or 0)
    )
    assert compared.worse > compared.better
    back = compare_masks.compare(new, old, source(tmp_path, depth), cache_dir=tmp_path)
    assert (back.better, back.worse) == (compared.worse, compared.better)
    assert back.classes[1].difference.value == pytest.approx(-(other.difference.value or 0))


def test_a_model_is_no_better_than_itself_and_needs_no_scipy(tmp_path: Path, monkeypatch: Any) -> None:
    old, _ = models(tmp_path, 1)
    monkeypatch.setitem(sys.modules, "scipy", None)
    compared = compare_masks.compare(old, old, source(tmp_path), cache_dir=tmp_path)
    assert (compared.better, compared.worse) == (0, 0)
    assert asdict(compared.difference.dice) == {"value": 0, "low": 0, "high": 0, "reason": None}
    assert compared.verdict == "24 images do not tell them apart"


@pytest.mark.parametrize("depth", [1, 8])
def test_what_the_site_trained_on_is_left_out(depth: int, tmp_path: Path) -> None:
    old, _ = models(tmp_path, depth)
    path, state = source(tmp_path, depth), tmp_path / "own"
    own = loading.load(path, mask_bundles.site(depth).plan, state_dir=state)
    compared = compare_masks.compare(old, old, path, cache_dir=tmp_path / "kept", state_dir=state)
    assert compared.images == len(own.split("test").cases) > 0
    assert compared.left_out == len(own.cases) - compared.images > 0


def test_images_without_masks_and_models_of_other_classes_are_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    old, _ = models(tmp_path, 1)
    bundles.write_test_images(tmp_path / "in", 2)
    with pytest.raises(MaskPairError):
        compare_masks.compare(old, old, tmp_path / "in", cache_dir=tmp_path)
    other = replace(old, facts=replace(old.facts, classes=("x", "y")))
    with pytest.raises(OtherClassesError):
        compare_masks.compare(old, other, tmp_path, cache_dir=tmp_path)


def test_the_command_compares_two_models_of_one_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, result in (("old", mask_bundles.export_result()), ("new", blind(1))):
        result.write(tmp_path / f"{name}.onnx")
    words = ("compare", tmp_path / "old.onnx", tmp_path / "new.onnx", source(tmp_path), "--home", tmp_path / "home")
    code, out, _ = run_command(capsys, *words)
    assert code == 0
    assert [line.split("  ")[0] for line in out.splitlines()[:6]] == [
        "n=24", "Dice", "IoU", "pixel accuracy", *(line.split("  ")[0] for line in out.splitlines()[4:6])
    ]  # fmt: skip
    assert out.splitlines()[4].startswith("a, n=")
    assert "the new one has the higher Dice on " in out
    check_schema("fedhelp-edge compare", result := json.loads(run_command(capsys, *words, "--json")[1]))
    assert result["verdict"] == out.splitlines()[-1]
    (tmp_path / "classes").mkdir()
    of_classes = bundles.saved_model(tmp_path / "classes")
    code, _, messages = run_command(capsys, "compare", of_classes, *words[2:])
    assert (code, "one model names classes, and the other draws masks" in messages) == (2, True)
    code, _, messages = run_command(capsys, "compare", of_classes, of_classes, *words[3:], "--masks", tmp_path)
    assert (code, "these name classes" in messages) == (2, True)
