"""`train`, `distill` and `evaluate` with a plan and no federation: what a person tries first."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedhelp_edge.demo import phantoms
from tests.command import SITE, error_code, json_output, run_in_process
from tests.threads import one_thread  # noqa: F401 - a fixture
from tests.unit.data import samples

PLAN = """classes = ["round", "lobed"]
rounds = 3
[image]
size = 16
[nets]
small = "resnet8"
large = "resnet8"
[training]
epochs = 1
precision = "fp32"
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with a folder for each class."""
    pixels, labels = phantoms.draw(60, 2, size=16, seed=3, difficulty=0.0)
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        folder = tmp_path / "images" / phantoms.CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    return tmp_path / "images"


def test_a_clinic_trains_from_a_folder_and_evaluates_the_result(plan: Path, images: Path, tmp_path: Path) -> None:
    trained = json_output(run_in_process("train", images, "--plan", plan, "--threads", "1", "--json", home=tmp_path))
    assert trained["examples"] == 42
    assert set(trained["val"]) == {"own", "alone"}
    measured = json_output(run_in_process("evaluate", "--plan", plan, "--threads", "1", "--json", home=tmp_path))
    assert measured["own"]["images"] == 12
    assert 0 <= measured["own"]["accuracy"]["value"] <= 1


def test_unusable_files_are_counted(plan: Path, images: Path, tmp_path: Path) -> None:
    (images / "round" / "broken.png").write_bytes(b"x")
    samples.folder(images, 2, ("oval",))
    trained = run_in_process("train", images, "--plan", plan, "--threads", "1", home=tmp_path)
    assert f"3 files were left out; 'fedhelp-edge check {images} --plan {plan}' says why\n" in trained.stderr.replace(
        f"check --plan {plan} {images}", f"check {images} --plan {plan}"
    )
    again = json_output(run_in_process("train", images, "--plan", plan, "--threads", "1", "--json", home=tmp_path))
    assert (again["examples"], again["left_out"]) == (42, 3)


def test_evaluate_writes_figures_and_a_page_into_a_folder(plan: Path, images: Path, tmp_path: Path) -> None:
    run_in_process("train", images, "--plan", plan, "--threads", "1", home=tmp_path)
    words = ("evaluate", "--plan", plan, "--threads", "1", "--out", "measured")
    first = json_output(run_in_process(*words, "--json", home=tmp_path))
    assert first.pop("page") == str(Path("measured") / "evaluation.html")
    assert json.loads((tmp_path / "measured" / "evaluation.json").read_text()) == first
    assert {"own", "alone"} <= first.keys()
    no_page = run_in_process("evaluate", "--plan", plan, "--errors", "3", home=tmp_path)
    assert "E_USAGE: wrongly answered images are for a page" in no_page.stderr
    again = run_in_process(*words, home=tmp_path)
    assert again.stderr.splitlines()[-1].endswith(str(Path("measured") / "evaluation-2.html"))
    assert (tmp_path / "measured" / "evaluation-2.html").exists()


def test_the_images_path_is_remembered_and_a_finished_round_is_not_trained_again(
    plan: Path, images: Path, tmp_path: Path
) -> None:
    first = json_output(run_in_process("train", images, "--plan", plan, "--threads", "1", "--json", home=tmp_path))
    again = json_output(run_in_process("train", "--plan", plan, "--threads", "1", "--json", home=tmp_path))
    assert first == again


def test_a_hospital_distils_and_gives_only_the_small_net(plan: Path, images: Path, tmp_path: Path) -> None:
    done = json_output(run_in_process("distill", images, "--plan", plan, "--threads", "1", "--json", home=tmp_path))
    assert done["tier"] == "large"
    small = json_output(run_in_process("train", images, "--plan", plan, "--threads", "1", "--json", home=tmp_path))
    sizes = {(Path(output["folder"]) / "share.safetensors").stat().st_size for output in (done, small)}
    assert len(sizes) == 1


def test_other_images_are_all_evaluated_and_not_added_to_the_sites_images(
    plan: Path, images: Path, tmp_path: Path
) -> None:
    run_in_process("train", images, "--plan", plan, "--threads", "1", home=tmp_path)
    pixels, labels = phantoms.draw(20, 2, size=16, seed=9, difficulty=0.0)
    np.savez(tmp_path / "other.npz", images=pixels, labels=labels, class_names=np.array(phantoms.CLASSES[:2]))
    before = (tmp_path / "fedhelp" / "images" / "split.json").read_bytes()
    figures = json_output(
        run_in_process("evaluate", "--plan", plan, "--images", "other.npz", "--threads", "1", "--json", home=tmp_path)
    )
    assert figures["own"]["images"] == 20
    assert (tmp_path / "fedhelp" / "images" / "split.json").read_bytes() == before


def test_a_killed_training_continues_to_the_same_bits(plan: Path, images: Path, tmp_path: Path) -> None:
    quiet, killed = tmp_path / "quiet", tmp_path / "killed"
    arguments = ("train", images, "--plan", plan, "--threads", "1", "--rounds", "3")
    undisturbed = json_output(run_in_process(*arguments, "--home", quiet, "--json", home=tmp_path))
    started = subprocess.Popen(
        [*SITE, *map(str, arguments), "--home", str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list(killed.glob("trial/*/round-0001/report.json")) and started.poll() is None:
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    started.wait()
    resumed = json_output(run_in_process(*arguments, "--home", killed, "--json", home=tmp_path))
    updates = [Path(output["folder"], "share.safetensors").read_bytes() for output in (undisturbed, resumed)]
    assert updates[0] == updates[1]


def test_without_images_or_training_the_remedy_is_shown(plan: Path, tmp_path: Path) -> None:
    assert error_code(run_in_process("train", "--plan", plan, home=tmp_path)) == "E_IMAGES"
    assert error_code(run_in_process("evaluate", "--plan", plan, home=tmp_path)) == "E_NOT_TRAINED"


def test_an_empty_folder_and_a_single_class_are_refused(plan: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert error_code(run_in_process("train", "empty", "--plan", plan, home=tmp_path)) == "E_NO_IMAGES"
    for image in (images / "lobed").iterdir():
        image.unlink()
    assert error_code(run_in_process("train", images, "--plan", plan, home=tmp_path)) == "E_ONE_CLASS"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_ctrl_c_ends_with_an_error_and_no_traceback(plan: Path, images: Path, tmp_path: Path) -> None:
    started = subprocess.Popen(
        [*SITE, "train", str(images), "--plan", str(plan), "--rounds", "500", "--home", str(tmp_path / "home")],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while not list((tmp_path / "home").glob("trial/*/round-0001/report.json")) and started.poll() is None:
        time.sleep(0.01)
    started.send_signal(signal.SIGINT)
    _, printed = started.communicate()
    assert started.returncode == 1, printed
    assert "error: E_INTERRUPTED: stopped by hand\nhint: run the same command again" in printed
    assert "Traceback" not in printed
