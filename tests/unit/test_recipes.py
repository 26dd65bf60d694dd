"""`plan new --for KIND`: the plan that our results support, with and without an encoder."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge import plan as plans
from fedhelp_edge import recipes
from fedhelp_edge.demo import phantoms
from fedhelp_edge.methods.registry import METHODS
from tests import encoders
from tests.command import error_code, json_output, run_in_process

WITH = ("--encoder", "encoder.onnx")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    encoders.save(tmp_path / "encoder.onnx", encoders.model(side=16))
    return tmp_path


@pytest.mark.parametrize("options", [(), WITH], ids=["pixels", "encoder"])
@pytest.mark.parametrize("kind", recipes.KINDS)
def test_the_plan_for_a_kind_of_images_has_no_mistake_and_a_reason_for_each_line(
    home: Path, kind: str, options: tuple[str, ...]
) -> None:
    assert run_in_process("plan", "new", "--for", kind, *options, home=home).returncode == 0
    assert json_output(run_in_process("plan", "check", "plan.toml", "--json", home=home))["ok"] is True
    lines = (home / "plan.toml").read_text().splitlines()
    for above, line in itertools.pairwise(lines):
        assert " = " not in line or "#" in line or above.startswith("#"), line


def test_the_plan_names_what_the_encoders_file_says(home: Path) -> None:
    run_in_process("plan", "new", "--for", "xray", *WITH, home=home)
    plan = plans.load(home / "plan.toml", METHODS)
    assert (plan.image.size, plan.nets.encoder, plan.nets.encoder_width) == (16, "encoder.onnx", encoders.WIDTH)
    assert plan.nets.encoder_sha256 == encoders.digest(home / "encoder.onnx")


def test_an_encoder_for_any_side_gets_images_of_224_pixels(home: Path) -> None:
    encoders.save(home / "encoder.onnx")
    run_in_process("plan", "new", "--for", "skin", *WITH, home=home)
    assert plans.load(home / "plan.toml", METHODS).image.size == 224


def test_a_federation_trains_by_the_plan_in_the_laboratory(home: Path) -> None:
    run_in_process("plan", "new", "--for", "cells", *WITH, home=home)
    plan = plans.load(home / "plan.toml", METHODS)
    arrays = {}
    for part, count in (("train", 12), ("val", 6), ("test", 6)):
        arrays[f"{part}_images"], labels = phantoms.draw(2 * count, 3, size=16, seed=count)
        arrays[f"{part}_labels"], arrays[f"{part}_centers"] = labels.astype(np.uint8), np.repeat([1, 2], count)
    np.savez(home / "images.npz", class_names=np.array(plan.classes), **arrays)
    lab = ("lab", "run", "plan.toml", "--data", "images.npz", "--out", "out", "--threads", "1", "--set", "rounds=2")
    (run,) = json_output(run_in_process(*lab, "--json", home=home))["runs"]
    assert [site["n_test"] for site in run["sites"]] == [6, 6]


def test_a_plan_without_an_encoder_has_the_command_that_writes_it_with_one(home: Path) -> None:
    done = run_in_process("plan", "new", "--for", "xray", home=home)
    assert "its comments say how to get one" in done.stderr
    (command,) = re.findall(r"^# fedhelp-edge (.*)", (home / "plan.toml").read_text(), re.M)
    assert run_in_process(*shlex.split(command), home=home).returncode == 0
    assert plans.load(home / "with-encoder.toml", METHODS).nets.encoder == "encoder.onnx"


def test_an_unknown_kind_is_refused_with_a_list_of_kinds_and_nothing_is_written(home: Path) -> None:
    refused = run_in_process("plan", "new", "--for", "retina", home=home)
    assert error_code(refused) == "E_USAGE"
    assert "'retina'" in refused.stderr
    assert "skin, xray, cells" in refused.stderr
    assert not (home / "plan.toml").exists()


def test_an_encoder_without_a_kind_is_refused(home: Path) -> None:
    assert error_code(run_in_process("plan", "new", *WITH, home=home)) == "E_USAGE"


@pytest.mark.parametrize("command", [("plan", "new", "--for", "skin", "--encoder"), ("encoder", "show")])
def test_an_encoder_whose_name_cannot_stand_in_a_plan_is_to_be_renamed(home: Path, command: tuple[str, ...]) -> None:
    (home / "encoder.onnx").rename(home / "my encoder.onnx")
    refused = run_in_process(*command, "my encoder.onnx", home=home)
    assert error_code(refused) == "E_ENCODER"
    assert "rename it" in refused.stderr
    assert not (home / "plan.toml").exists()
