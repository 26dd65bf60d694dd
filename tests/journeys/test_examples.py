"""The examples run unchanged."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from fedhelp_edge.demo import phantoms
from tests import preloaded
from tests.command import COORDINATOR, SITE, run_in_process

EXAMPLES = Path(__file__).parents[2] / "examples"
ALWAYS_ON, SERVICES = EXAMPLES / "always-on", EXAMPLES / "services"


def write_images(folder: Path, count: int, seed: int) -> Path:
    """Writes a folder of images for each class of the plans."""
    pixels, labels = phantoms.draw(count, 2, size=32, seed=seed)
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folder / ("benign", "malignant")[label] / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the commands of this environment."""
    if os.name == "nt" or shutil.which("sh") is None:
        pytest.skip("the examples are shell scripts")
    pytest.importorskip("torch")
    modules = {"fedhelp-edge": "fedhelp_edge.__main__", "fedhelp-coordinator": "server_ref.cli"}
    with preloaded.commands(tmp_path_factory.mktemp("commands"), modules) as folder:
        yield folder


def play(example: str, images: Path, folder: Path, commands: Path, **environment: str) -> str:
    """Runs an example's script."""
    environment |= {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(EXAMPLES.parent),
    }  # fmt: skip
    done = subprocess.run(
        ["sh", str(EXAMPLES / example / "play.sh"), str(images)], cwd=folder, env=environment, text=True,
        capture_output=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_clinic_without_any_network_trains_two_rounds(commands: Path, tmp_path: Path) -> None:
    printed = play("usb-clinic", write_images(tmp_path / "images", 40, 0), tmp_path, commands)
    assert printed.count("ready to train") == 2
    assert "update of round 2: accepted" in printed
    assert "update of round 1: accepted" in printed
    assert "balanced accuracy" in printed


@pytest.mark.proof
def test_six_sites_train_over_the_network(commands: Path, tmp_path: Path, effort: Callable[[int, int], int]) -> None:
    """Without --proofs: one hospital and one clinic."""
    sites = [1, 3, 2, 4, 5, 6][: effort(2, 6)]
    for site in sites:
        write_images(tmp_path / "images" / f"site-{site}", 20, site)
    site_state = play("six-sites", tmp_path / "images", tmp_path, commands, SITES=" ".join(map(str, sites)))
    assert "finished: all rounds are done" in site_state
    assert "balanced accuracy" in site_state


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not here")
    units = [shutil.copy(path, tmp_path) for path in sorted(ALWAYS_ON.glob("fedhelp-edge.*"))]
    done = subprocess.run(["systemd-analyze", "verify", "--user", *units], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "fedhelp-edge" in line]
    assert (len(units), complaints) == (2, []), done.stderr


@pytest.fixture
def services(tmp_path: Path) -> list[Path]:
    """The units for services, with programs that exist."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not here")
    for name in ("fedhelp-edge", "fedhelp-coordinator"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    units = sorted(SERVICES.glob("fedhelp-*.*"))
    assert len(units) == 5
    for unit in units:
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/fedhelp/bin", str(tmp_path)))
    return sorted(tmp_path.glob("fedhelp-*.*"))


def test_systemd_accepts_the_services(services: list[Path]) -> None:
    done = subprocess.run(["systemd-analyze", "verify", *services], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "fedhelp" in line] == []


def test_systemd_rates_each_service_below_2_of_10(services: list[Path]) -> None:
    for unit in (path for path in services if path.suffix == ".service"):
        command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", unit]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout.splitlines()[-1]


def service_commands() -> Iterator[tuple[str, list[str]]]:
    """The name and the words of each command line of the units and of the compose file."""
    yaml = pytest.importorskip("yaml")
    for unit in sorted(SERVICES.glob("*.service")):
        line = next(line for line in unit.read_text().splitlines() if line.startswith("ExecStart="))
        yield unit.name, line.partition("/opt/fedhelp/bin/")[2].split()
    compose = yaml.safe_load((EXAMPLES / "container" / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        yield name, service["command"].split()


def test_services_use_commands_and_options_that_exist(tmp_path: Path) -> None:
    commands = dict(service_commands())
    assert len(commands) == 7
    for name, (program, command, *words) in commands.items():
        entry = SITE if program == "fedhelp-edge" else COORDINATOR
        known = run_in_process(command, "--help", home=tmp_path, program=entry)
        assert known.returncode == 0, name
        assert {word for word in words if word.startswith("--")} <= set(known.stdout.split()), name


def test_the_windows_task_runs_sync_every_quarter_of_an_hour() -> None:
    task = ET.parse(ALWAYS_ON / "windows-task.xml").getroot()
    repetition = {re.sub(r"{.*}", "", element.tag): element.text for element in task.iter()}
    assert repetition["Command"] == r"C:\fedhelp\.venv\Scripts\fedhelp-edge.exe"
    assert str(repetition["Arguments"]).startswith("sync ")
    assert repetition["Interval"] == "PT15M"


def test_the_crontab_has_one_line_that_runs_sync() -> None:
    (line,) = (ALWAYS_ON / "crontab").read_text().splitlines()
    minute, *rest = line.split(maxsplit=5)
    assert (minute, rest[:4]) == ("*/15", ["*"] * 4)
    assert "fedhelp-edge sync >>" in rest[4]
