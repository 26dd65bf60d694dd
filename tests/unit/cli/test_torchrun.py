"""`torchrun -m fedhelp_edge distill`: one site's net, trained by two processes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge import update
from fedhelp_edge.data import pseudonyms
from fedhelp_edge.demo import phantoms
from tests import preloaded, torchrun
from tests.command import json_output, run_in_process
from tests.threads import one_thread  # noqa: F401 - a fixture
from tests.unit.data.test_masks import npz, squares

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


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The command `fedhelp-edge`."""
    with preloaded.commands(tmp_path_factory.mktemp("program"), {"fedhelp-edge": "fedhelp_edge.__main__"}) as programs:
        yield programs / "fedhelp-edge"


def start_both(program: Path, folder: Path) -> list[subprocess.Popen[str]]:
    """Starts two processes as torchrun does, which imports torch once more than they."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {
        **os.environ, "HOME": str(folder), "TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
    }  # fmt: skip
    start = partial(
        subprocess.Popen[str], [program, *distill("home")], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    return [start(env={**env, "RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")]


def update_bytes(folder: Path, output: dict[str, Any]) -> bytes:
    return (folder / output["folder"] / "share.safetensors").read_bytes()


def test_two_processes_write_and_print_what_one_does(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    folder, output = undisturbed
    key = Path("images") / pseudonyms.KEY_FILE  # whose fingerprint is in the name of a cache
    (folder / "alone" / key.parent).mkdir(parents=True)
    shutil.copy(folder / "home" / key, folder / "alone" / key)
    alone = json_output(run_in_process(*distill("alone"), home=folder))
    assert set(output) == set(alone)
    assert output["images"] == alone["images"]
    assert files(folder / "home") == files(folder / "alone")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_stopped_processes_continue_to_the_same_bits(
    undisturbed: tuple[Path, dict[str, Any]], program: Path, tmp_path: Path
) -> None:
    both = start_both(program, prepared_folder(tmp_path))
    while not list(tmp_path.glob("home/trial/*/round-0001/own/*.state")) and both[0].poll() is None:
        time.sleep(0.01)
    for process in both:
        process.terminate()
    assert all(process.communicate() and process.returncode for process in both)
    resumed = start_both(program, tmp_path)
    (printed, errors), (nothing, _) = (process.communicate() for process in resumed)
    assert resumed[0].returncode == 0, errors
    assert nothing == ""
    assert update_bytes(tmp_path, json.loads(printed)) == update_bytes(*undisturbed)


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot fork")
def test_two_processes_train_on_masks_what_one_does(program: Path, tmp_path: Path) -> None:
    """To rounding: with group norm no statistics differ."""
    masks = 'task = "segmentation"\n' + PLAN.replace("resnet8", "unet8").replace("size = 8", "size = 16\nchannels = 1")
    (tmp_path / "plan.toml").write_text(masks.replace("[nets]", '[nets]\nnorm = "group"'))
    npz(tmp_path / "own.npz", *squares(40))
    (printed, errors), _ = (process.communicate() for process in start_both(program, tmp_path))
    assert printed, errors
    alone = json_output(run_in_process(*distill("alone"), home=tmp_path))
    together, single = (update.load(update_bytes(tmp_path, output)) for output in (json.loads(printed), alone))
    for name, array in single.items():
        np.testing.assert_allclose(together[name], array, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot fork")
def test_a_refusal_by_the_first_process_is_no_internal_error_of_the_others(program: Path, tmp_path: Path) -> None:
    prepared_folder(tmp_path)
    (tmp_path / "own.npz").unlink()
    first, other = start_both(program, tmp_path)
    _, refusal = first.communicate()
    other.terminate()  # as torchrun does
    _, printed = other.communicate()
    assert first.returncode == 1
    assert refusal.startswith("error: E_FILE_MISSING: own.npz does not exist\nhint: ")
    errors = {line for line in printed.splitlines() if line.startswith("error: ")}
    assert errors <= {"error: E_INTERRUPTED: another of the processes has ended"}
