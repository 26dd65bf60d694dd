"""`encoder show` and `encoder embed`, as a scientist uses them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge import plan as plans
from fedhelp_edge.encoder import onnx_file
from fedhelp_edge.methods.registry import METHODS
from tests import encoders
from tests.command import error_code, json_output, run_in_process
from tests.unit.data import samples


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    samples.folder(tmp_path / "images", 5)
    text = {"classes": ["a", "b"], "features": np.eye(2, encoders.WIDTH).tolist(), "logit_scale": 20.0}
    encoders.save(tmp_path / "tiny.onnx", encoders.model(side=16, metadata={onnx_file.TEXT: json.dumps(text)}))
    return tmp_path


def test_show_prints_the_lines_that_make_a_plan_valid(folder: Path) -> None:
    shown = run_in_process("encoder", "show", "tiny.onnx", home=folder)
    lines = shown.stdout.split("\n\n", 1)[1]
    plan = plans.read('classes = ["a", "b"]\n' + lines, METHODS)
    onnx_file.check_plan(onnx_file.read(folder / "tiny.onnx"), plan)
    facts = json_output(run_in_process("encoder", "show", "tiny.onnx", "--json", home=folder))
    assert (facts["side"], facts["width"], facts["text_classes"]) == (16, encoders.WIDTH, ["a", "b"])


def test_embed_writes_features_labels_and_names(folder: Path) -> None:
    words = ("encoder", "embed", "tiny.onnx", "images", "--threads", "1")
    done = json_output(run_in_process(*words, "--out", "features.npz", "--json", home=folder))
    assert (done["images"], done["width"], done["views"]) == (10, encoders.WIDTH, 1)
    opened = onnx_file.read(folder / "tiny.onnx")
    with np.load(folder / "features.npz") as archive:
        assert archive["features"].shape == (10, encoders.WIDTH)
        assert archive["class_names"].tolist() == ["a", "b"]
        for row, label, name in zip(archive["features"], archive["labels"], archive["names"], strict=True):
            assert name.startswith(f"{'ab'[label]}/")
            pixels = samples.noise(5, seed=int(label))[int(Path(name).stem)]
            assert np.array_equal(row, opened.features(pixels))
    assert sorted(path.name for path in folder.iterdir()) == ["features.npz", "images", "tiny.onnx"]
    assert error_code(run_in_process(*words, "--out", "features.npz", home=folder)) == "E_FILE_EXISTS"
    run_in_process(*words, "--out", "views.npz", "--views", "4", home=folder)
    with np.load(folder / "views.npz") as archive:
        assert archive["features"].shape == (10, 4, encoders.WIDTH)


def test_a_file_that_is_no_encoder_or_no_images_are_named(folder: Path) -> None:
    (folder / "odd.onnx").write_bytes(b"odd")
    refused = run_in_process("encoder", "show", "odd.onnx", home=folder)
    assert error_code(refused) == "E_ENCODER"
    assert "encoder show" not in refused.stderr and "docs/spec/encoder.md" in refused.stderr
    (folder / "empty").mkdir()
    words = ("encoder", "embed", "tiny.onnx", "empty", "--out", "x.npz")
    assert error_code(run_in_process(*words, home=folder)) == "E_NO_IMAGES"
