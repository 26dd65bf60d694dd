"""The front and the coordinator as two users of one machine, set up as docs/coordinator.md says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from server_ref.hub import hub as hubs
from server_ref.hub import models
from tests import command
from tests.federation import PLAN, SimulatedClinic
from tests.http_front import Client

ROOT = Path(__file__).parents[2]
COORDINATOR, FRONT, GROUP = 61001, 61002, 61000
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
pytestmark = pytest.mark.skipif(
    os.name == "nt" or os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="only root on Linux can work as two users",
)


def user(number: int) -> tuple[str, ...]:
    return ("setpriv", f"--reuid={number}", f"--regid={GROUP}", "--clear-groups", "--inh-caps=-all")


@pytest.fixture(scope="module")
def program() -> tuple[str, ...]:
    """The command line, run by a Python of this version that other users can run too."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        check = "import subprocess, sys, server_ref; subprocess.run([sys.executable, '-c', ''], check=True)"
        if Path(python).exists():
            attempt = [*user(FRONT), python, "-c", check]
            if not subprocess.run(attempt, env=ENVIRONMENT, capture_output=True, check=False).returncode:
                return (python, *command.COORDINATOR[1:])
    pytest.skip("another user of this machine cannot run this Python")


@pytest.fixture
def home(program: tuple[str, ...]) -> Iterator[Path]:
    """A hub that the coordinator's user created and shared as docs/coordinator.md says."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        os.chown(folder, COORDINATOR, GROUP)
        (Path(folder) / "plan.toml").write_text(PLAN)
        created = coordinator(
            program, Path(folder) / "hub", "init", "--plan", Path(folder) / "plan.toml", "--no-passphrase"
        )
        assert created.returncode == 0, created.stderr
        page = (ROOT / "docs" / "coordinator.md").read_text(encoding="utf-8")
        script = re.findall(r"```sh\n# two users, one hub\n(.*?)```", page, re.S)[0]
        for name, number in (("fedhelp-front", FRONT), ("fedhelp-hub", GROUP), ("/srv/fedhelp/hub", f"{folder}/hub")):
            script = script.replace(name, str(number))
        subprocess.run(["sh", "-euc", re.sub(r"\bfedhelp\b(?=:)", str(COORDINATOR), script)], check=True)
        yield Path(folder) / "hub"


def coordinator(program: tuple[str, ...], home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return command.run(
        *arguments, "--home", home, home=home.parent, program=program, before=user(COORDINATOR), env=ENVIRONMENT
    )  # fmt: skip


@contextmanager
def ending(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()


def test_a_round_works_while_the_fronts_user_can_read_no_key_and_no_update(
    home: Path, program: tuple[str, ...]
) -> None:
    def json_of(*arguments: str | Path) -> dict[str, Any]:
        process = coordinator(program, home, *arguments, "--json")
        assert process.returncode == 0, process.stderr
        result: dict[str, Any] = json.loads(process.stdout)
        return result

    environment = {**os.environ, **ENVIRONMENT, "HOME": str(home.parent)}
    serve = [*user(FRONT), *program, "serve", "--home", str(home), "--port", "0", "--json"]
    with subprocess.Popen(serve, env=environment, stdout=subprocess.PIPE, text=True) as front, ending(front):
        assert front.stdout
        port = int(json.loads(front.stdout.readline())["url"].rsplit(":", 1)[1])
        hub = hubs.Hub(home)
        client = Client(port, hub.federation)
        clinics = []
        for number in range(2):
            clinic = SimulatedClinic(hub.federation, home.parent / f"clinic{number}")
            invited = json_of("invite", f"Clinic {number}", "--tier", "small")
            clinic.id = str(invited["site"])
            assert client.begin(clinic.enrolment_request(str(invited["code"])), first=10**6).status == 201
            clinics.append(clinic)
        assert json_of("requests") == {"requests": [], "schema_version": 1}
        assert json_of("open")["round"] == 1
        task = hub.tasks(1)[1]
        for clinic in clinics:
            arrays = {
                name: array + 0.01 * (clinic is clinics[0]) + 0.01
                for name, array in models.load(hub, task.base).items()
            }
            client.send(clinic.give(task, arrays))
        (home.parent / "stick").mkdir()
        os.chown(home.parent / "stick", COORDINATOR, GROUP)
        assert json_of("exchange", home.parent / "stick")["refused"] == []  # the exchange signs receipts too
        unreadable = [name for name in ("coordinator", "round-keys", "shares", "models", "root", "coordinator/keys.txt")
                if subprocess.run([*user(FRONT), "test", "-r", home / name], check=False).returncode]  # fmt: skip
        assert json_of("aggregate")["accepted"] == ["site-001", "site-002"]
        assert client.read(clinics[0].keys, "/v1/current").status == 200
        listed = client.current_hashes(clinics[0].keys)
        assert all(client.read(clinics[0].keys, f"/v1/parcels/{hash_}").status == 200 for hash_ in listed["global"])
        assert json_of("audit", "verify")["length"]
        backup = coordinator(program, home, "backup", home.parent / "backup.tar")
        assert backup.returncode == 0, backup.stderr
        hub.database.close()
    assert unreadable == ["coordinator", "round-keys", "shares", "models", "root", "coordinator/keys.txt"]
