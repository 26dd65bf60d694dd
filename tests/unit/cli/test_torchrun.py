"""`torchrun -m fedhelp_edge distill`: one site's net, trained by two processes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge.demo import phantoms
from tests import torchrun
from tests.command import json_output, run_in_process
from tests.threads import one_thread  # noqa: F401 - a fixture

PLAN = """classes = ["round", "lobed"]
rounds = 2
[image]
size = 8
[nets]
small = "resnet8"
large = "resnet8"
[training]
epochs = 1
batch = 8
precision = "fp32"
"""


def prepared_folder(folder: Path) -> Path:
    """A folder with a plan and a few images."""
    pixels, labels = phantoms.draw(40, 2, size=8, seed=3, difficulty=0.0)
    np.savez(folder / "own.npz", images=pixels, labels=labels, class_names=np.array(phantoms.CLASSES[:2]))
    (folder / "plan.toml").write_text(PLAN)
    return folder


def distill(home: str) -> tuple[str, ...]:
    return ("distill", "own.npz", "--plan", "plan.toml", "--rounds", "2", "--threads", "1", "--home", home, "--json")


def files(home: Path) -> set[str]:
    """The names of the files in a home, except the cache, whose names differ between runs."""
    return {str(path.relative_to(home)) for path in home.rglob("*") if path.suffix != ".images"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of an undisturbed training by two processes, and its output."""
    folder = prepared_folder(tmp_path_factory.mktemp("whole"))
    done = torchrun.run(2, "-m", "fedhelp_edge", *distill("home"), folder=folder)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return folder, json.loads(line)


def update_bytes(folder: Path, output: dict[str, Any]) -> bytes:
    return (folder / output["folder"] / "share.safetensors").read_bytes()


def test_two_processes_write_and_print_what_one_does(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    folder, output = undisturbed
    alone = json_output(run_in_process(*distill("alone"), home=folder))
    assert set(output) == set(alone)
    assert output["images"] == alone["images"]
    assert files(folder / "home") == files(folder / "alone")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_stopped_processes_continue_to_the_same_bits(undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    with torchrun.start(2, "-m", "fedhelp_edge", *distill("home"), folder=prepared_folder(tmp_path)) as process:
        while not list(tmp_path.glob("home/trial/*/round-0001/own/*.state")) and process.poll() is None:
            time.sleep(0.01)
        process.terminate()
        process.communicate()
    assert process.returncode != 0
    resumed = torchrun.run(2, "-m", "fedhelp_edge", *distill("home"), folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert update_bytes(tmp_path, json.loads(resumed.stdout)) == update_bytes(*undisturbed)


def test_a_refusal_by_the_first_process_is_no_internal_error_of_the_others(tmp_path: Path) -> None:
    prepared_folder(tmp_path)
    (tmp_path / "own.npz").unlink()
    done = torchrun.run(2, "-m", "fedhelp_edge", *distill("home"), folder=tmp_path)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1
    assert errors[0] == "error: E_FILE_MISSING: own.npz does not exist"
    assert set(errors[1:]) <= {"error: E_INTERRUPTED: another of the processes has ended"}
