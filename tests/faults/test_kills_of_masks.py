"""Faults G01 and G04 from an invite to a mask: each command is killed once, or its power cut, and typed again.

The merged model is the one that the lab makes of the same images, and the masks are those of an undisturbed site.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from fedhelp_edge import plan as plans
from fedhelp_edge.data import loading
from fedhelp_edge.lab import run
from fedhelp_edge.lab.partition import SiteImages
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.train import machine
from server_ref.admin import invites
from server_ref.hub.hub import Hub
from tests import command
from tests.faults import kills
from tests.faults.test_kills import make_old
from tests.federation import Federation
from tests.journeys.test_the_same_masks import PLAN, drawn

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="SIGKILL and folder flushes are POSIX"),
    pytest.mark.usefixtures("open_in_process"),
    pytest.mark.proof,
]

COMMANDS = (
    (command.SITE, "join clinic.invite --via stick --no-passphrase"),
    (command.COORDINATOR, "exchange stick"),
    (command.COORDINATOR, "open"),
    (command.COORDINATOR, "exchange stick"),
    (command.SITE, "download"),
    (command.SITE, "train site-001.npz --threads 1"),
    (command.SITE, "upload"),
    (command.COORDINATOR, "exchange stick"),
    (command.COORDINATOR, "aggregate"),
    (command.COORDINATOR, "exchange stick"),
    (command.SITE, "download"),
    (command.SITE, "export --out model.onnx --anyway --threads 1"),
    (command.SITE, "predict model.onnx {image} --out out --threads 1"),
)
OF_MASKS = {"train", "export"}  # what differs most from a life with classes
DONE_BEFORE = {"E_STATE"}  # of a command that was killed after its last step


@dataclass(frozen=True)
class Life:
    """A hub, an invite, a stick and images with masks; what the lab and an undisturbed site make of them."""

    folder: Path
    image: str
    merged: str
    masks: list[bytes]


def live(folder: Path, image: str, killed: set[str], dies_before: int, **kill: Any) -> tuple[int, str, list[bytes]]:
    """Types all commands, those in `killed` twice: the first time they die before a step, if they have as many.

    Returns how many died, the hash of the merged model, and the masks.
    """
    deaths = 0
    for program, text in COMMANDS:
        words = text.format(image=image).split()
        home = str(folder / ("home" if program == command.SITE else "hub"))
        if words[0] in killed:
            module = command.MODULES[program]
            code = kills.run(kills.type_in, folder, module, words, home, dies_before=dies_before, **kill)
            deaths += code == kills.KILLED
            make_old(folder)
        done = command.run_in_process(*words, program=program, home=folder, env={"FEDHELP_HOME": home})
        assert done.returncode == 0 or command.error_code(done) in DONE_BEFORE, (text, done.stderr)
    hub = Hub(folder / "hub")
    merged = str(hub.newest_round()["model"])
    hub.database.close()
    return deaths, merged, [path.read_bytes() for path in sorted((folder / "out" / "masks").iterdir())]


@pytest.fixture(scope="module", params=[1, 8], ids=["pictures", "volumes"])
def life(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Life:
    if request.param > 1 and not request.config.getoption("--proofs"):
        pytest.skip("with --proofs")
    folder = tmp_path_factory.mktemp("life") / "folder"
    folder.mkdir()
    image = drawn(folder, request.param)
    text = PLAN.format(depth=request.param, method="fedhelp", rounds=1).replace("quorum = 3", "quorum = 1")
    federation = Federation(folder, text, clinics=0)
    invites.write_files(folder / "clinic.invite", invites.issue(federation.hub, "Clinic", "small", 14))
    federation.hub.database.close()
    (folder / "stick").mkdir()
    machine.configure(1)
    plan = plans.read(text, METHODS)
    images = loading.load(folder / "site-001.npz", plan, state_dir=folder.parent / "cache")
    sites, compute = [SiteImages("site-001", "Clinic", "small", images)], machine.compute(plan.training.precision)
    record = run.run(plan, sites, folder.parent / "lab", compute=compute)
    quiet = shutil.copytree(folder, folder.parent / "quiet")
    with pytest.MonkeyPatch.context() as patch:
        kills.open_in_this_process(patch)
        _, merged, masks = live(quiet, image.name, set(), 0)
    assert merged == record["merged_sha256"]
    return Life(folder, image.name, merged, masks)


@pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power cut"])
def test_g01_commands_that_are_interrupted_and_typed_again_give_the_model_of_the_lab_and_the_same_masks(
    life: Life, power_cut: bool, tmp_path: Path, effort: Callable[[int, int], int]
) -> None:
    if power_cut and effort(1, 0):
        pytest.skip("with --proofs")
    killed = OF_MASKS if effort(1, 0) else {text.split()[0] for _, text in COMMANDS}
    died = []
    for point in range(effort(9, 1), 1000, effort(1000, 3)):
        folder = shutil.copytree(life.folder, tmp_path / f"{point}")
        deaths, *outcome = live(folder, life.image, killed, point, power_cut=power_cut)
        assert outcome == [life.merged, life.masks], point
        shutil.rmtree(folder)
        if not deaths:
            break
        died.append(deaths)
    print(f"{sum(died)} commands died in {len(died)} lives")
    assert sum(died) > 1
