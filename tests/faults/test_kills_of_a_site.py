"""Faults G01 and G04 at a site: each command is killed, or its power cut, before each durable step, and typed again.
Then everything is as if undisturbed, and the site's next update counts."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedhelp_edge.parcel import keys
from fedhelp_edge.site import connection, layout, status, verified
from server_ref.hub.states import State
from tests.clinic import Clinic
from tests.faults import kills
from tests.faults.test_kills import make_old
from tests.federation import Federation, nobody

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="SIGKILL and folder flushes are POSIX"),
    pytest.mark.usefixtures("open_in_process"),
    pytest.mark.proof,
]

DONE_BEFORE = {"E_KEYS_EXIST", "E_FILE_EXISTS", "E_NOT_JOINED"}  # nothing is left to do
COMMANDS = {  # with the state of the site before
    "join": ("", "join {invite} --via {stick} --no-passphrase"),
    "keys new": ("", "keys new --no-passphrase"),
    "keys restore": ("saved", "keys restore {saved} --passphrase-file {secret}"),
    "keys backup": ("trained", "keys backup {backup} --passphrase-file {secret}"),
    "keys rotate": ("joined", "keys rotate"),
    "new keys": ("rotating", "download"),
    "download": ("waiting", "download"),
    "upload": ("trained", "upload"),
    "leave": ("trained", "leave"),
}


def prepare(clinic: Clinic, state: str) -> None:
    secret = clinic.home.parent / "secret"
    secret.write_text("four quiet words here\n")
    secret.chmod(0o600)
    if state == "saved":
        keys.write_backup(clinic.home.parent / "saved", keys.generate(), "four quiet words here")
    if state in ("", "saved"):
        return
    clinic.join()
    clinic.carry_stick()
    connection.carriers(clinic.home, nobody, clinic.stick)
    clinic.download()
    if state == "rotating":
        assert type_in(clinic, "keys rotate") == ""
        clinic.upload()
    if state in ("waiting", "trained"):
        clinic.federation.open()
    clinic.carry_stick()
    if state == "trained":
        clinic.download()
        clinic.train()


def type_in(clinic: Clinic, command: str, **kill: Any) -> str:
    """Types a command; returns "", its error code, or "killed"."""
    folder = clinic.home.parent
    placeholders = {name: folder / name for name in ("stick", "saved", "secret", "backup")} | {"invite": clinic.invite}
    words = [word.format(**placeholders) for word in command.split()]
    code = kills.run(kills.type_in, folder, "fedhelp_edge.__main__", words, str(clinic.home), **kill)
    if code == kills.KILLED:
        return "killed"
    output = (folder / "output").read_text()
    assert "Traceback" not in output, output
    return "" if code == 0 else next(line.split(": ")[1] for line in output.splitlines() if line.startswith("error: "))


def site_state(clinic: Clinic) -> dict[str, Any]:
    """The number of files of each kind, the site's state, and whether its keys can be loaded."""
    folder = clinic.home.parent
    kinds = Counter(
        str(path.relative_to(folder).parent) for path in folder.rglob("*") if path.is_file() and path.name != "output"
    )
    state = clinic.state if verified.state(clinic.home) else "none"
    if keys.exist(clinic.home):
        keys.load(clinic.home, lambda: "four quiet words here")
    return {"files": dict(kinds), "state": state, "next keys": (clinic.home / layout.NEXT_KEYS).exists()}


def check_next_update(clinic: Clinic) -> None:
    """Checks that the site's update of the next round counts."""
    if verified.state(clinic.home) is None:
        return
    for _ in range(2):  # a request and its answer
        clinic.upload()
        clinic.carry_stick()
        clinic.download()
    if clinic.federation.hub.newest_round()["state"] != State.OPEN:
        clinic.federation.open()
        clinic.carry_stick()
        clinic.download()
    if clinic.state == status.READY:
        clinic.train()
    assert type_in(clinic, f"upload --via {clinic.stick}") == ""
    clinic.collect()
    states = clinic.federation.update_states()
    assert "accepted" in [state for name, state in states.items() if name.startswith("site-004/")], states


@pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power cut"])
@pytest.mark.parametrize("name", COMMANDS)
def test_g01_an_interrupted_site_command_is_typed_again_and_the_next_update_counts(
    made: Federation, name: str, power_cut: bool, tmp_path: Path, effort: Callable[[int, int], int]
) -> None:
    if power_cut and effort(1, 0):
        pytest.skip("with --proofs")
    state, command = COMMANDS[name]
    stride = effort(1000, 1)
    kill_points = [0, *range(1 + 3 * list(COMMANDS).index(name) % min(stride, 8), 1000, stride)]
    for before in kill_points:
        folder = tmp_path / "home"
        fed = made.copy_to(folder / "federation")
        clinic = Clinic(fed, folder / "site")
        prepare(clinic, state)
        code = type_in(clinic, command, dies_before=before, power_cut=power_cut)
        if before == 0:
            assert code == ""
            undisturbed = site_state(clinic)
        elif code != "killed":
            break
        else:
            make_old(folder / "site")
            again = type_in(clinic, command)
            assert again == "" or again in DONE_BEFORE, (before, again, (folder / "site" / "output").read_text())
            assert site_state(clinic) == undisturbed, before
            if not power_cut:
                check_next_update(clinic)
        fed.hub.database.close()
        shutil.rmtree(folder)
