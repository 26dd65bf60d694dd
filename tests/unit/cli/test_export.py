"""`export` after a trial, and the output of `inspect` and `doctor` for its model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

pytest.importorskip("torch")

from fedhelp_edge.cli import export
from fedhelp_edge.cli import export as command
from fedhelp_edge.demo import phantoms
from fedhelp_edge.parcel import keys
from tests import bundles
from tests.bundles import run_command
from tests.unit.cli.test_inspect import SHAPE

PLAN = """name = "smears"
classes = ["round", "lobed"]
method = "fedavg"
rounds = 2
[image]
size = 8
[nets]
small = "resnet8"
large = "resnet8"
[training]
epochs = 1
precision = "fp32"
"""
Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def trial(tmp_path: Path, capsys: Capsys) -> Path:
    """A folder with a plan, images, and a home with keys where two rounds were trained."""
    pixels, labels = phantoms.draw(60, 2, size=8, seed=2)
    parts = {"train": slice(0, 24), "val": slice(24, 48), "test": slice(48, 60)}
    arrays = {f"{name}_images": pixels[part] for name, part in parts.items()}
    np.savez(tmp_path / "images.npz", **arrays, **{f"{name}_labels": labels[part] for name, part in parts.items()})
    (tmp_path / "plan.toml").write_text(PLAN)
    keys.save(tmp_path / "home", keys.generate(), None)
    done = run_command(
        capsys, "train", tmp_path / "images.npz", "--plan", tmp_path / "plan.toml", "--home", tmp_path / "home",
        "--rounds", "2", "--threads", "1",
    )  # fmt: skip
    assert done[0] == 0, done
    return tmp_path


def test_a_trained_round_becomes_a_model_that_answers_and_older_ones_stay(trial: Path, capsys: Capsys) -> None:
    words = ("export", "--plan", trial / "plan.toml", "--home", trial / "home", "--threads", "1")
    code, out, err = run_command(capsys, *words)
    assert code == 0, err
    assert "  chosen" in out
    newest = trial / "home" / "bundles" / "round-000002.onnx"
    assert newest.exists()
    facts = json.loads(run_command(capsys, *words, "--round", "1", "--json")[1])
    assert (facts["round"], facts["precision"]) == (1, "fp32")
    assert {"own", "alone", "average", "kept"} >= set(facts["figures"]) >= {"own"}  # the merged net is its own
    assert "how much each net counts: " in out
    assert newest.exists()
    assert Path(facts["path"]).name == "round-000001.onnx"
    for path in (newest, facts["path"]):
        rows = json.loads(
            run_command(capsys, "predict", path, trial / "images.npz", "--home", trial / "home", "--format", "json")[1]
        )["results"]
        assert len(rows) == 60
    assert "E_NOT_TRAINED" in run_command(capsys, *words, "--round", "7")[2]


def test_without_keys_nothing_is_exported(trial: Path, capsys: Capsys) -> None:
    for path in (trial / "home").glob("keys.*"):
        path.unlink()
    code, _, err = run_command(capsys, "export", "--plan", trial / "plan.toml", "--home", trial / "home")
    assert code == 1
    assert "E_KEYS_MISSING" in err


def test_without_a_plan_or_a_federation_the_remedy_is_shown(tmp_path: Path, capsys: Capsys) -> None:
    assert "E_NOT_JOINED" in run_command(capsys, "export", "--home", tmp_path)[2]


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    bundles.saved_model(tmp_path)
    keys.save(tmp_path / "home", bundles.site().keys, None)
    return tmp_path


def test_inspect_describes_a_model_and_runs_its_test_images(shelf: Path, capsys: Capsys) -> None:
    model = shelf / "model.onnx"
    code, out, _ = run_command(capsys, "inspect", model, "--home", shelf / "home", "--json")
    printed = json.loads(out)
    jsonschema.validate(printed, SHAPE)
    assert (code, printed["kind"], printed["whole"], printed["trusted"]) == (0, "bundle", True, True)
    assert printed["parity"] <= 1
    shown = run_command(capsys, "inspect", model, "--home", shelf / "home")[1]
    assert "answers    as at export" in shown
    stranger = json.loads(run_command(capsys, "inspect", model, "--home", shelf / "nowhere", "--json")[1])
    assert (stranger["trusted"], stranger["whole"]) == (False, True)


def test_a_strangers_model_is_described_but_not_run(shelf: Path, capsys: Capsys) -> None:
    keys.save(shelf / "other", keys.generate(), None)
    printed = json.loads(run_command(capsys, "inspect", shelf / "model.onnx", "--home", shelf / "other", "--json")[1])
    assert (printed["whole"], printed["trusted"], printed["parity"]) == (True, False, None)
    assert printed["why"].startswith("E_SIGNER_UNKNOWN")


def test_a_damaged_model_is_not_whole(shelf: Path, capsys: Capsys) -> None:
    data = bytearray((shelf / "model.onnx").read_bytes())
    data[1000] ^= 1
    (shelf / "model.onnx").write_bytes(data)
    code, out, _ = run_command(capsys, "inspect", shelf / "model.onnx", "--json")
    assert (code, json.loads(out)["whole"]) == (1, False)


def test_doctor_runs_a_models_test_images(shelf: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedhelp_edge import doctor

    here = doctor._model(shelf / "home", shelf / "model.onnx")
    assert (here.state, "answers as at export" in here.detail) == (doctor.PASS, True)
    assert doctor._model(shelf / "nowhere", shelf / "model.onnx").state == doctor.WARN
    shutil.copy(shelf / "model_CARD.md", shelf / "model.onnx.sig")
    assert doctor._model(shelf / "home", shelf / "model.onnx").state == doctor.FAIL


def facts_with_answers(answered: int, images: int) -> Any:
    printed = {"images": images, "answered": answered, "right": answered, "unlike": 0, "accuracy": 0.5}
    return replace(bundles.export_result().facts, validation=printed)


def test_a_model_that_answers_almost_nothing_is_a_failure_named_in_the_first_line(
    trial: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = replace(bundles.export_result(), facts=facts_with_answers(1, 28))
    monkeypatch.setattr(export, "_export", lambda *arguments: result)
    words = ("export", "--plan", trial / "plan.toml", "--home", trial / "home", "--out", trial / "model.onnx")
    code, out, err = run_command(capsys, *words)
    assert code == 1
    first, why, to_do, *_ = out.splitlines()
    assert first == 'warning: this model nearly always says "don\'t know": it answers 1 of 28 validation images'
    assert "27 images are uncertain" in why
    assert to_do.startswith("what to do: ")
    assert "not ready to diagnose with" in err
    assert "next:" not in err
    code, out, _ = run_command(capsys, *words, "--json")
    assert (code, json.loads(out)["ready"]) == (1, False)
    assert (trial / "model.onnx").exists()
    code, out, _ = run_command(capsys, *words, "--anyway")
    assert (code, out.splitlines()[0]) == (0, first)


@pytest.mark.parametrize(
    ("answered", "images", "warns", "ready"),
    [(1, 28, True, False), (0, 8, True, True), (2, 100, True, False), (10, 100, False, True), (20, 28, False, True)],
)
def test_a_models_verdict_depends_on_the_number_of_test_images(
    answered: int, images: int, warns: bool, ready: bool
) -> None:
    facts = facts_with_answers(answered, images)
    assert (bool(command._too_few_answers(facts)), command._is_ready(facts)) == (warns, ready)
