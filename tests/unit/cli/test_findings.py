"""Findings about images appear in every output with figures of them, in the same sentences."""

from __future__ import annotations

import html
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from fedhelp_edge.demo import phantoms
from fedhelp_edge.parcel import keys
from tests.command import json_output, run_in_process
from tests.threads import one_thread  # noqa: F401 - a fixture

PLAN = """name = "smears"
classes = ["round", "lobed"]
method = "fedavg"
rounds = 1
[image]
size = 16
[nets]
small = "resnet8"
large = "resnet8"
[training]
epochs = 1
batch = 8
yardstick = false
precision = "fp32"
"""
BY_PLAN = ("--plan", "plan.toml", "--threads", "1")
SAID = "2 of 24 validation images show a patient (or nearly the same picture) that is also in train"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A plan, keys, and images with two patients in both train and val."""
    pixels, labels = phantoms.draw(60, 2, size=16, seed=2, difficulty=0.0)
    patients, arrays = np.arange(60), {}
    patients[[24, 25]] = patients[[0, 1]]
    for name, part in {"train": slice(0, 24), "val": slice(24, 48), "test": slice(48, 60)}.items():
        arrays |= {f"{name}_images": pixels[part], f"{name}_labels": labels[part], f"{name}_groups": patients[part]}
        arrays[f"{name}_centers"] = np.arange(60)[part] % 2
    np.savez(tmp_path / "images.npz", class_names=np.array(phantoms.CLASSES[:2]), **arrays)
    (tmp_path / "plan.toml").write_text(PLAN)
    keys.save(tmp_path / "fedhelp", keys.generate(), None)
    return tmp_path


def sentences(output: dict[str, object]) -> list[str]:
    return [finding["sentence"] for finding in output["findings"]]  # type: ignore[index, attr-defined]


def test_a_leak_is_reported_by_check_train_the_rounds_page_evaluate_export_and_the_card(home: Path) -> None:
    assert sentences(
        json_output(run_in_process("check", "images.npz", "--plan", "plan.toml", "--json", home=home))
    ) == [SAID]
    assert f"note: {SAID}\n" in run_in_process("check", "images.npz", "--plan", "plan.toml", home=home).stdout
    assert f"note: {SAID}\n" in run_in_process("train", "images.npz", *BY_PLAN, home=home).stderr
    trained = json_output(run_in_process("train", "images.npz", *BY_PLAN, "--json", home=home))
    assert sentences(trained) == [SAID]
    assert html.escape(SAID) in (Path(str(trained["folder"])) / "report.html").read_text(encoding="utf-8")
    measured = json_output(run_in_process("evaluate", *BY_PLAN, "--out", "figures", "--json", home=home))
    assert sentences(measured) == [SAID]
    assert html.escape(SAID) in (home / "figures" / "evaluation.html").read_text(encoding="utf-8")
    assert sentences(json.loads((home / "figures" / "evaluation.json").read_text(encoding="utf-8"))) == [SAID]
    assert f"note: {SAID}\n" in run_in_process("evaluate", *BY_PLAN, home=home).stderr
    exported = json_output(run_in_process("export", *BY_PLAN, "--out", "model.onnx", "--json", home=home))
    assert sentences(exported) == [SAID]
    assert f"- {SAID}\n" in (home / "model_CARD.md").read_text(encoding="utf-8")
    assert f"note: {SAID}\n" in run_in_process("export", *BY_PLAN, "--out", "model.onnx", home=home).stderr


def test_a_leak_is_reported_in_the_labs_results_and_table(home: Path) -> None:
    lab = ("plan.toml", "--data", "images.npz", "--out", "out", "--threads", "1", "--split", "natural:centers")
    (record,) = json_output(run_in_process("lab", "compare", *lab, "--methods", "fedavg", "--json", home=home))["runs"]
    assert sentences(record) == [SAID]
    assert sentences(json.loads((home / "out" / "results.json").read_text(encoding="utf-8"))["runs"][0]) == [SAID]
    assert f"- {SAID}\n" in (home / "out" / "table.md").read_text(encoding="utf-8")
    assert f"note: {SAID}\n" in run_in_process("lab", "run", *lab[:4], "one", *lab[5:], home=home).stderr


def test_other_evaluated_images_are_compared_with_the_training_images(home: Path) -> None:
    run_in_process("train", "images.npz", *BY_PLAN, home=home)
    held = dict(np.load(home / "images.npz"))
    images = np.concatenate([held["train_images"][2:5], held["test_images"][:6]])
    labels = np.concatenate([held["train_labels"][2:5], held["test_labels"][:6]])
    np.savez(home / "others.npz", images=images, labels=labels, class_names=held["class_names"])
    measured = run_in_process("evaluate", *BY_PLAN, "--images", "others.npz", "--json", home=home)
    sentence = "3 of 9 test images show a patient (or nearly the same picture) that is also in train"
    assert sentences(json_output(measured)) == [sentence]
    (home / "images.npz").unlink()
    measured = run_in_process("evaluate", *BY_PLAN, "--images", "others.npz", "--json", home=home)
    assert [finding["kind"] for finding in json_output(measured)["findings"]] == ["unknown-training-images"]
